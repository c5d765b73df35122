"""What the pool says of itself is exact."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from poolkit import PoolOverloaded, PoolTimeout, PostgresPool, deadline
from tests.core.support import Task

from .observing import together, until

MakePool = Callable[..., PostgresPool]


def test_new_pool_has_counted_nothing(conninfo: str) -> None:
    db = PostgresPool(conninfo, name="new")
    stats = db.stats()
    assert (stats.name, stats.max_size, stats.size, stats.leases) == ("new", 20, 0, 0)
    assert stats.wait.count == stats.use.count == stats.create.count == 0
    assert stats.error_rate == 0.0
    assert db.leases() == []
    assert "new" in repr(db)


def test_counters_are_exact_after_many_threads(conninfo: str, make_pool: MakePool) -> None:
    threads, rounds = 16, 25
    db = make_pool(conninfo, min_size=4, max_size=4, acquire_timeout=30)

    def work(number: int) -> None:
        for turn in range(rounds):
            db.query("select 1")
            with db.connection() as conn:
                conn.execute("select 1")
            with db.transaction():
                pass
            if turn % 5 == 0:
                with pytest.raises(psycopg.errors.DivisionByZero):
                    db.execute("select 1 / 0")

    assert together(threads, work, within=60) == [None] * threads
    stats = db.stats()
    failures = threads * rounds // 5
    assert stats.leases + stats.shared == stats.wait.count == threads * rounds * 3 + failures
    assert stats.use.count == stats.leases
    assert stats.errors == failures
    assert (stats.timeouts, stats.refused, stats.retries, stats.leaked) == (0, 0, 0, 0)
    assert stats.size == stats.created - stats.closed == stats.create.count == 4
    assert (stats.in_use, stats.waiting, stats.idle) == (0, 0, 4)


def test_operations_are_statements_runs_and_transactions(db: PostgresPool) -> None:
    db.query("select 1")
    db.query_one("select 1")
    db.execute("select 1")
    db.run(lambda conn: conn.execute("select 1"))
    with db.transaction():
        pass
    stats = db.stats()
    assert (stats.operations, stats.errors, stats.leases) == (5, 0, 5)


def test_error_in_executemany_is_counted(db: PostgresPool) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        db.executemany("select 1 / %s", [[0]])
    assert db.stats().errors == 1


def test_state_now_is_told(conninfo: str, make_pool: MakePool) -> None:
    db = make_pool(conninfo, min_size=2, max_size=2, acquire_timeout=20)
    db.open()
    until(lambda: db.stats().size == 2)
    with db.connection():
        assert (db.stats().in_use, db.stats().idle) == (1, 1)
        with db.connection():
            waiter = Task(lambda: db.query("select 1"))
            until(lambda: db.stats().waiting == 1)
            assert (db.stats().in_use, db.stats().idle) == (2, 0)
            time.sleep(0.01)  # that is what is measured
    assert waiter.outcome() == [(1,)]
    until(lambda: db.stats().in_use == 0)
    assert (db.stats().idle, db.stats().waiting) == (2, 0)
    assert db.stats().wait.max >= 0.01


def test_timeouts_and_refusals_are_counted_apart(conninfo: str, make_pool: MakePool) -> None:
    db = make_pool(conninfo, min_size=1, max_size=1, acquire_timeout=0.05, max_waiting=0)
    with db.connection():
        with pytest.raises(PoolOverloaded, match="max_waiting is 0"):
            db.query("select 1")
    db = make_pool(conninfo, min_size=1, max_size=1, acquire_timeout=0.05)
    with db.connection():
        for _ in range(2):
            with pytest.raises(PoolTimeout):
                db.query("select 1")
        with pytest.raises(TimeoutError), deadline(0.01):
            db.query("select 1")
    stats = db.stats()
    assert (stats.timeouts, stats.refused, stats.errors) == (3, 0, 3)


def test_snapshot_is_frozen_and_does_not_change(db: PostgresPool) -> None:
    before = db.stats()
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.leases = 7  # type: ignore[misc]
    db.query("select 1")
    assert before.leases == 0
    assert db.stats().leases == 1


def test_use_is_as_long_as_the_block(db: PostgresPool) -> None:
    db.query("select pg_sleep(0.1)")
    stats = db.stats()
    assert 0.1 <= stats.use.max < 5
    assert stats.use.mean == pytest.approx(stats.use.max)
    assert stats.use.p50 == pytest.approx(stats.use.max, rel=0.13)
    assert stats.create.max > 0


def test_threads_that_ended_are_still_counted(conninfo: str, make_pool: MakePool) -> None:
    db = make_pool(conninfo, min_size=1, max_size=2, acquire_timeout=30)
    for _ in range(150):
        assert Task(lambda: db.query("select 1")).outcome() == [(1,)]
    assert db.stats().leases == 150
    assert threading.active_count() < 100
