"""What is sent together is committed after its result has come: until then nobody is told that it was done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import sql

from poolkit import OutcomeUnknown, PostgresPool
from poolkit.embedded import PostgresServer
from poolkit.postgres.lanes import COMMAND_OK, TUPLES_OK, PostgresFlight
from tests.core.support import LONG
from tests.faults.proxy import FaultProxy, Way

from .gathering import asking, begin, combined, ready
from .observing import Watch, assert_whole, at, unique

MakePool = Callable[..., PostgresPool]

USES = [0, 5, 6]
"""How often a statement was run before: it is not prepared, prepared with its next use, or was."""


@pytest.fixture
def deferred(watch: Watch) -> Iterator[sql.Identifier]:
    """Give the name of a table, ``(i int)``, whose numbers are compared when a transaction ends; it has a 0."""
    name = sql.Identifier(unique("t"))
    watch.ask(sql.SQL("create table {} (i int unique deferrable initially deferred)").format(name))
    watch.ask(sql.SQL("insert into {} values (0)").format(name))
    yield name
    watch.ask(sql.SQL("drop table {}").format(name))


def writer(pool: PostgresPool, table: sql.Identifier) -> Callable[[int], int]:
    text = sql.SQL("insert into {} values (%s)").format(table).as_string(None)
    return lambda number: pool.execute(text, [number])  # type: ignore[arg-type]


@pytest.mark.parametrize("uses", USES)
@pytest.mark.parametrize("alone", [False, True], ids=["with others", "in a batch of one"])
def test_a_write_that_fails_when_it_is_committed_has_failed(
    conninfo: str,
    make_pool: MakePool,
    watch: Watch,
    deferred: sql.Identifier,
    uses: int,
    alone: bool,
) -> None:
    pool = make_pool(conninfo, min_size=1, max_size=1)
    put = writer(pool, deferred)
    for number in range(100, 100 + uses):
        put(number)
    if alone:
        outcomes: list[Any] = [thread.outcome() for thread in begin(pool, partial(put, 0))]
    else:
        outcomes = combined(pool, partial(put, 0), partial(put, 1), partial(put, 0))

    refused = psycopg.errors.UniqueViolation
    assert [type(each) for each in outcomes] == ([refused] if alone else [refused, int, refused])
    count = sql.SQL("select count(*) from {}").format(deferred)
    assert watch.ask(count) == [(1 + uses + (not alone),)]
    assert_whole(pool, 1)


def lost_behind(tag: bytes) -> Callable[[Way, bytes], bytes]:
    """Return what forwards the first answer that completes a command of that *tag* so far, and garbage for the next."""
    complete = b"C" + (len(tag) + 5).to_bytes(4, "big") + tag + b"\0"
    step = "cut"

    def tamper(way: Way, data: bytes) -> bytes:
        nonlocal step
        if way == "request":
            return data
        if step == "cut" and (at := data.find(complete)) >= 0:
            step = "garble"
            return data[: at + len(complete)]
        if step == "garble":
            step = ""
            return b"\xff" * 50
        return data

    return tamper


@pytest.fixture
def blocked(conninfo: str, deferred: sql.Identifier) -> Iterator[tuple[str, Callable[[], None]]]:
    """Give a statement that is not answered yet, and what has it answered."""
    query = sql.SQL("select from {} where i = 0 for update").format(deferred)
    with psycopg.connect(conninfo) as holder:
        holder.execute(query)
        yield query.as_string(None), holder.rollback


@pytest.fixture
def taken_in(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Give what is set when somebody has a result of a statement whose end has not come."""
    event = threading.Event()
    collect = PostgresFlight._collect

    def noted(flight: PostgresFlight) -> Any:
        answers = collect(flight)
        if any(each.status in (COMMAND_OK, TUPLES_OK) for each in flight._partial[-1:]):
            event.set()
        return answers

    monkeypatch.setattr(PostgresFlight, "_collect", noted)
    return event


@pytest.fixture
def proxy(
    postgres_server: PostgresServer, make_proxy: Callable[[PostgresServer], FaultProxy]
) -> FaultProxy:
    return make_proxy(postgres_server)


@pytest.mark.parametrize("uses", USES)
def test_a_write_whose_connection_is_lost_before_its_commit_is_confirmed_has_no_known_outcome(
    conninfo: str,
    make_pool: MakePool,
    proxy: FaultProxy,
    deferred: sql.Identifier,
    blocked: tuple[str, Callable[[], None]],
    taken_in: threading.Event,
    uses: int,
) -> None:
    pool = make_pool(at(conninfo, port=proxy.port), min_size=1, max_size=1)
    put = writer(pool, deferred)
    for number in range(100, 100 + uses):
        put(number)
    ready(pool)
    taken_in.clear()
    text, release = blocked
    proxy.tamper(lost_behind(b"INSERT 0 1"))

    first, second = begin(pool, partial(put, 1), asking(pool, text))
    assert taken_in.wait(LONG)
    release()

    assert isinstance(first.outcome(), OutcomeUnknown)
    assert isinstance(second.outcome(), OutcomeUnknown)
    assert_whole(pool, 1)


@pytest.mark.parametrize("uses", USES)
def test_a_read_that_may_be_repeated_is_answered_though_the_connection_is_lost_behind_its_rows(
    conninfo: str,
    make_pool: MakePool,
    proxy: FaultProxy,
    blocked: tuple[str, Callable[[], None]],
    taken_in: threading.Event,
    uses: int,
) -> None:
    pool = make_pool(at(conninfo, port=proxy.port), min_size=1, max_size=1)

    def ask(number: int) -> Any:
        return pool.query_one("select %s::int", [number], idempotent=True)

    for number in range(uses):
        ask(number)
    ready(pool)
    taken_in.clear()
    text, release = blocked
    proxy.tamper(lost_behind(b"SELECT 1"))

    read, second = begin(pool, partial(ask, 7), asking(pool, text))
    assert taken_in.wait(LONG)
    release()
    assert isinstance(second.outcome(), OutcomeUnknown)
    assert read.outcome() == (7,)
    assert pool.stats().retries >= 1
    assert_whole(pool, 1)
