"""What a request costs as the work grows: more threads, more connections, longer answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import redis

from benchmarks import drivers, growth, web
from benchmarks.answers import Answer
from benchmarks.asks import Asks, asking
from benchmarks.crew import Contender
from benchmarks.growth import Line, Plot
from benchmarks.harness import Plan, Race, Results
from benchmarks.progress import Watcher
from benchmarks.targets import COST, P50, P99, Finding, Target, judge
from poolkit.embedded import PostgresServer, RedisServer

QUESTIONS = ("threads", "connections", "bytes")
PACKAGES = ("psycopg", "psycopg-pool", "redis", "urllib3")

SIZE = 20
THREADS = (1, 10, 100, 500)
CONNECTIONS = (1, 3, 10, 30, 100)
CALLERS = 100
BYTES = {1: "1 B", 100: "100 B", 10_000: "10 kB", 1_000_000: "1 MB", 10_000_000: "10 MB"}
MOST = 700  # connections a server takes
SOON = 100.0  # ms
LONG_ENOUGH = 0.4  # seconds

POSTGRES, REDIS, HTTP = "PostgreSQL", "Redis", "HTTP"
KEPT, EACH = "a connection a thread", "a connection a request"
POOLS = {POSTGRES: "PostgresPool", REDIS: "RedisPool", HTTP: "HttpPool"}

DRIVERS = {POSTGRES: "psycopg", REDIS: "redis-py", HTTP: "http.client"}
NUMBER_SQL = "select %s::int"
TEXT_SQL = "select repeat('x', %s)"

# Shown, not bounded: what a pool adds to the driver that it is built on.
LENGTH_TARGETS = tuple(
    Target(
        name=f"time of an answer of {length}",
        contender=f"{backend}, {POOLS[backend]}, {length}",
        peer=f"{backend}, {DRIVERS[backend]}, {length}",
        measure=P50,
        threads=1,
    )
    for backend in POOLS
    for length in (BYTES[1], BYTES[10_000_000])
)


@dataclass(frozen=True, kw_only=True)
class Way:
    """How requests are made of a backend: its line is ``label``, and it is asked for ``key``."""

    backend: str
    label: str
    opens: Asks
    key: Any
    answer: Any
    ours: bool = False
    at: float = 0.0  # the amount of work, where it is no matter of threads
    said: str = ""  # that amount, in words

    def contender(self) -> Contender:
        expected = [(self.key, self.answer)] * max(THREADS)
        return Contender(self.name, partial(asking, self.opens, expected), self.ours)

    @property
    def name(self) -> str:
        return ", ".join(filter(None, (self.backend, self.label, self.said)))


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
    # The longest take a tenth of a second each.
    timing = dataclasses.replace(plan.timing, seconds=max(plan.timing.seconds, LONG_ENOUGH))
    plan = dataclasses.replace(plan, timing=timing)
    results = _race("growth.bytes", ways, (1,), 30.0).run(plan, watcher)
    return growth.answer(
        "growth.bytes",
        "How long does an answer take, of 1 byte to 10 MB?",
        results,
        _plots_at(ways, results, 1),
        x_axis="length of the answer",
        ticks=BYTES,
        measures=(P50,),
        findings=judge(LENGTH_TARGETS, results),
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
    opened: Sequence[tuple[str, Asks, Asks, Asks, Any, Any]] = [
        (
            POSTGRES,
            partial(drivers.postgres_pool, conninfo, NUMBER_SQL, {"max_size": SIZE}),
            partial(drivers.per_thread, partial(drivers.postgres_connection, conninfo, NUMBER_SQL)),
            partial(
                drivers.per_request, partial(drivers.postgres_connection, conninfo, NUMBER_SQL)
            ),
            1,
            [(1,)],
        ),
        (
            REDIS,
            partial(drivers.redis_pool, url, {"max_size": SIZE}),
            partial(drivers.per_thread, partial(drivers.redis_connection, url)),
            partial(drivers.per_request, partial(drivers.redis_connection, url)),
            "k1",
            "x",
        ),
        (
            HTTP,
            partial(drivers.http_pool, {"max_size": SIZE, "max_idle": SIZE}),
            partial(drivers.per_thread, partial(drivers.http_connection, base)),
            partial(drivers.per_request, partial(drivers.http_connection, base)),
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
        POOLS[POSTGRES]: partial(drivers.postgres_pool, conninfo, NUMBER_SQL, sizes),
        f"{POOLS[POSTGRES]}, combine=False": partial(
            drivers.postgres_pool, conninfo, NUMBER_SQL, {**sizes, "combine": False}
        ),
        "psycopg_pool, autocommit": partial(drivers.driver_pool, conninfo, NUMBER_SQL, size),
    }
    of_redis = {
        POOLS[REDIS]: partial(drivers.redis_pool, url, {"max_size": size}),
        f"{POOLS[REDIS]}, combine=False": partial(
            drivers.redis_pool, url, {"max_size": size, "combine": False}
        ),
        "redis-py BlockingConnectionPool": partial(drivers.blocking_pool, url, size),
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
            said=f"{size} connections",
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
    opened: Sequence[tuple[str, Asks, drivers.Connects, Any, Any]] = [
        (
            POSTGRES,
            partial(drivers.postgres_pool, conninfo, TEXT_SQL, one),
            partial(drivers.postgres_connection, conninfo, TEXT_SQL),
            length,
            [(text,)],
        ),
        (
            REDIS,
            partial(drivers.redis_pool, url, {"max_size": 1}),
            partial(drivers.redis_connection, url),
            f"k{length}",
            text,
        ),
        (
            HTTP,
            partial(drivers.http_pool, {}),
            partial(drivers.http_connection, base),
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
            said=BYTES[length],
        )
        for backend, pool, connect, key, found in opened
        for label, opens in (
            (POOLS[backend], pool),
            (DRIVERS[backend], partial(drivers.per_thread, connect)),
        )
    ]
