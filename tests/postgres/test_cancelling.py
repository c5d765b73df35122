"""A statement that is cancelled from another thread is cancelled on the server too."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql

from poolkit import (
    Cancellation,
    Cancelled,
    OutcomeUnknown,
    PostgresPool,
    deadline,
)
from poolkit.core import combining, reading
from poolkit.postgres import cleaning, connection
from tests.core.support import Task

from .gathering import asking, begin
from .observing import Watch, until

MakePool = Callable[..., PostgresPool]

PROMPT = 1.0
"""Seconds in which a call ends on the busiest machine; how soon as a rule, tests/kit/test_cancelling.py tells."""


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the server time to confirm a cancel, however busy the machine is."""
    monkeypatch.setattr(combining, "LOOK", 30.0)  # nor is anything seen by chance
    monkeypatch.setattr(reading, "GRACE", 5.0)
    for place in (connection, cleaning):
        monkeypatch.setattr(place, "CANCEL_GRACE", 5.0)


def under(cancellation: Cancellation, work: Callable[[], Any]) -> Callable[[], Any]:
    """Return what does *work* in a block that can be cancelled."""

    def inside() -> Any:
        with deadline(math.inf, cancellation=cancellation):
            return work()

    return inside


def cancel(cancellation: Cancellation, *threads: Task) -> list[Cancelled]:
    """Cancel, and return what the threads raised, at once."""
    began = time.monotonic()
    cancellation.cancel()
    errors = [thread.outcome() for thread in threads]
    assert time.monotonic() - began <= PROMPT
    for error in errors:
        assert isinstance(error, Cancelled), error
    return errors


def test_a_statement_alone(db: PostgresPool, watch: Watch) -> None:
    pid = db.query("select pg_backend_pid()")
    cancellation = Cancellation()
    thread = Task(under(cancellation, asking(db, "select pg_sleep(52)")))
    until(lambda: watch.running("pg_sleep(52)"))

    (error,) = cancel(cancellation, thread)

    assert error.stage == "running"
    assert not isinstance(error, OutcomeUnknown), "the server has confirmed it"
    assert not watch.running("pg_sleep(52)")
    assert db.query("select pg_backend_pid()") == pid, "it must be lent again, not replaced"
    assert db.stats().in_use == 0


@pytest.mark.parametrize("block", ["connection", "transaction"])
def test_a_statement_in_a_block(
    db: PostgresPool, watch: Watch, table: sql.Identifier, block: str
) -> None:
    pid = db.query("select pg_backend_pid()")
    cancellation = Cancellation()

    def work() -> None:
        with getattr(db, block)() as conn:
            conn.execute(sql.SQL("insert into {} values (1, 'a')").format(table))
            conn.execute("select pg_sleep(53)")

    thread = Task(under(cancellation, work))
    until(lambda: watch.running("pg_sleep(53)"))

    (error,) = cancel(cancellation, thread)

    assert not isinstance(error, OutcomeUnknown)
    assert not watch.running("pg_sleep(53)")
    assert watch.ask(sql.SQL("select count(*) from {}").format(table)) == [(0,)]
    with db.connection() as conn:
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert conn.execute("select pg_backend_pid()").fetchall() == pid


def test_a_block_cancelled_between_its_statements_commits_nothing(
    db: PostgresPool, table: sql.Identifier
) -> None:
    for block in (db.transaction, db.connection):
        cancellation = Cancellation()
        with pytest.raises(Cancelled) as caught:
            with deadline(math.inf, cancellation=cancellation), block() as conn:
                conn.execute(sql.SQL("insert into {} values (1, 'a')").format(table))
                cancellation.cancel()
        assert not isinstance(caught.value, OutcomeUnknown)
    assert db.query(sql.SQL("select count(*) from {}").format(table)) == [(0,)]


def test_work_that_is_run_in_a_transaction_is_not_tried_again(db: PostgresPool) -> None:
    cancellation = Cancellation()
    calls = []

    def work(conn: psycopg.Connection[Any]) -> None:
        calls.append(conn)
        cancellation.cancel()
        conn.execute("select 1")

    with pytest.raises(Cancelled), deadline(math.inf, cancellation=cancellation):
        db.run(work, idempotent=True)
    assert len(calls) == 1


def test_a_write_in_parts_may_have_taken_effect(db: PostgresPool, watch: Watch) -> None:
    db.query("select 1")
    cancellation = Cancellation()
    text = "do $$ begin perform pg_sleep(54); end $$"
    thread = Task(under(cancellation, lambda: db.execute(text)))
    until(lambda: watch.running("pg_sleep(54)"))

    (error,) = cancel(cancellation, thread)

    assert isinstance(error, OutcomeUnknown)
    assert not watch.running("pg_sleep(54)")


@pytest.mark.parametrize("position", [0, 1, 2], ids=["first", "between", "who leads"])
def test_a_statement_among_others_takes_none_of_them_with_it(
    make_pool: MakePool, conninfo: str, watch: Watch, position: int
) -> None:
    db = make_pool(conninfo, min_size=1, max_size=1, lanes=1)
    cancellation = Cancellation()
    slow = under(cancellation, asking(db, "select pg_sleep(55)"))
    works: list[Callable[[], Any]] = [asking(db, "select 1"), asking(db, "select 2")]
    works.insert(position, slow)
    threads = begin(db, *works)
    until(lambda: watch.running("pg_sleep(55)"))

    (error,) = cancel(cancellation, threads.pop(position))

    assert not isinstance(error, OutcomeUnknown)
    assert [thread.outcome() for thread in threads] == [[(1,)], [(2,)]]
    assert not watch.running("pg_sleep(55)")
    assert db.query("select 3") == [(3,)]
    assert db.stats().in_use == 0


def test_one_that_waits_behind_a_slow_one_in_a_batch(
    make_pool: MakePool, conninfo: str, watch: Watch
) -> None:
    db = make_pool(conninfo, min_size=1, max_size=1, lanes=1)
    cancellation, slow = Cancellation(), Cancellation()
    threads = begin(
        db,
        under(slow, asking(db, "select pg_sleep(56)")),
        under(cancellation, asking(db, "select 1")),
        under(slow, asking(db, "select 2")),
    )
    until(lambda: watch.running("pg_sleep(56)"))

    (error,) = cancel(cancellation, threads[1])

    assert isinstance(error, OutcomeUnknown), "the server has it, and nobody tells it to leave it"
    assert watch.running("pg_sleep(56)")
    cancel(slow, threads[0], threads[2])
    until(lambda: not watch.running("pg_sleep(56)"))
    assert db.query("select 3") == [(3,)]


def test_a_wait_for_notifications(db: PostgresPool) -> None:
    for options in (
        {},
        {"timeout": 30.0},
        {"timeout": 5.0},
    ):  # the last is within statement_timeout
        cancellation = Cancellation()
        begun: list[int] = []

        def listen(options: dict[str, Any] = options, begun: list[int] = begun) -> None:
            with db.connection() as conn:
                conn.execute("listen nothing")
                conn.commit()
                begun.append(1)
                for _ in conn.notifies(**options):
                    raise AssertionError

        thread = Task(under(cancellation, listen))
        until(lambda begun=begun: begun)  # type: ignore[misc]
        cancel(cancellation, thread)
    assert db.query("select 1") == [(1,)]
    assert db.stats().in_use == 0


def test_what_is_streamed(db: PostgresPool, watch: Watch) -> None:
    cancellation = Cancellation()
    text = "select pg_sleep(0.01), 57 from generate_series(1, 10000)"
    thread = Task(under(cancellation, lambda: list(db.stream(text, size=5))))
    until(lambda: watch.running("FETCH"))
    cancel(cancellation, thread)
    until(lambda: not watch.running("FETCH"))
    assert db.query("select 1") == [(1,)]
