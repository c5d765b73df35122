"""More callers than connections: everybody is served or told, and nothing is lost on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from poolkit import DeadlineExceeded, PoolOverloaded, PoolTimeout, PostgresPool, deadline
from tests.core.support import Task
from tests.faults.control import Control

from .observing import (
    SCHEDULING,
    Watch,
    assert_whole,
    at,
    together,
    unique,
    until,
)

MakePool = Callable[..., PostgresPool]

WAITERS = 200


class Hold:
    """Holds *count* connections of a pool until told to let go."""

    def __init__(self, pool: PostgresPool, count: int) -> None:
        self._over = threading.Event()
        held = threading.Barrier(count + 1)

        def hold() -> None:
            with pool.connection():
                held.wait(30)
                self._over.wait(60)

        self._holders = [Task(hold, name=f"holder-{n}") for n in range(count)]
        held.wait(30)

    def let_go(self) -> None:
        self._over.set()
        for holder in self._holders:
            assert holder.outcome() is None

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()


def test_200_waiters_are_all_served(conninfo: str, make_pool: MakePool, watch: Watch) -> None:
    name = unique()
    pool = make_pool(
        at(conninfo, application_name=name), min_size=2, max_size=4, acquire_timeout=30
    )
    with Hold(pool, 4):
        waiters = [
            Task(lambda n=n: pool.query("select %s::int", [n]))  # type: ignore[misc]
            for n in range(WAITERS)
        ]
        until(lambda: pool.stats().waiting == WAITERS)

    assert [waiter.outcome() for waiter in waiters] == [[(n,)] for n in range(WAITERS)]
    assert len(watch.backends(name)) <= 4
    assert pool.stats().leases + pool.stats().shared == WAITERS + 4
    assert pool.stats().timeouts == 0
    assert_whole(pool, 4)


def test_200_waiters_time_out_in_time_and_are_told_who_holds(
    conninfo: str, make_pool: MakePool
) -> None:
    pool = make_pool(conninfo, min_size=2, max_size=2, acquire_timeout=0.5)
    with Hold(pool, 2), Control() as machine:
        outcomes = together(WAITERS, lambda _: timed(lambda: pool.query("select 1")))
        assert pool.stats().waiting == 0

    took = sorted(seconds for _, seconds in outcomes)
    assert took[0] >= 0.5
    # Two hundred threads that wake up together, and make their reports, take a while to run at all.
    assert took[0] < 0.55 + SCHEDULING + machine.worst
    assert took[-1] < 2.0 + 2 * machine.worst
    for error, _ in outcomes:
        assert isinstance(error, PoolTimeout)
        assert {holder.thread_name for holder in error.holders} == {"holder-0", "holder-1"}
        assert error.stats is not None
        assert error.stats.in_use == 2
        assert "test_exhaustion.py" in str(error)
    assert pool.stats().timeouts == WAITERS
    assert_whole(pool, 2)


def test_waiters_obey_their_own_deadlines(conninfo: str, make_pool: MakePool) -> None:
    pool = make_pool(conninfo, min_size=1, max_size=1, acquire_timeout=30)

    def wait(number: int) -> tuple[Any, float]:
        with deadline(0.2 + 0.01 * number):
            return timed(lambda: pool.query("select 1"))

    with Hold(pool, 1), Control() as machine:
        outcomes = together(20, wait)

    for number, (error, seconds) in enumerate(outcomes):
        assert isinstance(error, DeadlineExceeded)
        assert error.stage == "waiting"
        assert seconds < 0.2 + 0.01 * number + 0.05 + SCHEDULING + machine.worst
    assert_whole(pool, 1)


def test_waiters_beyond_max_waiting_are_refused_at_once(conninfo: str, make_pool: MakePool) -> None:
    pool = make_pool(conninfo, min_size=1, max_size=1, max_waiting=10, acquire_timeout=30)
    with Hold(pool, 1):
        waiters = [Task(lambda: pool.query("select 1")) for _ in range(10)]
        until(lambda: pool.stats().waiting == 10)

        for error, seconds in together(20, lambda _: timed(lambda: pool.query("select 1"))):
            assert isinstance(error, PoolOverloaded)
            assert seconds < 0.1 + SCHEDULING
        assert pool.stats().refused == 20

    assert [waiter.outcome() for waiter in waiters] == [[(1,)]] * 10
    assert_whole(pool, 1)


def test_timeouts_and_turns_that_cross_lose_nothing(conninfo: str, make_pool: MakePool) -> None:
    # The waits are as long as the holds: many a turn comes at the moment its waiter gives up.
    pool = make_pool(conninfo, min_size=3, max_size=3, acquire_timeout=0.02)
    over = time.monotonic() + 2.0

    def work(number: int) -> tuple[int, int]:
        served = gave_up = 0
        while time.monotonic() < over:
            try:
                with pool.connection() as conn:
                    row = conn.execute("select %s::int, pg_sleep(0.005)", [number]).fetchone()
                assert row is not None
                assert row[0] == number
                served += 1
            except PoolTimeout:
                gave_up += 1
        return served, gave_up

    outcomes = together(20, work)

    assert all(isinstance(outcome, tuple) for outcome in outcomes), outcomes
    stats = pool.stats()
    assert stats.leases == sum(served for served, _ in outcomes)
    assert stats.timeouts == sum(gave_up for _, gave_up in outcomes)
    assert stats.timeouts > 0
    assert_whole(pool, 3)


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what became of the call, and the seconds that took."""
    began = time.monotonic()
    try:
        result = call()
    except Exception as error:
        result = error
    return result, time.monotonic() - began
