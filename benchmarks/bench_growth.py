"""What a request costs as the work grows: more threads, more connections, longer answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import psycopg
import psycopg_pool
import redis

from benchmarks import growth, web
from benchmarks.answers import Answer
from benchmarks.asks import Ask, asking
from benchmarks.crew import Contender
from benchmarks.growth import Line, Plot
from benchmarks.harness import Plan, Race, Results
from benchmarks.progress import Watcher
from benchmarks.targets import COST, P50, P99, Finding
from poolkit.embedded import PostgresServer, RedisServer

QUESTIONS = ("threads", "connections", "bytes")
PACKAGES = ("psycopg", "psycopg-pool", "redis", "urllib3")

SIZE = 20
WAIT = 30.0
THREADS = (1, 10, 100, 500)
CONNECTIONS = (1, 3, 10, 30, 100)
CALLERS = 100
BYTES = {1: "1 B", 100: "100 B", 10_000: "10 kB", 1_000_000: "1 MB", 10_000_000: "10 MB"}
MOST = 700  # connections a server takes
SOON = 100.0  # ms

POSTGRES, REDIS, HTTP = "PostgreSQL", "Redis", "HTTP"
KEPT, EACH = "a connection a thread", "a connection a request"
POOLS = {POSTGRES: "PostgresPool", REDIS: "RedisPool", HTTP: "HttpPool"}

Opens = Callable[[int], AbstractContextManager[Sequence[Ask]]]  # for each of so many threads


@dataclass(frozen=True, kw_only=True)
class Way:
    """How requests are made of a backend: its line is ``label``, and it is asked for ``key``."""

    backend: str
    label: str
    opens: Opens
    key: Any
    answer: Any
    ours: bool = False
    at: float = 0.0  # the amount of work, where it is no matter of threads

    def contender(self) -> Contender:
        expected = [(self.key, self.answer)] * max(THREADS)
        return Contender(self.name, partial(asking, self.opens, expected), self.ours)

    @property
    def name(self) -> str:
        return f"{self.backend}, {self.label}" + (f", {self.at:g}" if self.at else "")


@dataclass(frozen=True)
class Servers:
    """Where the backends are."""

    conninfo: str
    redis_url: str
    http_url: str


def answered(plan: Plan, wanted: Collection[str], watcher: Watcher) -> Iterator[Answer]:
    """Start the servers, race, and answer the wanted questions."""
    with ExitStack() as running:
        servers = Servers(
            running.enter_context(PostgresServer(max_connections=MOST)),
            running.enter_context(RedisServer(settings={"maxclients": str(2 * MOST)})),
            running.enter_context(web.served()).plain,
        )
        with redis.Redis.from_url(servers.redis_url) as client:
            client.mset({f"k{length}": "x" * length for length in BYTES})
        if "threads" in wanted:
            yield _threads_answered(servers, plan, watcher)
        if "connections" in wanted:
            yield _connections_answered(servers, plan, watcher)
        if "bytes" in wanted:
            yield _bytes_answered(servers, plan, watcher)


def _threads_answered(servers: Servers, plan: Plan, watcher: Watcher) -> Answer:
    ways = by_threads(servers)
    results = _race("growth.threads", ways, THREADS, 40.0).run(plan, watcher)
    plots = _plots(ways, lambda way: {n: results.cell(way.name, n) for n in THREADS})
    return growth.answer(
        "growth.threads",
        f"What does a request cost, with 1 to {max(THREADS)} threads?",
        results,
        plots,
        x_axis="threads, each asking again at once",
        ticks={n: str(n) for n in THREADS},
        measures=(COST, P99),
        findings=[_reach_finding(plots[0])],
        limits={P99.name: SOON},
    )


def _reach_finding(plot: Plot) -> Finding:
    """Compare how many threads have their answers soon enough, with the pool and with a connection a request."""
    points = {line.label: line.points(P99) for line in plot.lines}
    ours, theirs = (growth.reach(points[label], SOON) for label in (POOLS[POSTGRES], EACH))
    return Finding(
        name="threads within 100 ms",
        against=f"{plot.title}, {EACH}",
        value=ours / theirs if ours and theirs else None,
        low=None,
        high=None,
        unit="×",
        at_least=10.0,
        measure="threads",
    )


def _connections_answered(servers: Servers, plan: Plan, watcher: Watcher) -> Answer:
    ways = [way for size in CONNECTIONS for way in by_connections(servers, size)]
    results = _race("growth.connections", ways, (CALLERS,), 30.0).run(plan, watcher)
    return growth.answer(
        "growth.connections",
        f"What does a request of {CALLERS} threads cost, with 1 to {max(CONNECTIONS)} connections?",
        results,
        _plots_at(ways, results, CALLERS),
        x_axis="connections",
        ticks={n: str(n) for n in CONNECTIONS},
        measures=(COST, P99),
    )


def _bytes_answered(servers: Servers, plan: Plan, watcher: Watcher) -> Answer:
    ways = [way for length in BYTES for way in by_bytes(servers, length)]
    results = _race("growth.bytes", ways, (1,), 30.0).run(plan, watcher)
    return growth.answer(
        "growth.bytes",
        "How long does an answer take, of 1 byte to 10 MB?",
        results,
        _plots_at(ways, results, 1),
        x_axis="length of the answer",
        ticks=BYTES,
        measures=(P50,),
    )


def _race(name: str, ways: Sequence[Way], threads: Sequence[int], budget: float) -> Race:
    contenders = [way.contender() for way in ways]
    return Race(name=name, contenders=contenders, threads=threads, budget=budget)


def _plots(ways: Sequence[Way], cells_of: Callable[[Way], Mapping[float, Any]]) -> list[Plot]:
    """Return a plot for each backend, in which each way's cells are a line."""
    lines: dict[str, list[Line]] = {}
    for way in ways:
        line = Line(label=way.label, cells=cells_of(way), ours=way.ours)
        lines.setdefault(way.backend, []).append(line)
    return [Plot(title=backend, lines=found) for backend, found in lines.items()]


def _plots_at(ways: Sequence[Way], results: Results, threads: int) -> list[Plot]:
    """Return plots of ways that each stand for one amount of work."""
    first = {(way.backend, way.label): way for way in ways}.values()

    def cells_of(way: Way) -> Mapping[float, Any]:
        same = [each for each in ways if (each.backend, each.label) == (way.backend, way.label)]
        return {each.at: results.cell(each.name, threads) for each in same}

    return _plots(list(first), cells_of)


# The ways ------------------------------------------------------------------------------------------


def by_threads(servers: Servers) -> list[Way]:
    """Return the pools, and the drivers without one."""
    conninfo, url, base = servers.conninfo, servers.redis_url, servers.http_url
    opened: Sequence[tuple[str, Opens, Opens, Opens, Any, Any]] = [
        (
            POSTGRES,
            partial(_postgres_pool, conninfo, _number, {"max_size": SIZE}),
            partial(_per_thread, partial(_postgres, conninfo, _number)),
            partial(_per_request, partial(_postgres, conninfo, _number)),
            1,
            [(1,)],
        ),
        (
            REDIS,
            partial(_redis_pool, url, {"max_size": SIZE}),
            partial(_per_thread, partial(_redis, url)),
            partial(_per_request, partial(_redis, url)),
            "k1",
            "x",
        ),
        (
            HTTP,
            partial(_http_pool, {"max_size": SIZE, "max_idle": SIZE}),
            partial(_per_thread, partial(_http, base)),
            partial(_per_request, partial(_http, base)),
            f"{base}/bytes/{web.SMALL}",
            web.body(web.SMALL),
        ),
    ]
    return [
        Way(backend=backend, label=label, opens=opens, key=key, answer=found, ours=ours)
        for backend, pool, kept, each, key, found in opened
        for label, opens, ours in (
            (POOLS[backend], pool, True),
            (KEPT, kept, False),
            (EACH, each, False),
        )
    ]


def by_connections(servers: Servers, size: int) -> list[Way]:
    """Return the pools of so many connections, combining and not, and the drivers' own."""
    conninfo, url = servers.conninfo, servers.redis_url
    sizes = {"min_size": size, "max_size": size}
    of_postgres = {
        POOLS[POSTGRES]: partial(_postgres_pool, conninfo, _number, sizes),
        "combine=False": partial(_postgres_pool, conninfo, _number, {**sizes, "combine": False}),
        "psycopg_pool, autocommit": partial(_psycopg_pool, conninfo, size),
    }
    of_redis = {
        POOLS[REDIS]: partial(_redis_pool, url, {"max_size": size}),
        "combine=False": partial(_redis_pool, url, {"max_size": size, "combine": False}),
        "redis-py BlockingConnectionPool": partial(_blocking_pool, url, size),
    }
    return [
        Way(
            backend=backend,
            label=label,
            opens=opens,
            key=key,
            answer=found,
            ours=number < 2,
            at=size,
        )
        for backend, opened, key, found in (
            (POSTGRES, of_postgres, 1, [(1,)]),
            (REDIS, of_redis, "k1", "x"),
        )
        for number, (label, opens) in enumerate(opened.items())
    ]


def by_bytes(servers: Servers, length: int) -> list[Way]:
    """Return the pools and the bare drivers, asked for an answer of that length."""
    conninfo, url, base = servers.conninfo, servers.redis_url, servers.http_url
    text, body = "x" * length, web.body(length)
    one = {"min_size": 1, "max_size": 1}
    ways: Sequence[tuple[str, str, Opens, Any, Any]] = [
        (
            POSTGRES,
            POOLS[POSTGRES],
            partial(_postgres_pool, conninfo, _text, one),
            length,
            [(text,)],
        ),
        (
            POSTGRES,
            "psycopg",
            partial(_per_thread, partial(_postgres, conninfo, _text)),
            length,
            [(text,)],
        ),
        (REDIS, POOLS[REDIS], partial(_redis_pool, url, {"max_size": 1}), f"k{length}", text),
        (REDIS, "redis-py", partial(_per_thread, partial(_redis, url)), f"k{length}", text),
        (HTTP, POOLS[HTTP], partial(_http_pool, {}), f"{base}/bytes/{length}", body),
        (
            HTTP,
            "http.client",
            partial(_per_thread, partial(_http, base)),
            f"{base}/bytes/{length}",
            body,
        ),
    ]
    return [
        Way(
            backend=backend,
            label=label,
            opens=opens,
            key=key,
            answer=found,
            ours=label == POOLS[backend],
            at=length,
        )
        for backend, label, opens, key, found in ways
    ]


# What opens them -----------------------------------------------------------------------------------

_number = "select %s::int"
_text = "select repeat('x', %s)"

Connects = Callable[[], AbstractContextManager[Ask]]


@contextmanager
def _per_thread(connect: Connects, threads: int) -> Iterator[Sequence[Ask]]:
    with ExitStack() as kept:
        yield [kept.enter_context(connect()) for _ in range(threads)]


@contextmanager
def _per_request(connect: Connects, threads: int) -> Iterator[Sequence[Ask]]:
    def ask(key: Any) -> Any:
        with connect() as asked:
            return asked(key)

    yield [ask] * threads


@contextmanager
def _postgres(conninfo: str, sql: str) -> Iterator[Ask]:
    with psycopg.connect(conninfo, autocommit=True) as conn:
        yield lambda value: conn.execute(sql, [value]).fetchall()


@contextmanager
def _redis(url: str) -> Iterator[Ask]:
    with redis.Redis.from_url(url, decode_responses=True, single_connection_client=True) as client:
        yield client.get


@contextmanager
def _http(base: str) -> Iterator[Ask]:
    address = urlsplit(base)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=WAIT)

    def ask(url: str) -> bytes:
        connection.request("GET", url[len(base) :])
        return connection.getresponse().read()

    with closing(connection):
        yield ask


@contextmanager
def _postgres_pool(
    conninfo: str, sql: str, settings: Mapping[str, Any], threads: int
) -> Iterator[Sequence[Ask]]:
    from poolkit import PostgresPool

    with PostgresPool(conninfo, acquire_timeout=WAIT, **settings) as db:
        yield [lambda value: db.query(sql, [value])] * threads


@contextmanager
def _psycopg_pool(conninfo: str, size: int, threads: int) -> Iterator[Sequence[Ask]]:
    with psycopg_pool.ConnectionPool(
        conninfo, min_size=size, max_size=size, timeout=WAIT, kwargs={"autocommit": True}
    ) as pool:
        pool.wait(WAIT)

        def ask(value: int) -> Any:
            with pool.connection() as conn:
                return conn.execute(_number, [value]).fetchall()

        yield [ask] * threads


@contextmanager
def _redis_pool(url: str, settings: Mapping[str, Any], threads: int) -> Iterator[Sequence[Ask]]:
    from poolkit import RedisPool

    with RedisPool(url, acquire_timeout=WAIT, **settings) as cache:
        yield [cache.get] * threads


@contextmanager
def _blocking_pool(url: str, size: int, threads: int) -> Iterator[Sequence[Ask]]:
    pool = redis.BlockingConnectionPool.from_url(
        url, max_connections=size, timeout=WAIT, decode_responses=True
    )
    with closing(pool):
        yield [redis.Redis(connection_pool=pool).get] * threads


@contextmanager
def _http_pool(settings: Mapping[str, Any], threads: int) -> Iterator[Sequence[Ask]]:
    from poolkit import HttpPool

    with HttpPool(acquire_timeout=WAIT, **settings) as http:
        yield [lambda url: http.get(url).data] * threads
