"""Servers that are 20 ms away: what kept connections and pipelines save where a round trip takes time.

On loopback a new connection costs work, but next to no time on the way. What is far off here is on loopback too,
behind a proxy that delays each byte, and the first ones by TCP's handshake.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import redis
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from benchmarks import answers, bench_http, drivers, web
from benchmarks.answers import Answer
from benchmarks.asks import Ask, Asks, asking
from benchmarks.crew import Contender
from benchmarks.distance import away
from benchmarks.drivers import Connects
from benchmarks.harness import Plan, Race
from benchmarks.progress import Watcher
from benchmarks.targets import P50, Target
from poolkit.embedded import PostgresServer, RedisServer

QUESTIONS = ("kept_connections",)
PACKAGES = ("psycopg", "redis", "urllib3")

ROUND_TRIP = 0.02
BATCH = 20
KEY, VALUE = "k", "v"
SQL = "select %s::int"

HTTP, HTTP_EACH = "HttpPool, TLS", "http.client, TLS, a connection a request"
POSTGRES, POSTGRES_EACH = "PostgresPool", "psycopg, a connection a statement"
REDIS, REDIS_EACH = "RedisPool", "redis-py, a connection a command"
PIPELINE, CALLS = f"RedisPool, {BATCH} commands in a pipeline", f"RedisPool, {BATCH} commands"

TARGETS = (
    Target(
        name="HTTP over TLS", contender=HTTP, peer=HTTP_EACH, measure=P50, threads=1, at_most=0.4
    ),
    Target(
        name="HTTP over TLS, saved",
        contender=HTTP_EACH,
        peer=HTTP,
        measure=P50,
        compare="difference",
        threads=1,
    ),
    Target(
        name="PostgreSQL",
        contender=POSTGRES,
        peer=POSTGRES_EACH,
        measure=P50,
        threads=1,
        at_most=0.3,
    ),
    Target(name="Redis", contender=REDIS, peer=REDIS_EACH, measure=P50, threads=1, at_most=0.5),
    Target(
        name=f"Redis, {BATCH} commands",
        contender=PIPELINE,
        peer=CALLS,
        threads=1,
        at_least=BATCH / 2,
    ),
)


def answered(plan: Plan, wanted: Collection[str], watcher: Watcher) -> Iterator[Answer]:
    """Start the servers and put them away, race, and answer."""
    if "kept_connections" not in wanted:
        return
    with ExitStack() as running:
        contenders = _contenders(running)
        race = Race(
            name="distance.kept_connections", contenders=contenders, threads=(1,), budget=30.0
        )
        seconds = 0.6 if plan.quick else 1.2
        timing = dataclasses.replace(plan.timing, warmup=0.3, seconds=seconds)
        results = race.run(dataclasses.replace(plan, timing=timing), watcher)
    question = (
        f"With {ROUND_TRIP * 1000:g} ms round trips: what do kept connections and pipelines save?"
    )
    yield answers.latency(race.name, question, results, TARGETS)


def _contenders(running: ExitStack) -> list[Contender]:
    def far(port: int | str | None) -> int:
        return running.enter_context(away(int(port or 0), ROUND_TRIP))

    near = running.enter_context(web.served())
    there = dataclasses.replace(near, secure=f"https://localhost:{far(urlsplit(near.secure).port)}")
    http = {name: opened for name, opened, _ in bench_http.ways(there, tls=True)}
    url = there.url(web.SMALL, tls=True)

    conninfo = running.enter_context(PostgresServer())
    port = conninfo_to_dict(conninfo)["port"]
    conninfo = make_conninfo(conninfo, host="127.0.0.1", hostaddr=None, port=far(port))

    redis_url = running.enter_context(RedisServer())
    with redis.Redis.from_url(redis_url) as client:
        client.set(KEY, VALUE)
    address = urlsplit(redis_url)
    redis_url = redis_url.replace(f":{address.port}", f":{far(address.port)}", 1)

    body, rows, values = web.body(web.SMALL), [(1,)], (VALUE,) * BATCH
    statement = partial(drivers.postgres_connection, conninfo, SQL)
    command = partial(drivers.redis_connection, redis_url)
    ways: Sequence[tuple[str, Asks, Any, Any]] = [
        (HTTP_EACH, partial(_shared, http[bench_http.UNPOOLED]), url, body),
        (HTTP, partial(_shared, http[bench_http.POOL]), url, body),
        (POSTGRES_EACH, partial(drivers.per_request, statement), 1, rows),
        (POSTGRES, partial(drivers.postgres_pool, conninfo, SQL, {"min_size": 1}), 1, rows),
        (REDIS_EACH, partial(drivers.per_request, command), KEY, VALUE),
        (REDIS, partial(drivers.redis_pool, redis_url, {}), KEY, VALUE),
        (CALLS, partial(_one_by_one, redis_url), KEY, values),
        (PIPELINE, partial(_together, redis_url), KEY, values),
    ]
    ours = (HTTP, POSTGRES, REDIS, CALLS, PIPELINE)
    return [
        Contender(name, partial(asking, asks, [(key, answer)]), name in ours)
        for name, asks, key, answer in ways
    ]


@contextmanager
def _shared(opens: Connects, threads: int) -> Iterator[Sequence[Ask]]:
    with opens() as ask:
        yield [ask] * threads


@contextmanager
def _one_by_one(url: str, threads: int) -> Iterator[Sequence[Ask]]:
    with drivers.redis_pool(url, {}, threads) as gets:
        yield [lambda key, get=get: tuple([get(key) for _ in range(BATCH)]) for get in gets]


@contextmanager
def _together(url: str, threads: int) -> Iterator[Sequence[Ask]]:
    from poolkit import RedisPool

    with RedisPool(url) as cache:
        yield [lambda key: tuple(cache.pipeline([("GET", key)] * BATCH))] * threads
