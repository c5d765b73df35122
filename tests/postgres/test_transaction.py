"""Transactions end as one: committed at the end of the block, rolled back whatever else ends it."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import IsolationLevel, sql

from poolkit import ConfigError, PoolTimeout, PostgresPool
from poolkit.core.events import Failed, Listener, Retried
from tests.core.support import Task

from .observing import Watch, until

MakePool = type[PostgresPool]


class Counters:
    """Two rows in a table, to quarrel about."""

    def __init__(self, table: sql.Identifier, watch: Watch) -> None:
        self.insert = sql.SQL("insert into {} values (%s, %s)").format(table)
        self.read = sql.SQL("select name from {} where id = %s").format(table)
        self.write = sql.SQL("update {} set name = name || %s where id = %s").format(table)
        self.total = sql.SQL("select string_agg(name, ',' order by id) from {}").format(table)
        watch.ask(self.insert, [1, "a"])
        watch.ask(self.insert, [2, "b"])
        self._watch = watch

    def now(self) -> str:
        return str(self._watch.ask(self.total)[0][0])


@pytest.fixture
def rows(table: sql.Identifier, watch: Watch) -> Counters:
    return Counters(table, watch)


def test_commits_at_the_end_of_the_block(db: PostgresPool, rows: Counters) -> None:
    with db.transaction() as conn:
        conn.execute(rows.write, ["!", 1])
        assert rows.now() == "a,b"
    assert rows.now() == "a!,b"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_rolls_back_on_any_exception_and_raises_it(
    db: PostgresPool, rows: Counters, error: type[BaseException]
) -> None:
    pid = db.query("select pg_backend_pid()")
    with pytest.raises(error):
        with db.transaction() as conn:
            conn.execute(rows.write, ["!", 1])
            raise error
    assert rows.now() == "a,b"
    assert db.query("select pg_backend_pid()") == pid


def test_rolls_back_when_a_generator_in_it_is_dropped(db: PostgresPool, rows: Counters) -> None:
    def work() -> Iterator[int]:
        with db.transaction() as conn:
            conn.execute(rows.write, ["!", 1])
            yield 1

    generator = work()
    next(generator)
    assert db.stats().in_use == 1
    del generator
    assert db.stats().in_use == 0
    assert rows.now() == "a,b"


def test_return_in_the_block_commits(db: PostgresPool, rows: Counters) -> None:
    def work() -> int:
        with db.transaction() as conn:
            return conn.execute(rows.write, ["!", 1]).rowcount

    assert work() == 1
    assert rows.now() == "a!,b"


def test_ctrl_c_during_a_statement_stops_it_and_rolls_back(
    db: PostgresPool, rows: Counters, watch: Watch
) -> None:
    def interrupt() -> None:
        until(lambda: watch.running("pg_sleep(31)"))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupter = Task(interrupt)
    with pytest.raises(KeyboardInterrupt):
        with db.transaction() as conn:
            conn.execute(rows.write, ["!", 1])
            conn.execute("select pg_sleep(31)")
    assert interrupter.outcome() is None
    assert not watch.running("pg_sleep(31)")
    assert rows.now() == "a,b"
    assert db.query("select 1") == [(1,)]


def test_psycopg_rollback_ends_the_block_quietly(db: PostgresPool, rows: Counters) -> None:
    with db.transaction() as conn:
        conn.execute(rows.write, ["!", 1])
        raise psycopg.Rollback
    assert rows.now() == "a,b"
    assert db.stats().in_use == 0


def test_rollback_of_an_inner_block_leaves_the_outer(db: PostgresPool, rows: Counters) -> None:
    with db.transaction() as conn:
        conn.execute(rows.write, ["!", 1])
        with pytest.raises(ValueError, match="inner"):
            with conn.transaction():
                conn.execute(rows.write, ["?", 2])
                raise ValueError("inner")
    assert rows.now() == "a!,b"


@pytest.mark.parametrize("level", list(IsolationLevel))
def test_isolation_holds_for_this_block_only(db: PostgresPool, level: IsolationLevel) -> None:
    with db.transaction(isolation=level) as conn:
        (shown,) = conn.execute("show transaction_isolation").fetchone() or ()
    assert shown.replace(" ", "_").upper() == level.name
    for block in (db.transaction(), db.connection()):
        with block as conn:
            assert conn.execute("show transaction_isolation").fetchall() == [("read committed",)]


def test_read_only_holds_for_this_block_only(db: PostgresPool, rows: Counters) -> None:
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        with db.transaction(read_only=True) as conn:
            conn.execute(rows.write, ["!", 1])
    with db.transaction() as conn:
        conn.execute(rows.write, ["!", 1])
    assert rows.now() == "a!,b"


def test_arguments_are_checked_before_anything_is_borrowed(db: PostgresPool) -> None:
    with pytest.raises(ConfigError, match="isolation"):
        db.transaction(isolation="serializable")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="read_only"):
        db.transaction(read_only=1)  # type: ignore[arg-type]
    assert db.stats().leases == 0


def test_first_error_is_raised_when_the_rollback_fails_too_and_the_connection_is_replaced(
    db: PostgresPool, rows: Counters, watch: Watch
) -> None:
    with pytest.raises(ValueError, match="the first"):
        with db.transaction() as conn:
            conn.execute(rows.write, ["!", 1])
            pid = conn.info.backend_pid
            watch.terminate({pid})
            raise ValueError("the first")
    assert db.query("select pg_backend_pid()") != [(pid,)]
    assert rows.now() == "a,b"
    assert db.stats().in_use == 0


def test_error_of_a_lost_connection_in_the_block_is_psycopgs(
    db: PostgresPool, rows: Counters, watch: Watch
) -> None:
    with pytest.raises(psycopg.errors.AdminShutdown):
        with db.transaction() as conn:
            conn.execute(rows.write, ["!", 1])
            watch.terminate({conn.info.backend_pid})
            conn.execute("select 1")
    assert rows.now() == "a,b"
    assert db.query("select 1") == [(1,)]


def test_commit_that_fails_raises_psycopgs_error_and_leaves_nothing(
    db: PostgresPool, table: sql.Identifier, rows: Counters
) -> None:
    db.execute(
        sql.SQL("alter table {} add unique (name) deferrable initially deferred").format(table)
    )
    with pytest.raises(psycopg.errors.UniqueViolation):
        with db.transaction() as conn:
            conn.execute(rows.insert, [3, "a"])
    assert rows.now() == "a,b"
    assert db.query("select 1") == [(1,)]
    assert db.stats().in_use == 0


def test_block_can_not_be_entered_twice(db: PostgresPool) -> None:
    block = db.transaction()
    with block:
        with pytest.raises(RuntimeError, match="entered"):
            block.__enter__()
    assert db.stats().in_use == 0


def test_nested_borrow_beyond_the_pool_names_the_thread_itself(
    conninfo: str, make_pool: MakePool
) -> None:
    db = make_pool(conninfo, min_size=1, max_size=1, acquire_timeout=0.1)
    with db.transaction():
        with pytest.raises(PoolTimeout) as caught:
            db.query("select 1")
    assert caught.value.holders[0].thread is threading.current_thread()


def test_run_returns_what_the_work_returns_and_commits(db: PostgresPool, rows: Counters) -> None:
    assert db.run(lambda conn: conn.execute(rows.write, ["!", 1]).rowcount) == 1
    assert rows.now() == "a!,b"


def test_run_passes_isolation_and_read_only_on(db: PostgresPool) -> None:
    def look(conn: psycopg.Connection[tuple[str]]) -> list[str]:
        return [
            conn.execute(text).fetchall()[0][0]
            for text in ("show transaction_isolation", "show transaction_read_only")
        ]

    shown = db.run(look, isolation=IsolationLevel.SERIALIZABLE, read_only=True)
    assert shown == ["serializable", "on"]


class Hears(Listener):
    def __init__(self) -> None:
        self.retried_: list[Retried] = []
        self.failed_: list[Failed] = []

    def retried(self, event: Retried) -> None:
        self.retried_.append(event)

    def failed(self, event: Failed) -> None:
        self.failed_.append(event)


def quarrel(
    db: PostgresPool, rows: Counters, *, first: dict[int, int], isolation: IsolationLevel | None
) -> list[int]:
    """Run two transactions that get in each other's way at their first attempt; return their attempts."""
    both_there = threading.Barrier(2)
    attempts = [0, 0]

    def work(me: int) -> None:
        def once(conn: psycopg.Connection[tuple[str]]) -> None:
            attempts[me] += 1
            mine, other = first[me], 3 - first[me]
            if isolation is None:
                conn.execute(rows.write, [str(me), mine])
            else:
                conn.execute(rows.read, [other])
            if attempts[me] == 1:
                both_there.wait(20)
            conn.execute(rows.write, [str(me), other if isolation is None else mine])

        db.run(once, isolation=isolation)

    threads = [Task(work, n) for n in range(2)]
    for thread in threads:
        assert thread.outcome() is None
    return attempts


def test_run_retries_a_serialization_failure_as_a_whole(
    conninfo: str, make_pool: MakePool, rows: Counters
) -> None:
    hears = Hears()
    db = make_pool(conninfo, min_size=2, max_size=2, listeners=[hears])
    attempts = quarrel(db, rows, first={0: 1, 1: 2}, isolation=IsolationLevel.SERIALIZABLE)
    assert sum(attempts) >= 3
    assert rows.now() == "a0,b1"
    assert isinstance(hears.retried_[0].error, psycopg.errors.SerializationFailure)
    stats = db.stats()
    assert stats.retries == len(hears.retried_) == sum(attempts) - 2
    assert (stats.operations, stats.errors) == (2, 0)


def test_run_retries_a_deadlock_as_a_whole(
    conninfo: str, make_pool: MakePool, rows: Counters
) -> None:
    hears = Hears()
    with_quick_detection = f"{conninfo}?options=-c%20deadlock_timeout%3D20ms"
    db = make_pool(with_quick_detection, min_size=2, max_size=2, listeners=[hears])
    attempts = quarrel(db, rows, first={0: 1, 1: 2}, isolation=None)
    assert sum(attempts) == 3
    assert sorted(rows.now()) == sorted("a01,b10")
    assert isinstance(hears.retried_[0].error, psycopg.errors.DeadlockDetected)


def test_run_does_not_retry_a_unique_violation(
    conninfo: str, make_pool: MakePool, rows: Counters
) -> None:
    hears = Hears()
    db = make_pool(conninfo, min_size=1, max_size=1, listeners=[hears])
    attempts = []

    def work(conn: psycopg.Connection[tuple[str]]) -> None:
        attempts.append(1)
        conn.execute(rows.write, ["!", 2])
        conn.execute(rows.insert, [1, "again"])

    with pytest.raises(psycopg.errors.UniqueViolation):
        db.run(work, idempotent=True)
    assert len(attempts) == 1
    assert rows.now() == "a,b"
    assert not hears.retried_
    assert isinstance(hears.failed_[0].error, psycopg.errors.UniqueViolation)
    assert db.stats().errors == 1


def test_run_gives_up_after_the_policys_attempts_with_the_last_error(
    conninfo: str, make_pool: MakePool
) -> None:
    db = make_pool(conninfo, min_size=1, max_size=1)
    attempts = []

    def work(conn: psycopg.Connection[tuple[str]]) -> None:
        attempts.append(1)
        conn.execute("do $$ begin raise exception using errcode = '40001'; end $$")

    with pytest.raises(psycopg.errors.SerializationFailure):
        db.run(work)
    assert len(attempts) == db.config.retry.attempts
    assert db.stats().retries == len(attempts) - 1


def test_failed_rollback_shows_no_traceback_of_its_own(
    db: PostgresPool, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        with pytest.raises(ValueError, match="the first") as caught:
            with db.connection() as conn:
                conn.execute("select 1")
                watch.terminate({conn.info.backend_pid})
                raise ValueError("the first")
    assert caught.value.__context__ is None
    assert any("replaced" in record.message for record in caplog.records)
