"""Combining: requests of many threads go together, their answers and their fates stay apart."""

from __future__ import annotations

import gc
import itertools
from time import monotonic

import pytest

from poolkit import Deadline, DeadlineExceeded, PoolClosed, PoolOverloaded, PoolTimeout
from poolkit.core import combining, pace, reading
from poolkit.core.deadline import NEVER
from poolkit.core.pace import GROWTH, LARGEST
from tests.interruptions import Interruption, Struck

from .steered import Broken, Cancelled, Lost, Overdue, Server, Wrong
from .support import LONG, Interrupted, Task, eventually, together

SOON = 0.03
"""Seconds until deadlines that are to pass."""


@pytest.fixture(autouse=True)
def _steady(monkeypatch):
    """Let as many lead as the test says, however busy the machine is, and call only what is slow slow."""
    monkeypatch.setattr(pace, "WINDOW", float("inf"))
    monkeypatch.setattr(reading, "SILENCE", LONG)
    monkeypatch.setattr(reading, "SLOW_LOOK", 0.005)


def batches(server):
    """Return what was sent, without those who occupied the turns."""
    return [tags for tags in server.sent if not tags[0].startswith(("alone", "late"))]


def named(server, names, **how):
    return [server.asked(name, **how) for name in names]


# -- together ------------------------------------------------------------------------------------------


def test_a_lone_thread_goes_alone():
    server = Server()
    assert server.ask(server.asked("a")) == "a"
    stats = server.lender.stats()
    assert (stats.leases, stats.shared, stats.batches) == (1, 0, 0)
    server.assert_at_rest()


def test_what_gathers_goes_together_oldest_first_and_the_leaders_last():
    server = Server()
    holders = server.occupy()
    tasks = server.queue(*named(server, "abcd"))
    server.free(holders)

    assert [task.result() for task in tasks] == list("abcd")
    assert batches(server) == [list("bcda")]
    server.assert_at_rest()


def test_no_batch_is_larger_than_the_largest_and_the_rest_follows_in_order():
    server = Server()
    holders = server.occupy()
    names = [f"{number}" for number in range(LARGEST + 3)]
    tasks = server.queue(*named(server, names))
    server.free(holders)

    assert [task.result() for task in tasks] == names
    assert batches(server) == [
        [*names[1:LARGEST], names[0]],
        [*names[LARGEST + 1 :], names[LARGEST]],
    ]
    assert server.lender.stats().largest_batch == LARGEST


def test_as_many_lead_as_there_are_lanes():
    server = Server(lanes=3)
    holders = server.occupy(3)
    assert server.sent == [["alone 0"], ["alone 1"], ["alone 2"]]
    (task,) = server.queue(server.asked("a"))
    server.free(holders)
    assert task.result() == "a"
    server.assert_at_rest(3)


def test_an_error_that_is_an_answer_reaches_only_its_owner():
    server = Server()
    holders = server.occupy()
    wrong = Wrong("b's own")
    a, b, c = server.queue(server.asked("a"), server.asked("b", answer=wrong), server.asked("c"))
    server.free(holders)

    assert (a.result(), b.end(), c.result()) == ("a", wrong, "c")
    assert server.discarded == 0
    server.assert_at_rest()


def test_what_can_not_be_combined_has_a_connection_of_its_own():
    server = Server(lanes=1, size=2)
    holders = server.occupy()
    assert server.ask(server.asked("a", fits=False)) == "a"
    server.free(holders)
    server.assert_at_rest()


def test_what_its_owner_did_wrong_is_raised_before_it_waits():
    server = Server()
    holders = server.occupy()
    with pytest.raises(Wrong):
        server.ask(server.asked("a", fits=Wrong()))
    server.free(holders)
    server.assert_at_rest()


def test_hundreds_of_threads_get_each_its_own():
    server = Server(lanes=2)

    def work(number):
        return all(
            server.ask(server.asked(f"{number}:{turn}")) == f"{number}:{turn}" for turn in range(40)
        )

    assert all(together(100, work))
    stats = server.lender.stats()
    assert stats.leases + stats.shared == stats.wait.count == 4000
    assert (stats.in_use, stats.waiting, stats.leaked) == (0, 0, 0)
    server.assert_at_rest(2)


# -- waiting in vain -----------------------------------------------------------------------------------


def test_who_would_be_one_too_many_is_refused_on_arrival():
    server = Server(max_waiting=2)
    holders = server.occupy()
    tasks = server.queue(*named(server, "ab"))
    with pytest.raises(PoolOverloaded, match="2 threads wait already, max_waiting is 2"):
        server.ask(server.asked("c"))
    server.free(holders)

    assert [task.result() for task in tasks] == ["a", "b"]
    assert server.lender.stats().refused == 1
    assert batches(server) == [["b", "a"]]


def test_a_waiter_that_times_out_leaves_the_others_their_places():
    server = Server(acquire_timeout=0.2)
    holders = server.occupy()
    (first,) = server.queue(server.asked("a"))
    error = first.end()
    assert type(error) is PoolTimeout
    assert [holder.thread_name for holder in error.holders] == ["alone 0"]
    tasks = server.queue(*named(server, "bc"))
    server.free(holders)

    assert [task.result() for task in tasks] == ["b", "c"]
    assert batches(server) == [["c", "b"]]
    assert server.lender.stats().timeouts == 1
    server.assert_at_rest()


def test_a_waiter_whose_deadline_passes_leaves_the_others_their_places():
    server = Server()
    holders = server.occupy()
    (a,) = server.queue(server.asked("a"))
    (b,) = server.queue(server.asked("b"), deadline=Deadline.after(SOON))
    (c,) = server.queue(server.asked("c"))
    error = b.end()
    assert type(error) is DeadlineExceeded
    assert error.stage == "waiting"
    server.free(holders)

    assert (a.result(), c.result()) == ("a", "c")
    assert batches(server) == [["c", "a"]]
    server.assert_at_rest()


def test_a_connection_that_can_not_be_had_fails_only_the_one_who_leads():
    server = Server()
    holders = server.occupy()
    tasks = server.queue(*named(server, "abc"))
    server.idle.clear()
    server.take_error = Broken("refused")
    server.free(holders)

    assert isinstance(tasks[0].end(), Broken)
    assert [task.result() for task in tasks[1:]] == ["b", "c"]
    assert batches(server) == [["c", "b"]]
    server.assert_at_rest()


def test_closing_while_many_wait_fails_them_all():
    server = Server()
    holders = server.occupy()
    tasks = server.queue(*named(server, "abcde"))
    closing = Task(server.lender.stop, Deadline.after(LONG))
    eventually(lambda: server.lender.stopping)
    server.free(holders)

    assert {type(task.end()) for task in tasks} == {PoolClosed}
    assert closing.result() == []
    assert batches(server) == []


# -- deadlines under way -------------------------------------------------------------------------------


def test_a_follower_whose_deadline_passes_leaves_and_the_others_get_their_answers():
    server = Server()
    holders = server.occupy()
    held = server.asked("b", held=True)
    (a,) = server.queue(server.asked("a"))
    deadline = Deadline.after(0.3)
    (b,) = server.queue(held, deadline=deadline)
    (c,) = server.queue(server.asked("c"))
    server.free(holders)

    error = b.end()
    late = -deadline.remaining()
    assert isinstance(error, Overdue)
    assert late < 0.050
    assert batches(server) == [["b", "c", "a"]]
    server.answer(held, "nobody's")
    assert (a.result(), c.result()) == ("a", "c")
    assert server.discarded == 0
    server.assert_at_rest()


def test_a_follower_that_had_its_request_stopped_leaves_as_soon_as_it_has(monkeypatch):
    monkeypatch.setattr(reading, "GRACE", LONG)
    server = Server()
    server.stoppable = True
    holders = server.occupy()
    (a,) = server.queue(server.asked("a"))
    deadline = Deadline.after(0.2)
    (b,) = server.queue(server.asked("b", held=True), deadline=deadline)
    server.free(holders)

    error = b.end()
    assert isinstance(error, Overdue)
    assert error.stopped
    assert -deadline.remaining() < LONG / 2  # it did not wait for nothing
    assert a.result() == "a"
    assert server.discarded == 0
    server.assert_at_rest()


def test_a_leader_whose_deadline_passes_has_another_one_read_on():
    server = Server()
    holders = server.occupy()
    held = server.asked("b", held=True)
    (a,) = server.queue(server.asked("a"), deadline=Deadline.after(0.3))
    b, c = server.queue(held, server.asked("c"))
    server.free(holders)

    assert isinstance(a.end(), Overdue)
    assert not server.stops  # a's is not what the server runs
    server.answer(held)
    assert (b.result(), c.result()) == ("b", "c")
    assert held.by is b
    assert server.discarded == 0
    assert [holder.thread_name for holder in server.lender.holders()] == []
    server.assert_at_rest()
    assert set(server.numbers) == {0}


def test_the_last_one_to_leave_does_not_keep_the_connection():
    server = Server()
    holders = server.occupy()
    held = server.asked("b", held=True)
    a, b = server.queue(server.asked("a"), held, deadline=Deadline.after(0.3))
    server.free(holders)

    assert isinstance(a.end(), Overdue)
    assert isinstance(b.end(), Overdue)
    assert server.discarded == 1
    assert server.stops.count("b") <= 1 + server.stops.count("a")
    server.answer(held)
    server.assert_at_rest()


def test_one_who_was_stopped_and_was_the_last_keeps_the_connection():
    server = Server()
    server.stoppable = True
    holders = server.occupy()
    (a,) = server.queue(server.asked("a", held=True), deadline=Deadline.after(0.2))
    server.free(holders)

    error = a.end()
    assert isinstance(error, Overdue)
    assert error.stopped
    assert server.stops == ["a"]
    assert server.discarded == 0
    server.assert_at_rest()


def test_one_who_could_not_be_stopped_asks_for_it_once_while_it_has_the_connection():
    server = Server()
    holders = server.occupy()
    (a,) = server.queue(server.asked("a", held=True), deadline=Deadline.after(0.2))
    server.free(holders)

    error = a.end()
    assert isinstance(error, Overdue)
    assert not error.stopped
    assert server.stops == ["a"]
    assert server.discarded == 1
    server.assert_at_rest()


def test_one_whose_place_was_cancelled_for_another_is_asked_again_unseen():
    server = Server()
    holders = server.occupy()
    held = server.asked("b", held=True)
    a, b, c = server.queue(server.asked("a"), held, server.asked("c"))
    server.free(holders)
    eventually(lambda: batches(server))
    server.answer(held, Cancelled())

    assert (a.result(), b.result(), c.result()) == ("a", "b", "c")
    assert batches(server)[0] == ["b", "c", "a"]
    server.assert_at_rest()


# -- slow answers --------------------------------------------------------------------------------------


def test_silence_lets_one_more_lead_and_makes_batches_smaller(monkeypatch):
    monkeypatch.setattr(reading, "SILENCE", 0.010)
    server = Server(lanes=1, size=2)
    holders = server.occupy()
    held = server.asked("a", held=True)
    (a,) = server.queue(held)
    server.free(holders)
    eventually(lambda: repr(server.combiner).startswith("<Combiner of 'db': 0 lead"))

    monkeypatch.setattr(reading, "SILENCE", LONG)
    server.forget_slowness()
    holders = server.occupy()  # beside the slow one
    names = [f"{number}" for number in range(LARGEST)]
    tasks = server.queue(*named(server, names))
    server.free(holders)
    assert [task.result() for task in tasks] == names
    assert [len(tags) for tags in batches(server)[1:]] == [LARGEST // 2, LARGEST // 2]
    server.answer(held)
    assert a.result() == "a"
    server.assert_at_rest()


def test_quick_answers_let_batches_grow_again(monkeypatch):
    monkeypatch.setattr(reading, "SILENCE", 0.010)
    server = Server(lanes=1, size=2)
    holders = server.occupy()
    held = server.asked("a", held=True)
    (a,) = server.queue(held)
    server.free(holders)
    eventually(lambda: repr(server.combiner).startswith("<Combiner of 'db': 0 lead"))
    monkeypatch.setattr(reading, "SILENCE", LONG)
    server.answer(held)
    a.result()
    server.forget_slowness()

    half = LARGEST // 2
    largest = []
    for _ in range(2 * GROWTH // half + 4):
        before = len(server.sent)
        holders = server.occupy()
        tasks = server.queue(*named(server, [f"{number}" for number in range(half + 2)]))
        server.free(holders)
        [task.result() for task in tasks]
        largest.append(max(len(tags) for tags in server.sent[before:]))
    assert largest[0] == half
    assert largest[-1] == half + 2
    assert sorted(largest) == largest


def test_a_lone_thread_that_waits_long_lets_another_one_lead(monkeypatch):
    monkeypatch.setattr(reading, "SILENCE", 0.010)
    server = Server(lanes=1, size=2)
    server.tells_silence = True
    holders = server.occupy()
    assert server.ask(server.asked("a")) == "a"
    server.free(holders)
    server.tells_silence = False
    server.forget_slowness()
    server.assert_at_rest()


# -- broken connections --------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["sending", "reading"])
def test_a_connection_that_breaks_tells_each_owner_and_the_turn_goes_on(when):
    server = Server()
    holders = server.occupy()
    held = server.asked("c", held=when == "reading")
    if when == "sending":
        server.send_error = Broken("reset")
    tasks = server.queue(*named(server, "ab"), held, server.asked("d"))
    server.free(holders)
    if when == "reading":
        eventually(lambda: batches(server))
        (late,) = server.queue(server.asked("e"))
        server.answer(held, Broken("reset"))
        assert late.result() == "e"

    errors = [task.end() for task in tasks]
    lost = {"sending": [3, 0, 1, 2], "reading": [3, None, 1, 2]}[when]
    assert [error.at if isinstance(error, Lost) else error for error in errors] == lost
    assert server.discarded == 1
    server.assert_at_rest()


def test_a_flight_that_can_not_be_made_tells_each_owner():
    server = Server()
    holders = server.occupy()
    server.launch_error = Wrong("no flight")
    tasks = server.queue(*named(server, "abc"))
    server.free(holders)
    assert {type(task.end()) for task in tasks} == {Wrong}
    server.launch_error = None
    server.assert_at_rest()


def test_an_answer_that_does_not_come_within_the_patience_breaks_the_connection(monkeypatch):
    server = Server()
    server.patience = 0.05
    monkeypatch.setattr(reading, "SILENCE", 0.01)
    holders = server.occupy()
    held = server.asked("a", held=True)
    a, b = server.queue(held, server.asked("b"))
    server.free(holders)

    assert b.result() == "b"
    error = a.end()
    assert isinstance(error, Lost)
    assert "silent" in str(error)
    assert server.discarded == 1


# -- what is kept --------------------------------------------------------------------------------------


def full_and_half(server):
    """Have two batches follow one another; return the connections they went on."""
    holders = server.occupy()
    names = [f"{number}" for number in range(LARGEST + 2)]
    held = server.asked("held", held=True)
    tasks = server.queue(*named(server, names[:5]), held, *named(server, names[5:]))
    server.free(holders)
    eventually(lambda: batches(server))
    return held, tasks


def test_a_connection_goes_from_leader_to_leader():
    server = Server()
    held, tasks = full_and_half(server)
    server.answer(held)
    for task in tasks:
        task.result()
    stats = server.lender.stats()
    assert stats.batches == 2
    assert stats.leases == 2  # the lone one's, and one for both batches
    assert stats.shared == len(tasks) - 1
    assert stats.wait.count == stats.leases + stats.shared == len(tasks) + 1
    assert stats.mean_batch == len(tasks) / 2
    assert stats.lead.count == 2
    server.assert_at_rest()


def test_a_connection_is_given_back_after_a_while(monkeypatch):
    monkeypatch.setattr(combining, "KEEP", 0.0)
    server = Server()
    held, tasks = full_and_half(server)
    server.answer(held)
    for task in tasks:
        task.result()
    assert server.lender.stats().leases == 3


def test_a_connection_is_given_back_when_others_wait_for_one(monkeypatch):
    monkeypatch.setattr(combining, "KEEP", LONG)
    server = Server()
    held, tasks = full_and_half(server)

    def borrow():
        lease, conn = server.lender.lend(NEVER)
        waiting = len(server.sent)
        server.lender.take_back(lease, conn)
        return waiting

    borrower = Task(borrow)
    eventually(lambda: server.lender.gate.waiting == 1)
    server.answer(held)
    assert borrower.result() == 2  # the lone one, and the first batch
    for task in tasks:
        task.result()


def test_a_connection_is_given_back_when_the_pool_stops(monkeypatch):
    monkeypatch.setattr(combining, "KEEP", LONG)
    server = Server()
    held, tasks = full_and_half(server)
    closing = Task(server.lender.stop, Deadline.after(LONG))
    eventually(lambda: server.lender.stopping)
    server.answer(held)
    assert closing.result() == []
    errors = [type(task.end()) for task in tasks]
    assert errors.count(PoolClosed) == len(tasks) - LARGEST
    assert errors.count(type(None)) == LARGEST


# -- interruptions -------------------------------------------------------------------------------------


def test_one_who_is_interrupted_while_it_waits_leaves_the_queue():
    server = Server()
    holders = server.occupy()
    a, b, c = server.queue(*named(server, "abc"))
    b.interrupt()
    server.lender.gathered()
    server.free(holders)
    assert isinstance(b.end(), Interrupted) or b.value == "b"
    assert (a.result(), c.result()) == ("a", "c")
    server.assert_at_rest()


def test_a_leader_that_is_interrupted_before_it_sends_has_the_others_asked_again_unseen():
    server = Server()
    holders = server.occupy()
    a, b, c = server.queue(*named(server, "abc"))
    launch = server.combiner._launch

    def strike(conn, requests):
        server.combiner._launch = launch
        raise KeyboardInterrupt

    server.combiner._launch = strike
    server.free(holders)
    assert isinstance(a.end(), KeyboardInterrupt)
    assert (b.result(), c.result()) == ("b", "c")
    server.assert_at_rest()


ROLES = (
    "alone",
    "alone, others behind",
    "follower",
    "leader",
    "leader, others behind",
    "heir",
    "leader of a connection that breaks",
)


def test_what_is_thrown_into_a_leader_before_it_has_sent_anything_is_raised_there(monkeypatch):
    server = Server()
    holders = server.occupy()
    leader, follower = server.queue(server.asked("leader"), server.asked("follower"))

    def strike():
        monkeypatch.undo()
        raise Interrupted

    monkeypatch.setattr(server.combiner._pace, "note_gathered", strike)
    server.free(holders)

    assert isinstance(leader.end(), Interrupted)
    follower.end()
    server.assert_at_rest()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("role", ROLES)
def test_an_interruption_at_any_point_loses_no_turn_and_crosses_no_answer(role, monkeypatch):
    monkeypatch.setattr(combining, "LOOK", 0.02)
    wrong = []
    for point in itertools.count(1):
        try:
            where = strike(role, point)
        except AssertionError as error:
            wrong.append(str(error))
            if len(wrong) > 5:
                break
            continue
        if where is None:
            break

    assert not wrong, wrong
    assert point > (15 if role.startswith("alone") else 30)


def strike(role, point):
    """Interrupt one in *role* at its point number *point*; return which that was, None if there are fewer."""
    server = Server(
        size=2
    )  # a connection that only the sweep can take back must not hold up the others
    victim = server.asked("victim", held=role == "heir" or role.endswith("behind"))
    where = []
    kept = []

    def ask():
        try:
            with Interruption(point) as interruption:
                return server.ask(victim)
        except (Struck, Lost) as error:
            kept.append(error)  # what it refers to lives on
        finally:
            where.append(interruption.where)

    others = {}
    if role.startswith("alone"):
        task = Task(ask)
    else:
        order = {"follower": "aVb", "heir": "dVb"}.get(role, "Vab")
        holders = server.occupy()
        late = Deadline.after(LONG)
        for name in order:
            if name == "V":
                task, asked = Task(ask), victim
            else:
                breaks = name == "b" and role.endswith("breaks")
                asked = server.asked(name, answer=Broken("reset") if breaks else None)
                others[name] = server.start(asked, late if name == "d" else NEVER)
            # The victim may be struck before it waits.
            eventually(lambda asked=asked: server.waits(asked) or (asked is victim and where), 3)
        object.__setattr__(late, "at", monotonic() + SOON)  # d has read it, and will when it reads
        server.free(holders)
        if "d" in others:
            others["d"].end(3)
    if role.endswith("behind"):
        eventually(lambda: where or any("victim" in tags for tags in server.sent), 3)
        for name in "yz":
            others[name] = server.start(server.asked(name))
            eventually(
                lambda name=name: where or server.lender.gathered() == "yz".index(name) + 1, 3
            )
    server.answer(victim)
    value = task.result(3)
    at = where[0]
    for name, other in others.items():
        try:
            error = other.end(3)
        except AssertionError as stuck:
            raise AssertionError(f"{at}: {stuck}") from None
        if error is None:
            assert other.value == name, at
        elif role == "follower" or name in "yz":
            raise AssertionError(f"{at}: {name} got {error!r}")
        else:
            assert isinstance(error, (Lost, Overdue, DeadlineExceeded)), (at, error)
            other.error = None
        del error  # and with it what the leader's frames refer to
    assert value in ("victim", None), at
    kept.clear()
    gc.collect()
    # The one point where a pool loses a turn: nobody can tell from outside whether it was given up.
    server.lost_at_gate = at is not None and at.endswith("leave, on entry")
    try:
        server.assert_at_rest(within=2)
    except AssertionError as error:
        raise AssertionError(f"{role}, {at}: {error}") from None
    return at
