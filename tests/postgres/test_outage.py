"""The server is missing, full, frozen, killed, or answers no one: what callers get, how soon, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from poolkit import BackendUnavailable, DeadlineExceeded, OutcomeUnknown, PostgresPool, deadline
from poolkit.embedded import PostgresServer
from poolkit.postgres.generation import FRESH
from tests.core.support import Task
from tests.faults.proxy import FaultProxy

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
MakeProxy = Callable[[PostgresServer], FaultProxy]

AT_ONCE = 0.1
"""Seconds within which callers learn of an outage that is known."""


def grow_stale() -> None:
    """Let the idle connections pass the age up to which they are lent unchecked."""
    time.sleep(FRESH + 0.05)


def connects(conninfo: str) -> bool:
    try:
        psycopg.connect(conninfo, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def refused(pool: PostgresPool) -> BackendUnavailable:
    with pytest.raises(BackendUnavailable) as caught:
        pool.query("select 1")
    return caught.value


class TestLogin:
    def test_wrong_password_is_tried_once_and_works_when_mended(
        self, breakable: PostgresServer, make_pool: MakePool
    ) -> None:
        role = unique("role")
        with watching(breakable.conninfo) as watch:
            watch.ask(f"create role {role} login password 'right'")
            pool = make_pool(at(breakable.conninfo, user=role, password="wrong-Pa55"), min_size=5)

            def attempts() -> int:
                return breakable.log(100_000).count(
                    f'password authentication failed for user "{role}"'
                )

            errors = together(20, lambda _: refused(pool))

            assert all(isinstance(error, BackendUnavailable) for error in errors)
            assert attempts() == 1
            for error in errors:
                assert isinstance(error.__cause__, psycopg.OperationalError)
                assert "password authentication failed" in str(error.__cause__)
                assert error.retry_after is None
                assert "wrong-Pa55" not in str(error)
            time.sleep(2.5)
            assert attempts() == 1, "it was tried again, though nobody called"

            watch.ask(f"alter role {role} password 'wrong-Pa55'")
            assert first_success(pool) < 2.0 + SCHEDULING
            assert attempts() <= 2

    def test_missing_database_is_reported_and_found_when_created(
        self, breakable: PostgresServer, make_pool: MakePool
    ) -> None:
        name = unique("database")
        pool = make_pool(at(breakable.conninfo, dbname=name))

        error = refused(pool)

        assert error.retry_after is None
        assert "does not exist" in str(error.__cause__)
        with watching(breakable.conninfo) as watch:
            watch.ask(f"create database {name}")
            assert first_success(pool) < 2.0 + SCHEDULING
            pool.close()
            watch.ask(f"drop database {name} (force)")


class TestSilence:
    """Something listens, accepts, and never answers."""

    @pytest.fixture
    def silent(self) -> Iterator[str]:
        with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
            yield f"postgresql://u:p@127.0.0.1:{listener.getsockname()[1]}/d"

    def test_a_server_that_never_answers_is_unavailable_after_acquire_timeout(
        self, silent: str, make_pool: MakePool
    ) -> None:
        pool = make_pool(silent, acquire_timeout=1.0)

        began = time.monotonic()
        error = refused(pool)

        assert time.monotonic() - began < 1.0 + 0.05 + SCHEDULING
        assert error.__cause__ is not None

        until(lambda: fast_refusal(pool), within=5)

    def test_the_deadline_holds_while_connecting(self, silent: str, make_pool: MakePool) -> None:
        pool = make_pool(silent)

        began = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught, deadline(0.3):
            pool.query("select 1")

        assert 0.3 <= time.monotonic() - began < 0.35 + SCHEDULING
        assert caught.value.stage == "connecting"
        assert pool.stats().in_use == 0


def fast_refusal(pool: PostgresPool) -> bool:
    began = time.monotonic()
    refused(pool)
    return time.monotonic() - began < AT_ONCE


class TestFull:
    """The server is at its connection limit."""

    SLOTS = 5

    @pytest.fixture
    def full(self, own_postgres: Callable[..., PostgresServer]) -> PostgresServer:
        # Three are kept for superusers, and one is for the test itself, which is one.
        return own_postgres(max_connections=self.SLOTS + 3 + 1)

    def test_pool_lives_with_what_it_gets_and_recovers_from_nothing(
        self, full: PostgresServer, make_pool: MakePool
    ) -> None:
        with watching(full.conninfo) as watch:
            watch.ask("create role app login password 'app'")
            address = at(full.conninfo, user="app", password="app", application_name="limited")
            pool = make_pool(address, min_size=2, max_size=12, acquire_timeout=10)

            rows = together(30, lambda n: pool.query("select %s::int, pg_sleep(0.02)", [n]))

            assert [row[0][0] for row in rows] == list(range(30))
            assert len(watch.backends("limited")) <= self.SLOTS
            pool.close()
            until(lambda: not watch.backends("limited"))

            others = [psycopg.connect(address) for _ in range(self.SLOTS)]
            starved = make_pool(address, min_size=2, max_size=12)
            error = refused(starved)
            assert "slots are reserved" in str(error.__cause__)
            assert error.retry_after is not None

            for other in others:
                other.close()
            assert first_success(starved) < 1.0 + SCHEDULING
            assert_whole(starved, self.SLOTS)


class TestTerminated:
    """pg_terminate_backend, by an administrator or a failover."""

    def test_no_caller_notices_that_idle_backends_were_terminated(
        self, breakable: PostgresServer, make_pool: MakePool
    ) -> None:
        name = unique()
        pool = make_pool(at(breakable.conninfo, application_name=name), min_size=4, max_size=4)
        with watching(breakable.conninfo) as watch:
            warm_up(pool, 4)
            grow_stale()
            watch.terminate(watch.backends(name))

            rows = together(8, lambda n: pool.query("select %s::int", [n]))

            assert rows == [[(n,)] for n in range(8)]
            assert pool.stats().errors == 0
            assert_whole(pool, 4)

    def test_dead_backends_cost_at_most_one_caller_when_they_were_just_used(
        self, breakable: PostgresServer, make_pool: MakePool
    ) -> None:
        name = unique()
        pool = make_pool(at(breakable.conninfo, application_name=name), min_size=8, max_size=8)
        with watching(breakable.conninfo) as watch:
            warm_up(pool, 8)
            watch.terminate(watch.backends(name))

            failures = 0
            for _ in range(20):
                try:
                    pool.query("select 1")
                except OutcomeUnknown:
                    failures += 1

            assert failures <= 1

    def test_an_idempotent_query_does_not_notice_at_all(
        self, breakable: PostgresServer, make_pool: MakePool
    ) -> None:
        name = unique()
        pool = make_pool(at(breakable.conninfo, application_name=name), min_size=4, max_size=4)
        with watching(breakable.conninfo) as watch:
            warm_up(pool, 4)
            watch.terminate(watch.backends(name))

            for n in range(20):
                assert pool.query("select %s::int", [n], idempotent=True) == [(n,)]

    @pytest.mark.parametrize("block", ["connection", "transaction"])
    def test_a_lent_backend_fails_its_holder_only(
        self, breakable: PostgresServer, make_pool: MakePool, block: str
    ) -> None:
        name = unique()
        pool = make_pool(at(breakable.conninfo, application_name=name), min_size=2, max_size=2)
        with watching(breakable.conninfo) as watch:
            warm_up(pool, 2)
            with pytest.raises(psycopg.OperationalError):
                with getattr(pool, block)() as conn:
                    conn.execute("select 1")
                    watch.terminate({conn.info.backend_pid})
                    conn.execute("select 2")

            for _ in range(4):
                pool.query("select 1")
            assert_whole(pool, 2)

    def test_run_is_repeated_when_its_backend_is_terminated_before_the_commit(
        self, breakable: PostgresServer, make_pool: MakePool
    ) -> None:
        pool = make_pool(breakable.conninfo, min_size=1)
        pids: list[int] = []
        with watching(breakable.conninfo) as watch:

            def work(conn: psycopg.Connection[Any]) -> Any:
                pids.append(conn.info.backend_pid)
                conn.execute("select 1")
                if len(pids) == 1:
                    watch.terminate({pids[0]})
                return conn.execute("select 'done'").fetchone()

            assert pool.run(work) == ("done",)

        assert len(set(pids)) == 2
        assert pool.stats().retries == 1

    def test_kill_9_of_one_backend_is_survived(
        self, breakable: PostgresServer, make_pool: MakePool
    ) -> None:
        # PostgreSQL then ends all its backends, recovers, and takes connections again.
        pool = make_pool(breakable.conninfo, min_size=4, max_size=4)
        pids = warm_up(pool, 4)

        os.kill(min(pids), signal.SIGKILL)

        until(lambda: not any(alive(pid) for pid in pids))
        until(lambda: connects(breakable.conninfo))
        unknown = 0
        began = time.monotonic()
        while time.monotonic() - began < 1.0:
            try:
                pool.query("select 1")
                break
            except (BackendUnavailable, OutcomeUnknown) as error:
                unknown += isinstance(error, OutcomeUnknown)
                time.sleep(0.01)
        else:
            pytest.fail("no success within 1 s of the server being ready")
        assert unknown <= 1
        assert_whole(pool, 4)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class TestKilled:
    """kill -9 of the whole server."""

    def test_killed_while_idle_callers_know_at_once_and_the_cause(
        self, breakable: PostgresServer, make_pool: MakePool
    ) -> None:
        pool = make_pool(breakable.conninfo, min_size=4, max_size=4)
        warm_up(pool, 4)
        grow_stale()
        breakable.kill()

        began = time.monotonic()
        refused(pool)
        assert time.monotonic() - began < 0.5 + SCHEDULING

        slow = 0
        for _ in range(50):
            began = time.monotonic()
            error = refused(pool)
            slow += time.monotonic() - began > AT_ONCE
            assert isinstance(error.__cause__, psycopg.OperationalError)
            assert error.retry_after is not None
            assert 0 <= error.retry_after <= 0.5
        assert slow <= 1

        breakable.start()
        assert first_success(pool) < 1.0
        assert_whole(pool, 4)

    def test_nobody_notices_a_restart_that_is_over_when_they_come(
        self, breakable: PostgresServer, make_pool: MakePool
    ) -> None:
        pool = make_pool(breakable.conninfo, min_size=10, max_size=10)
        warm_up(pool, 10)
        grow_stale()
        breakable.kill()
        breakable.start()

        outcomes = together(20, lambda n: pool.query("select %s::int", [n]))

        assert outcomes == [[(n,)] for n in range(20)]
        assert_whole(pool, 10)

    def test_a_holder_who_does_nothing_does_not_hide_the_outage_from_others(
        self, breakable: PostgresServer, make_pool: MakePool
    ) -> None:
        pool = make_pool(breakable.conninfo, min_size=2, max_size=2, acquire_timeout=5)
        warm_up(pool, 2)
        grow_stale()
        held, over = threading.Event(), threading.Event()

        def hold() -> None:
            with pool.connection():
                held.set()
                over.wait(30)

        holder = Task(hold)
        assert held.wait(10)
        breakable.kill()
        try:
            began = time.monotonic()
            refused(pool)
            assert time.monotonic() - began < 0.5 + SCHEDULING
            assert fast_refusal(pool)
        finally:
            over.set()
        assert holder.outcome() is None
        breakable.start()
        assert first_success(pool) < 1.0
        assert_whole(pool, 2)

    def test_killed_under_load_no_write_is_doubled_or_lost_track_of(
        self, breakable: PostgresServer, make_pool: MakePool
    ) -> None:
        table = unique("t")
        with watching(breakable.conninfo) as watch:
            watch.ask(f"create table {table} (tag text not null)")
        pool = make_pool(breakable.conninfo, min_size=5, max_size=10)
        warm_up(pool, 10)
        over = threading.Event()
        busy = threading.Barrier(21)

        def load(number: int) -> list[tuple[str, str, float]]:
            seen: list[tuple[str, str, float]] = []
            for turn in range(1_000_000):
                if turn == 5:
                    busy.wait(20)
                if over.is_set():
                    break
                tag = f"{number}-{turn}"
                began = time.monotonic()
                try:
                    if number % 2:
                        assert pool.query("select %s", [tag], idempotent=True) == [(tag,)]
                    else:
                        insert = f"insert into {table} values (%s)"
                        assert pool.execute(insert, [tag]) == 1  # type: ignore[arg-type]
                    became = "done"
                except BackendUnavailable:
                    became = "unavailable"
                except OutcomeUnknown:
                    became = "unknown"
                seen.append((tag, became, time.monotonic() - began))
                if became != "done":
                    time.sleep(0.02)
            return seen

        threads = [Task(load, n) for n in range(20)]
        busy.wait(20)
        breakable.kill()
        until(lambda: pool.stats().refused >= 40)
        breakable.start()
        ready = time.monotonic()
        works = Task(lambda: first_success(pool))
        works.outcome()
        assert works.error is None, works.error
        assert time.monotonic() - ready < 1.0 + SCHEDULING
        operations = pool.stats().operations
        until(lambda: pool.stats().operations > operations + 200)
        over.set()
        outcomes = [thread.outcome() for thread in threads]

        assert all(isinstance(seen, list) for seen in outcomes), outcomes
        with watching(breakable.conninfo) as watch:
            rows = watch.ask(f"select tag, count(*) from {table} group by tag")
        count: dict[str, int] = dict(rows)  # type: ignore[arg-type]
        refusals = [
            seconds for seen in outcomes for _, became, seconds in seen if became == "unavailable"
        ]
        assert statistics.median(refusals) < AT_ONCE
        for number, seen in enumerate(outcomes):
            results = [became for _, became, _ in seen]
            # One dead connection was met in use; the others were not met one by one.
            assert results.count("unknown") <= (0 if number % 2 else 1)
            if number % 2 == 0:
                for tag, became, _ in seen:
                    here = count.get(tag, 0)
                    expected = {"done": {1}, "unavailable": {0}, "unknown": {0, 1}}
                    # fsync is off, but the kernel keeps what a killed process wrote.
                    assert here in expected[became], (tag, became, here)
        assert_whole(pool, 10)

    @pytest.mark.slow
    def test_a_long_outage_is_probed_by_one_and_ends_within_a_second(
        self, breakable: PostgresServer, make_pool: MakePool, make_proxy: MakeProxy
    ) -> None:
        proxy = make_proxy(breakable)
        pool = make_pool(at(breakable.conninfo, port=proxy.port), min_size=5, max_size=20)
        warm_up(pool, 5)
        breakable.kill()
        until(lambda: isinstance(refusal(pool), BackendUnavailable))
        before = proxy.connections_total
        over = threading.Event()

        def call() -> list[float]:
            seconds = []
            while not over.is_set():
                began = time.monotonic()
                refused(pool)
                seconds.append(time.monotonic() - began)
                over.wait(0.01)
            return seconds

        callers = [Task(call) for _ in range(8)]
        outage = 5.0
        over.wait(outage)
        attempts = proxy.connections_total - before
        over.set()
        outcomes = [caller.outcome() for caller in callers]

        assert all(isinstance(seconds, list) for seconds in outcomes), outcomes
        everything = sorted(seconds for caller in outcomes for seconds in caller)
        assert everything[int(len(everything) * 0.99)] < AT_ONCE
        # Pauses of 0.25 to 0.5 s once the backoff has grown, after some shorter ones. If it grew on: 8 at most.
        assert 2 * outage <= attempts <= outage / 0.25 + 8

        breakable.start()
        assert first_success(pool) < 1.0
        assert_whole(pool, 20)


class TestFrozen:
    """SIGSTOP: the kernel still accepts, and nobody answers."""

    @pytest.mark.parametrize("stale", [False, True], ids=["fresh", "stale"])
    def test_the_deadline_holds_and_it_works_when_the_server_goes_on(
        self, breakable: PostgresServer, make_pool: MakePool, stale: bool
    ) -> None:
        pool = make_pool(breakable.conninfo, min_size=3, max_size=3)
        warm_up(pool, 3)
        if stale:
            grow_stale()
        breakable.pause()
        try:
            for _ in range(4):  # one more than there are connections
                began = time.monotonic()
                with pytest.raises(DeadlineExceeded), deadline(0.3):
                    pool.query("select 1")
                assert time.monotonic() - began < 0.35 + SCHEDULING
        finally:
            breakable.resume()

        assert first_success(pool) < 2.0
        assert_whole(pool, 3)

    def test_a_block_ends_by_its_deadline_too(
        self, breakable: PostgresServer, make_pool: MakePool
    ) -> None:
        pool = make_pool(breakable.conninfo, min_size=1, max_size=1)
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded), deadline(1.5):
            with pool.transaction() as conn:
                conn.execute("select 1")
                breakable.pause()
                conn.execute("select 2")
        assert time.monotonic() - began < 1.55 + SCHEDULING
        breakable.resume()

        assert first_success(pool) < 2.0
        assert_whole(pool, 1)

    def test_without_a_deadline_the_statement_timeout_holds(
        self, breakable: PostgresServer, make_pool: MakePool
    ) -> None:
        pool = make_pool(breakable.conninfo, min_size=1, max_size=1, statement_timeout=0.5)
        pool.query("select 1")
        breakable.pause()
        try:
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                pool.query("select 1")
            assert time.monotonic() - began < 1.05 + SCHEDULING
        finally:
            breakable.resume()
        assert first_success(pool) < 2.0
