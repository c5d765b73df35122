"""PostgreSQL: one key lookup a request, without a pool, with psycopg's, and with poolkit's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep

import psycopg
import psycopg_pool

from poolkit import PoolOverloaded, PoolTimeout, PostgresPool, embedded

from .leak import leak_a_connection
from .scene import Claim, Contender, Leak, Run
from .workload import Lookup, Measured, Workload, milliseconds

CUSTOMERS = 10_000
MIN_SIZE, MAX_SIZE = 5, 20
AT_ONCE = 80
CLAIMED_THREADS = 500

_LOOKUP = "select name from customers where id = %s"


def _name(key: int) -> str:
    return f"customer {key}"


@dataclass(frozen=True)
class NoPool:
    """A new connection for every request."""

    name: str = "no pool"

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        return (psycopg.OperationalError,)

    @contextmanager
    def open(self, address: str, *, seconds: float) -> Iterator[Lookup]:
        connect_timeout = max(2, round(seconds))

        def lookup(key: int) -> object:
            with psycopg.connect(address, autocommit=True, connect_timeout=connect_timeout) as conn:
                return _only(conn.execute(_LOOKUP, [key]).fetchall())

        yield lookup


@dataclass(frozen=True)
class NoPoolInTurn:
    """The same, with no more requests at once than the server takes; the others wait in a line."""

    at_once: int = AT_ONCE

    @property
    def name(self) -> str:
        return f"no pool, {self.at_once} at once"

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        return NoPool().refusals

    @contextmanager
    def open(self, address: str, *, seconds: float) -> Iterator[Lookup]:
        # An executor takes turns in order. A semaphore doesn't: some threads would wait till last.
        with (
            NoPool().open(address, seconds=seconds) as lookup,
            ThreadPoolExecutor(self.at_once) as line,
        ):
            try:
                yield lambda key: line.submit(lookup, key).result()
            finally:
                line.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class PsycopgPool:
    """``psycopg_pool.ConnectionPool`` as its documentation shows it."""

    name: str = "psycopg_pool"

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        return (psycopg_pool.PoolTimeout,)

    @contextmanager
    def open(self, address: str, *, seconds: float) -> Iterator[Lookup]:
        with psycopg_pool.ConnectionPool(
            address, min_size=MIN_SIZE, max_size=MAX_SIZE, timeout=seconds, open=False
        ) as pool:
            pool.wait(seconds)

            def lookup(key: int) -> object:
                with pool.connection() as conn:
                    return _only(conn.execute(_LOOKUP, [key]).fetchall())

            yield lookup


@dataclass(frozen=True)
class PoolkitPool:
    """``poolkit.PostgresPool.query``."""

    name: str = "poolkit"

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        return (PoolTimeout, PoolOverloaded)

    @contextmanager
    def open(self, address: str, *, seconds: float) -> Iterator[Lookup]:
        with PostgresPool(
            address, min_size=MIN_SIZE, max_size=MAX_SIZE, acquire_timeout=seconds
        ) as db:
            # Like psycopg_pool's wait(): both start with the same number of connections.
            give_up = monotonic() + seconds
            while db.stats().size < MIN_SIZE and monotonic() < give_up:
                sleep(0.01)
            yield lambda key: _only(db.query(_LOOKUP, [key]))


def _only(rows: Sequence[tuple[object, ...]]) -> object:
    ((value,),) = rows
    return value


class Server:
    """The server under test, seen through a connection of its own."""

    def __init__(self, address: str, conn: psycopg.Connection) -> None:
        self.address = address
        self._conn = conn

    @property
    def description(self) -> str:
        version = self._conn.info.server_version
        (limit,) = self._one("select current_setting('max_connections')")
        return (
            f"PostgreSQL {version // 10_000}.{version % 10_000} on this machine, "
            f"at most {limit} connections"
        )

    def create_data(self) -> None:
        self._conn.execute("create table customers (id integer primary key, name text not null)")
        self._conn.execute(
            "insert into customers select n, 'customer ' || n from generate_series(1, %s) n",
            [CUSTOMERS],
        )
        self._conn.execute("vacuum analyze customers")

    def census(self) -> Census:
        return Census(self)

    def connections(self) -> int:
        """Return the number of clients' connections now, besides this object's own."""
        (count,) = self._one(
            "select count(*) from pg_stat_activity"
            " where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
        return int(str(count))

    def sessions(self) -> int:
        """Return the number of connections ever opened; sure of those only that are closed."""
        (count,) = self._one("select sum(sessions) from pg_stat_database")
        return int(str(count))

    def _one(self, statement: str) -> tuple[object, ...]:
        row = self._conn.execute(statement.encode()).fetchone()
        assert row is not None
        return row


class Census:
    """See :class:`~.scene.Census`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._sessions_before = server.sessions()
        self.peak = 0
        self.opened = 0
        self.hit_rate: float | None = None

    def look(self) -> None:
        self.peak = max(self.peak, self._server.connections())

    def close(self) -> None:
        give_up = monotonic() + 5
        while self._server.connections() and monotonic() < give_up:
            sleep(0.02)
        self.opened = self._server.sessions() - self._sessions_before


@dataclass(frozen=True)
class PostgresScene:
    """See :class:`~.scene.Scene`."""

    title: str = "PostgreSQL"
    request: str = (
        "A request looks up one customer by key."
        f" Each pool has {MIN_SIZE} to {MAX_SIZE} connections."
    )
    patience: float = math.inf
    last_step: str = "leak a connection"
    contenders: Sequence[Contender[str]] = (
        NoPool(),
        NoPoolInTurn(),
        PsycopgPool(),
        PoolkitPool(),
    )

    def workload(self, *, threads: int, requests_per_thread: int) -> Workload:
        return Workload(
            threads=threads, requests_per_thread=requests_per_thread, keys=CUSTOMERS, value=_name
        )

    @contextmanager
    def open(self) -> Iterator[Server]:
        with (
            embedded.postgres() as conninfo,
            psycopg.connect(conninfo, autocommit=True) as conn,
        ):
            server = Server(conninfo, conn)
            server.create_data()
            yield server

    def claims(self, runs: Sequence[Run], workload: Workload, address: str) -> list[Claim]:  # noqa: ARG002
        measured = {run.contender: run.measured for run in runs}
        return [
            _latency_cut(
                [measured[NoPool().name], measured[NoPoolInTurn().name]],
                measured[PoolkitPool().name],
            ),
            _all_under_100_ms(measured[PoolkitPool().name], workload.threads),
        ]

    def finale(self, workload: Workload, address: str) -> Leak:  # noqa: ARG002
        return leak_a_connection(address)


def _latency_cut(without: Sequence[Measured], ours: Measured) -> Claim:
    """Compare with the quicker run without a pool, which is the harder comparison."""
    answered = [run for run in without if run.answered]
    lines, cuts = [], []
    for percent in (50, 99):
        before = min((run.percentile(percent) for run in answered), default=math.nan)
        after = ours.percentile(percent)
        cuts.append(1 - after / before)
        change = -100 * cuts[-1]
        lines.append(
            f"p{percent} {milliseconds(before)} -> {milliseconds(after)} ms: {change:+.0f} %"
        )
    return Claim(
        text="A pool cuts latency by 70 to 90 %\n(here: the quicker run without one)",
        measured="\n".join(lines),
        met=min(cuts) >= 0.7 if answered and ours.answered else None,
    )


def _all_under_100_ms(ours: Measured, threads: int) -> Claim:
    p99 = ours.percentile(99)
    return Claim(
        text=f"{CLAIMED_THREADS} concurrent requests in under 100 ms",
        measured=f"{threads} threads: p99 {milliseconds(p99)} ms, {ours.errors} errors",
        met=(p99 < 0.1 and not ours.errors and not ours.cut_short)
        if threads >= CLAIMED_THREADS
        else None,
    )
