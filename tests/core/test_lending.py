"""Lending: a connection comes back whatever happens, and who waits in vain is told who has it."""

from __future__ import annotations

import contextlib
import gc
import inspect
import itertools
import logging
import math
import threading
from collections import deque
from time import monotonic, sleep

import pytest

from poolkit import (
    BackendUnavailable,
    Cancellation,
    Cancelled,
    Deadline,
    DeadlineExceeded,
    Listener,
    PoolClosed,
    PoolOverloaded,
    PoolTimeout,
    RetryPolicy,
    deadline,
)
from poolkit.core.deadline import NEVER
from poolkit.core.events import Events
from poolkit.core.gate import Waited
from poolkit.core.housekeeper import Housekeeper
from poolkit.core.lease import LeaseBook
from poolkit.core.lending import Lender
from poolkit.core.outage import Outage
from poolkit.core.retry import Retrier
from poolkit.core.stats import Tally
from poolkit.core.verdict import Again, Verdict
from tests.interruptions import Interruption, Struck

from .support import LONG, Interrupted, Task, eventually, together


class Connection:
    """A connection that, like a real one, reports when it is collected while lent."""

    lease = None

    def __init__(self, store):
        self.store = store
        self.log = []

    def __del__(self):
        if self.lease is not None:
            self.store.book.forgotten.append((self.lease, self))


class FakeStore:
    """Keeps connections in a list, and does in the next :meth:`take` what it is told."""

    def __init__(self, book, size):
        self.book = book
        self.size = size
        self.idle = deque()
        self.opened = 0
        self.discarded = 0
        self.put_back = 0
        self.patience = []
        self.next_error = None
        self.put_error = None

    def take(self, deadline, patience):
        self.patience.append(patience)
        if self.next_error is not None:
            error, self.next_error = self.next_error, None
            raise error
        try:
            return self.idle.popleft()
        except IndexError:
            self.opened += 1
            return Connection(self)

    def put(self, connection):
        assert connection.lease is None
        self.put_back += 1
        self.idle.append(connection)
        if self.put_error is not None:
            raise self.put_error

    def discard(self, connection):
        self.discarded += 1


class Pool:
    """A lender with a fake store, and nothing else of a pool."""

    def __init__(
        self, size=1, *, acquire_timeout=0.05, max_waiting=100, listeners=(), waits_out=False
    ):
        self.size = size
        self.book = LeaseBook()
        self.store = FakeStore(self.book, size)
        self.tally = Tally()
        self.probes = 0
        self.housekeeper = Housekeeper()
        self.events = Events("db", listeners)
        self.outage = Outage("db", self.housekeeper, events=self.events, probe=self.probe)
        self.lender = Lender(
            "db",
            max_size=size,
            max_waiting=max_waiting,
            acquire_timeout=acquire_timeout,
            book=self.book,
            store=self.store,
            outage=self.outage,
            tally=self.tally,
            events=self.events,
            waits_out=waits_out,
        )

    def probe(self):
        self.probes += 1

    @contextlib.contextmanager
    def connection(self, limit=NEVER):
        lease, connection = self.lender.lend(limit)
        try:
            yield connection
        finally:
            self.lender.take_back(lease, connection)

    @property
    def stats(self):
        return self.lender.stats()

    def assert_all_there(self):
        """All connections can be lent at once, and not one more."""
        assert self.lender.holders() == []
        assert self.stats.in_use == 0
        with contextlib.ExitStack() as held:
            for _ in range(self.size):
                held.enter_context(self.connection())
            with pytest.raises(PoolTimeout):
                self.lender.lend(NEVER, LONG)  # it has waited as long as it may


def line():
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


# -- lending and taking back ---------------------------------------------------------------------------


def test_a_connection_is_lent_and_taken_back():
    pool = Pool()

    with pool.connection() as first:
        assert pool.stats.in_use == 1
        assert first.lease is not None
        assert first.lease.resource is first
    with pool.connection() as second:
        assert second is first

    assert pool.stats.leases == 2
    assert pool.stats.use.count == 2
    assert pool.store.put_back == 2
    pool.assert_all_there()


@pytest.mark.parametrize(
    "error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, Interrupted]
)
def test_whatever_is_raised_in_the_block_the_connection_comes_back(error):
    pool = Pool()

    lender = pool.lender
    lease, connection = lender.lend(NEVER)
    with pytest.raises(error):
        try:
            raise error
        finally:
            lender.take_back(lease, connection)

    assert connection.lease is None
    pool.assert_all_there()


def test_a_generator_that_is_dropped_half_way_gives_back():
    pool = Pool()

    def rows():
        with pool.connection():
            yield 1
            yield 2

    iterator = rows()
    next(iterator)
    assert pool.stats.in_use == 1
    iterator.close()

    pool.assert_all_there()


def test_return_in_the_block_gives_back():
    pool = Pool()

    def early():
        with pool.connection():
            return 1

    early()
    pool.assert_all_there()


def test_giving_back_twice_has_no_effect():
    pool = Pool()
    lease, connection = pool.lender.lend(NEVER)
    pool.lender.take_back(lease, connection)
    pool.lender.take_back(lease, connection)

    assert pool.store.put_back == 1
    assert pool.stats.use.count == 1
    pool.assert_all_there()


def test_of_many_threads_that_give_the_same_back_one_does():
    pool = Pool(size=2)
    for _ in range(20):
        lease, connection = pool.lender.lend(NEVER)
        together(8, lambda _, lease=lease, conn=connection: pool.lender.take_back(lease, conn))
    assert pool.store.put_back == 20
    pool.assert_all_there()


@pytest.mark.parametrize(
    "error",
    [
        OSError("refused"),
        BackendUnavailable("down"),
        KeyboardInterrupt(),
        Interrupted(),
        MemoryError(),
        PoolClosed("closed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_is_raised_while_connecting_the_turn_comes_back(error):
    pool = Pool()
    pool.store.next_error = error

    with pytest.raises(type(error)) as caught:
        pool.lender.lend(NEVER)

    assert caught.value is error
    pool.assert_all_there()


def test_a_store_that_raises_where_it_must_not_still_loses_no_turn():
    pool = Pool()
    pool.store.put_error = RuntimeError("broken store")
    lease, connection = pool.lender.lend(NEVER)
    with pytest.raises(RuntimeError, match="broken store"):
        pool.lender.take_back(lease, connection)
    pool.store.put_error = None

    assert connection.lease is None
    pool.assert_all_there()


def test_a_connection_that_can_not_be_leased_goes_back_to_the_store():
    class NoWeakrefs:
        __slots__ = ("lease",)

    pool = Pool()
    odd = NoWeakrefs()
    odd.lease = None
    pool.store.idle.append(odd)

    with pytest.raises(TypeError):
        pool.lender.lend(NEVER)

    assert pool.store.put_back + pool.store.discarded == 1


def test_fifty_threads_are_counted_exactly_and_never_share():
    pool = Pool(size=5, acquire_timeout=LONG)
    sharing = []

    def work(number):
        for _ in range(40):
            with pool.connection() as connection:
                connection.log.append(number)
                if connection.log != [number]:
                    sharing.append(number)
                connection.log.clear()

    together(50, work)

    assert sharing == []
    assert pool.store.opened <= 5
    stats = pool.stats
    assert stats.leases == stats.use.count == stats.wait.count == 2000
    assert (stats.timeouts, stats.refused, stats.leaked, stats.in_use, stats.waiting) == (0,) * 5
    pool.assert_all_there()


# -- waiting in vain -----------------------------------------------------------------------------------


def test_pool_timeout_names_the_holder_the_line_and_where_it_is_now():
    pool = Pool(acquire_timeout=0.05)
    holding, done = threading.Event(), threading.Event()
    lines = []

    def busy():
        holding.set()
        done.wait(LONG)

    def hold():
        lines.append(line() + 1)
        lease, connection = pool.lender.lend(NEVER)
        try:
            busy()
        finally:
            pool.lender.take_back(lease, connection)

    culprit = Task(hold, name="the-culprit")
    assert holding.wait(LONG)

    before = monotonic()
    with pytest.raises(PoolTimeout) as caught:
        pool.lender.lend(NEVER)
    assert 0.05 <= monotonic() - before < LONG / 3

    error = caught.value
    (holder,) = error.holders
    assert holder.thread is culprit
    assert holder.thread_name == "the-culprit"
    assert holder.call_site.startswith(f"{__file__}:{lines[0]} in ")
    assert holder.call_site.endswith("hold")
    assert holder.held_for >= 0.05
    assert "in busy" in holder.stack()
    assert error.stats.in_use == 1
    assert error.stats.max_size == 1
    assert error.__cause__ is None
    text = str(error)
    assert text.startswith("pool 'db': no connection within acquire_timeout (0.05 s)\n")
    assert error.stats.summary() in text
    assert "'the-culprit'" in text
    assert holder.call_site in text
    assert "busy" in text.split("now at")[1]
    assert pool.stats.timeouts == 1
    assert pool.stats.leases == 1

    done.set()
    culprit.result()
    pool.assert_all_there()


def test_the_call_site_is_the_users_also_through_a_context_manager():
    pool = Pool()
    with pool.connection():
        (holder,) = pool.lender.holders()
    # The block of this file's own helper is the innermost frame that is neither poolkit's nor contextlib's.
    assert holder.call_site.startswith(f"{__file__}:")
    assert "connection" in holder.call_site


def test_the_call_site_is_the_users_also_after_a_retry():
    pool = Pool()
    retrier = Retrier(
        RetryPolicy(base=0.0),
        classify=lambda error, phase: Verdict(Again.SAFE),
        sleep=lambda seconds: None,
        tally=pool.tally,
        events=pool.events,
    )
    sites = []

    def attempt(state):
        lease, connection = pool.lender.lend(NEVER)
        try:
            sites.append(pool.lender.holders()[0].call_site)
        finally:
            pool.lender.take_back(lease, connection)

    # As in a pool, where the attempt is poolkit's own code: only its callers can be the user.
    here = attempt.__code__.co_filename
    poolkit_file = Lender.lend.__code__.co_filename
    attempt.__code__ = attempt.__code__.replace(co_filename=poolkit_file)
    pool.store.next_error = OSError("refused")
    retrier.call(attempt, idempotent=False, deadline=NEVER)

    (site,) = sites
    assert site.startswith(here)


def test_the_deadline_ends_the_wait_and_says_in_which_stage():
    pool = Pool(acquire_timeout=LONG)
    with pool.connection():
        with pytest.raises(DeadlineExceeded, match=r"pool 'db': the deadline of 0\.05 s") as caught:
            pool.lender.lend(Deadline.after(0.05))

    assert caught.value.stage == "waiting"
    assert pool.stats.timeouts == 1
    pool.assert_all_there()


def test_a_deadline_that_passes_while_connecting_says_so():
    pool = Pool()

    def take(deadline, patience):
        deadline.wait(threading.Event())
        raise Waited(patience)

    pool.store.take = take
    with pytest.raises(DeadlineExceeded) as caught:
        pool.lender.lend(Deadline.after(0.02))
    assert caught.value.stage == "connecting"
    del pool.store.take
    pool.assert_all_there()


@pytest.mark.parametrize("how", ["late", "cancelled"])
def test_who_is_too_late_on_arrival_takes_nothing(how):
    pool = Pool()
    cancellation = Cancellation()
    cancellation.cancel()
    block = deadline(0) if how == "late" else deadline(math.inf, cancellation=cancellation)
    with block as limit, pytest.raises(DeadlineExceeded) as caught:
        pool.lender.lend(limit)

    assert caught.value.stage == "waiting"
    assert isinstance(caught.value, Cancelled) == (how == "cancelled")
    assert pool.store.opened == 0
    assert pool.stats.timeouts == 1
    pool.assert_all_there()


def test_who_is_too_late_on_arrival_is_told_that_the_pool_is_closed():
    pool = Pool()
    pool.lender.stop(Deadline.after(0))
    with pytest.raises(PoolClosed):
        pool.lender.lend(Deadline.after(0))


def test_a_connection_that_takes_too_long_to_open_is_a_pool_timeout():
    pool = Pool()
    pool.store.next_error = Waited(0.1)
    with pytest.raises(PoolTimeout):
        pool.lender.lend(NEVER)
    assert pool.stats.timeouts == 1
    pool.assert_all_there()


def test_the_store_gets_what_is_left_of_the_patience():
    pool = Pool(acquire_timeout=LONG)
    held = pool.lender.lend(NEVER)
    task = Task(pool.lender.lend, NEVER)
    eventually(lambda: pool.stats.waiting == 1)
    until = monotonic() + 0.02
    while monotonic() < until:
        pass
    pool.lender.take_back(*held)
    pool.lender.take_back(*task.result())

    first, second = pool.store.patience
    assert first == LONG
    assert 0 < second <= LONG - 0.02


def test_more_waiters_than_allowed_are_refused_and_counted():
    pool = Pool(max_waiting=0)
    with pool.connection():
        with pytest.raises(PoolOverloaded):
            pool.lender.lend(NEVER)
    stats = pool.stats
    assert (stats.refused, stats.timeouts, stats.leases) == (1, 0, 1)
    with pool.connection():
        pass


def test_a_wait_is_counted_and_measured():
    pool = Pool(acquire_timeout=LONG)
    held = pool.lender.lend(NEVER)
    task = Task(pool.lender.lend, NEVER)
    eventually(lambda: pool.stats.waiting == 1)
    sleep(0.01)  # that is what is measured
    pool.lender.take_back(*held)
    pool.lender.take_back(*task.result())

    stats = pool.stats
    assert stats.waiting == 0
    assert stats.wait.count == 2
    assert stats.wait.max >= 0.01


def test_interrupting_a_thread_that_waits_leaves_everything_there():
    pool = Pool(acquire_timeout=LONG)
    for _ in range(20):
        held = pool.lender.lend(NEVER)
        task = Task(pool.lender.lend, NEVER)
        eventually(lambda: pool.stats.waiting == 1)
        task.interrupt()
        assert isinstance(task.end(), Interrupted)
        pool.lender.take_back(*held)
    pool.assert_all_there()


# -- outages -------------------------------------------------------------------------------------------


def test_during_an_outage_nobody_waits_or_connects():
    pool = Pool()
    cause = OSError("connection refused")
    pool.outage.down(cause, hopeless=True)

    with pytest.raises(BackendUnavailable) as caught:
        pool.lender.lend(NEVER)

    assert caught.value.__cause__ is cause
    assert pool.store.patience == []
    assert pool.stats.refused == 1
    pool.outage.up()
    pool.assert_all_there()
    pool.outage.end()


def test_who_waits_when_the_backend_goes_down_is_turned_away_with_the_cause():
    pool = Pool(acquire_timeout=LONG)
    held = pool.lender.lend(NEVER)
    tasks = [Task(pool.lender.lend, NEVER) for _ in range(3)]
    eventually(lambda: pool.stats.waiting == 3)
    cause = OSError("connection refused")
    pool.outage.down(cause, hopeless=True)

    pool.lender.turn_away(pool.outage.error)

    for task in tasks:
        error = task.end()
        assert isinstance(error, BackendUnavailable)
        assert error.__cause__ is cause
    assert pool.stats.refused == 3
    pool.lender.take_back(*held)
    pool.outage.up()
    pool.assert_all_there()


def test_a_backend_that_can_not_be_reached_is_counted_as_a_refusal():
    pool = Pool()
    pool.store.next_error = BackendUnavailable("down")
    with pytest.raises(BackendUnavailable):
        pool.lender.lend(NEVER)
    assert pool.stats.refused == 1
    assert pool.stats.leases == 0


# -- what nobody can return ----------------------------------------------------------------------------


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, logger="poolkit")
    return caplog


def test_the_lease_of_a_thread_that_died_is_reclaimed_and_reported(warnings):
    leaks = []

    class Ears(Listener):
        def leaked(self, event):
            leaks.append(event)

    pool = Pool(listeners=[Ears()])
    kept = []
    task = Task(lambda: kept.append(pool.lender.lend(NEVER)), name="short-lived")
    task.result()
    assert pool.stats.in_use == 1

    pool.lender.reclaim()

    assert pool.stats.leaked == 1
    assert pool.store.discarded == 1  # nobody knows in which state it was left
    assert pool.store.put_back == 0
    (event,) = leaks
    assert event.holder.thread_name == "short-lived"
    assert "thread has ended" in event.reason
    (record,) = warnings.records
    assert "'short-lived'" in record.getMessage()
    assert f"{__file__}:" in record.getMessage()
    pool.assert_all_there()


def test_who_waited_in_vain_for_a_thread_that_died_is_told_of_it():
    pool = Pool()
    kept = []
    Task(lambda: kept.append(pool.lender.lend(NEVER)), name="short-lived").result()

    with pytest.raises(PoolTimeout, match="short-lived") as caught:
        pool.lender.lend(NEVER)

    (holder,) = caught.value.holders
    assert "it has ended" in holder.now_at
    assert caught.value.stats.in_use == 1
    pool.assert_all_there()  # what it held is back all the same


def test_a_dead_threads_lease_that_comes_back_late_has_no_effect():
    pool = Pool()
    kept = []
    Task(lambda: kept.append(pool.lender.lend(NEVER))).result()
    pool.lender.reclaim()
    pool.lender.take_back(*kept[0])

    assert pool.store.put_back == 0
    assert pool.stats.leaked == 1
    pool.assert_all_there()


def test_a_forgotten_connection_is_reclaimed_and_reported(warnings):
    pool = Pool()
    pool.lender.lend(NEVER)
    gc.collect()

    assert pool.stats.in_use == 1  # a finalizer may not do it itself
    pool.lender.reclaim()

    assert pool.stats.leaked == 1
    assert pool.store.discarded == 1
    (record,) = warnings.records
    assert "garbage-collected" in record.getMessage()
    pool.assert_all_there()


def test_who_waits_in_vain_reclaims_what_was_left(warnings):
    pool = Pool(acquire_timeout=0.01)
    kept = []
    Task(lambda: kept.append(pool.lender.lend(NEVER))).result()

    with pytest.raises(PoolTimeout):
        pool.lender.lend(NEVER)

    pool.assert_all_there()


def test_what_is_still_held_is_not_reclaimed():
    pool = Pool()
    with pool.connection():
        pool.lender.reclaim()
        assert pool.stats.in_use == 1
    assert pool.stats.leaked == 0
    pool.assert_all_there()


def test_many_threads_that_reclaim_at_once_reclaim_each_lease_once(warnings):
    pool = Pool(size=200)
    for _ in range(100):
        pool.lender.lend(NEVER)
    kept = []
    Task(lambda: kept.extend(pool.lender.lend(NEVER) for _ in range(100))).result()
    gc.collect()

    together(8, lambda _: pool.lender.reclaim())

    assert pool.stats.leaked == pool.store.discarded == 200
    pool.assert_all_there()


def test_two_that_reclaim_the_last_forgotten_one_both_succeed(warnings):
    """Both see that there is one; the other is quicker."""
    pool = Pool()

    class AlwaysOne(deque):
        looks = 0

        def __bool__(self):
            self.looks += 1
            return self.looks <= 1

    pool.book.forgotten = AlwaysOne()

    pool.lender.reclaim()


# -- resizing and stopping -----------------------------------------------------------------------------


def test_growing_lets_those_who_wait_have_theirs():
    pool = Pool(size=1, acquire_timeout=LONG)
    held = pool.lender.lend(NEVER)
    task = Task(pool.lender.lend, NEVER)
    eventually(lambda: pool.stats.waiting == 1)

    pool.size = 2
    pool.lender.resize(2)

    assert pool.stats.max_size == 2
    pool.lender.take_back(*task.result())
    pool.lender.take_back(*held)
    pool.assert_all_there()


def test_stopping_waits_for_what_is_lent_and_refuses_the_rest():
    pool = Pool(acquire_timeout=LONG)
    held = pool.lender.lend(NEVER)
    waiter = Task(pool.lender.lend, NEVER)
    eventually(lambda: pool.stats.waiting == 1)

    stopping = Task(pool.lender.stop, Deadline.after(LONG))

    assert isinstance(waiter.end(), PoolClosed)
    with pytest.raises(PoolClosed, match="pool 'db' is closed; make a new one"):
        pool.lender.lend(NEVER)
    assert stopping.is_alive()
    pool.lender.take_back(*held)
    assert list(stopping.result()) == []


def test_stopping_tells_who_still_holds_after_the_deadline():
    pool = Pool()
    lease, connection = pool.lender.lend(NEVER)

    (holder,) = pool.lender.stop(Deadline.after(0.01))

    assert holder.thread is threading.current_thread()
    pool.lender.take_back(lease, connection)
    assert pool.lender.holders() == []
    assert pool.store.put_back == 1


def test_stopping_wakes_those_who_pause_between_attempts():
    pool = Pool()
    sleeper = Task(pool.lender.sleep, 10 * LONG)

    pool.lender.stop(NEVER)

    sleeper.result()


def test_after_a_fork_the_childs_copy_touches_nothing():
    pool = Pool()
    lease, connection = pool.lender.lend(NEVER)
    pool.lender.abandon()

    pool.lender.take_back(lease, connection)
    pool.lender.reclaim()

    assert pool.store.put_back == pool.store.discarded == 0
    connection.lease = None


# -- events --------------------------------------------------------------------------------------------


def test_listeners_hear_of_leases_and_timeouts():
    heard = []

    class Ears(Listener):
        def acquired(self, event):
            heard.append(("acquired", event.holder.thread_name, event.waited))

        def released(self, event):
            heard.append(("released", event.holder.thread_name, event.used >= 0))

        def timed_out(self, event):
            heard.append(("timed out", type(event.error), event.waited >= 0.05))

    pool = Pool(listeners=[Ears()])
    me = threading.current_thread().name
    with pool.connection():
        with pytest.raises(PoolTimeout):
            pool.lender.lend(NEVER)

    assert heard == [
        ("acquired", me, 0.0),
        ("timed out", PoolTimeout, True),
        ("released", me, True),
    ]


def test_a_listener_may_use_the_pool(warnings):
    pool = Pool(size=2)

    class Curious(Listener):
        def __init__(self):
            self.seen = []

        def released(self, event):
            if not self.seen:
                self.seen.append(pool.lender.stats().in_use)
                with pool.connection():
                    self.seen.append(pool.lender.stats().in_use)

    curious = Curious()
    pool = Pool(size=1, listeners=[curious])
    with pool.connection():
        pass

    assert curious.seen == [0, 1]
    pool.assert_all_there()


def test_listeners_that_raise_do_not_keep_the_connection(warnings):
    class Raising(Listener):
        def acquired(self, event):
            raise ValueError

        def released(self, event):
            raise ValueError

        def timed_out(self, event):
            raise ValueError

    pool = Pool(listeners=[Raising()])
    for _ in range(3):
        with pool.connection(), pytest.raises(PoolTimeout):
            pool.lender.lend(NEVER)
    assert len(warnings.records) == 3  # once for each of its methods that were called
    pool.assert_all_there()


# -- waiting for the end of an outage --------------------------------------------------------------------


DOWN = OSError("connection refused")


def test_who_waits_an_outage_out_is_served_when_it_is_over():
    pool = Pool(2, acquire_timeout=LONG, waits_out=True)
    pool.outage.down(DOWN)

    def borrow(_):
        with pool.connection():
            return True

    tasks = [Task(borrow, number) for number in range(5)]
    eventually(lambda: pool.stats.waiting == 5)
    assert pool.stats.leases == 0
    pool.outage.up()

    assert [task.result() for task in tasks] == [True] * 5
    assert pool.stats.refused == 0
    pool.assert_all_there()


def test_who_meets_the_outage_while_connecting_waits_it_out_too():
    pool = Pool(acquire_timeout=LONG, waits_out=True)
    pool.store.next_error = BackendUnavailable("just now")
    pool.outage.down(DOWN)

    task = Task(pool.lender.lend, NEVER)
    eventually(lambda: pool.stats.waiting == 1)
    pool.outage.up()  # and the first one to try finds it down once more

    lease, connection = task.result()
    pool.lender.take_back(lease, connection)
    assert pool.stats.refused == 0
    pool.assert_all_there()


def test_waiting_for_the_backend_ends_after_acquire_timeout_with_the_cause():
    pool = Pool(acquire_timeout=0.03, waits_out=True)
    pool.outage.down(DOWN)

    with pytest.raises(BackendUnavailable) as caught:
        pool.lender.lend(NEVER)

    assert caught.value.__cause__ is DOWN
    assert pool.stats.refused == 1
    assert pool.stats.waiting == 0


def test_waiting_for_the_backend_ends_with_the_deadline():
    pool = Pool(acquire_timeout=LONG, waits_out=True)
    pool.outage.down(DOWN)
    began = monotonic()

    with pytest.raises(DeadlineExceeded) as caught:
        pool.lender.lend(Deadline.after(0.03))

    assert caught.value.stage == "connecting"
    assert caught.value.__cause__ is DOWN
    assert monotonic() - began < LONG
    assert pool.stats.timeouts == 1


def test_no_more_than_max_waiting_threads_wait_for_the_backend():
    pool = Pool(acquire_timeout=LONG, max_waiting=2, waits_out=True)
    pool.outage.down(DOWN)
    tasks = [Task(pool.lender.lend, NEVER) for _ in range(2)]
    eventually(lambda: pool.stats.waiting == 2)

    with pytest.raises(PoolOverloaded, match="2 threads wait for the backend"):
        pool.lender.lend(NEVER)

    pool.lender.stop(Deadline.after(0))
    assert all(isinstance(task.end(), PoolClosed) for task in tasks)


def test_nobody_waits_for_what_only_a_person_can_mend():
    pool = Pool(acquire_timeout=LONG, waits_out=True)
    pool.outage.down(OSError("wrong password"), hopeless=True)
    began = monotonic()

    with pytest.raises(BackendUnavailable, match="wrong password"):
        pool.lender.lend(NEVER)

    assert monotonic() - began < LONG / 2


def test_who_waits_for_the_backend_learns_that_it_is_hopeless():
    pool = Pool(acquire_timeout=LONG, waits_out=True)
    pool.outage.down(DOWN)
    task = Task(pool.lender.lend, NEVER)
    eventually(lambda: pool.stats.waiting == 1)

    pool.outage.down(OSError("wrong password"), hopeless=True)

    assert "wrong password" in str(task.end())


def test_closing_ends_the_wait_for_the_backend():
    pool = Pool(acquire_timeout=LONG, waits_out=True)
    pool.outage.down(DOWN)
    task = Task(pool.lender.lend, NEVER)
    eventually(lambda: pool.stats.waiting == 1)

    pool.lender.stop(Deadline.after(0))

    assert isinstance(task.end(), PoolClosed)


def test_an_interrupted_wait_for_the_backend_leaves_no_trace():
    pool = Pool(acquire_timeout=0.2, waits_out=True)
    pool.outage.down(DOWN)
    task = Task(pool.lender.lend, NEVER)
    eventually(lambda: pool.stats.waiting == 1)

    task.interrupt()

    task.end()
    assert pool.stats.waiting == 0


# -- interrupted at any point --------------------------------------------------------------------------


def lend_and_return(pool):
    with pool.connection():
        pass


def alone(pool):
    """Nobody else wants a connection."""
    return lambda: lend_and_return(pool), lambda: None


def wanted(pool):
    """Another one waits for the connection that is given back."""
    held = [pool.lender.lend(NEVER)]
    waiter = Task(lend_and_return, pool)
    eventually(lambda: pool.lender.waiting == 1)
    return lambda: pool.lender.take_back(*held.pop()), waiter.result


def waiting(pool):
    """Another one has the connection."""
    over = threading.Event()

    def hold():
        with pool.connection():
            eventually(lambda: pool.lender.waiting or over.is_set())

    def finish():
        over.set()
        holder.result()

    holder = Task(hold)
    eventually(lambda: pool.stats.in_use == 1)
    return lambda: lend_and_return(pool), finish


def in_vain(pool):
    """No connection can be had."""

    def work():
        with contextlib.suppress(ConnectionRefusedError):
            pool.lender.lend(NEVER)

    def finish():
        pool.store.next_error = None

    pool.store.next_error = ConnectionRefusedError()
    return work, finish


def beside_a_forgotten_one(pool):
    """A connection was collected while lent, and who comes then waits in vain."""
    pool.lender.lend(NEVER)
    assert len(pool.book.forgotten) == 1

    def work():
        with contextlib.suppress(DeadlineExceeded):
            pool.lender.lend(Deadline.after(0.001))

    return work, lambda: eventually(lambda: pool.store.discarded == 1)


@pytest.mark.parametrize("scene", [alone, wanted, waiting, in_vain, beside_a_forgotten_one])
def test_an_interruption_at_any_point_loses_no_turn(scene, caplog):
    caplog.set_level(logging.CRITICAL, "poolkit")
    lost = []
    for point in itertools.count(1):
        pool = Pool(acquire_timeout=LONG)
        work, finish = scene(pool)
        with contextlib.suppress(Struck), Interruption(point) as interruption:
            work()
        if interruption.where is None:
            break
        gc.collect()
        pool.lender.reclaim()  # what was interrupted before it was given back
        try:
            finish()
            pool.lender.acquire_timeout = 0.0
            pool.assert_all_there()
        except Exception as error:
            lost.append((interruption.where, repr(error)))

    assert lost == []
    assert point > 5
