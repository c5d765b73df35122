"""What it costs to be watched: a kit with its health checker, leak detector and Prometheus, beside bare pools."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from typing import Any

import redis

from benchmarks import answers
from benchmarks.answers import Answer
from benchmarks.asks import Ask, Expected, asking
from benchmarks.crew import Contender
from benchmarks.harness import Plan, Race
from benchmarks.progress import Watcher
from benchmarks.targets import Target
from poolkit.embedded import PostgresServer, RedisServer

QUESTIONS = ("watched_get", "watched_query")
PACKAGES = ("prometheus-client",)

SIZE = 20
KEYS = 1_000
THREADS = (1, 50)
OFTEN = 1.0  # seconds between checks: thirty times as often as usual, so that a round has some

BARE = "pool"
WATCHED = "kit, watched and exported"

TARGETS = tuple(
    Target(name="watched", contender=WATCHED, peer=BARE, threads=threads, at_least=0.97)
    for threads in THREADS
)
VALUES: Expected = [(f"k{number}", f"v{number}") for number in range(KEYS)]
NUMBERS: Expected = [(number, [(number,)]) for number in range(KEYS)]

Opens = Callable[[], AbstractContextManager[Ask]]


def answered(plan: Plan, wanted: Collection[str], watcher: Watcher) -> Iterator[Answer]:
    """Start a server for each wanted question, race, and answer it."""
    if "watched_get" in wanted:
        with RedisServer() as url:
            with closing(redis.Redis.from_url(url)) as client:
                client.mset(dict(VALUES))
            ways: list[tuple[str, Opens]] = [
                (BARE, partial(_bare_cache, url)),
                (WATCHED, partial(_watched, "redis", url, lambda kit: kit.redis.get)),
            ]
            yield _answer("watched_get", "Redis GET", ways, VALUES, plan, watcher)
    if "watched_query" in wanted:
        with PostgresServer() as conninfo:
            ways = [
                (BARE, partial(_bare_db, conninfo)),
                (
                    WATCHED,
                    partial(_watched, "postgres", conninfo, lambda kit: _query(kit.postgres)),
                ),
            ]
            yield _answer("watched_query", "PostgreSQL query", ways, NUMBERS, plan, watcher)


def _answer(
    name: str,
    what: str,
    ways: Sequence[tuple[str, Opens]],
    expected: Expected,
    plan: Plan,
    watcher: Watcher,
) -> Answer:
    contenders = [
        Contender(way, partial(asking, partial(_asks, opens), expected), ours=True)
        for way, opens in ways
    ]
    race = Race(name=f"kit.{name}", contenders=contenders, threads=THREADS, budget=16.0)
    question = f"{what}: what does it cost to be watched?"
    return answers.speed(f"kit.{name}", question, race.run(plan, watcher), BARE, TARGETS)


@contextmanager
def _asks(opens: Opens, threads: int) -> Iterator[Sequence[Ask]]:
    with opens() as ask:
        yield [ask] * threads


@contextmanager
def _bare_cache(url: str) -> Iterator[Ask]:
    from poolkit import RedisPool

    with RedisPool(url, max_size=SIZE) as cache:
        yield cache.get


@contextmanager
def _bare_db(conninfo: str) -> Iterator[Ask]:
    from poolkit import PostgresPool

    with PostgresPool(conninfo, max_size=SIZE) as db:
        yield _query(db)


@contextmanager
def _watched(backend: str, address: str, ask_of: Callable[[Any], Ask]) -> Iterator[Ask]:
    from prometheus_client import CollectorRegistry

    from poolkit import PoolKit, WatchSettings
    from poolkit.observe.prometheus import Exporter

    pool = {("conninfo" if backend == "postgres" else "url"): address, "max_size": SIZE}
    watch = WatchSettings(health_every=OFTEN, leaks_every=OFTEN)
    with (
        PoolKit(**{backend: pool}, http=False, watch=watch) as kit,
        closing(Exporter(kit, registry=CollectorRegistry(), every=OFTEN)),
    ):
        yield ask_of(kit)


def _query(db: Any) -> Ask:
    return lambda number: db.query("select %s::int", [number])
