"""A Redis cache in front of PostgreSQL: requests that read through it, and one that goes away."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import monotonic, perf_counter, sleep
from typing import Any

import psycopg
import redis

from poolkit import PoolOverloaded, PoolTimeout, PostgresPool, RedisPool, embedded

from .outage import kill_and_start_again
from .scene import Claim, Contender, Outage, Run
from .workload import Lookup, Measured, Workload, milliseconds

ORDERS = 20_000
CUSTOMERS = 1_000
REQUESTS_A_KEY = 10
COLD = 10  # every so many-th total is not in the cache when a run begins
MAX_SIZE = 20
TTL = 60
PIPELINED = 100
ROUNDS = 31

# Nobody has made an index on customer: this is worth a cache.
_TOTAL = "select sum(cents)::text from orders where customer = %s"

_CACHED_FOR = "total:{}"


def _sum(customer: int) -> str:
    return str(sum(range(customer - 1, ORDERS, CUSTOMERS)))


@dataclass(frozen=True)
class Addresses:
    """Where the two servers are; the cache's own switches, to kill it."""

    postgres: str
    redis: str
    cache: embedded.RedisServer


@dataclass(frozen=True)
class NoCache:
    """Every request queries PostgreSQL."""

    name: str = "no cache"

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        return (PoolTimeout, PoolOverloaded)

    @contextmanager
    def open(self, address: Addresses, *, seconds: float) -> Iterator[Lookup]:
        with PostgresPool(
            address.postgres, max_size=MAX_SIZE, acquire_timeout=seconds, slow_query=math.inf
        ) as db:
            yield lambda key: _total(db, key)


@dataclass(frozen=True)
class RedisPyNoPool:
    """A new client of redis-py, and so a new connection, for every request."""

    name: str = "redis-py, no pool"

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        return (*NoCache().refusals, redis.ConnectionError, redis.TimeoutError)

    @contextmanager
    def open(self, address: Addresses, *, seconds: float) -> Iterator[Lookup]:
        with NoCache().open(address, seconds=seconds) as query:

            def lookup(key: int) -> object:
                with redis.Redis.from_url(address.redis, decode_responses=True) as client:
                    return _read_through(client, query, key)

            yield lookup


@dataclass(frozen=True)
class RedisPy:
    """One client of redis-py for all threads, as its documentation shows it."""

    name: str = "redis-py"

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        return RedisPyNoPool().refusals

    @contextmanager
    def open(self, address: Addresses, *, seconds: float) -> Iterator[Lookup]:
        with (
            NoCache().open(address, seconds=seconds) as query,
            redis.Redis.from_url(address.redis, decode_responses=True) as client,
        ):
            yield lambda key: _read_through(client, query, key)


@dataclass(frozen=True)
class RedisPyBlocking:
    """The same over its pool for those who would rather wait than fail."""

    name: str = "redis-py, blocking"

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        return RedisPyNoPool().refusals

    @contextmanager
    def open(self, address: Addresses, *, seconds: float) -> Iterator[Lookup]:
        pool = redis.BlockingConnectionPool.from_url(
            address.redis, max_connections=MAX_SIZE, timeout=seconds, decode_responses=True
        )
        with (
            NoCache().open(address, seconds=seconds) as query,
            redis.Redis.from_pool(pool) as client,
        ):
            yield lambda key: _read_through(client, query, key)


@dataclass(frozen=True)
class Poolkit:
    """``poolkit.RedisPool``."""

    name: str = "poolkit"

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        return NoCache().refusals

    @contextmanager
    def open(self, address: Addresses, *, seconds: float) -> Iterator[Lookup]:
        with (
            NoCache().open(address, seconds=seconds) as query,
            RedisPool(address.redis, max_size=MAX_SIZE, acquire_timeout=seconds) as cache,
        ):
            yield _through(cache, query)


def _total(db: PostgresPool, key: int) -> object:
    ((total,),) = db.query(_TOTAL, [key])
    return total


def _through(cache: RedisPool, query: Lookup) -> Lookup:
    """Return the request of an application with poolkit's pools."""

    def lookup(key: int) -> object:
        name = _CACHED_FOR.format(key)
        total: Any = cache.get(name)
        if total is None:
            total = query(key)
            cache.set(name, total, ttl=TTL)
        return total

    return lookup


def _read_through(client: redis.Redis, query: Lookup, key: int) -> object:
    """Serve the same request with redis-py's own client."""
    name = _CACHED_FOR.format(key)
    total: Any = client.get(name)
    if total is None:
        total = query(key)
        client.set(name, total, ex=TTL)
    return total


class Servers:
    """The two servers, seen through a connection of its own to each."""

    def __init__(self, address: Addresses, conn: psycopg.Connection, client: redis.Redis) -> None:
        self.address = address
        self._conn = conn
        self._client = client
        self._query_takes = 0.0

    @property
    def description(self) -> str:
        version = self._conn.info.server_version
        return (
            f"Redis {self._info('server')['redis_version']} in front of"
            f" PostgreSQL {version // 10_000}.{version % 10_000}, on this machine;"
            f" the query takes {milliseconds(self._query_takes)} ms by itself"
        )

    def create_data(self) -> None:
        self._conn.execute("create table orders (customer integer not null, cents bigint not null)")
        self._conn.execute(
            "insert into orders select n %% %s + 1, n from generate_series(0, %s) n",
            [CUSTOMERS, ORDERS - 1],
        )
        self._conn.execute("vacuum analyze orders")
        self._query_takes = _timed(
            lambda: self._conn.execute(_TOTAL, [1]).fetchall(), rounds=ROUNDS
        )

    def census(self) -> Census:
        """Return a count of the next contender's connections, which finds the cache as all the others do."""
        self._client.flushall()
        warm = (key for key in range(1, CUSTOMERS + 1) if key % COLD)
        self._client.mset({_CACHED_FOR.format(key): _sum(key) for key in warm})
        return Census(self)

    def connections(self) -> int:
        """Return the number of clients' connections now, besides this object's own."""
        row = self._conn.execute(
            "select count(*) from pg_stat_activity"
            " where backend_type = 'client backend' and pid <> pg_backend_pid()"
        ).fetchone()
        assert row is not None
        return int(row[0]) + int(self._info("clients")["connected_clients"]) - 1

    def sessions(self) -> int:
        """Return the number of connections ever opened; sure of those only that are closed."""
        row = self._conn.execute("select sum(sessions) from pg_stat_database").fetchone()
        assert row is not None
        return int(row[0]) + int(self._info("stats")["total_connections_received"])

    def reads(self) -> tuple[int, int]:
        """Return how many reads of the cache found something, and how many did not."""
        stats = self._info("stats")
        return int(stats["keyspace_hits"]), int(stats["keyspace_misses"])

    def _info(self, section: str) -> dict[str, Any]:
        found: Any = self._client.info(section)
        return dict(found)


class Census:
    """See :class:`~.scene.Census`."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._sessions_before = servers.sessions()
        self._reads_before = servers.reads()
        self.peak = 0
        self.opened = 0
        self.hit_rate: float | None = None

    def look(self) -> None:
        self.peak = max(self.peak, self._servers.connections())

    def close(self) -> None:
        give_up = monotonic() + 5
        while self._servers.connections() and monotonic() < give_up:
            sleep(0.02)
        self.opened = self._servers.sessions() - self._sessions_before
        hits, misses = (
            now - before
            for now, before in zip(self._servers.reads(), self._reads_before, strict=True)
        )
        if hits + misses:
            self.hit_rate = hits / (hits + misses)


@dataclass(frozen=True)
class CacheScene:
    """See :class:`~.scene.Scene`."""

    title: str = "Redis in front of PostgreSQL"
    request: str = (
        "A request reads a customer's total from the cache; if it isn't there, it adds up the orders"
        f"\nin PostgreSQL and stores the total for {TTL} s. At first the cache has"
        f" {COLD - 1} of {COLD} totals.\nAll have the same PostgresPool;"
        f" a pool of either kind has up to {MAX_SIZE} connections."
    )
    contenders: Sequence[Contender[Addresses]] = (
        NoCache(),
        RedisPyNoPool(),
        RedisPy(),
        RedisPyBlocking(),
        Poolkit(),
    )
    patience: float = 2.0
    last_step: str = "kill Redis and start it again"

    def workload(self, *, threads: int, requests_per_thread: int) -> Workload:
        return Workload(
            threads=threads,
            requests_per_thread=requests_per_thread,
            keys=min(CUSTOMERS, max(1, threads * requests_per_thread // REQUESTS_A_KEY)),
            value=_sum,
        )

    @contextmanager
    def open(self) -> Iterator[Servers]:
        cache = embedded.RedisServer()
        with (
            embedded.postgres() as conninfo,
            cache as url,
            psycopg.connect(conninfo, autocommit=True) as conn,
            redis.Redis.from_url(url, single_connection_client=True) as client,
        ):
            servers = Servers(Addresses(conninfo, url, cache), conn, client)
            servers.create_data()
            yield servers

    def claims(
        self,
        runs: Sequence[Run],
        workload: Workload,  # noqa: ARG002
        address: Addresses,
    ) -> list[Claim]:
        measured = {run.contender: run.measured for run in runs}
        ours = measured[Poolkit().name]
        return [
            _times(
                "A cache in front gives more throughput\nthan the database alone",
                measured[NoCache().name],
                ours,
            ),
            _times(
                "Pooled connections to the cache beat\none a request",
                measured[RedisPyNoPool().name],
                ours,
            ),
            _pipelines_are_faster(address.redis),
        ]

    def finale(self, workload: Workload, address: Addresses) -> Outage:
        with NoCache().open(address, seconds=10.0) as query:
            return kill_and_start_again(
                address.cache, workload, request=lambda cache: _through(cache, query)
            )


def _times(text: str, before: Measured, ours: Measured) -> Claim:
    old, new = before.throughput, ours.throughput
    ratio = new / old if old else math.nan
    return Claim(
        text=text,
        measured=f"{old:,.0f} -> {new:,.0f} req/s: {ratio:.1f} ×",
        met=None if math.isnan(ratio) else ratio > 1,
    )


def _pipelines_are_faster(url: str) -> Claim:
    names = [f"pipelined:{number}" for number in range(PIPELINED)]
    lines, ratios = [], []
    with RedisPool(url, max_size=1) as cache:
        for commands in (
            [("SET", name, "value") for name in names],
            [("GET", name) for name in names],
        ):

            def one_by_one(commands: Sequence[tuple[str, ...]] = commands) -> None:
                for words in commands:
                    cache.execute(*words)

            def together(commands: Sequence[tuple[str, ...]] = commands) -> None:
                cache.pipeline(commands)

            before, after = _timed(one_by_one, rounds=ROUNDS), _timed(together, rounds=ROUNDS)
            ratios.append(before / after)
            lines.append(
                f"{PIPELINED} {commands[0][0]}s: {milliseconds(before)} -> {milliseconds(after)} ms:"
                f" {ratios[-1]:.0f} ×"
            )
    return Claim(
        text="A pipeline is 10 × faster than single\ncommands (here: without a network between)",
        measured="\n".join(lines),
        met=min(ratios) >= 10,
    )


def _timed(work: Callable[[], object], *, rounds: int) -> float:
    """Return the median time of *rounds*, after one that doesn't count."""
    times = []
    for _ in range(rounds + 1):
        began = perf_counter()
        work()
        times.append(perf_counter() - began)
    return median(times[1:])
