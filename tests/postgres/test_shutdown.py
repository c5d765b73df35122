"""Closing: during use, with waiters, from many threads; and what is left afterwards, which is nothing."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from poolkit import PoolClosed, PostgresPool, deadline
from poolkit.embedded import PostgresServer
from tests.core.support import Task
from tests.faults.proxy import FaultProxy

from .observing import (
    SCHEDULING,
    Watch,
    at,
    our_threads,
    together,
    unique,
    until,
    warm_up,
)

MakePool = Callable[..., PostgresPool]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    until(lambda: not our_threads())
    yield
    until(lambda: not our_threads(), within=5)


@pytest.fixture
def name() -> str:
    return unique()


@pytest.fixture
def pool(conninfo: str, name: str) -> Iterator[PostgresPool]:
    pool = PostgresPool(
        at(conninfo, application_name=name), min_size=3, max_size=3, acquire_timeout=30
    )
    yield pool
    pool.close()


CALLS: dict[str, Callable[[PostgresPool], Any]] = {
    "query": lambda pool: pool.query("select 1"),
    "execute": lambda pool: pool.execute("select 1"),
    "run": lambda pool: pool.run(lambda conn: conn.execute("select 1")),
    "stream": lambda pool: list(pool.stream("select 1")),
    "connection": lambda pool: pool.connection().__enter__(),
    "transaction": lambda pool: pool.transaction().__enter__(),
    "executemany": lambda pool: pool.executemany("select %s", [[1]]),
    "open": lambda pool: pool.open(),
    "check": lambda pool: pool.check(),
    "drain": lambda pool: pool.drain(),
    "resize": lambda pool: pool.resize(min_size=1, max_size=2),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_closed_pool_says_so(pool: PostgresPool, call: Callable[[PostgresPool], Any]) -> None:
    pool.query("select 1")
    pool.close()

    with pytest.raises(PoolClosed):
        call(pool)


def test_a_closed_pool_can_still_be_looked_at(pool: PostgresPool) -> None:
    pool.query("select 1")
    pool.close()
    pool.close()

    assert "closed" in repr(pool)
    assert pool.stats().in_use == 0
    assert pool.leases() == []
    assert pool.health_check() is False


def test_closing_an_unused_pool_starts_nothing(pool: PostgresPool) -> None:
    pool.close()
    assert not our_threads()


def test_close_leaves_no_thread_and_no_backend(pool: PostgresPool, name: str, watch: Watch) -> None:
    assert len(warm_up(pool, 3)) == 3
    assert watch.backends(name)

    pool.close()

    until(lambda: not our_threads(), within=2)
    until(lambda: not watch.backends(name), within=2)


def test_close_waits_for_what_runs(pool: PostgresPool) -> None:
    in_block, closing = threading.Event(), threading.Event()

    def work() -> Any:
        with pool.connection() as conn:
            in_block.set()
            assert closing.wait(10)
            return conn.execute("select 42").fetchone()

    holder = Task(work)
    assert in_block.wait(10)
    closer = Task(lambda: pool.close(20))
    until(lambda: refuses(pool))
    closing.set()

    assert holder.outcome() == (42,)
    assert closer.outcome() is None
    assert closer.seconds < 10
    assert pool.stats().in_use == 0


def test_close_is_bounded_and_what_is_held_then_closes_when_it_comes_back(
    pool: PostgresPool, name: str, watch: Watch
) -> None:
    in_block, closed = threading.Event(), threading.Event()

    def work() -> Any:
        with pool.connection() as conn:
            in_block.set()
            assert closed.wait(10)
            return conn.execute("select 42").fetchone()

    holder = Task(work)
    assert in_block.wait(10)

    began = time.monotonic()
    pool.close(0.5)
    assert 0.5 <= time.monotonic() - began < 0.75 + SCHEDULING

    closed.set()
    assert holder.outcome() == (42,)
    until(lambda: not watch.backends(name))


def test_callers_are_refused_at_once_while_another_thread_is_still_closing(
    pool: PostgresPool,
) -> None:
    in_block, over = threading.Event(), threading.Event()

    def work() -> None:
        with pool.connection():
            in_block.set()
            over.wait(30)

    holder = Task(work)
    assert in_block.wait(10)
    closer = Task(lambda: pool.close(20))
    until(lambda: refuses(pool))
    for _ in range(5):
        began = time.monotonic()
        with pytest.raises(PoolClosed), deadline(5):
            pool.query("select 1")
        assert time.monotonic() - began < 0.1 + SCHEDULING
    assert closer.is_alive()
    over.set()
    assert holder.outcome() is None
    assert closer.outcome() is None


def test_close_fails_those_who_wait(pool: PostgresPool) -> None:
    over = threading.Event()
    held = threading.Barrier(4)

    def hold() -> None:
        with pool.connection():
            held.wait(10)
            over.wait(30)

    holders = [Task(hold) for _ in range(3)]
    held.wait(10)
    waiters = [Task(lambda: pool.query("select 1")) for _ in range(20)]
    until(lambda: pool.stats().waiting == 20)

    closer = Task(lambda: pool.close(20))
    outcomes = [waiter.outcome(5) for waiter in waiters]
    over.set()

    assert all(isinstance(outcome, PoolClosed) for outcome in outcomes), outcomes
    assert all(holder.outcome() is None for holder in holders)
    assert closer.outcome() is None


@pytest.mark.parametrize("waiters", [0, 3])
def test_close_while_connecting_to_a_black_hole_is_bounded(
    postgres_server: PostgresServer,
    make_proxy: Callable[[PostgresServer], FaultProxy],
    waiters: int,
) -> None:
    proxy = make_proxy(postgres_server)
    proxy.blackhole()
    pool = PostgresPool(at(postgres_server.conninfo, port=proxy.port), acquire_timeout=20)
    pool.open()
    waiting = [Task(lambda: pool.query("select 1")) for _ in range(waiters)]
    until(lambda: proxy.live and pool._lifecycle.open().lender.gate.in_use == waiters)

    began = time.monotonic()
    pool.close(0.5)
    assert time.monotonic() - began < 0.5 + 0.25 + SCHEDULING
    assert all(isinstance(waiter.outcome(5), PoolClosed) for waiter in waiting)
    proxy.cut()


def test_close_ends_a_running_stream_with_an_error_or_its_rows(pool: PostgresPool) -> None:
    rows = pool.stream("select generate_series(1, 100)", size=10)
    assert next(rows) == (1,)
    pool.close(0.1)
    assert len(list(rows)) == 99
    assert pool.stats().in_use == 0


def test_close_under_load_gives_each_caller_an_answer_or_pool_closed(
    pool: PostgresPool, name: str, watch: Watch
) -> None:
    busy = threading.Barrier(21)

    def load(number: int) -> int:
        for turn in range(1_000_000):
            if turn == 10:
                busy.wait(20)
            try:
                assert pool.query("select %s::int", [turn]) == [(turn,)]
            except PoolClosed:
                return turn
        return -1

    threads = [Task(load, n) for n in range(20)]
    busy.wait(20)
    pool.close()

    assert all(isinstance(thread.outcome(), int) for thread in threads), [
        thread.error for thread in threads
    ]
    assert pool.stats().in_use == 0
    until(lambda: not watch.backends(name), within=2)


def test_opening_from_many_threads_opens_once(pool: PostgresPool, name: str, watch: Watch) -> None:
    assert all(opened is pool for opened in together(20, lambda _: pool.open()))

    warm_up(pool, 3)
    assert len(watch.backends(name)) == 3
    assert len([thread for thread in our_threads() if "-scheduler" in thread]) == 1


def test_open_and_close_from_many_threads_at_once(conninfo: str, watch: Watch) -> None:
    for _ in range(10):
        name = unique()
        pool = PostgresPool(at(conninfo, application_name=name), min_size=2, max_size=4)

        def act(number: int, pool: PostgresPool = pool) -> Any:
            if number % 4 == 3:
                return pool.close()
            return pool.query("select %s::int", [number])

        outcomes = together(12, act)

        for number, outcome in enumerate(outcomes):
            if number % 4 == 3:
                assert outcome is None
            else:
                assert isinstance(outcome, PoolClosed) or outcome == [(number,)], outcome
        until(lambda: not watch.backends(name), within=5)  # noqa: B023


def test_closing_from_many_threads_waits_for_the_one_that_does_it(pool: PostgresPool) -> None:
    warm_up(pool, 3)
    assert together(10, lambda _: pool.close()) == [None] * 10
    until(lambda: not our_threads(), within=2)


def test_closing_inside_its_own_block_does_not_deadlock(pool: PostgresPool) -> None:
    with pool.connection() as conn:
        began = time.monotonic()
        pool.close(0.2)
        assert time.monotonic() - began < 0.6 + SCHEDULING
        assert conn.execute("select 1").fetchone() == (1,)
    assert conn.closed


def test_one_pool_closing_leaves_the_others_running(conninfo: str, pool: PostgresPool) -> None:
    with PostgresPool(conninfo, min_size=1) as other:
        other.query("select 1")
        pool.query("select 1")
        pool.close()
        assert other.query("select 2") == [(2,)]
        assert any("housekeeper" in thread for thread in our_threads())


def test_a_dropped_pool_leaves_no_thread_and_no_backend(conninfo: str, watch: Watch) -> None:
    name = unique()
    pool = PostgresPool(at(conninfo, application_name=name), min_size=2)
    warm_up(pool, 2)
    del pool

    def gone() -> bool:
        gc.collect()
        return not our_threads() and not watch.backends(name)

    until(gone, within=5, every=0.1)


def refuses(pool: PostgresPool) -> bool:
    try:
        with deadline(0.05):
            pool.query("select 1")
    except PoolClosed:
        return True
    except Exception:
        return False
    return False


def test_a_connection_kept_after_its_pool_was_closed_is_just_closed(pool: PostgresPool) -> None:
    with pool.connection() as conn:
        conn.execute("select 1")
    pool.close()
    with pytest.raises(psycopg.OperationalError):
        conn.execute("select 1")
