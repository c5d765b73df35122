"""Statements sent together: what is prepared, what goes its own way, and whose fate is whose."""

from __future__ import annotations

import logging
import os
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
    PoolTimeout,
    PostgresPool,
    deadline,
)
from poolkit.core.deadline import Deadline
from poolkit.core.pace import LARGEST
from poolkit.embedded import PostgresServer
from poolkit.postgres.lanes import PostgresFlight
from tests.core.support import Task
from tests.faults.proxy import FaultProxy
from tests.forks import Child

from .gathering import asking, begin, combined, combiner_of, nobody_leads
from .observing import (
    SCHEDULING,
    Watch,
    assert_whole,
    at,
    together,
    unique,
    until,
    watching,
)
from .test_deadline import OVERSHOOT
from .test_fork import tagged

MakePool = Callable[..., PostgresPool]


@pytest.fixture
def pool(conninfo: str, make_pool: MakePool) -> PostgresPool:
    """Give a pool of one connection: what is combined and what goes alone share it."""
    return make_pool(conninfo, min_size=1, max_size=1, acquire_timeout=15)


def prepared(pool: PostgresPool, like: str) -> int:
    """Return how many statements *like* that are prepared on the one connection of *pool*."""
    with pool.connection() as conn:
        row = conn.execute(
            "select count(*) from pg_prepared_statements where statement like %s"
            " and statement not like '%%pg_prepared_statements%%'",
            [like],
        ).fetchone()
    assert row is not None
    count: int = row[0]
    return count


# -- prepared statements ---------------------------------------------------------------------------------


def test_statements_are_prepared_after_their_fifth_use(pool: PostgresPool) -> None:
    text = "select %s::int + 1 as sum_of_poolkit"
    works = [asking(pool, text, [n]) for n in range(5)]
    assert combined(pool, *works) == [[(n + 1,)] for n in range(5)]
    assert prepared(pool, "%sum_of_poolkit%") == 0
    assert combined(pool, *works) == [[(n + 1,)] for n in range(5)]
    assert prepared(pool, "%sum_of_poolkit%") == 1
    assert pool.query(text, [7]) == [(8,)]
    assert prepared(pool, "%sum_of_poolkit%") == 1


def test_prepared_statements_are_bounded(pool: PostgresPool) -> None:
    pool.open()
    most = 100
    for start in range(0, 130, 10):
        for _ in range(6):
            some = [
                asking(pool, f"select %s::int, {n} as bounded", [n])
                for n in range(start, start + 10)
            ]
            assert combined(pool, *some) == [[(n, n)] for n in range(start, start + 10)]
    assert most - 10 <= prepared(pool, "%as bounded") <= most
    assert pool.stats().closed == 0


def test_statement_that_fails_when_it_is_prepared_leaves_nothing_behind(
    pool: PostgresPool,
) -> None:
    text = "select 1 / %s::int as failing"
    for _ in range(8):
        outcomes = combined(pool, *(asking(pool, text, [0]) for _ in range(7)))
        assert {type(each) for each in outcomes} == {psycopg.errors.DivisionByZero}
    assert prepared(pool, "%as failing") <= 1
    assert combined(pool, asking(pool, text, [1]), asking(pool, text, [0]))[0] == [(1,)]
    assert pool.stats().closed == 0


def test_statement_that_cannot_be_prepared_fails_as_ever(pool: PostgresPool) -> None:
    text = "select * from no_such_table_of_poolkit where a = %s"
    for _ in range(3):
        outcomes = combined(pool, *(asking(pool, text, [0]) for _ in range(7)))
        assert {type(each) for each in outcomes} == {psycopg.errors.UndefinedTable}
    assert pool.stats().closed == 0
    assert pool.stats().retries == 0


@pytest.mark.parametrize("combine", [True, False])
def test_schema_change_is_not_seen_by_who_asks(
    conninfo: str, make_pool: MakePool, table: sql.Identifier, watch: Watch, combine: bool
) -> None:
    pool = make_pool(conninfo, min_size=1, max_size=1, combine=combine)
    t = table.as_string(None)
    watch.ask(f"insert into {t} values (1, 'a')")
    text = f"select * from {t} where id = %s"
    for _ in range(8):
        assert pool.query(text, [1]) == [(1, "a")]
    assert prepared(pool, f"%{t}%") == 1
    watch.ask(f"alter table {t} add column more int default 7")
    assert pool.query(text, [1]) == [(1, "a", 7)]
    for _ in range(8):
        assert pool.query(text, [1]) == [(1, "a", 7)]
    watch.ask(f"alter table {t} drop column more")
    if combine:
        # They all meet the old plan, are not run, and are asked again: together, or one by one.
        threads = begin(pool, *(asking(pool, text, [1]) for _ in range(6)))
        assert [thread.outcome() for thread in threads] == [[(1, "a")]] * 6
    assert pool.query(text, [1]) == [(1, "a")]
    stats = pool.stats()
    assert (stats.created, stats.errors, stats.retries) == (1, 0, 0)
    assert prepared(pool, f"%{t}%") <= 1


@pytest.mark.parametrize("combine", [True, False])
@pytest.mark.parametrize("command", ["deallocate all", "discard all", "do"])
def test_prepared_statements_may_be_dropped_in_a_block(
    conninfo: str, make_pool: MakePool, combine: bool, command: str
) -> None:
    pool = make_pool(conninfo, min_size=1, max_size=1, combine=combine)
    text = "select %s::int as dropped"
    for _ in range(3):
        for n in range(7):
            assert pool.query(text, [n]) == [(n,)]
        assert prepared(pool, "%as dropped") == 1
        with pool.connection() as conn:
            conn.autocommit = True
            if command == "do":
                conn.execute("do $$ begin execute 'deallocate all'; end $$")
            else:
                conn.execute(command)
        if combine:
            threads = begin(pool, *(asking(pool, text, [n]) for n in range(4)))
            assert [thread.outcome() for thread in threads] == [[(n,)] for n in range(4)]
    stats = pool.stats()
    assert (stats.created, stats.errors, stats.retries) == (1, 0, 0)


def test_prepared_statements_that_vanish_unseen_are_prepared_anew(
    pool: PostgresPool, watch: Watch
) -> None:
    name = unique("forget")
    watch.ask(
        f"create function {name}() returns int language plpgsql as"
        " $$ begin execute 'deallocate all'; return 1; end $$"
    )
    text = "select %s::int as vanished"
    try:
        for _ in range(3):
            for n in range(7):
                assert pool.query(text, [n]) == [(n,)]
            # Nothing in the text tells what it does.
            assert pool.query(f"select {name}()") == [(1,)]
            threads = begin(pool, *(asking(pool, text, [n]) for n in range(4)))
            assert [thread.outcome() for thread in threads] == [[(n,)] for n in range(4)]
            assert pool.query(f"select {name}()") == [(1,)]
            assert pool.query(text, [1]) == [(1,)]
    finally:
        watch.ask(f"drop function {name}()")
    stats = pool.stats()
    assert (stats.errors, stats.retries) == (0, 0)
    assert stats.created == 1


# -- what goes its own way -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "select 1; select 2",
        "listen poolkit_news",
        "set work_mem = '5MB'",
        "create temporary table own_way ()",
        "comment on table pg_class is null",
        "do $$ begin end $$",
        "/* nightly */ DO $$ begin end $$",
        "explain select 1",
        "show work_mem",
        "begin",
        "select set_config('a.b', '1', false)",
        "select pg_advisory_lock(7)",
        "select 1 into temp own_way",
        b"select 1",
        sql.SQL("select 1"),
        sql.SQL("select {}").format(1),
        "",
        "-- nothing",
    ],
)
def test_what_must_not_be_sent_with_others_is_not(
    conninfo: str, make_pool: MakePool, text: Any
) -> None:
    pool = make_pool(conninfo, min_size=1, max_size=2, acquire_timeout=5)
    with nobody_leads(pool):
        pool.execute(text)  # what combines would wait for someone to lead
        assert pool.stats().waiting == 0
    assert pool.query("show work_mem") != [("5MB",)]
    assert pool.stats().batches == pool.stats().shared == 0


def test_copy_goes_its_own_way_and_fails_as_ever(conninfo: str, make_pool: MakePool) -> None:
    pool = make_pool(conninfo, min_size=1, max_size=2, acquire_timeout=5)
    with nobody_leads(pool):
        with pytest.raises(psycopg.ProgrammingError, match="COPY"):
            pool.query("copy (select 1) to stdout")
    assert combined(pool, *[asking(pool, "select 1")] * 3) == [[(1,)]] * 3


def test_statement_with_a_large_parameter_is_sent_by_itself(
    conninfo: str, make_pool: MakePool
) -> None:
    pool = make_pool(conninfo, min_size=1, max_size=2, acquire_timeout=5)
    with nobody_leads(pool):
        assert pool.query("select length(%s)", ["x" * 100_000]) == [(100_000,)]
        assert pool.query("select length(%s)", [b"\x00" * 100_000]) == [(100_000,)]
    assert pool.stats().batches == pool.stats().shared == 0


@pytest.mark.parametrize(
    ("parameters", "settings"),
    [
        ({"client_encoding": "latin1"}, {}),
        ({}, {"combine": False}),
        ({}, {"pgbouncer": True}),
    ],
)
def test_pool_that_must_not_combine_never_does(
    conninfo: str, make_pool: MakePool, parameters: dict[str, str], settings: dict[str, Any]
) -> None:
    pool = make_pool(
        at(conninfo, **parameters), min_size=1, max_size=2, acquire_timeout=15, **settings
    )

    def work(number: int) -> None:
        for turn in range(30):
            tag = f"é{number}-{turn}"
            assert pool.query("select %s", [tag]) == [(tag,)]

    assert together(12, work) == [None] * 12
    stats = pool.stats()
    assert stats.batches == stats.shared == 0
    assert stats.leases == stats.operations == 360
    if settings.get("pgbouncer"):
        with pool.connection() as conn:
            names = conn.execute("select count(*) from pg_prepared_statements").fetchall()
        assert names == [(0,)]


# -- fates -----------------------------------------------------------------------------------------------


@pytest.fixture
def wide(conninfo: str, make_pool: MakePool) -> PostgresPool:
    return make_pool(conninfo, min_size=2, max_size=4, acquire_timeout=15)


@contextmanager
def locked(conninfo: str, table: sql.Identifier) -> Iterator[Callable[[], None]]:
    """Hold a lock on the row 0 of *table*; give what lets go of it."""
    with psycopg.connect(conninfo, autocommit=True) as conn:
        conn.execute(f"insert into {table.as_string(None)} values (0, 'locked')")
        conn.autocommit = False
        conn.execute(f"select 1 from {table.as_string(None)} where id = 0 for update")
        yield conn.commit


def bounded(seconds: float, work: Callable[[], Any]) -> Callable[[], Any]:
    """Return *work* under a deadline, which makes sure that it ends with that."""

    def run() -> Any:
        began = time.monotonic()
        try:
            with deadline(seconds):
                return work()
        finally:
            took = time.monotonic() - began
            assert took <= seconds + OVERSHOOT + SCHEDULING, f"left after {took:.3f} s"

    return run


class Writer:
    """Writes rows with tags, and counts them."""

    def __init__(self, pool: PostgresPool, table: sql.Identifier, watch: Watch) -> None:
        self._pool = pool
        self._watch = watch
        self.table = table.as_string(None)
        watch.ask(f"alter table {self.table} drop constraint {self.table[1:-1]}_pkey")
        watch.ask(f"alter table {self.table} alter id drop not null")

    def put(self, tag: int) -> Callable[[], Any]:
        return lambda: self._pool.execute(f"insert into {self.table} (id) values (%s)", [tag])

    def blocked(self, tag: int, **options: Any) -> Callable[[], Any]:
        """Write as soon as row 0 is not locked any more."""
        text = (
            f"with held as (select id from {self.table} where id = 0 and name = 'locked' for update)"
            f" insert into {self.table} (id) select id + %s from held"
        )
        return lambda: self._pool.execute(text, [tag], **options)

    def counts(self) -> dict[int, int]:
        rows = self._watch.ask(f"select id, count(*) from {self.table} where id > 0 group by id")
        return dict(rows)


@pytest.fixture
def writer(wide: PostgresPool, table: sql.Identifier, watch: Watch) -> Writer:
    return Writer(wide, table, watch)


def kinds(outcomes: list[Any]) -> list[Any]:
    return [type(each) if isinstance(each, BaseException) else each for each in outcomes]


@pytest.mark.parametrize("late", [0, 1, 3])
def test_deadline_of_a_running_statement_stops_it_and_no_other(
    wide: PostgresPool, writer: Writer, watch: Watch, late: int
) -> None:
    works = [writer.put(n) for n in range(1, 5)]
    works[late] = bounded(0.3, asking(wide, "select pg_sleep(32)"))
    outcomes = combined(wide, *works)
    assert kinds(outcomes) == [DeadlineExceeded if n == late else 1 for n in range(4)]
    assert not watch.running("pg_sleep(32)")
    assert writer.counts() == {n: 1 for n in range(1, 5) if n != late + 1}
    assert wide.stats().retries == 0


def test_all_deadlines_of_a_batch_are_kept(wide: PostgresPool, watch: Watch) -> None:
    works = [bounded(0.2 + n / 10, asking(wide, "select pg_sleep(31)")) for n in range(5)]
    threads = begin(wide, *works)
    outcomes = [thread.outcome() for thread in threads]
    assert all(isinstance(each, DeadlineExceeded) for each in outcomes), outcomes
    until(lambda: not watch.running("pg_sleep(31)"))
    assert_whole(wide, 4)


def test_deadline_behind_a_slow_statement_is_kept_and_the_slow_one_goes_on(
    wide: PostgresPool, writer: Writer, watch: Watch
) -> None:
    began = time.monotonic()
    threads = begin(
        wide,
        writer.put(1),
        asking(wide, "select pg_sleep(0.7)::text"),
        bounded(0.2, writer.put(2)),
        writer.put(3),
        bounded(0.3, writer.put(4)),
    )
    outcomes = [thread.outcome() for thread in threads]
    assert time.monotonic() - began >= 0.7
    assert outcomes[:2] + outcomes[3:4] == [1, [("",)], 1]
    for each in (outcomes[2], outcomes[4]):
        assert isinstance(each, DeadlineExceeded)
        assert isinstance(each, OutcomeUnknown), "it was sent, and is run when the slow one is done"
    # Nobody waits for what comes after the third: it may be given up with the connection.
    until(lambda: not watch.running(f"insert into {writer.table}"))
    counts = writer.counts()
    assert counts.pop(4, 1) == 1
    assert counts == {1: 1, 2: 1, 3: 1}


def test_neighbour_hit_by_a_cancel_is_run_again_unseen(
    conninfo: str,
    wide: PostgresPool,
    writer: Writer,
    table: sql.Identifier,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop, late = PostgresFlight.stop, threading.Event()
    neighbour = f"insert into {writer.table} (id) select 2 from pg_sleep(0.4)"

    def stop_late(flight: PostgresFlight, limit: Deadline) -> bool:
        late.set()
        until(lambda: watch.running("select 2 from pg_sleep(0.4)"))
        return stop(flight, Deadline.after(1.0))

    def exceed() -> Any:
        with deadline(0.2):
            return writer.blocked(1)()

    with locked(conninfo, table) as release:
        monkeypatch.setattr(PostgresFlight, "stop", stop_late)
        threads = begin(wide, exceed, lambda: wide.execute(neighbour), writer.put(3))
        assert late.wait(10)
        release()
        outcomes = [thread.outcome() for thread in threads]
    assert outcomes[1:] == [1, 1]
    assert writer.counts() == {1: 1, 2: 1, 3: 1}
    assert wide.stats().retries == 0
    assert_whole(wide, 4)


def test_deadlines_that_come_with_the_answers_hurt_nobody_else(
    wide: PostgresPool, writer: Writer
) -> None:
    for turn in range(25):
        tags = [1 + turn * 3 + n for n in range(3)]

        def brief(turn: int = turn) -> Any:
            with deadline(0.02):
                return wide.query("select pg_sleep(%s)::text", [0.012 + turn / 2000])

        first, second, third, fourth = (
            thread.outcome()
            for thread in begin(wide, writer.put(tags[0]), brief, *map(writer.put, tags[1:]))
        )
        assert [first, third, fourth] == [1, 1, 1]
        assert second == [("",)] or isinstance(second, DeadlineExceeded)
    assert writer.counts() == dict.fromkeys(range(1, 76), 1)
    assert wide.stats().retries == 0


def test_statement_timeout_of_one_does_not_hurt_the_others(
    conninfo: str, make_pool: MakePool, table: sql.Identifier, watch: Watch
) -> None:
    pool = make_pool(conninfo, min_size=1, max_size=2, statement_timeout=0.25)
    writer = Writer(pool, table, watch)
    outcomes = combined(
        pool,
        writer.put(1),
        asking(pool, "select pg_sleep(31)"),
        *[asking(pool, "select pg_sleep(0.2)::text")] * 4,  # 0.8 s in all
        writer.put(2),
    )
    assert kinds(outcomes) == [1, psycopg.errors.QueryCanceled, *[[("",)]] * 4, 1]
    assert "statement timeout" in str(outcomes[1])
    assert writer.counts() == {1: 1, 2: 1}
    assert pool.stats().closed == 0


@pytest.mark.parametrize("idempotent", [False, True])
def test_backend_that_ends_amid_a_batch_doubles_nothing_and_loses_nothing(
    conninfo: str,
    wide: PostgresPool,
    writer: Writer,
    table: sql.Identifier,
    watch: Watch,
    idempotent: bool,
) -> None:
    with locked(conninfo, table) as release:
        threads = begin(
            wide,
            writer.put(1),
            asking(wide, "select 7", idempotent=True),
            writer.blocked(2, idempotent=idempotent),
            writer.put(3),
            asking(wide, "select 8", idempotent=True),
            writer.put(4),
        )
        watch.terminate(until(lambda: watch.running("with held as")))
        release()
        outcomes = [thread.outcome() for thread in threads]
    assert outcomes[:2] + outcomes[3:] == [1, [(7,)], 1, [(8,)], 1]
    if idempotent:
        assert outcomes[2] == 1
        assert writer.counts() == {1: 1, 2: 1, 3: 1, 4: 1}
    else:
        assert type(outcomes[2]) is OutcomeUnknown
        assert writer.counts() == {1: 1, 3: 1, 4: 1}
    assert_whole(wide, 4)


def test_batch_whose_answers_are_lost_is_unknown_and_never_doubled(
    postgres_server: PostgresServer,
    make_proxy: Callable[[PostgresServer], FaultProxy],
    make_pool: MakePool,
    table: sql.Identifier,
    watch: Watch,
) -> None:
    proxy = make_proxy(postgres_server)
    pool = make_pool(at(postgres_server.conninfo, port=proxy.port), min_size=1, max_size=2)
    writer = Writer(pool, table, watch)
    pool.query("select 1")
    proxy.stall_replies()
    writes = [writer.put(n) for n in (1, 2, 3)]
    threads = begin(pool, *writes, asking(pool, "select 7"))
    until(lambda: len(writer.counts()) == 3)  # all have run, and nobody has heard of it
    proxy.cut()
    proxy.pass_through()
    outcomes = [thread.outcome() for thread in threads]
    assert kinds(outcomes) == [OutcomeUnknown] * 4
    assert writer.counts() == {1: 1, 2: 1, 3: 1}


def test_statement_that_nobody_waits_for_any_more_is_stopped_when_its_turn_comes(
    wide: PostgresPool, writer: Writer, watch: Watch
) -> None:
    threads = begin(
        wide,
        asking(wide, "select pg_sleep(0.4)::text"),
        bounded(0.1, asking(wide, "select pg_sleep(9)")),
        writer.put(1),
    )
    first, second, third = (thread.outcome() for thread in threads)
    assert (first, third) == ([("",)], 1)
    assert isinstance(second, DeadlineExceeded)
    assert threads[2].seconds < 5, "it must not wait until the other one has slept"
    assert writer.counts() == {1: 1}


def test_server_that_freezes_amid_a_batch_holds_nobody_past_the_deadline(
    breakable: PostgresServer, make_pool: MakePool
) -> None:
    pool = make_pool(breakable.conninfo, min_size=1, max_size=4)
    with watching(breakable.conninfo) as watch:
        works = [
            bounded(0.6 + n / 20, asking(pool, f"select {n}, pg_sleep(0.3)")) for n in range(5)
        ]
        threads = begin(pool, *works)
        until(lambda: watch.running("pg_sleep(0.3)"))
        breakable.pause()
        outcomes = [thread.outcome() for thread in threads]
        breakable.resume()
    assert all(isinstance(each, DeadlineExceeded) for each in outcomes[1:]), outcomes
    assert_whole(pool, 4)


def test_slow_statement_delays_only_those_sent_behind_it(
    conninfo: str, make_pool: MakePool, table: sql.Identifier, watch: Watch
) -> None:
    pool = make_pool(conninfo, min_size=2, max_size=3, lanes=1, acquire_timeout=15)
    writer = Writer(pool, table, watch)
    with locked(conninfo, table) as release:
        threads = begin(pool, writer.put(1), writer.blocked(2), writer.put(3), writer.put(4))
        assert threads[0].outcome() == 1
        until(lambda: watch.running("with held as"))
        # The one lane is taken, and yet:
        assert pool.query("select 1") == [(1,)]
        assert [thread.is_alive() for thread in threads[1:]] == [True] * 3
        assert combiner_of(pool)._pace.largest < LARGEST
        release()
        assert [thread.outcome() for thread in threads[1:]] == [1, 1, 1]
    assert writer.counts() == {1: 1, 2: 1, 3: 1, 4: 1}
    assert_whole(pool, 3)


# -- what is told ----------------------------------------------------------------------------------------


def test_slow_statement_is_logged_and_its_neighbours_are_not(
    conninfo: str, make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(conninfo, min_size=1, max_size=2, slow_query=0.2)
    with caplog.at_level(logging.WARNING):
        combined(
            pool,
            asking(pool, "select 1 -- before"),
            asking(pool, "select pg_sleep(0.3), %s::text", ["topsecret"]),
            asking(pool, "select 2 -- behind"),
            asking(pool, "select 3 -- leader"),
        )
    slow = [record.message for record in caplog.records if "slow" in record.message]
    assert len(slow) == 1, slow
    assert "pg_sleep(0.3), %s::text" in slow[0]
    assert "topsecret" not in caplog.text


def test_lease_and_timeout_name_the_thread_that_leads(
    conninfo: str, make_pool: MakePool, table: sql.Identifier, watch: Watch
) -> None:
    pool = make_pool(conninfo, min_size=1, max_size=1, acquire_timeout=0.3)
    writer = Writer(pool, table, watch)

    def leave() -> Any:
        with deadline(0.5):
            return writer.put(2)()

    with locked(conninfo, table) as release:
        threads = begin(pool, writer.blocked(1), writer.put(3), leave)
        until(lambda: watch.running("with held as"))
        (holder,) = pool.leases()
        assert holder.thread_name == threads[2].name
        assert __file__ in holder.call_site or "test_combining" in holder.call_site
        with pytest.raises(PoolTimeout) as caught:
            pool.query("select 1")
        assert [each.thread_name for each in caught.value.holders] == [threads[2].name]
        assert isinstance(threads[2].outcome(), DeadlineExceeded)
        until(lambda: [each.thread_name for each in pool.leases()] == [threads[0].name])
        release()
        assert [thread.outcome() for thread in threads[:2]] == [1, 1]
    assert pool.leases() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork_under_combined_load_leaves_parent_and_child_working(
    wide: PostgresPool,
) -> None:
    over, combining = threading.Event(), threading.Barrier(9)

    def work() -> int:
        asked = 0
        while not over.is_set():
            assert wide.query("select %s::int", [asked]) == [(asked,)]
            if not asked:
                combining.wait(15)
            asked += 1
        return asked

    threads = [Task(work) for _ in range(8)]
    combining.wait(15)
    until(lambda: wide.stats().batches > 5)
    children = [Child(lambda n=n: tagged(wide, f"child-{n}", 30)) for n in range(3)]  # type: ignore[misc]
    try:
        assert [child.outcome() for child in children] == [240] * 3
    finally:
        over.set()
    outcomes = [thread.outcome() for thread in threads]
    assert all(isinstance(each, int) for each in outcomes), outcomes
    assert_whole(wide, 4)
