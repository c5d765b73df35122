"""PostgresPool through a real PgBouncer in transaction mode."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg import sql

from poolkit import (
    BackendUnavailable,
    DeadlineExceeded,
    OutcomeUnknown,
    PostgresPool,
    RetryPolicy,
    deadline,
)
from poolkit.embedded import EmbeddedError, PostgresServer
from tests.core.support import Task

from .bouncer import PgBouncer
from .observing import SCHEDULING, Watch, assert_whole, at, together, until

MakePool = Callable[..., PostgresPool]
MakeBouncer = Callable[..., PgBouncer]

SLEEP = "select pg_sleep(30)"


@pytest.fixture
def make_bouncer() -> Iterator[MakeBouncer]:
    """Give a maker of started PgBouncers, each in front of a server; without the program, skip the test."""
    with ExitStack() as bouncers:

        def start(server: PostgresServer, **settings: str) -> PgBouncer:
            bouncer = PgBouncer(server, **settings)
            try:
                bouncers.enter_context(bouncer)
            except EmbeddedError as error:
                pytest.skip(str(error))
            return bouncer

        yield start


@pytest.fixture
def bouncer(make_bouncer: MakeBouncer, postgres_server: PostgresServer) -> PgBouncer:
    """Give one in front of the shared server, with four connections to it."""
    return make_bouncer(postgres_server)


@pytest.fixture
def pool(bouncer: PgBouncer, make_pool: MakePool) -> PostgresPool:
    """Give a pool through it, with twice as many connections as it has itself."""
    return make_pool(bouncer.conninfo, pgbouncer=True, max_size=8, acquire_timeout=10)


def test_queries_of_many_threads_get_each_their_own_answer(pool: PostgresPool) -> None:
    def ask(number: int) -> list[Any]:
        return [
            pool.query("select %s::int, %s::text", [number, "x" * turn])
            for turn in range(20)  # more than would have it prepared
        ]

    for number, found in enumerate(together(50, ask)):
        assert found == [[(number, "x" * turn)] for turn in range(20)]
    stats = pool.stats()
    assert stats.errors == stats.retries == stats.batches == 0
    assert_whole(pool, 8)


def test_a_transaction_has_one_connection_of_the_server_to_itself(
    pool: PostgresPool, table: sql.Identifier, watch: Watch
) -> None:
    insert = sql.SQL("insert into {} values (%s, pg_backend_pid()::text)").format(table)

    def work(number: int) -> None:
        with pool.transaction() as conn:
            for each in range(3):
                conn.execute(insert, [number * 3 + each])
            if number % 2:
                raise psycopg.Rollback

    assert together(20, work) == [None] * 20
    rows = watch.ask(
        sql.SQL("select id / 3, count(*), count(distinct name) from {} group by 1").format(table)
    )
    assert sorted(rows) == [(number, 3, 1) for number in range(0, 20, 2)]


def test_streams_beside_each_other_have_all_their_rows(pool: PostgresPool) -> None:
    def read(number: int) -> int:
        return sum(
            row[0]
            for row in pool.stream("select %s from generate_series(1, 2500)", [number], size=100)
        )

    assert together(8, read) == [number * 2500 for number in range(8)]


def test_a_statement_that_takes_too_long_is_stopped_and_its_connections_go_on(
    bouncer: PgBouncer, make_pool: MakePool, watch: Watch
) -> None:
    pool = make_pool(
        bouncer.conninfo, pgbouncer=True, min_size=1, max_size=1, statement_timeout=0.2
    )
    with pytest.raises(DeadlineExceeded, match="statement_timeout"):
        pool.query(SLEEP, idempotent=True)
    assert pool.query("select 1") == [(1,)]
    until(lambda: not watch.running(SLEEP), within=5)
    assert_whole(pool, 1)


def test_a_deadline_is_kept_and_the_server_stops(pool: PostgresPool, watch: Watch) -> None:
    pool.query("select 1")
    began = time.monotonic()
    with deadline(0.3), pytest.raises(DeadlineExceeded):
        pool.query(SLEEP, idempotent=True)
    assert time.monotonic() - began < 0.3 + 0.05 + SCHEDULING
    until(lambda: not watch.running(SLEEP), within=5)
    assert pool.query("select 1") == [(1,)]


def test_a_cancel_hits_nobody_else(pool: PostgresPool) -> None:
    """With fewer connections to the server than callers, each is used by others the moment it is free."""
    over = threading.Event()
    failed: list[Exception] = []

    def bystander() -> int:
        done = 0
        while not over.is_set():
            try:
                assert pool.query("select 1 from pg_sleep(0.002)", idempotent=True) == [(1,)]
            except Exception as error:  # whatever it is, it should not be
                failed.append(error)
            done += 1
        return done

    others = [Task(bystander) for _ in range(4)]
    for _ in range(30):
        with deadline(0.03), pytest.raises(DeadlineExceeded):
            pool.query(SLEEP, idempotent=True)
    over.set()
    assert all(other.outcome() > 0 for other in others)
    assert not failed


def test_a_write_waiting_for_a_server_that_is_down_is_known_not_to_have_run(
    own_postgres: Callable[..., PostgresServer], make_bouncer: MakeBouncer, make_pool: MakePool
) -> None:
    server = own_postgres()
    pooled = make_bouncer(server).conninfo
    pool = make_pool(pooled, pgbouncer=True, min_size=1, max_size=2)
    pool.execute("create table t (id int)")
    server.kill()
    with deadline(8), pytest.raises((psycopg.OperationalError, BackendUnavailable)) as caught:
        pool.execute("insert into t values (1)")
    assert not isinstance(caught.value, OutcomeUnknown)
    assert pool.stats().retries > 0
    server.start()
    # Who asks PgBouncer in the next 0.1 s is told that the server was down, which may be several times.
    patient = make_pool(pooled, pgbouncer=True, retry=RetryPolicy(attempts=20, base=0.1, cap=0.1))
    assert patient.execute("insert into t values (2)") == 1
    assert patient.query("select id from t") == [(2,)]


def test_a_write_whose_server_dies_may_have_taken_effect(
    own_postgres: Callable[..., PostgresServer], make_bouncer: MakeBouncer, make_pool: MakePool
) -> None:
    server = own_postgres()
    pool = make_pool(make_bouncer(server).conninfo, pgbouncer=True, min_size=1, max_size=2)
    pool.open()
    with psycopg.connect(server.conninfo, autocommit=True) as watch:
        write = Task(lambda: pool.execute(SLEEP))
        until(
            lambda: watch.execute(
                "select from pg_stat_activity where state = 'active' and query = %s", [SLEEP]
            ).fetchall()
        )
    server.kill()
    assert isinstance(write.outcome(), OutcomeUnknown)


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_a_restart_under_load_loses_and_doubles_nothing(
    bouncer: PgBouncer, pool: PostgresPool, table: sql.Identifier, watch: Watch, way: str
) -> None:
    insert = sql.SQL("insert into {} values (%s)").format(table)
    over = threading.Event()
    done: list[set[int]] = [set() for _ in range(8)]
    unknown: list[set[int]] = [set() for _ in range(8)]

    def write(number: int) -> None:
        turn = 0
        while not over.is_set():
            turn += 1
            id = number * 1_000_000 + turn
            try:
                pool.execute(insert, [id])
                done[number].add(id)
            except OutcomeUnknown:
                unknown[number].add(id)
            except (BackendUnavailable, psycopg.OperationalError):
                over.wait(0.01)

    def each_has_done_more() -> None:
        before = list(map(len, done))
        until(lambda: all(len(now) > then for now, then in zip(done, before, strict=True)))

    writers = [Task(write, n) for n in range(8)]
    for _ in range(3):
        each_has_done_more()
        getattr(bouncer, way)()
        bouncer.start()
    each_has_done_more()
    over.set()
    assert [writer.outcome() for writer in writers] == [None] * 8
    there = {row[0] for row in watch.ask(sql.SQL("select id from {}").format(table))}
    acknowledged = set[int]().union(*done)
    assert acknowledged <= there <= acknowledged.union(*unknown)
    assert_whole(pool, 8)


def test_what_is_set_for_a_transaction_is_seen_by_nobody_else(pool: PostgresPool) -> None:
    with pool.transaction() as conn:
        conn.execute("set local work_mem = '7MB'")
        assert conn.execute("show work_mem").fetchone() == ("7MB",)
    assert set(together(20, lambda _: pool.query_one("show work_mem"))) == {("4MB",)}


def test_what_is_set_for_a_session_ends_with_it_where_pgbouncer_always_resets(
    make_bouncer: MakeBouncer, postgres_server: PostgresServer, make_pool: MakePool
) -> None:
    bouncer = make_bouncer(postgres_server, server_reset_query_always="1")
    pool = make_pool(bouncer.conninfo, pgbouncer=True, max_size=8, acquire_timeout=10)

    def work(number: int) -> Any:
        if number % 2:
            return pool.execute("set work_mem = '7MB'")
        return pool.query_one("show work_mem")

    assert set(together(40, work)) == {0, ("4MB",)}


def test_a_write_given_up_in_pgbouncers_queue_does_not_run_later(
    make_bouncer: MakeBouncer,
    postgres_server: PostgresServer,
    make_pool: MakePool,
    table: sql.Identifier,
    watch: Watch,
) -> None:
    bouncer = make_bouncer(postgres_server, default_pool_size="1", query_wait_timeout="30")
    pool = make_pool(bouncer.conninfo, pgbouncer=True, min_size=2, max_size=2)
    with pool.transaction() as conn:
        conn.execute("select 1")
        began = time.monotonic()
        with deadline(0.3), pytest.raises(DeadlineExceeded):
            pool.execute(sql.SQL("insert into {} values (1)").format(table))
        assert time.monotonic() - began < 0.3 + 0.05 + SCHEDULING
    assert pool.execute(sql.SQL("insert into {} values (2)").format(table)) == 1
    assert watch.ask(sql.SQL("select id from {}").format(table)) == [(2,)]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"dbname": "nowhere"}, "no such database"),
        ({"user": "nobody"}, "authentication failed"),
        ({"options": "-c work_mem=1MB"}, "unsupported startup parameter"),
    ],
)
def test_what_only_a_person_can_mend_is_not_tried_again(
    bouncer: PgBouncer, make_pool: MakePool, wrong: dict[str, str], why: str
) -> None:
    pool = make_pool(at(bouncer.conninfo, **wrong), pgbouncer=True, min_size=1)
    with pytest.raises(BackendUnavailable, match=f"{why}.*does not retry") as caught:
        pool.query("select 1")
    assert caught.value.retry_after is None


def test_a_full_pgbouncer_is_waited_for(
    make_bouncer: MakeBouncer, postgres_server: PostgresServer, make_pool: MakePool
) -> None:
    bouncer = make_bouncer(postgres_server, max_client_conn="3")
    pool = make_pool(bouncer.conninfo, pgbouncer=True, min_size=1, max_size=8, acquire_timeout=10)
    found = together(20, lambda n: pool.query("select %s::int from pg_sleep(0.01)", [n]))
    assert found == [[(number,)] for number in range(20)]
    assert pool.stats().size <= 3
