"""The server's disk is full: who writes is told so as the server says it, who reads is served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from poolkit import PostgresPool
from poolkit.core.verdict import OWN, Phase
from poolkit.postgres.failures import classify

from . import disk
from .observing import Watch, assert_whole, together, unique, warm_up

MakePool = Callable[..., PostgresPool]

SIZE = 3


@pytest.fixture
def table(watch: Watch) -> str:
    table = unique("t")
    watch.ask(f"create table {table} (tag text not null)")
    for text in disk.needing_room(table):
        watch.ask(text)
    return table


@pytest.mark.parametrize("combine", [False, True])
def test_writes_fail_once_with_the_servers_error_and_reads_are_served(
    conninfo: str, table: str, make_pool: MakePool, combine: bool
) -> None:
    pool = make_pool(conninfo, min_size=SIZE, max_size=SIZE, combine=combine)
    pids = warm_up(pool, SIZE)
    insert: Any = f"insert into {table} values (%s)"

    def call(number: int) -> Any:
        if number % 2:
            return pool.query("select %s::int", [number])
        return pool.execute(insert, [str(number)], idempotent=number % 4 == 0)

    with disk.full(conninfo):
        outcomes = together(12, call)
        assert pool.health_check()
    after = pool.execute(insert, ["after"])

    assert [type(each) for each in outcomes[::2]] == [psycopg.errors.DiskFull] * 6
    assert all("No space left on device" in str(each) for each in outcomes[::2])
    assert outcomes[1::2] == [[(number,)] for number in range(1, 12, 2)]
    assert after == 1
    assert pool.query(f"select tag from {table}") == [("after",)]  # type: ignore[arg-type]
    stats = pool.stats()
    assert (stats.retries, stats.refused, stats.closed) == (0, 0, 0)
    assert warm_up(pool, SIZE) == pids


@pytest.mark.parametrize("block", ["connection", "transaction", "run"])
def test_a_block_fails_as_a_whole_and_its_connection_is_good(
    conninfo: str, table: str, make_pool: MakePool, block: str
) -> None:
    pool = make_pool(conninfo, min_size=1, max_size=1)
    pids = warm_up(pool, 1)
    insert: Any = f"insert into {table} values ('a')"
    calls = 0

    def work(conn: psycopg.Connection[Any]) -> None:
        nonlocal calls
        calls += 1
        conn.execute("select 1")
        conn.execute(insert)

    with disk.full(conninfo), pytest.raises(psycopg.errors.DiskFull):
        if block == "run":
            pool.run(work, idempotent=True)
        else:
            with getattr(pool, block)() as conn:
                work(conn)

    assert calls == 1
    assert pool.query(f"select count(*) from {table}") == [(0,)]  # type: ignore[arg-type]
    pool.run(work)
    assert pool.query(f"select count(*) from {table}") == [(1,)]  # type: ignore[arg-type]
    assert warm_up(pool, 1) == pids
    assert_whole(pool, 1)


@pytest.mark.parametrize("phase", [each for each in Phase if each is not Phase.CONNECTING])
def test_it_is_the_callers_own_error_in_every_phase(phase: Phase) -> None:
    assert classify(psycopg.errors.DiskFull("no room"), phase) is OWN
