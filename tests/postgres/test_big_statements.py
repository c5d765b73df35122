"""A statement that the socket has no room for is sent bit by bit, however often its wait is looked at meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psycopg
import pytest
from psycopg import sql

from poolkit import (
    Cancellation,
    Cancelled,
    DeadlineExceeded,
    OutcomeUnknown,
    PostgresPool,
    deadline,
)
from poolkit.embedded import PostgresServer
from tests.core.support import Task
from tests.faults.proxy import FaultProxy

from .observing import Watch, at, until

BIG = "big" * (8 << 20)
"""More than the kernel takes of what nobody reads."""


@pytest.fixture
def line(
    postgres_server: PostgresServer, make_proxy: Callable[[PostgresServer], FaultProxy]
) -> FaultProxy:
    """Give a proxy in front of the server."""
    return make_proxy(postgres_server)


@pytest.fixture
def far(
    postgres_server: PostgresServer, line: FaultProxy, make_pool: Callable[..., PostgresPool]
) -> PostgresPool:
    """Give a pool of one connection, open already, that goes through the proxy."""
    pool = make_pool(at(postgres_server.conninfo, port=line.port), min_size=1, max_size=1)
    pool.query("select 1")
    return pool


@pytest.fixture
def cuts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Give the list of the waits that psycopg has ended before there was an answer."""
    cuts: list[float] = []
    wait = psycopg.Connection.wait

    def counting(self: Any, gen: Any, *args: Any) -> Any:
        try:
            return wait(self, gen, *args)
        except psycopg.errors._WaitTimeout:
            cuts.append(args[-1])
            raise

    monkeypatch.setattr(psycopg.Connection, "wait", counting)
    return cuts


def alone(pool: PostgresPool, statement: sql.Composed) -> int:
    """Run *statement* by itself."""
    return pool.execute(statement, [BIG])


def as_text(pool: PostgresPool, statement: sql.Composed) -> int:
    """Run *statement* as one that might have been combined, were it not so long."""
    return pool.execute(statement.as_string(None), [BIG])


def in_a_block(pool: PostgresPool, statement: sql.Composed) -> int:
    """Run *statement* in a block."""
    with pool.connection() as conn:
        return conn.execute(statement, [BIG]).rowcount


def unbounded() -> AbstractContextManager[object]:
    return nullcontext()


def bounded() -> AbstractContextManager[object]:
    return deadline(30)


def cancellable() -> AbstractContextManager[object]:
    return deadline(math.inf, cancellation=Cancellation())


@pytest.mark.parametrize(
    ("run", "block", "slices"),
    [
        (as_text, unbounded, 1),
        (as_text, bounded, 1),
        (as_text, cancellable, 3),
        (alone, cancellable, 2),
        (in_a_block, bounded, 0),
        (in_a_block, cancellable, 2),
    ],
)
def test_it_takes_effect_once_though_the_server_takes_a_while_to_read_it(
    far: PostgresPool,
    line: FaultProxy,
    cuts: list[float],
    table: sql.Identifier,
    watch: Watch,
    run: Callable[[PostgresPool, sql.Composed], int],
    block: Callable[[], AbstractContextManager[object]],
    slices: int,
) -> None:
    insert = sql.SQL("insert into {} values (1, left(%s, 3))").format(table)

    def work() -> int:
        with block():
            return run(far, insert)

    line.blackhole()
    writer = Task(work)
    until(lambda: len(cuts) >= slices)
    line.pass_through()

    assert writer.outcome() == 1
    assert watch.ask(sql.SQL("select name from {}").format(table)) == [("big",)]
    assert far.stats().created == 1  # and the connection is as good as before


@pytest.mark.parametrize("run", [as_text, alone])
def test_whether_one_took_effect_that_was_not_sent_in_time_is_not_known(
    far: PostgresPool, line: FaultProxy, table: sql.Identifier, run: Callable[..., int]
) -> None:
    insert = sql.SQL("insert into {} values (1, left(%s, 3))").format(table)
    line.blackhole()
    with pytest.raises(OutcomeUnknown) as caught, deadline(0.2):
        run(far, insert)
    assert isinstance(caught.value, DeadlineExceeded)
    line.pass_through()
    assert far.query("select 1") == [(1,)]
    assert far.stats().closed == 1


def test_one_that_is_cancelled_while_it_is_sent_in_a_block_has_no_effect(
    far: PostgresPool, line: FaultProxy, cuts: list[float], table: sql.Identifier, watch: Watch
) -> None:
    cancellation = Cancellation()

    def work() -> int:
        with deadline(math.inf, cancellation=cancellation):
            return in_a_block(far, insert)

    insert = sql.SQL("insert into {} values (1, left(%s, 3))").format(table)
    line.blackhole()
    writer = Task(work)
    until(lambda: len(cuts) >= 2)
    cancellation.cancel()

    error = writer.outcome()
    assert isinstance(error, Cancelled)
    assert not isinstance(error, OutcomeUnknown)
    line.pass_through()
    assert far.query("select 1") == [(1,)]
    assert watch.ask(sql.SQL("select count(*) from {}").format(table)) == [(0,)]
