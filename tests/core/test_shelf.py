"""Where connections lie between two leases, while others come and go."""

from __future__ import annotations

import sys
from time import monotonic

import pytest

from poolkit.core.deadline import NEVER, Deadline
from poolkit.core.events import Events
from poolkit.core.gate import Waited
from poolkit.core.shelf import FRESH, Shelf
from poolkit.core.stats import Tally

from .support import Conn, Task, together


class Reasons(Events):
    """Remembers why connections were closed."""

    def __init__(self):
        super().__init__("shelf", ())
        self.reasons = []

    def tell(self, kind, **details):
        if "reason" in details:
            self.reasons.append(details["reason"])


def shelf_of(*conns, max_idle=None):
    """Return a shelf on which *conns* lie, the last one on top."""
    shelf = Shelf(tally=Tally(), events=Reasons(), max_idle=max_idle)
    for conn in conns:
        shelf.add(conn, 0.0)
        shelf.keep(conn)
    return shelf


def taken_or_new(shelf):
    """Return a connection to use: one of the shelf's, or a new one."""
    conn = shelf.take(NEVER)
    if conn is None:
        conn = Conn()
        shelf.add(conn, 0.0)
    return conn


def rest(conn, seconds):
    """Let *conn* have been used last *seconds* ago."""
    conn.born -= seconds
    conn.last_used -= seconds


def test_the_one_used_last_is_lent_first():
    older, newer = Conn(), Conn()
    shelf = shelf_of(older, newer)

    assert [shelf.take(NEVER) for _ in range(3)] == [newer, older, None]
    assert len(shelf) == 2


@pytest.mark.parametrize("flaw", ["settled", "born", "dies"])
def test_what_is_not_like_a_new_one_is_closed_when_it_comes_back(flaw):
    conn = Conn()
    shelf = shelf_of()
    shelf.add(conn, 0.0)
    if flaw == "settled":
        conn.settled = False
    elif flaw == "born":
        shelf.condemn()
        conn.born -= 1.0
    else:
        conn.dies = monotonic()

    shelf.keep(conn)

    assert (conn.retired, conn.is_connected) == (True, False)
    assert shelf.take(NEVER) is None
    assert shelf._events.reasons == ["not clean, or too old"]


def test_each_connection_has_an_idle_time_of_its_own():
    brief, patient = Conn(idle_timeout=5.0), Conn(idle_timeout=100.0)
    shelf = shelf_of(patient, brief)
    for conn in (brief, patient):
        rest(conn, 50.0)

    assert shelf.take(NEVER) is patient
    assert brief.retired
    assert shelf._events.reasons == ["idle for long"]


def test_sweeping_keeps_to_each_connections_own_idle_time_too():
    brief, patient = Conn(idle_timeout=5.0), Conn(idle_timeout=100.0)
    shelf = shelf_of(brief, patient)
    for conn in (brief, patient):
        rest(conn, 50.0)

    shelf.sweep()

    assert (brief.retired, patient.retired) == (True, False)


def test_an_idle_time_that_the_server_said_last_holds():
    conn = Conn()
    shelf = shelf_of(conn)
    assert shelf.take(NEVER) is conn
    conn.idle_timeout = 1.0
    shelf.keep(conn)
    rest(conn, 2.0)

    assert shelf.take(NEVER) is None


def test_what_was_used_lately_is_lent_unlooked_at_and_what_was_not_is_looked_at():
    lately, earlier = Conn(), Conn()
    shelf = shelf_of(earlier, lately)
    lately.quiet = earlier.quiet = False
    rest(earlier, 2 * FRESH)

    assert shelf.take(NEVER) is lately
    assert shelf.take(NEVER) is None
    assert shelf._events.reasons == ["found dead when it was to be lent"]
    assert (lately.asked, earlier.asked) == (0, 0)


def test_a_suspect_has_to_answer_before_it_is_lent():
    conn = Conn()
    shelf = shelf_of(conn)
    shelf.suspect()

    assert shelf.take(NEVER) is conn
    assert conn.asked == 1


def test_when_one_suspect_does_not_answer_the_others_are_not_asked():
    conns = [Conn() for _ in range(3)]
    shelf = shelf_of(*conns)
    for conn in conns:
        conn.answering = False
    shelf.suspect()

    assert shelf.take(NEVER) is None
    assert sum(conn.asked for conn in conns) == 1
    assert all(conn.retired for conn in conns)


def test_one_that_is_asked_too_late_says_nothing_of_the_others():
    conns = [Conn() for _ in range(3)]
    shelf = shelf_of(*conns)
    for conn in conns:
        conn.answering = False
    shelf.suspect()

    with pytest.raises(Waited):
        shelf.take(Deadline.after(0))

    assert [conn.retired for conn in conns] == [False, False, True]
    assert sum(conn.asked for conn in conns) == 1


def test_one_that_comes_back_lost_makes_those_of_its_age_suspects():
    other, lost = Conn(), Conn()
    shelf = shelf_of(other, lost)
    assert shelf.take(NEVER) is lost
    lost.disconnect()
    shelf.keep(lost)

    assert shelf.take(NEVER) is other
    assert other.asked == 1


def test_an_interrupted_look_closes_the_connection():
    conn = Conn()
    shelf = shelf_of(conn)
    shelf.suspect()

    def answers(until, timeout):
        raise KeyboardInterrupt

    conn.answers = answers
    with pytest.raises(KeyboardInterrupt):
        shelf.take(NEVER)

    assert conn.retired
    assert shelf.take(NEVER) is None


def test_a_shelf_that_has_ended_keeps_nothing():
    idle, lent = Conn(), Conn()
    shelf = shelf_of(idle, lent)
    assert shelf.take(NEVER) is lent

    shelf.end("the end")
    shelf.keep(lent)

    assert (idle.retired, lent.retired) == (True, True)
    assert shelf._events.reasons == ["the end", "closed"]
    assert len(shelf) == 0


def test_each_connection_is_counted_once_however_often_it_is_closed():
    conns = [Conn() for _ in range(8)]
    shelf = shelf_of(*conns)

    together(8, lambda _: [shelf.close(conn, "over") for conn in conns])

    assert shelf._tally.total().closed == 8


def test_what_was_collected_unclosed_is_counted_as_closed():
    conn = Conn()
    shelf = shelf_of()
    shelf.add(conn, 0.0)
    shelf.dropped(conn)

    shelf.sweep()

    assert shelf._events.reasons == ["dropped and not closed"]


def test_what_was_collected_unclosed_is_closed_in_the_end():
    before, after = Conn(), Conn()
    shelf = shelf_of()
    for conn in (before, after):
        shelf.add(conn, 0.0)

    shelf.dropped(before)
    shelf.end("closed")
    shelf.dropped(after)  # and nobody sweeps any more

    assert not before.is_connected
    assert not after.is_connected


# -- no more than max_idle -----------------------------------------------------------------------------


def test_of_more_than_max_idle_those_used_longest_ago_are_closed():
    conns = [Conn() for _ in range(5)]
    shelf = shelf_of(*conns, max_idle=3)

    assert [conn.retired for conn in conns] == [True, True, False, False, False]
    assert shelf._events.reasons == ["more are idle than max_idle"] * 2


def test_with_a_max_idle_of_none_nothing_is_kept():
    conn = Conn()
    shelf = shelf_of(conn, max_idle=0)

    assert conn.retired
    assert shelf.take(NEVER) is None


def test_connections_that_are_lent_do_not_count_as_idle():
    conns = [Conn() for _ in range(2)]
    shelf = shelf_of(*conns, max_idle=2)
    lent = shelf.take(NEVER)
    another = Conn()
    shelf.add(another, 0.0)
    shelf.keep(another)

    assert not any(conn.retired for conn in (*conns, another))
    shelf.keep(lent)
    assert sum(conn.retired for conn in (*conns, another)) == 1


def test_max_idle_holds_while_many_threads_put_back():
    """No more than *max_idle*, and one for each who is at it; and when all are done, exactly that many."""
    threads, max_idle = 8, 3
    shelf = shelf_of(max_idle=max_idle)
    most = []

    def work(_):
        for _ in range(200):
            taken = [taken_or_new(shelf) for _ in range(3)]
            for conn in taken:
                shelf.keep(conn)
                most.append(len(shelf._idle))

    switches = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        together(threads, work)
    finally:
        sys.setswitchinterval(switches)

    assert max(most) <= max_idle + threads
    assert len(shelf._idle) == len(shelf) == max_idle
    total = shelf._tally.total()
    assert total.created - total.closed == max_idle


def test_who_looks_for_a_surplus_closes_only_what_is_one():
    """Others put back, and take, at each point of that."""
    conns = [Conn() for _ in range(3)]
    shelf = shelf_of(*conns[:2], max_idle=2)
    shelf.add(conns[2], 0.0)
    taken = []

    def take(frame, event, called):
        if event == "c_call" and called.__name__ == "popleft":
            taken.extend(iter(lambda: shelf.take(NEVER), None))

    sys.setprofile(take)
    try:
        shelf.keep(conns[2])
    finally:
        sys.setprofile(None)

    assert len(taken) == 3
    assert not any(conn.retired for conn in conns)


def test_two_that_look_for_a_surplus_at_once_close_no_more_than_that():
    """The second one puts back what it has just when the first one has seen that there are too many."""
    conns = [Conn() for _ in range(4)]
    shelf = shelf_of(*conns[:2], max_idle=2)
    for conn in conns[2:]:
        shelf.add(conn, 0.0)
    second = []

    def come(frame, event, called):
        if event == "c_call" and called.__name__ == "popleft" and not second:
            second.append(Task(shelf.keep, conns[3]))
            second[0].join(0.05)  # it may have to wait for the first one

    sys.setprofile(come)
    try:
        shelf.keep(conns[2])
    finally:
        sys.setprofile(None)
    second[0].result()

    assert len(shelf._idle) == len(shelf) == 2


# -- while others come and go --------------------------------------------------------------------------


def test_the_connections_can_be_looked_at_while_others_come_and_go():
    """They come at each call that is made meanwhile, which is where another thread may take its turn."""
    shelf = shelf_of()
    there = []

    def come(frame=None, event="call", called=None):
        if event in ("call", "c_call"):
            there.append(Conn())
            shelf.add(there[-1], 0.0)

    come()
    come()
    for look in (shelf.reaches_server, shelf.disown, lambda: len(shelf)):
        sys.setprofile(come)
        try:
            look()
        finally:
            sys.setprofile(None)

    assert len(shelf) == len(there) > 10
    for conn in there:
        shelf.close(conn, "over")
    assert len(shelf) == 0
