"""What tests of bad days share: eyes on the server, bounded polling, and what becomes of a pool."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from poolkit import BackendUnavailable, OutcomeUnknown, PostgresPool
from poolkit.embedded import guardian
from tests.core.support import Task

SCHEDULING = 0.15
"""Seconds that a busy machine may add to what is promised."""

_numbers = itertools.count()


def until(true: Callable[[], Any], *, within: float = 15.0, every: float = 0.005) -> Any:
    """Return what *true* returns as soon as it is true; fail if it isn't after *within* seconds."""
    limit = time.monotonic() + within
    while not (value := true()):
        assert time.monotonic() < limit, f"{true} did not come true within {within:g} s"
        time.sleep(every)
    return value


def unique(prefix: str = "poolkit") -> str:
    """Return a name that nothing else on the server has."""
    return f"{prefix}_{os.getpid()}_{next(_numbers)}"


def at(conninfo: str, **parameters: Any) -> str:
    """Return *conninfo* with some of its parameters changed."""
    return make_conninfo(conninfo, **parameters)


class Watch:
    """A connection of the test's own, to look at what a pool does on the server."""

    def __init__(self, conninfo: str) -> None:
        self._conn = psycopg.connect(conninfo, autocommit=True)
        self._lock = threading.Lock()

    def ask(self, text: Any, params: Any = None) -> list[tuple[Any, ...]]:
        with self._lock:
            cursor = self._conn.execute(text, params)
            return cursor.fetchall() if cursor.description else []

    def backends(self, name: str) -> set[int]:
        """Return the pids of the backends of the pool with that application_name."""
        rows = self.ask("select pid from pg_stat_activity where application_name = %s", [name])
        return {row[0] for row in rows}

    def running(self, text: str) -> set[int]:
        """Return the pids of backends that run a statement with *text* in it now."""
        rows = self.ask(
            "select pid from pg_stat_activity"
            " where state = 'active' and pid <> pg_backend_pid() and query like %s",
            [f"%{text}%"],
        )
        return {row[0] for row in rows}

    def terminate(self, pids: set[int]) -> None:
        """Terminate backends; on return they are gone."""
        self.ask("select pg_terminate_backend(p) from unnest(%s::int[]) p", [list(pids)])
        until(lambda: guardian.none_runs(pids))  # the server itself would look each 0.1 s

    def close(self) -> None:
        self._conn.close()


@contextmanager
def watching(conninfo: str) -> Iterator[Watch]:
    watch = Watch(conninfo)
    try:
        yield watch
    finally:
        watch.close()


def together(count: int, work: Callable[[int], Any], *, within: float = 30.0) -> list[Any]:
    """Call ``work(0)`` … ``work(count - 1)`` at the same time; return results and errors, in order."""
    start = threading.Barrier(count)

    def one(number: int) -> Any:
        start.wait(within)
        return work(number)

    limit = time.monotonic() + within
    threads = [Task(one, n, name=f"together-{n}") for n in range(count)]
    return [thread.outcome(max(0.1, limit - time.monotonic())) for thread in threads]


def warm_up(pool: PostgresPool, count: int) -> set[int]:
    """Make *pool* open *count* connections at least; return their backends' pids."""
    held = threading.Barrier(count)

    def hold(_: int) -> int:
        with pool.connection() as conn:
            held.wait(30)
            return conn.info.backend_pid

    pids = together(count, hold)
    assert all(isinstance(pid, int) for pid in pids), pids
    return set(pids)


def refusal(pool: PostgresPool) -> BaseException | None:
    """Call once; return the error if that is one of an outage, None if it worked."""
    try:
        pool.query("select 1")
    except (BackendUnavailable, OutcomeUnknown) as error:
        return error
    return None


def first_success(pool: PostgresPool, *, within: float = 10.0) -> float:
    """Call until it works; return the seconds that took. Errors have to be those of an outage."""
    began = time.monotonic()
    while True:
        try:
            assert pool.query("select 1", idempotent=True) == [(1,)]
            return time.monotonic() - began
        except BackendUnavailable:
            assert time.monotonic() - began < within
            time.sleep(0.01)


def assert_whole(pool: PostgresPool, size: int) -> None:
    """Make sure that nothing was lost: nobody holds, nobody waits, and *size* connections can be had at once."""
    until(lambda: pool.stats().in_use == 0 and pool.stats().waiting == 0)
    first_success(pool)
    assert len(warm_up(pool, size)) == size
    until(lambda: pool.stats().in_use == 0)


def our_threads() -> set[str]:
    """Return the names of the threads that poolkit and psycopg_pool have running."""
    return {
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith("poolkit-")
        or "-worker-" in thread.name
        or "-scheduler" in thread.name
    }
