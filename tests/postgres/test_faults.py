"""Connections that break at the worst moment, and blocks that end in every way there is."""

from __future__ import annotations

import gc
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from poolkit import OutcomeUnknown, PostgresPool, RetryPolicy, deadline
from poolkit.embedded import PostgresServer
from tests.core.support import Task
from tests.faults.proxy import FaultProxy

from .gathering import begin
from .observing import Watch, assert_whole, at, unique, until, warm_up

MakePool = Callable[..., PostgresPool]
MakeProxy = Callable[[PostgresServer], FaultProxy]


class Oops(Exception):
    """What the tests raise."""


class Table:
    """A table of the test's own, looked at from outside of the pool."""

    def __init__(self, watch: Watch) -> None:
        self.name = unique("t")
        self._watch = watch
        watch.ask(f"create table {self.name} (tag text)")
        self.insert: Any = f"insert into {self.name} values (%s)"

    def count(self, tag: str) -> int:
        rows = self._watch.ask(f"select count(*) from {self.name} where tag = %s", [tag])
        return int(rows[0][0])


@pytest.fixture
def table(watch: Watch) -> Table:
    return Table(watch)


@pytest.fixture
def proxy(postgres_server: PostgresServer, make_proxy: MakeProxy) -> FaultProxy:
    return make_proxy(postgres_server)


@pytest.fixture
def far(conninfo: str, proxy: FaultProxy, make_pool: MakePool) -> PostgresPool:
    """Give a pool whose connections lead through the proxy."""
    pool = make_pool(
        at(conninfo, port=proxy.port), min_size=2, max_size=2, retry=RetryPolicy(base=0.01)
    )
    warm_up(pool, 2)
    return pool


class TestLostAnswers:
    """The server did it, and the answer is lost."""

    def test_a_lost_insert_is_unknown_and_never_sent_again(
        self, far: PostgresPool, proxy: FaultProxy, table: Table
    ) -> None:
        sprung = proxy.cut_after_request(lambda sent: b"insert into" in sent)

        with pytest.raises(OutcomeUnknown):
            far.execute(table.insert, ["a"])

        assert sprung.wait(5)
        assert table.count("a") == 1
        assert far.stats().retries == 0
        assert_whole(far, 2)
        assert table.count("a") == 1

    def test_an_answer_that_is_garbage_is_lost_too(
        self, far: PostgresPool, proxy: FaultProxy, table: Table
    ) -> None:
        proxy.tamper(garble)
        with pytest.raises(OutcomeUnknown):
            far.execute(table.insert, ["a"])
        proxy.pass_through()
        assert table.count("a") == 1

        with pytest.raises(OutcomeUnknown):
            with far.transaction() as conn:
                conn.execute(table.insert, ["b"])
                proxy.tamper(garble)
        proxy.pass_through()
        assert table.count("b") == 1
        assert_whole(far, 2)

    def test_what_came_behind_garbage_in_a_batch_is_lost_too(
        self, far: PostgresPool, proxy: FaultProxy, table: Table
    ) -> None:
        replies = []

        def garble_the_first(way: str, data: bytes) -> bytes:
            replies.append(data) if way == "reply" else None
            return garble(way, data) if len(replies) == 1 else data

        proxy.tamper(garble_the_first)
        writes = [lambda n=n: far.execute(table.insert, [f"{n}"]) for n in range(5)]  # type: ignore[misc]
        for write in begin(far, *writes):
            assert isinstance(write.outcome(), OutcomeUnknown)
        assert_whole(far, 2)
        first, *others = [table.count(f"{n}") for n in range(5)]
        assert first == 1
        assert all(count <= 1 for count in others)  # the server may have given up before

    def test_a_lost_insert_is_repeated_when_the_caller_says_it_may_be(
        self, far: PostgresPool, proxy: FaultProxy, table: Table
    ) -> None:
        sprung = proxy.cut_after_request(lambda sent: b"insert into" in sent)

        assert far.execute(table.insert, ["a"], idempotent=True) == 1

        assert sprung.is_set()
        assert table.count("a") == 2  # which is what the caller asked for
        assert far.stats().retries == 1
        assert far.stats().errors == 0
        assert_whole(far, 2)

    def test_a_lost_query_is_unknown_too_since_a_select_can_write(
        self, far: PostgresPool, proxy: FaultProxy
    ) -> None:
        proxy.cut_after_request(lambda sent: b"select 42" in sent)
        with pytest.raises(OutcomeUnknown):
            far.query_one("select 42")

        proxy.cut_after_request(lambda sent: b"select 43" in sent)
        assert far.query_one("select 43", idempotent=True) == (43,)

    @pytest.mark.parametrize("block", ["connection", "transaction"])
    def test_a_lost_commit_is_unknown_and_happened_once(
        self, far: PostgresPool, proxy: FaultProxy, table: Table, block: str
    ) -> None:
        with pytest.raises(OutcomeUnknown):
            with getattr(far, block)() as conn:
                conn.execute(table.insert, ["a"])
                sprung = proxy.cut_after_request(lambda sent: b"COMMIT" in sent)

        assert sprung.wait(5)
        assert table.count("a") == 1
        assert_whole(far, 2)
        assert table.count("a") == 1

    def test_run_does_not_repeat_a_lost_commit(
        self, far: PostgresPool, proxy: FaultProxy, table: Table
    ) -> None:
        calls = []

        def work(conn: psycopg.Connection[Any]) -> None:
            calls.append(conn)
            conn.execute(table.insert, ["a"])

        proxy.cut_after_request(lambda sent: b"COMMIT" in sent)
        with pytest.raises(OutcomeUnknown):
            far.run(work)

        assert len(calls) == 1
        assert table.count("a") == 1
        assert far.stats().in_use == 0

    def test_run_repeats_a_lost_commit_when_the_caller_says_it_may(
        self, far: PostgresPool, proxy: FaultProxy, table: Table
    ) -> None:
        calls = []

        def work(conn: psycopg.Connection[Any]) -> str:
            calls.append(conn)
            conn.execute(table.insert, ["a"])
            return "done"

        proxy.cut_after_request(lambda sent: b"COMMIT" in sent)

        assert far.run(work, idempotent=True) == "done"
        assert len(calls) == 2
        assert table.count("a") == 2

    def test_run_repeats_what_was_lost_before_its_commit(
        self, far: PostgresPool, proxy: FaultProxy, table: Table
    ) -> None:
        calls = []

        def work(conn: psycopg.Connection[Any]) -> str:
            calls.append(conn)
            if len(calls) == 1:
                proxy.cut_after_request(lambda sent: b"insert into" in sent)
            conn.execute(table.insert, ["a"])
            return "done"

        assert far.run(work) == "done"
        assert len(calls) == 2
        assert table.count("a") == 1

    def test_a_connection_lost_at_begin_is_replaced_unnoticed(
        self, far: PostgresPool, proxy: FaultProxy, table: Table
    ) -> None:
        sprung = proxy.cut_after_request(lambda sent: b"BEGIN" in sent)

        with far.transaction() as conn:
            conn.execute(table.insert, ["a"])

        assert sprung.is_set()
        assert table.count("a") == 1
        assert_whole(far, 2)

    def test_a_reset_in_mid_result_of_a_query(
        self, far: PostgresPool, proxy: FaultProxy, watch: Watch
    ) -> None:
        # Eight kilobytes a row: each is on its way before the next one is made.
        text = unique("mid_result")
        slow_rows: Any = (
            f"select /* {text} */ i, repeat('x', 9000), pg_sleep(0.005)"
            " from generate_series(1, 2000) i"
        )
        proxy.reset_round_trips()
        query = Task(lambda: far.query(slow_rows))
        until(lambda: watch.running(text))
        until(lambda: proxy.round_trips)  # the result has begun

        proxy.cut()

        assert isinstance(query.outcome(), OutcomeUnknown)
        assert_whole(far, 2)

    def test_a_reset_in_mid_stream_ends_the_stream_with_its_error(
        self, far: PostgresPool, proxy: FaultProxy
    ) -> None:
        rows = far.stream("select generate_series(1, 1000)", size=10)
        assert next(rows) == (1,)
        proxy.cut()

        with pytest.raises(psycopg.OperationalError):
            list(rows)

        assert_whole(far, 2)

    def test_a_reset_in_a_block_is_the_drivers_error_and_commits_nothing(
        self, far: PostgresPool, proxy: FaultProxy, table: Table
    ) -> None:
        with pytest.raises(psycopg.OperationalError):
            with far.transaction() as conn:
                conn.execute(table.insert, ["a"])
                proxy.cut()
                conn.execute(table.insert, ["a"])

        assert table.count("a") == 0
        assert_whole(far, 2)

    def test_when_the_rollback_fails_too_the_first_error_is_the_one_raised(
        self, far: PostgresPool, proxy: FaultProxy, table: Table
    ) -> None:
        for block in (far.transaction, far.connection):
            with pytest.raises(Oops):
                with block() as conn:
                    conn.execute(table.insert, ["a"])
                    proxy.cut()
                    raise Oops
            assert_whole(far, 2)

        assert table.count("a") == 0

    def test_a_stalled_commit_is_unknown_at_the_deadline(
        self, far: PostgresPool, proxy: FaultProxy, table: Table
    ) -> None:
        with pytest.raises(OutcomeUnknown), deadline(0.5):
            with far.transaction() as conn:
                conn.execute(table.insert, ["a"])
                proxy.stall_replies()
        proxy.pass_through()

        until(lambda: table.count("a") in (0, 1))
        assert_whole(far, 2)


def garble(way: str, data: bytes) -> bytes:
    return data if way == "request" else b"\xff" * len(data)


def before_anything(conn: psycopg.Connection[Any], table: Table) -> None:
    raise Oops


def after_a_statement(conn: psycopg.Connection[Any], table: Table) -> None:
    conn.execute(table.insert, ["x"])
    raise Oops


def after_a_failed_statement(conn: psycopg.Connection[Any], table: Table) -> None:
    conn.execute(table.insert, ["x"])
    with pytest.raises(psycopg.errors.DivisionByZero):
        conn.execute("select 1/0")
    raise Oops


def in_a_savepoint(conn: psycopg.Connection[Any], table: Table) -> None:
    conn.execute(table.insert, ["x"])
    with conn.transaction():
        conn.execute(table.insert, ["x"])
        raise Oops


def in_a_server_cursor(conn: psycopg.Connection[Any], table: Table) -> None:
    conn.execute(table.insert, ["x"])
    with conn.cursor("named") as cursor:
        cursor.execute("select generate_series(1, 100000)")
        cursor.fetchone()
        raise Oops


def in_copy_out(conn: psycopg.Connection[Any], table: Table) -> None:
    with conn.cursor().copy("copy (select generate_series(1, 100000)) to stdout") as copy:
        next(iter(copy))
        raise Oops


def in_copy_in(conn: psycopg.Connection[Any], table: Table) -> None:
    into: Any = f"copy {table.name} from stdin"
    with conn.cursor().copy(into) as copy:
        copy.write(b"x\n")
        raise Oops


def in_a_row_by_row_stream(conn: psycopg.Connection[Any], table: Table) -> None:
    conn.execute(table.insert, ["x"])
    rows = conn.cursor().stream("select generate_series(1, 100000)")
    next(rows)
    raise Oops


def in_a_pipeline(conn: psycopg.Connection[Any], table: Table) -> None:
    with conn.pipeline():
        conn.execute(table.insert, ["x"])
        conn.execute("select 1")
        raise Oops


def after_closing_it(conn: psycopg.Connection[Any], table: Table) -> None:
    conn.execute(table.insert, ["x"])
    conn.close()
    raise Oops


def with_settings_changed(conn: psycopg.Connection[Any], table: Table) -> None:
    conn.execute(table.insert, ["x"])
    conn.execute("set search_path to nowhere")
    conn.execute("select pg_advisory_lock(4711)")
    conn.execute("listen somewhere")
    conn.execute("create temp table left_over (i int)")
    raise Oops


def with_a_system_exit(conn: psycopg.Connection[Any], table: Table) -> None:
    conn.execute(table.insert, ["x"])
    raise SystemExit


def with_ctrl_c(conn: psycopg.Connection[Any], table: Table) -> None:
    conn.execute(table.insert, ["x"])
    raise KeyboardInterrupt


def with_generator_exit(conn: psycopg.Connection[Any], table: Table) -> None:
    conn.execute(table.insert, ["x"])
    raise GeneratorExit


WAYS_TO_END = [
    before_anything,
    after_a_statement,
    after_a_failed_statement,
    in_a_savepoint,
    in_a_server_cursor,
    in_copy_out,
    in_copy_in,
    in_a_row_by_row_stream,
    in_a_pipeline,
    after_closing_it,
    with_settings_changed,
    with_a_system_exit,
    with_ctrl_c,
    with_generator_exit,
]


class TestBlocks:
    """Whatever happens in a block, the next one gets a clean connection, and nothing was committed."""

    @pytest.mark.parametrize("block", ["connection", "transaction"])
    @pytest.mark.parametrize("way", WAYS_TO_END, ids=lambda way: way.__name__)
    def test_an_exception_leaves_nothing_behind(
        self, conninfo: str, make_pool: MakePool, watch: Watch, table: Table, way: Any, block: str
    ) -> None:
        name = unique()
        pool = make_pool(at(conninfo, application_name=name), min_size=1, max_size=1)

        with pytest.raises((Oops, SystemExit, KeyboardInterrupt, GeneratorExit)) as caught:
            with getattr(pool, block)() as conn:
                way(conn, table)

        expected = {
            with_a_system_exit: SystemExit,
            with_ctrl_c: KeyboardInterrupt,
            with_generator_exit: GeneratorExit,
        }
        assert caught.type is expected.get(way, Oops)
        assert pool.stats().in_use == 0
        with pool.connection() as conn:
            assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            assert conn.execute("show search_path").fetchone() == ('"$user", public',)
            assert conn.execute("select * from pg_listening_channels()").fetchall() == []
            assert conn.execute("select to_regclass('pg_temp.left_over')").fetchone() == (None,)
            locks = conn.execute("select 1 from pg_locks where locktype = 'advisory'").fetchall()
            assert locks == []
            assert conn.execute("select 1 from pg_cursors").fetchall() == []
        assert table.count("x") == 0
        until(lambda: len(watch.backends(name)) == 1)

    @pytest.mark.parametrize("block", ["connection", "transaction"])
    def test_return_commits_and_gives_back(
        self, conninfo: str, make_pool: MakePool, table: Table, block: str
    ) -> None:
        pool = make_pool(conninfo, min_size=1, max_size=1)

        def work() -> int:
            with getattr(pool, block)() as conn:
                return int(conn.execute(table.insert, ["x"]).rowcount)

        assert work() == 1
        assert table.count("x") == 1
        assert_whole(pool, 1)

    def test_a_generator_that_is_dropped_rolls_back_and_gives_back(
        self, conninfo: str, make_pool: MakePool, table: Table
    ) -> None:
        pool = make_pool(conninfo, min_size=1, max_size=1)

        def work() -> Any:
            with pool.transaction() as conn:
                conn.execute(table.insert, ["x"])
                yield 1

        generator = work()
        next(generator)
        assert pool.stats().in_use == 1
        del generator
        gc.collect()

        assert pool.stats().in_use == 0
        assert table.count("x") == 0
        assert_whole(pool, 1)

    def test_a_stream_that_is_dropped_gives_back(self, conninfo: str, make_pool: MakePool) -> None:
        pool = make_pool(conninfo, min_size=1, max_size=1)
        rows = pool.stream("select generate_series(1, 100000)", size=5)
        assert [next(rows) for _ in range(3)] == [(1,), (2,), (3,)]
        del rows
        gc.collect()

        assert_whole(pool, 1)

    def test_prepared_statements_work_after_each_of_several_resets(
        self, conninfo: str, make_pool: MakePool
    ) -> None:
        pool = make_pool(conninfo, min_size=1, max_size=1)
        for _ in range(4):
            with pool.connection() as conn:
                conn.execute("set search_path to nowhere")
            for number in range(10):  # more often than what makes psycopg prepare it
                assert pool.query("select %s::int", [number]) == [(number,)]

    def test_a_commit_that_the_server_refuses_is_the_drivers_error(
        self, conninfo: str, make_pool: MakePool, watch: Watch
    ) -> None:
        name = unique("t")
        watch.ask(f"create table {name} (i int unique deferrable initially deferred)")
        pool = make_pool(conninfo, min_size=1, max_size=1)
        twice: Any = f"insert into {name} values (1), (1)"

        for block in (pool.connection, pool.transaction):
            with pytest.raises(psycopg.errors.UniqueViolation):
                with block() as conn:
                    conn.execute(twice)
        with pytest.raises(psycopg.errors.UniqueViolation):
            pool.run(lambda conn: conn.execute(twice))

        assert watch.ask(f"select count(*) from {name}") == [(0,)]
        assert_whole(pool, 1)


class TestForgotten:
    """Leases that nobody can return any more."""

    def test_a_thread_that_dies_holding_loses_its_connection_to_the_others(
        self, conninfo: str, make_pool: MakePool
    ) -> None:
        pool = make_pool(conninfo, min_size=1, max_size=1)
        blocks = []

        def die_holding() -> None:
            block = pool.connection()
            conn = block.__enter__()
            conn.execute("select 1")
            blocks.append((block, conn))

        assert Task(die_holding, name="doomed").outcome() is None

        began = time.monotonic()
        assert pool.query("select 1") == [(1,)]
        assert time.monotonic() - began < 2.5
        assert pool.stats().leaked == 1
        assert_whole(pool, 1)
        blocks[0][0].__exit__(None, None, None)  # too late: it has no effect
        assert pool.stats().leaked == 1
        assert_whole(pool, 1)

    def test_a_connection_that_is_dropped_unreleased_comes_back(
        self, conninfo: str, make_pool: MakePool
    ) -> None:
        pool = make_pool(conninfo, min_size=1, max_size=1)

        def forget() -> None:
            pool.connection().__enter__()

        forget()
        gc.collect()

        assert pool.query("select 1") == [(1,)]
        assert pool.stats().leaked == 1
        assert_whole(pool, 1)


class TestCtrlC:
    """SIGINT reaches the main thread, which is the one that runs the tests."""

    @pytest.fixture(autouse=True)
    def default_handler(self) -> Any:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    def interrupt_when(self, true: Callable[[], Any]) -> Task:
        main = threading.main_thread().ident
        assert main is not None

        def interrupt() -> None:
            until(true)
            signal.pthread_kill(main, signal.SIGINT)

        return Task(interrupt)

    def test_in_the_block(self, conninfo: str, make_pool: MakePool, table: Table) -> None:
        pool = make_pool(conninfo, min_size=1, max_size=1)
        for block in (pool.connection, pool.transaction):
            with pytest.raises(KeyboardInterrupt):
                with block() as conn:
                    conn.execute(table.insert, ["x"])
                    signal.raise_signal(signal.SIGINT)
            assert_whole(pool, 1)
        assert table.count("x") == 0

    def test_while_a_statement_runs_it_is_cancelled_on_the_server(
        self, conninfo: str, make_pool: MakePool, watch: Watch
    ) -> None:
        pool = make_pool(conninfo, min_size=1, max_size=1, statement_timeout=60)
        text = unique("sleeper")
        sleep: Any = f"select /* {text} */ pg_sleep(60)"

        def in_block(opener: Any) -> None:
            with opener() as conn:
                conn.execute(sleep)

        calls: list[Callable[[], Any]] = [
            lambda: pool.query(sleep),
            lambda: in_block(pool.connection),
            lambda: in_block(pool.transaction),
        ]
        for call in calls:
            interrupter = self.interrupt_when(lambda: watch.running(text))
            with pytest.raises(KeyboardInterrupt):
                call()
            interrupter.outcome()
            until(lambda: not watch.running(text), within=5)
            assert_whole(pool, 1)

    def test_while_waiting_at_the_gate(self, conninfo: str, make_pool: MakePool) -> None:
        pool = make_pool(conninfo, min_size=1, max_size=1, acquire_timeout=30)
        held, over = threading.Event(), threading.Event()

        def hold() -> None:
            with pool.connection():
                held.set()
                over.wait(30)

        holder = Task(hold)
        assert held.wait(10)
        interrupter = self.interrupt_when(lambda: pool.stats().waiting == 1)
        with pytest.raises(KeyboardInterrupt):
            pool.query("select 1")
        interrupter.outcome()

        assert pool.stats().waiting == 0
        over.set()
        assert holder.outcome() is None
        assert_whole(pool, 1)

    def test_while_connecting(self, conninfo: str, proxy: FaultProxy, make_pool: MakePool) -> None:
        proxy.blackhole()
        pool = make_pool(at(conninfo, port=proxy.port), min_size=0, max_size=1, acquire_timeout=20)
        interrupter = self.interrupt_when(lambda: proxy.live)
        with pytest.raises(KeyboardInterrupt):
            pool.query("select 1")
        interrupter.outcome()
        proxy.pass_through()

        assert_whole(pool, 1)

    # One that falls into a finalizer is swallowed by Python, which says so.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_a_storm_of_it_loses_no_connections(
        self, conninfo: str, make_pool: MakePool, watch: Watch
    ) -> None:
        name = unique()
        pool = make_pool(
            at(conninfo, application_name=name), min_size=2, max_size=10, acquire_timeout=10
        )
        warm_up(pool, 2)
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        interrupted = 0
        try:
            while interrupted < 200:
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.004))
                    # Bounded, since an interrupt that falls into a finalizer is swallowed by Python.
                    for _ in range(200):
                        assert pool.query("select 42") == [(42,)]
                        with pool.connection() as conn:
                            assert conn.execute("select 43").fetchone() == (43,)
                        with pool.transaction() as conn:
                            assert conn.execute("select 44").fetchone() == (44,)
                except KeyboardInterrupt:
                    interrupted += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)

        del conn
        gc.collect()
        # Between two instructions of our own a turn can be lost: about one in a thousand times.
        assert_whole(pool, 8)
        assert len(watch.backends(name)) <= 10
