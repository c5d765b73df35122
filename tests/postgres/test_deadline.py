"""One deadline bounds whatever a pool does, and what it stops on the client is stopped on the server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql

from poolkit import (
    DeadlineExceeded,
    OutcomeUnknown,
    PoolOverloaded,
    PoolTimeout,
    PostgresPool,
    deadline,
)
from poolkit.embedded import PostgresServer
from tests.core.support import Task
from tests.faults.proxy import FaultProxy

from .observing import SCHEDULING, Watch, at, until

MakePool = Callable[..., PostgresPool]
MakeProxy = Callable[[PostgresServer], FaultProxy]

OVERSHOOT = 0.05
"""Seconds past a deadline that are promised at most."""


@pytest.fixture
def db(db: PostgresPool) -> PostgresPool:
    """Give the pool with its connection open: short deadlines are for what a test is about."""
    assert db.query("select 1") == [(1,)]
    return db


@contextmanager
def bounded(seconds: float, *, stage: str | None = None) -> Iterator[None]:
    """Run the block under a deadline; check that it ends with it, not before and not much later."""
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        with deadline(seconds):
            yield
    took = time.monotonic() - began
    assert seconds <= took <= seconds + OVERSHOOT + SCHEDULING
    if stage is not None:
        assert caught.value.stage == stage
        assert f"deadline of {seconds:g} s" in str(caught.value)


@contextmanager
def silence() -> Iterator[int]:
    """Give the port of a listener that accepts connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]


def test_while_waiting_for_a_connection(db: PostgresPool) -> None:
    with db.connection():
        with bounded(0.2, stage="waiting"):
            db.query("select 1")
        assert db.stats().waiting == 0
    stats = db.stats()
    assert stats.timeouts == 1
    assert db.query("select 1") == [(1,)]


def test_a_caller_who_is_late_already_waits_no_longer_for_the_cancel(
    conninfo: str, make_pool: MakePool, make_proxy: MakeProxy, postgres_server: PostgresServer
) -> None:
    proxy = make_proxy(postgres_server)
    db = make_pool(at(conninfo, port=proxy.port), min_size=1, max_size=1)
    with db.connection() as conn:
        conn.silence = lambda: time.sleep(0.35)  # type: ignore[attr-defined]
        proxy.blackhole()
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded), deadline(0.3):
            conn.execute("select pg_sleep(30)")
        # It came back after 0.36 s; neither the rest of 0.3 s nor the time for a cancel is to be added to that.
        assert 0.35 < time.monotonic() - began < 0.4 + SCHEDULING
    proxy.pass_through()


@pytest.mark.parametrize("way", ["combined", "block"])
def test_a_cancel_that_takes_too_long_goes_on_once(
    conninfo: str,
    make_pool: MakePool,
    make_proxy: MakeProxy,
    postgres_server: PostgresServer,
    way: str,
) -> None:
    proxy = make_proxy(postgres_server)
    db = make_pool(at(conninfo, port=proxy.port), min_size=1, max_size=1, name=f"once-{way}")
    with db.connection() as conn:
        conn.execute("select 1")
        if way == "block":
            proxy.blackhole()
            with bounded(0.2, stage="running"):
                conn.execute("select pg_sleep(30)")
    if way == "combined":
        proxy.blackhole()
        with bounded(0.2, stage="running"):
            db.query("select pg_sleep(30)")
    names = [thread.name for thread in threading.enumerate()]
    assert names.count(f"poolkit-cancel-once-{way}") == 1
    proxy.pass_through()


def test_while_connecting(conninfo: str, make_pool: MakePool) -> None:
    with silence() as port:
        db = make_pool(at(conninfo, port=port), min_size=1, max_size=1)
        with bounded(0.3, stage="connecting"):
            db.query("select 1")
        assert db.stats().in_use == 0


def test_while_a_statement_runs(db: PostgresPool, watch: Watch) -> None:
    pid = db.query("select pg_backend_pid()")
    with bounded(0.2, stage="running"):
        db.query("select pg_sleep(32)")
    assert not watch.running("pg_sleep(32)")
    assert db.query("select pg_backend_pid()") == pid, "it must be lent again, not replaced"


@pytest.mark.parametrize("block", ["connection", "transaction"])
def test_while_a_statement_runs_in_a_block(
    db: PostgresPool, watch: Watch, table: sql.Identifier, block: str
) -> None:
    pid = db.query("select pg_backend_pid()")
    with bounded(0.2, stage="running"):
        with getattr(db, block)() as conn:
            conn.execute(sql.SQL("insert into {} values (1, 'a')").format(table))
            conn.execute("select pg_sleep(33)")
    assert not watch.running("pg_sleep(33)")
    assert watch.ask(sql.SQL("select count(*) from {}").format(table)) == [(0,)]
    with db.connection() as conn:
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert conn.execute("select pg_backend_pid()").fetchall() == pid


def test_overshoot_is_small_as_a_rule(db: PostgresPool) -> None:
    overshoots = []
    for _ in range(11):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded), deadline(0.05):
            db.query("select pg_sleep(34)")
        overshoots.append(time.monotonic() - began - 0.05)
    # One may be late on a busy machine; what is typical may not.
    assert sorted(overshoots)[5] <= OVERSHOOT


def test_while_the_server_does_not_answer_at_all(
    postgres_server: PostgresServer, make_proxy: MakeProxy, make_pool: MakePool
) -> None:
    proxy = make_proxy(postgres_server)
    db = make_pool(at(postgres_server.conninfo, port=proxy.port), min_size=1, max_size=1)
    db.query("select 1")
    proxy.blackhole()
    with pytest.raises(OutcomeUnknown):
        with bounded_inside(0.2):
            db.query("select 2")
    proxy.pass_through()
    assert db.query("select 1") == [(1,)]


@contextmanager
def bounded_inside(seconds: float) -> Iterator[None]:
    """Like :func:`bounded`, but let the error through."""
    began = time.monotonic()
    try:
        with deadline(seconds):
            yield
    finally:
        assert seconds <= time.monotonic() - began <= seconds + OVERSHOOT + SCHEDULING


def test_error_says_that_the_outcome_is_unknown_only_when_it_is(
    postgres_server: PostgresServer, make_proxy: MakeProxy, make_pool: MakePool
) -> None:
    proxy = make_proxy(postgres_server)
    db = make_pool(at(postgres_server.conninfo, port=proxy.port), min_size=1, max_size=1)
    with pytest.raises(DeadlineExceeded) as known:
        with deadline(0.1):
            db.query("select pg_sleep(35)")
    assert not isinstance(known.value, OutcomeUnknown)
    with pytest.raises(DeadlineExceeded) as undone:
        with deadline(0.3), db.transaction() as conn:
            conn.execute("select 1")
            proxy.blackhole()
            conn.execute("select 2")
    assert not isinstance(undone.value, OutcomeUnknown), "a lost transaction undoes itself"


def test_while_copying_in(db: PostgresPool, table: sql.Identifier, watch: Watch) -> None:
    copy_in = sql.SQL("copy {} from stdin").format(table)
    row = 0
    with bounded(0.2):
        with db.connection() as conn, conn.cursor() as cursor, cursor.copy(copy_in) as copy:
            pid = conn.info.backend_pid
            while True:
                copy.write_row((row, "x" * 10_000))
                row += 1
    assert db.query(sql.SQL("select count(*) from {}").format(table)) == [(0,)]
    running = "select 1 from pg_stat_activity where pid = %s and state = 'active'"
    until(lambda: watch.ask(running, [pid]) == [])


def test_while_copying_out(db: PostgresPool, watch: Watch) -> None:
    with bounded(0.2):
        with db.connection() as conn, conn.cursor() as cursor:
            text = "copy (select pg_sleep(0.01), 36 from generate_series(1, 10000)) to stdout"
            with cursor.copy(text) as copy:
                for _ in copy:
                    pass
    until(lambda: not watch.running("pg_sleep(0.01), 36"))
    assert db.query("select 1") == [(1,)]


def test_while_streaming(db: PostgresPool, watch: Watch) -> None:
    with bounded(0.2, stage="running"):
        for _ in db.stream("select pg_sleep(0.01), 37 from generate_series(1, 10000)", size=5):
            pass
    until(lambda: not watch.running("pg_sleep(0.01), 37"))
    assert db.query("select count(*) from pg_cursors") == [(0,)]
    assert db.stats().in_use == 0


@pytest.fixture
def slow_commit(table: sql.Identifier, watch: Watch) -> Iterator[sql.Composed]:
    """Give an insert whose transaction takes half a minute to commit."""
    function = sql.Identifier(table.as_string(None).strip('"') + "_slow")
    watch.ask(
        sql.SQL(
            "create function {} () returns trigger language plpgsql as"
            " 'begin perform pg_sleep(38); return null; end'"
        ).format(function)
    )
    watch.ask(
        sql.SQL(
            "create constraint trigger slow after insert on {} deferrable initially deferred"
            " for each row execute function {}()"
        ).format(table, function)
    )
    yield sql.SQL("insert into {} values (1, 'a')").format(table)
    watch.ask(sql.SQL("drop function {} cascade").format(function))


@pytest.mark.parametrize("block", ["connection", "transaction"])
def test_while_committing(
    db: PostgresPool, slow_commit: sql.Composed, table: sql.Identifier, watch: Watch, block: str
) -> None:
    with bounded(0.3, stage="running"):
        with getattr(db, block)() as conn:
            conn.execute(slow_commit)
    until(lambda: not watch.running("COMMIT"))
    assert watch.ask(sql.SQL("select count(*) from {}").format(table)) == [(0,)]
    assert db.query("select 1") == [(1,)]


@pytest.mark.parametrize("block", ["connection", "transaction"])
def test_commit_is_not_even_sent_when_the_deadline_has_passed(
    db: PostgresPool, table: sql.Identifier, watch: Watch, block: str
) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        with deadline(0.1) as limit, getattr(db, block)() as conn:
            conn.execute(sql.SQL("insert into {} values (1, 'a')").format(table))
            until(lambda: limit.expired)
    assert not isinstance(caught.value, OutcomeUnknown)
    assert watch.ask(sql.SQL("select count(*) from {}").format(table)) == [(0,)]
    assert db.query("select 1") == [(1,)]


@pytest.mark.parametrize("block", ["connection", "transaction"])
def test_error_raised_after_the_deadline_is_still_the_one_raised(
    db: PostgresPool, table: sql.Identifier, watch: Watch, block: str
) -> None:
    with pytest.raises(ValueError, match="mine"):
        with deadline(0.1) as limit, getattr(db, block)() as conn:
            conn.execute(sql.SQL("insert into {} values (1, 'a')").format(table))
            until(lambda: limit.remaining() < -2 * OVERSHOOT)
            raise ValueError("mine")
    assert watch.ask(sql.SQL("select count(*) from {}").format(table)) == [(0,)]
    assert db.query("select 1") == [(1,)]


def test_psycopg_rollback_after_the_deadline_is_still_quiet(db: PostgresPool) -> None:
    with deadline(0.1) as limit, db.transaction() as conn:
        conn.execute("select 1")
        until(lambda: limit.remaining() < -2 * OVERSHOOT)
        raise psycopg.Rollback
    assert db.query("select 1") == [(1,)]


def test_retries_end_with_the_deadline(db: PostgresPool) -> None:
    def fail(conn: psycopg.Connection[Any]) -> None:
        conn.execute("do $$ begin raise exception using errcode = '40001'; end $$")

    began = time.monotonic()
    # On a busy machine the time may be over in the middle of a pause, or of an attempt.
    with pytest.raises((psycopg.errors.SerializationFailure, DeadlineExceeded)), deadline(0.05):
        db.run(fail)
    assert time.monotonic() - began <= 0.05 + OVERSHOOT + SCHEDULING


def test_nested_deadlines_take_the_earlier(db: PostgresPool) -> None:
    with deadline(30):
        with bounded(0.1):
            db.query("select pg_sleep(39)")
        assert db.query("select 1") == [(1,)]
    with bounded(0.1):
        with deadline(30):
            db.query("select pg_sleep(39)")
    assert db.query("select 1") == [(1,)]


@pytest.mark.parametrize(
    "use",
    [
        lambda db: db.query("select 1"),
        lambda db: db.execute("select 1"),
        lambda db: db.transaction().__enter__(),
        lambda db: db.run(lambda conn: None),
        lambda db: next(db.stream("select 1")),
    ],
)
def test_deadline_of_zero_fails_at_once_and_harms_nothing(
    db: PostgresPool, use: Callable[[PostgresPool], object]
) -> None:
    pid = db.query("select pg_backend_pid()")
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        with deadline(0):
            use(db)
    assert time.monotonic() - began <= OVERSHOOT + SCHEDULING
    assert db.stats().in_use == 0
    assert db.query("select pg_backend_pid()") == pid


def test_deadline_ends_with_its_block(db: PostgresPool) -> None:
    with pytest.raises(DeadlineExceeded), deadline(0.01):
        db.query("select pg_sleep(40)")
    assert db.query("select pg_sleep(0.1)::text") == [("",)]


def test_deadline_holds_for_its_own_thread_only(conninfo: str, make_pool: MakePool) -> None:
    db = make_pool(conninfo, min_size=1, max_size=2)
    with deadline(0):
        assert Task(lambda: db.query("select 1")).outcome() == [(1,)]


def test_waiting_for_notifications_ends_with_the_deadline_and_keeps_the_connection(
    db: PostgresPool,
) -> None:
    pid = db.query("select pg_backend_pid()")
    with bounded(0.2):
        with db.connection() as conn:
            conn.autocommit = True
            conn.execute("listen poolkit_news")
            next(conn.notifies())
    assert db.query("select pg_backend_pid()") == pid


def test_waiting_for_notifications_outlasts_the_statement_timeout(
    conninfo: str, make_pool: MakePool, watch: Watch
) -> None:
    db = make_pool(conninfo, min_size=1, max_size=1, statement_timeout=0.1)
    with db.connection() as conn:
        conn.autocommit = True
        conn.execute("listen poolkit_news")
        conn.patience = 0.0001  # type: ignore[attr-defined]
        # As many times over as would end a recursion.
        assert list(conn.notifies(timeout=0.5)) == []
        watch.ask("select pg_notify('poolkit_news', 'hello')")
        assert next(conn.notifies()).payload == "hello"


def test_configured_statement_timeout_holds_on_the_server(
    conninfo: str, make_pool: MakePool
) -> None:
    db = make_pool(conninfo, min_size=1, max_size=1, statement_timeout=0.15)
    assert db.query("show statement_timeout") == [("150ms",)]
    with pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
        db.query("select pg_sleep(41)")
    assert db.query("select 1") == [(1,)]


def test_statement_timeout_of_zero_is_none_and_that_of_the_conninfo_wins(
    conninfo: str, make_pool: MakePool
) -> None:
    assert make_pool(conninfo, statement_timeout=0).query("show statement_timeout") == [("0",)]
    said = at(conninfo, options="-c statement_timeout=7s -c work_mem=5MB")
    assert make_pool(said).query("show statement_timeout") == [("7s",)]
    other = make_pool(at(conninfo, options="-c work_mem=5MB"), statement_timeout=8)
    assert other.query("show statement_timeout") == [("8s",)]
    assert other.query("show work_mem") == [("5MB",)]


def test_server_that_never_answers_is_given_up_after_the_statement_timeout(
    postgres_server: PostgresServer, make_proxy: MakeProxy, make_pool: MakePool
) -> None:
    proxy = make_proxy(postgres_server)
    db = make_pool(
        at(postgres_server.conninfo, port=proxy.port), min_size=1, max_size=1, statement_timeout=0.1
    )
    db.query("select 1")
    proxy.blackhole()
    began = time.monotonic()
    with pytest.raises(OutcomeUnknown, match="statement_timeout"):
        db.query("select 2")
    assert time.monotonic() - began < 0.6 + OVERSHOOT + SCHEDULING


def test_acquire_timeout_holds_where_no_deadline_is_in_force(
    conninfo: str, make_pool: MakePool
) -> None:
    db = make_pool(conninfo, min_size=1, max_size=1, acquire_timeout=0.15)
    with db.connection():
        began = time.monotonic()
        with pytest.raises(PoolTimeout):
            db.query("select 1")
        assert 0.15 <= time.monotonic() - began <= 0.15 + OVERSHOOT + SCHEDULING
    assert db.query("select 1") == [(1,)]


def test_many_waiters_all_end_in_time_and_none_takes_a_turn_with_it(
    conninfo: str, make_pool: MakePool
) -> None:
    db = make_pool(conninfo, min_size=2, max_size=2, acquire_timeout=30)
    release = threading.Event()
    held = threading.Barrier(3)

    def hold() -> None:
        with db.connection():
            held.wait(10)
            release.wait(30)

    def wait(number: int) -> float:
        began = time.monotonic()
        limit = 0.05 + number % 10 / 100
        with pytest.raises((DeadlineExceeded, PoolOverloaded)), deadline(limit):
            db.query("select 1")
        return time.monotonic() - began - limit

    holders = [Task(hold) for _ in range(2)]
    held.wait(10)
    waiters = [Task(wait, n) for n in range(40)]
    overshoots = [waiter.outcome() for waiter in waiters]
    assert all(isinstance(seconds, float) for seconds in overshoots), overshoots
    assert max(overshoots) <= OVERSHOOT + 2 * SCHEDULING
    assert db.stats().waiting == 0
    release.set()
    for holder in holders:
        assert holder.outcome() is None
    assert db.query("select 1") == [(1,)]
    assert db.stats().in_use == 0


def test_deadline_holds_while_another_thread_closes_the_pool(
    conninfo: str, make_pool: MakePool
) -> None:
    db = make_pool(conninfo, min_size=1, max_size=1)
    with db.connection():
        closer = Task(lambda: db.close(2.0))
        until(lambda: db._lifecycle.state == "closed")
        began = time.monotonic()
        with pytest.raises(Exception, match=r"closed|deadline"), deadline(0.1):
            db.query("select 1")
        took = time.monotonic() - began
    assert closer.outcome() is None
    assert took < 0.1 + OVERSHOOT + SCHEDULING
