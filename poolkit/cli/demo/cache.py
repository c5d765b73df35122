"""Redis in front of PostgreSQL: a sum that takes milliseconds to make, asked for again and again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Protocol

import psycopg
import redis

from poolkit import PoolOverloaded, PoolTimeout, PostgresPool, RedisPool, embedded

from .scene import Claim, Contender, Leak, Run
from .workload import Lookup, Measured, Workload, milliseconds

CUSTOMERS = 199  # a prime: the first requests of all threads then want all of them
ORDERS = 500 * CUSTOMERS
SIZE = 20
TTL = 300  # s
MAX_CLIENTS = 1100

_SUM = "select sum(amount) from orders where customer = %s"


def _total(key: int) -> str:
    return str(ORDERS // CUSTOMERS * key)


class _Cache(Protocol):
    def get(self, key: str) -> object: ...

    def set(self, key: str, value: str) -> object: ...


def _read_through(cache: _Cache, db: PostgresPool) -> Lookup:
    """Return what serves a request: from the cache, else from the database, and then into the cache."""

    def lookup(key: int) -> object:
        found = cache.get(f"total:{key}")
        if found is None:
            ((total,),) = db.query(_SUM, [key])
            found = str(total)
            cache.set(f"total:{key}", found)
        return found

    return lookup


@contextmanager
def _database(address: str, seconds: float) -> Iterator[PostgresPool]:
    with PostgresPool(address, min_size=5, max_size=SIZE, acquire_timeout=seconds) as db:
        give_up = monotonic() + seconds
        while db.stats().size < 5 and monotonic() < give_up:
            sleep(0.01)
        yield db


def _addresses(address: str) -> tuple[str, str]:
    """Return those of PostgreSQL and of Redis."""
    database, _, cache = address.partition(" ")
    return database, cache


_REFUSALS = (PoolTimeout, PoolOverloaded, redis.ConnectionError)


@dataclass(frozen=True)
class NoCache:
    """Every request asks PostgreSQL."""

    name: str = "no cache"
    refusals: tuple[type[Exception], ...] = _REFUSALS

    @contextmanager
    def open(self, address: str, *, seconds: float) -> Iterator[Lookup]:
        database, _ = _addresses(address)
        with _database(database, seconds) as db:
            yield lambda key: str(db.query(_SUM, [key])[0][0])


@dataclass(frozen=True)
class ConnectPerRequest:
    """A new connection to Redis for every request."""

    name: str = "cache, a connection a request"
    refusals: tuple[type[Exception], ...] = _REFUSALS

    @contextmanager
    def open(self, address: str, *, seconds: float) -> Iterator[Lookup]:
        database, url = _addresses(address)
        with _database(database, seconds) as db:

            def lookup(key: int) -> object:
                with closing(redis.Redis.from_url(url, decode_responses=True)) as cache:
                    return _read_through(_Expiring(cache), db)(key)

            yield lookup


@dataclass(frozen=True)
class RedisPy:
    """redis-py's pool that makes threads wait."""

    name: str = "cache, redis-py's pool"
    refusals: tuple[type[Exception], ...] = _REFUSALS

    @contextmanager
    def open(self, address: str, *, seconds: float) -> Iterator[Lookup]:
        database, url = _addresses(address)
        pool = redis.BlockingConnectionPool.from_url(
            url, max_connections=SIZE, timeout=seconds, decode_responses=True
        )
        with (
            _database(database, seconds) as db,
            closing(redis.Redis(connection_pool=pool)) as cache,
        ):
            yield _read_through(_Expiring(cache), db)
        pool.disconnect()


class _Expiring:
    """redis-py's client, with a time to live for all that is set."""

    def __init__(self, client: redis.Redis) -> None:
        self.get = client.get
        self._client = client

    def set(self, key: str, value: str) -> object:
        return self._client.set(key, value, ex=TTL)


@dataclass(frozen=True)
class Poolkit:
    """``poolkit.RedisPool``."""

    name: str = "cache, poolkit"
    refusals: tuple[type[Exception], ...] = _REFUSALS

    @contextmanager
    def open(self, address: str, *, seconds: float) -> Iterator[Lookup]:
        database, url = _addresses(address)
        with (
            _database(database, seconds) as db,
            RedisPool(url, max_size=SIZE, acquire_timeout=seconds) as cache,
        ):

            class Expiring:
                get = cache.get

                def set(self, key: str, value: str) -> object:
                    return cache.set(key, value, ttl=TTL)

            yield _read_through(Expiring(), db)


class Servers:
    """Both servers; connections are counted at Redis."""

    def __init__(self, database: str, cache: embedded.RedisServer) -> None:
        self.address = f"{database} {cache.url}"
        self._cache = cache

    @property
    def description(self) -> str:
        version = self._cache.info("INFO", "server")["redis_version"]
        return f"Redis {version} in front of PostgreSQL, both on this machine"

    def census(self) -> Census:
        """Return a count of the next contender's connections, which finds the cache empty."""
        self._cache.ask("FLUSHALL")
        return Census(self._cache)


class Census:
    """See :class:`~.scene.Census`. What asks is a connection of its own, each time."""

    def __init__(self, server: embedded.RedisServer) -> None:
        self._server = server
        self._looks = 1
        self._before = self._read("stats", "total_connections_received")
        self.peak = 0
        self.opened = 0

    def look(self) -> None:
        self._looks += 1
        self.peak = max(self.peak, self._read("clients", "connected_clients") - 1)

    def close(self) -> None:
        self.opened = self._read("stats", "total_connections_received") - self._before - self._looks

    def _read(self, section: str, name: str) -> int:
        return int(self._server.info("INFO", section)[name])


@dataclass(frozen=True)
class CacheScene:
    """See :class:`~.scene.Scene`."""

    title: str = "Redis in front of PostgreSQL"
    request: str = (
        f"A request wants the sum of one of {CUSTOMERS} customers' orders: from the cache, else from"
        f" PostgreSQL.\nEach pool has at most {SIZE} connections; those to Redis are counted."
    )
    contenders: Sequence[Contender] = (NoCache(), ConnectPerRequest(), RedisPy(), Poolkit())

    def workload(self, *, threads: int, requests_per_thread: int) -> Workload:
        return Workload(
            threads=threads, requests_per_thread=requests_per_thread, keys=CUSTOMERS, value=_total
        )

    @contextmanager
    def open(self) -> Iterator[Servers]:
        cache = embedded.RedisServer(settings={"maxclients": str(MAX_CLIENTS)})
        with ExitStack() as stack:
            database = stack.enter_context(embedded.postgres())
            stack.enter_context(cache)
            with psycopg.connect(database, autocommit=True) as conn:
                conn.execute("create table orders (customer integer, amount bigint)")
                conn.execute(
                    "insert into orders select 1 + n %% %s, 1 + n %% %s from generate_series(1, %s) n",
                    [CUSTOMERS, CUSTOMERS, ORDERS],
                )
                conn.execute("vacuum analyze orders")
            yield Servers(database, cache)

    def claims(self, runs: Sequence[Run], workload: Workload) -> list[Claim]:  # noqa: ARG002
        measured = {run.contender: run.measured for run in runs}
        without, ours = measured[NoCache().name], measured[Poolkit().name]
        return [
            _times("A cache in front gives more throughput than the database alone", without, ours),
            _times(
                "A pooled connection to the cache beats one a request",
                measured[ConnectPerRequest().name],
                ours,
            ),
        ]

    def leak(self, address: str) -> Leak | None:  # noqa: ARG002
        """Return None: the first scene has shown it."""
        return None


def _times(text: str, before: Measured, ours: Measured) -> Claim:
    old, new = before.throughput, ours.throughput
    ratio = new / old if old else math.nan
    p50 = [milliseconds(run.percentile(50)) for run in (before, ours)]
    return Claim(
        text=text,
        measured=f"{old:,.0f} -> {new:,.0f} req/s: × {ratio:.1f}\np50 {p50[0]} -> {p50[1]} ms",
        met=None if math.isnan(ratio) else ratio > 1,
    )
