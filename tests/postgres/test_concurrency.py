"""Many threads, everything at once: every answer is the asker's own, every number exact."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from poolkit import (
    BackendUnavailable,
    DeadlineExceeded,
    OutcomeUnknown,
    PoolOverloaded,
    PoolTimeout,
    PostgresPool,
    deadline,
)
from tests.core.support import Task

from .observing import Watch, assert_whole, at, together, unique, until

MakePool = Callable[..., PostgresPool]

THREADS = 50
SIZE = 8


def test_counters_are_exact_when_nothing_fails(
    conninfo: str, make_pool: MakePool, watch: Watch
) -> None:
    name = unique()
    pool = make_pool(
        at(conninfo, application_name=name), min_size=2, max_size=SIZE, acquire_timeout=30
    )
    turns = 40

    def work(number: int) -> Counter[str]:
        counted: Counter[str] = Counter()
        chance = random.Random(number)
        for turn in range(turns):
            tag = number * turns + turn
            kind = chance.choice(["query", "transaction", "connection", "error", "run"])
            if kind == "query":
                assert pool.query("select %s::int", [tag]) == [(tag,)]
                counted["operations"] += 1
            elif kind == "transaction":
                with pool.transaction() as conn:
                    assert conn.execute("select %s::int", [tag]).fetchone() == (tag,)
                counted["operations"] += 1
            elif kind == "connection":
                with pool.connection() as conn:
                    assert conn.execute("select %s::int", [tag]).fetchone() == (tag,)
            elif kind == "run":
                row = pool.run(lambda conn, tag=tag: conn.execute("select %s", [tag]).fetchone())  # type: ignore[misc]
                assert row == (tag,)
                counted["operations"] += 1
            else:
                with pytest.raises(psycopg.errors.DivisionByZero):
                    pool.query("select 1/0")
                counted["operations"] += 1
                counted["errors"] += 1
            counted["leases"] += 1
        return counted

    outcomes = together(THREADS, work)

    assert all(isinstance(outcome, Counter) for outcome in outcomes), outcomes
    total: Counter[str] = sum(outcomes, Counter())
    stats = pool.stats()
    assert stats.leases + stats.shared == total["leases"] == THREADS * turns
    assert stats.operations == total["operations"]
    assert stats.errors == total["errors"]
    assert stats.wait.count == stats.leases + stats.shared
    assert stats.use.count == stats.leases
    assert stats.timeouts == stats.refused == stats.retries == stats.leaked == 0
    assert stats.in_use == stats.waiting == 0
    assert stats.created - stats.closed == stats.size == len(watch.backends(name)) <= SIZE
    assert_whole(pool, SIZE)


def test_everything_at_once_mixes_nothing_up_and_loses_nothing(
    conninfo: str, make_pool: MakePool, watch: Watch
) -> None:
    name = unique()
    pool = make_pool(
        at(conninfo, application_name=name),
        min_size=2,
        max_size=SIZE,
        acquire_timeout=5,
        idle_timeout=1,
    )
    over = time.monotonic() + 4.0
    expected = (
        BackendUnavailable,
        DeadlineExceeded,
        OutcomeUnknown,
        PoolOverloaded,
        PoolTimeout,
        psycopg.OperationalError,
    )

    def one(chance: random.Random, tag: int) -> None:
        kind = chance.randrange(8)
        if kind == 0:
            with pytest.raises(psycopg.errors.DivisionByZero):
                pool.query("select 1/0", idempotent=True)
        elif kind == 1:
            with deadline(chance.uniform(0.001, 0.05)):
                row = pool.query_one("select %s::int, pg_sleep(0.01)", [tag])
                assert row is not None
                assert row[0] == tag
        elif kind == 2:
            with deadline(chance.uniform(0.005, 0.1)), pool.transaction() as conn:
                assert conn.execute("select %s::int", [tag]).fetchone() == (tag,)
                conn.execute("select pg_sleep(0.02)")
                assert conn.execute("select %s::int", [tag]).fetchone() == (tag,)
        elif kind == 3:
            with pool.connection() as conn:
                conn.execute("set application_name to spoilt")
                assert conn.execute("select %s::int", [tag]).fetchone() == (tag,)
        elif kind == 4:
            rows = pool.stream("select %s::int from generate_series(1, 30)", [tag], size=10)
            assert next(rows) == (tag,)
            if chance.random() < 0.5:
                assert list(rows) == [(tag,)] * 29
            else:
                rows.close()  # type: ignore[attr-defined]
        else:
            shown = pool.query("select %s::int, current_setting('application_name')", [tag])
            assert shown == [(tag, name)]

    def work(number: int) -> Counter[str]:
        became: Counter[str] = Counter()
        chance = random.Random(number)
        for turn in range(1_000_000):
            if time.monotonic() > over:
                break
            try:
                one(chance, number * 1_000_000 + turn)
            except expected as error:
                became[type(error).__name__] += 1
            else:
                became["done"] += 1
        return became

    most = 0
    ended = threading.Event()

    def disturb() -> None:
        nonlocal most
        chance = random.Random(0)
        while not ended.is_set():
            # By address, since one kind of work changes the name.
            pids = watch.backends(name) | watch.backends("spoilt")
            most = max(most, len(pids))
            if pids and chance.random() < 0.2:
                watch.ask("select pg_terminate_backend(%s)", [chance.choice(sorted(pids))])
            ended.wait(0.02)

    disturber = Task(disturb)
    outcomes = together(THREADS, work, within=40)
    ended.set()

    assert all(isinstance(outcome, Counter) for outcome in outcomes), outcomes
    assert disturber.outcome() is None
    total: Counter[str] = sum(outcomes, Counter())
    assert total["done"] > THREADS
    # A backend that was just told to end may still be seen beside the one that follows it.
    assert most <= SIZE + 2
    until(lambda: pool.stats().in_use == 0)
    stats = pool.stats()
    assert stats.wait.count == stats.leases + stats.shared
    assert stats.use.count == stats.leases - stats.leaked
    assert stats.waiting == 0
    assert_whole(pool, SIZE)
    until(lambda: pool.stats().size == len(watch.backends(name)) <= SIZE)


def test_every_thread_gets_its_turn(conninfo: str, make_pool: MakePool) -> None:
    pool = make_pool(conninfo, min_size=4, max_size=4, acquire_timeout=30)
    over = time.monotonic() + 2.0

    def work(number: int) -> int:
        turns = 0
        while time.monotonic() < over:
            assert pool.query("select %s::int", [number]) == [(number,)]
            turns += 1
        return turns

    turns: list[Any] = sorted(together(THREADS, work))

    assert turns[0] >= turns[len(turns) // 2] / 3


def test_threads_that_come_and_go_are_all_counted(conninfo: str, make_pool: MakePool) -> None:
    pool = make_pool(conninfo, min_size=2, max_size=4)
    for _ in range(15):
        together(20, lambda n: pool.query("select %s::int", [n]))
    stats = pool.stats()
    assert stats.leases + stats.shared == stats.operations == 300
    assert (stats.wait.count, stats.use.count) == (300, stats.leases)
    assert stats.in_use == 0


def test_resizing_under_load_keeps_to_the_size_and_loses_nothing(
    conninfo: str, make_pool: MakePool, watch: Watch
) -> None:
    name = unique()
    pool = make_pool(
        at(conninfo, application_name=name), min_size=1, max_size=SIZE, acquire_timeout=30
    )
    over = threading.Event()

    def work(number: int) -> int:
        turns = 0
        while not over.is_set():
            assert pool.query("select %s::int", [number]) == [(number,)]
            turns += 1
        return turns

    threads = [Task(work, n) for n in range(20)]
    for size in (2, 6, 1, 8, 3):
        pool.resize(min_size=1, max_size=size)
        reached = pool.stats().operations
        until(lambda: pool.stats().operations > reached + 50)  # noqa: B023
        until(lambda: pool.stats().in_use <= size)  # noqa: B023
    pool.drain()
    over.set()
    turns = [thread.outcome() for thread in threads]

    assert all(isinstance(number, int) for number in turns), turns
    assert pool.stats().operations == sum(turns)
    assert_whole(pool, 3)
    assert len(watch.backends(name)) <= SIZE
