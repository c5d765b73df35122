"""A standby takes over, or a server stops to take writes: nothing acknowledged is lost, and callers find the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from poolkit import (
    BackendUnavailable,
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
    OutcomeUnknown,
    PostgresPool,
    deadline,
)
from poolkit.embedded import PostgresServer, PostgresStandby
from tests.core.support import Task

from .observing import (
    SCHEDULING,
    assert_whole,
    at,
    first_success,
    refusal,
    together,
    unique,
    until,
    warm_up,
    watching,
)

MakePool = Callable[..., PostgresPool]

BUDGET = 1.0
THREADS = 12


def ask(conninfo: str, text: Any) -> list[tuple[Any, ...]]:
    with watching(conninfo) as watch:
        return watch.ask(text)


class TestPromotion:
    """The primary is killed, and its standby takes over."""

    @pytest.mark.parametrize("again", [False, True], ids=["once", "there and back"])
    def test_under_load_no_write_is_doubled_or_lost(
        self, postgres_standby: PostgresStandby, make_pool: MakePool, again: bool
    ) -> None:
        group = postgres_standby
        table = unique("t")
        ask(group.conninfo, f"create table {table} (tag text not null)")
        pool = make_pool(group.conninfo, min_size=4, max_size=8)
        warm_up(pool, 8)
        over = threading.Event()
        late: list[float] = []

        def load(number: int) -> list[tuple[str, str]]:
            seen: list[tuple[str, str]] = []
            turn = 0
            while not over.is_set():
                turn += 1
                tag = f"{number}-{turn}"
                began = time.monotonic()
                try:
                    with deadline(BUDGET):
                        if number % 3:
                            pool.execute(f"insert into {table} values (%s)", [tag])  # type: ignore[arg-type]
                        else:
                            with pool.transaction() as conn:
                                conn.execute(f"insert into {table} values (%s)", [tag])  # type: ignore[arg-type]
                    became = "done"
                except OutcomeUnknown:
                    became = "unknown"
                except (BackendUnavailable, DeadlineExceeded, psycopg.OperationalError):
                    became = "not done"
                late.append(time.monotonic() - began - BUDGET)
                seen.append((tag, became))
                over.wait(0 if became == "done" else 0.02)
            return seen

        threads = [Task(load, n) for n in range(THREADS)]
        try:
            for _ in range(1 + again):
                operations = pool.stats().operations
                until(lambda before=operations: pool.stats().operations > before + 200)  # type: ignore[misc]
                group.primary.kill()
                refused = pool.stats().refused
                until(lambda before=refused: pool.stats().refused > before + 20)  # type: ignore[misc]
                group.promote()
                assert first_success(pool) < 1.0 + SCHEDULING
                group.start()
            operations = pool.stats().operations
            until(lambda: pool.stats().operations > operations + 200)
        finally:
            over.set()
        outcomes = [thread.outcome() for thread in threads]

        assert all(isinstance(seen, list) for seen in outcomes), outcomes
        count: dict[str, int] = dict(
            ask(group.conninfo, f"select tag, count(*) from {table} group by tag")  # type: ignore[arg-type]
        )
        expected = {"done": {1}, "not done": {0}, "unknown": {0, 1}}
        wrong = [
            (tag, became, count.get(tag, 0))
            for seen in outcomes
            for tag, became in seen
            if count.get(tag, 0) not in expected[became]
        ]
        assert not wrong
        assert max(late) < 0.05 + SCHEDULING
        assert_whole(pool, 8)

    def test_callers_are_told_so_until_then(
        self, postgres_standby: PostgresStandby, make_pool: MakePool
    ) -> None:
        pool = make_pool(postgres_standby.conninfo, min_size=2, max_size=2)
        warm_up(pool, 2)
        postgres_standby.primary.kill()
        until(lambda: isinstance(refusal(pool), BackendUnavailable))

        error = refusal(pool)

        assert isinstance(error, BackendUnavailable)
        # The one that is left is asked, and refused for what it is.
        assert "read-only" in str(error.__cause__)
        assert error.retry_after is not None
        postgres_standby.promote()
        assert first_success(pool) < 1.0 + SCHEDULING


class TestCutShort:
    """A commit waits for the standby, and the wait is cancelled: the server says then that it is done."""

    @pytest.fixture
    def group(self, postgres_standby: PostgresStandby) -> Iterator[PostgresStandby]:
        yield postgres_standby
        postgres_standby.standby.resume()

    @pytest.fixture
    def table(self, group: PostgresStandby) -> str:
        table = unique("t")
        ask(group.conninfo, f"create table {table} (tag text not null)")
        return table

    @pytest.mark.parametrize("combine", [False, True])
    @pytest.mark.parametrize("threads", [1, 6])
    def test_what_only_the_primary_has_is_not_acknowledged(
        self, group: PostgresStandby, table: str, make_pool: MakePool, combine: bool, threads: int
    ) -> None:
        pool = make_pool(group.conninfo, min_size=2, max_size=2, combine=combine)
        warm_up(pool, 2)
        insert: Any = f"insert into {table} values (%s)"
        group.standby.pause()

        def write(number: int) -> None:
            with deadline(0.4):
                pool.execute(insert, [str(number)])

        errors = together(threads, write)

        assert all(isinstance(error, DeadlineExceeded) for error in errors), errors
        # Who came to nothing while others waited may know that it did not happen.
        doubtful = sum(isinstance(error, DeadlineOutcomeUnknown) for error in errors)
        assert doubtful >= 1
        group.standby.resume()
        group.wait_ok()
        (there,) = ask(group.conninfo, f"select count(*) from {table}")
        assert 1 <= there[0] <= doubtful
        assert_whole(pool, 2)

    def test_nor_what_was_sent_together(
        self, group: PostgresStandby, table: str, make_pool: MakePool
    ) -> None:
        pool = make_pool(group.conninfo, min_size=1, max_size=1)
        insert: Any = f"insert into {table} values ('a')"

        def write() -> None:
            with deadline(1.0):
                pool.execute(insert)

        with pool.connection():
            # It has the turn, and those that gather behind it go together.
            first = Task(lambda: pool.query("select 1"))
            until(lambda: pool.stats().waiting == 1)
            group.standby.pause()
            writers = [Task(write) for _ in range(3)]
            until(lambda: pool.stats().waiting == 4)
        errors = [writer.outcome() for writer in writers]

        assert first.outcome() == [(1,)]
        assert all(isinstance(error, DeadlineExceeded) for error in errors), errors
        assert any(isinstance(error, DeadlineOutcomeUnknown) for error in errors)

    def test_nor_without_a_deadline(
        self, group: PostgresStandby, table: str, make_pool: MakePool
    ) -> None:
        pool = make_pool(group.conninfo, min_size=1, max_size=1, statement_timeout=0.3)
        insert: Any = f"insert into {table} values ('a')"
        pool.execute(insert)
        group.standby.pause()
        with pytest.raises(OutcomeUnknown, match="standby"):
            pool.execute(insert)
        group.standby.resume()
        assert pool.execute(insert) == 1

    @pytest.mark.parametrize("block", ["connection", "by hand", "transaction", "run"])
    def test_nor_is_a_block(
        self, group: PostgresStandby, table: str, make_pool: MakePool, block: str
    ) -> None:
        pool = make_pool(group.conninfo, min_size=1, max_size=1)
        insert: Any = f"insert into {table} values ('a')"
        pool.query("select 1")
        group.standby.pause()
        with pytest.raises(DeadlineOutcomeUnknown), deadline(0.3):
            if block == "run":
                pool.run(lambda conn: conn.execute(insert))
            elif block == "by hand":
                with pool.connection() as conn:
                    conn.execute(insert)
                    conn.commit()
            else:
                with getattr(pool, block)() as conn:
                    conn.execute(insert)
        group.standby.resume()
        group.wait_ok()
        with pool.transaction() as conn:
            conn.execute(insert)
        assert ask(group.conninfo, f"select count(*) from {table}") == [(2,)]


class TestNoWrites:
    """A server that was the primary takes no writes any more, and keeps its connections."""

    @pytest.fixture
    def pair(self, own_postgres: Callable[..., PostgresServer]) -> Pair:
        pair = Pair(own_postgres(), own_postgres())
        pair.each("create table noted (tag text not null)")
        pair.set_read_only(1, True)
        return pair

    @pytest.mark.parametrize("combine", [False, True])
    def test_writes_find_the_other_one_and_nobody_notices(
        self, pair: Pair, make_pool: MakePool, combine: bool
    ) -> None:
        pool = make_pool(pair.conninfo, min_size=4, max_size=4, combine=combine)
        warm_up(pool, 4)
        pool.execute("insert into noted values ('before')")
        pair.switch()

        assert (
            together(8, lambda n: pool.execute("insert into noted values (%s)", [str(n)]))
            == [1] * 8
        )

        assert pair.noted(0) == ["before"]
        assert pair.noted(1) == sorted(map(str, range(8)))
        assert {port for (port,) in together_ports(pool)} == {pair.servers[1].port}
        assert_whole(pool, 4)

    def test_run_is_repeated_there(self, pair: Pair, make_pool: MakePool) -> None:
        pool = make_pool(pair.conninfo, min_size=2, max_size=2)
        warm_up(pool, 2)
        pair.switch()

        assert pool.run(lambda conn: conn.execute("insert into noted values ('a')").rowcount) == 1

        assert (pair.noted(0), pair.noted(1)) == ([], ["a"])
        assert pool.stats().retries == 1

    @pytest.mark.parametrize("block", ["connection", "transaction"])
    def test_one_block_fails_and_the_next_finds_the_other(
        self, pair: Pair, make_pool: MakePool, block: str
    ) -> None:
        pool = make_pool(pair.conninfo, min_size=2, max_size=2)
        warm_up(pool, 2)
        pair.switch()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            with getattr(pool, block)() as conn:
                conn.execute("insert into noted values ('a')")
        for _ in range(3):
            with getattr(pool, block)() as conn:
                conn.execute("insert into noted values ('b')")
        assert pair.noted(1) == ["b"] * 3

    def test_connections_are_replaced_once_however_many_meet_it(
        self, pair: Pair, make_pool: MakePool
    ) -> None:
        pool = make_pool(pair.conninfo, min_size=4, max_size=4, combine=False)
        warm_up(pool, 4)
        created = pool.stats().created
        pair.switch()
        together(12, lambda n: pool.execute("insert into noted values (%s)", [str(n)]))
        assert_whole(pool, 4)
        assert pool.stats().created - created == 4

    def test_one_that_was_held_since_before_costs_no_other_its_connection(
        self, pair: Pair, make_pool: MakePool
    ) -> None:
        pool = make_pool(pair.conninfo, min_size=3, max_size=3)
        warm_up(pool, 3)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            with pool.connection() as old:
                pair.switch()
                pool.execute("insert into noted values ('a')")
                pids = warm_up(pool, 2)
                old.execute("insert into noted values ('b')")
        assert warm_up(pool, 3) > pids

    def test_with_no_other_one_callers_are_told_and_served_when_it_takes_writes(
        self, pair: Pair, make_pool: MakePool
    ) -> None:
        pool = make_pool(pair.conninfo, min_size=2, max_size=2)
        warm_up(pool, 2)
        pair.set_read_only(0, True)

        with pytest.raises((BackendUnavailable, psycopg.OperationalError)):
            pool.execute("insert into noted values ('a')")
        until(lambda: isinstance(refusal(pool), BackendUnavailable))

        pair.set_read_only(0, False)
        assert first_success(pool) < 1.0 + SCHEDULING
        assert pool.execute("insert into noted values ('b')") == 1
        assert (pair.noted(0), pair.noted(1)) == (["b"], [])
        assert_whole(pool, 2)

    def test_who_wants_no_such_server_is_told_as_the_server_says_it(
        self, pair: Pair, make_pool: MakePool
    ) -> None:
        pool = make_pool(at(pair.conninfo, target_session_attrs="any"), min_size=1, max_size=1)
        pair.switch()
        pids = warm_up(pool, 1)
        for _ in range(3):
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                pool.execute("insert into noted values ('a')")
        assert warm_up(pool, 1) == pids

    def test_a_transaction_that_is_read_only_by_itself_says_nothing_of_the_server(
        self, pair: Pair, make_pool: MakePool
    ) -> None:
        pool = make_pool(pair.conninfo, min_size=1, max_size=1)
        pids = warm_up(pool, 1)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            with pool.transaction(read_only=True) as conn:
                conn.execute("insert into noted values ('a')")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            pool.run(lambda conn: conn.execute("insert into noted values ('a')"), read_only=True)
        assert warm_up(pool, 1) == pids


def together_ports(pool: PostgresPool) -> list[tuple[Any, ...]]:
    return [
        row
        for rows in together(4, lambda _: pool.query("select inet_server_port()"))
        for row in rows
    ]


class Pair:
    """Two servers of which the first takes writes, and then the other."""

    def __init__(self, *servers: PostgresServer) -> None:
        self.servers = servers
        parameters = [conninfo_to_dict(server.conninfo) for server in servers]
        self.conninfo = at(
            servers[0].conninfo,
            host=",".join(str(each["host"]) for each in parameters),
            port=",".join(str(each["port"]) for each in parameters),
            target_session_attrs="read-write",
        )

    def each(self, text: str) -> None:
        for server in self.servers:
            ask(server.conninfo, text)

    def switch(self) -> None:
        self.set_read_only(0, True)
        self.set_read_only(1, False)

    def set_read_only(self, number: int, value: bool) -> None:
        conninfo = self.servers[number].conninfo
        word = "on" if value else "off"
        ask(conninfo, f"alter system set default_transaction_read_only = {word}")
        ask(conninfo, "select pg_reload_conf()")
        until(lambda: ask(conninfo, "show default_transaction_read_only") == [(word,)])

    def noted(self, number: int) -> list[str]:
        rows = ask(self.servers[number].conninfo, "select tag from noted order by tag")
        return [row[0] for row in rows]
