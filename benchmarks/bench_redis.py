"""One key a request, T threads on 20 connections: RedisPool beside what people use today."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from functools import partial
from itertools import cycle
from typing import Any

import redis

from benchmarks import answers
from benchmarks.answers import Answer
from benchmarks.crew import Contender, Turn
from benchmarks.harness import Plan, Race
from benchmarks.progress import Watcher
from benchmarks.targets import P50, SLOWEST_SHARE, Target
from poolkit.embedded import RedisServer

QUESTIONS = ("get_by_threads", "fairness", "set_by_threads", "pipeline", "tls")
PACKAGES = ("redis", "hiredis", "valkey-glide-sync")

SIZE = 20
KEYS = 10_000
WAIT = 30.0
MAX_CLIENTS = 1000  # 500 threads without a bound take one each
THREADS = (1, 8, 50, 500)
BATCH = 100

POOL = "RedisPool"
BLOCKING = "redis-py BlockingConnectionPool(20)"
DEFAULT = "redis.Redis default"
RAW = "raw connection, pinned"
GLIDE = "valkey-glide-sync"
PIPELINE = "RedisPool pipeline of 100"
CALLS = "RedisPool 100 calls"
POOLED = "RedisPool over TLS"
PER_CALL = "redis.Redis, connecting per call over TLS"

GET_TARGETS = tuple(
    Target(name="get", contender=POOL, peer=BLOCKING, threads=threads, at_least=at_least)
    for threads, at_least in ((1, 1.0), (8, 1.5), (50, 1.5))
)
FAIRNESS_TARGETS = (
    Target(
        name="slowest thread",
        contender=POOL,
        measure=SLOWEST_SHARE,
        threads=500,
        at_least=1 / 3,
    ),
)
PIPELINE_TARGETS = (
    Target(name="pipeline of 100", contender=PIPELINE, peer=CALLS, threads=1, at_least=10.0),
)
TLS_TARGETS = (
    Target(name="latency", contender=POOLED, peer=PER_CALL, measure=P50, threads=1, at_most=0.1),
)

Ask = Callable[[str], Any]
Open = Callable[[str, int], AbstractContextManager[Sequence[Any]]]  # a client for each thread


class WrongAnswer(Exception):
    """A contender gave a value that was not asked for."""


def answered(plan: Plan, wanted: Collection[str], watcher: Watcher) -> Iterator[Answer]:
    """Start a server, race, and answer the wanted questions."""
    server = RedisServer(tls=True, settings={"maxclients": str(MAX_CLIENTS)})
    with server:
        with closing(redis.Redis.from_url(server.url)) as client:
            client.mset({f"k{number}": f"v{number}" for number in range(KEYS)})
        if {"get_by_threads", "fairness"} & set(wanted):
            yield from _gets_answered(server.url, plan, wanted, watcher)
        if "set_by_threads" in wanted:
            race = _race("redis.set_by_threads", clients(server.url), _setting, THREADS, 60.0)
            question = f"Redis: one SET a request, threads sharing {SIZE} connections"
            yield answers.speed(race.name, question, race.run(plan, watcher), BLOCKING, ())
        if "pipeline" in wanted:
            yield _pipeline_answered(server.url, plan, watcher)
        if "tls" in wanted:
            yield _tls_answered(server, plan, watcher)


def _gets_answered(
    url: str, plan: Plan, wanted: Collection[str], watcher: Watcher
) -> Iterator[Answer]:
    race = _race("redis.get_by_threads", clients(url), _getting, THREADS, 75.0)
    results = race.run(plan, watcher)
    if "get_by_threads" in wanted:
        question = f"Redis: one GET a request, threads sharing {SIZE} connections"
        yield answers.speed(race.name, question, results, BLOCKING, GET_TARGETS)
    if "fairness" in wanted:
        question = "Redis: for each turn of the median thread, how many had the slowest thread?"
        yield answers.fairness("redis.fairness", question, results, (50, 500), FAIRNESS_TARGETS)


def _pipeline_answered(url: str, plan: Plan, watcher: Watcher) -> Answer:
    contenders = [
        Contender(PIPELINE, partial(_batches, url, _as_pipeline), ours=True),
        Contender(CALLS, partial(_batches, url, _one_by_one), ours=True),
    ]
    race = Race(name="redis.pipeline", contenders=contenders, threads=(1,), budget=15.0)
    question = f"Redis: {BATCH} commands at once, or one after the other?"
    return answers.speed(race.name, question, race.run(plan, watcher), CALLS, PIPELINE_TARGETS)


def _tls_answered(server: RedisServer, plan: Plan, watcher: Watcher) -> Answer:
    opens: list[tuple[str, Open, bool]] = [
        (POOLED, partial(_pool, {"ca_file": str(server.ca_file)}), True),
        (PER_CALL, partial(_connecting, {"ssl_ca_certs": str(server.ca_file)}), False),
    ]
    race = _race(
        "redis.tls",
        [(name, partial(open_, server.tls_url), ours) for name, open_, ours in opens],
        _getting,
        (1,),
        20.0,
    )
    question = "Redis over TLS: a connection a call, or a pool?"
    return answers.speed(race.name, question, race.run(plan, watcher), PER_CALL, TLS_TARGETS)


# The contenders ------------------------------------------------------------------------------------


Way = tuple[str, Callable[[int], AbstractContextManager[Sequence[Any]]], bool]


def clients(url: str) -> list[Way]:
    """Return every way to reach the server, ours beside the peers that it is compared with."""
    ways: list[tuple[str, Open, bool]] = [
        (RAW, _pinned, False),
        (DEFAULT, _default, False),
        (POOL, partial(_pool, {}), True),
        (BLOCKING, _blocking, False),
        (GLIDE, _glide, False),
    ]
    return [(name, partial(way, url), ours) for name, way, ours in ways]


def _race(
    name: str,
    ways: Sequence[Way],
    turns: Callable[[Sequence[Any]], Sequence[Turn]],
    threads: Sequence[int],
    budget: float,
) -> Race:
    contenders = [
        Contender(label, partial(_opened, open_, turns), ours) for label, open_, ours in ways
    ]
    return Race(name=name, contenders=contenders, threads=threads, budget=budget)


@contextmanager
def _opened(
    open_: Callable[[int], AbstractContextManager[Sequence[Any]]],
    turns: Callable[[Sequence[Any]], Sequence[Turn]],
    threads: int,
) -> Iterator[Sequence[Turn]]:
    with open_(threads) as opened:
        yield turns(opened)


@contextmanager
def _pool(options: dict[str, Any], url: str, threads: int) -> Iterator[Sequence[Any]]:
    # Imported late: while it can't be, only its own contenders fail, and say why.
    from poolkit import RedisPool

    with RedisPool(url, max_size=SIZE, acquire_timeout=WAIT, **options) as cache:
        yield [cache] * threads


@contextmanager
def _blocking(url: str, threads: int) -> Iterator[Sequence[Any]]:
    pool = redis.BlockingConnectionPool.from_url(
        url, max_connections=SIZE, timeout=WAIT, decode_responses=True
    )
    with closing(redis.Redis(connection_pool=pool)) as client:
        yield [client] * threads
    pool.disconnect()


@contextmanager
def _default(url: str, threads: int) -> Iterator[Sequence[Any]]:
    """redis-py's own pool: a connection for each thread that asks, without a bound of our own."""
    with closing(
        redis.Redis.from_url(url, decode_responses=True, max_connections=MAX_CLIENTS - 100)
    ) as client:
        yield [client] * threads


@contextmanager
def _connecting(options: dict[str, Any], url: str, threads: int) -> Iterator[Sequence[Any]]:
    class PerCall:
        def get(self, key: str) -> Any:
            with closing(redis.Redis.from_url(url, decode_responses=True, **options)) as client:
                return client.get(key)

    yield [PerCall()] * threads


@contextmanager
def _pinned(url: str, threads: int) -> Iterator[Sequence[Any]]:
    """One connection a thread; more threads than connections share them, by index and under a lock."""

    class Pinned:
        def __init__(self, guard: AbstractContextManager[Any]) -> None:
            self._guard = guard
            self.conn = made.make_connection()
            self.conn.connect()

        def get(self, key: str) -> Any:
            return self._ask("GET", key)

        def set(self, key: str, value: str) -> Any:
            return self._ask("SET", key, value) == "OK"

        def _ask(self, *words: str) -> Any:
            with self._guard:
                self.conn.send_command(*words)
                return self.conn.read_response()

    made = redis.ConnectionPool.from_url(url, decode_responses=True)
    shared = threads > SIZE
    pinned = [
        Pinned(threading.Lock() if shared else nullcontext()) for _ in range(min(threads, SIZE))
    ]
    with ExitStack() as stack:
        for one in pinned:
            stack.callback(one.conn.disconnect)
        yield [pinned[index % len(pinned)] for index in range(threads)]


@contextmanager
def _glide(url: str, threads: int) -> Iterator[Sequence[Any]]:
    """Valkey's client with a Rust core: one connection, on which it combines what threads ask."""
    import glide_sync as glide

    parts = redis.connection.parse_url(url)
    client = glide.GlideClient.create(
        glide.GlideClientConfiguration(
            [glide.NodeAddress(parts["host"], parts["port"])],
            credentials=glide.ServerCredentials(parts["password"]),
            request_timeout=round(WAIT * 1000),
        )
    )

    class Decoding:
        def get(self, key: str) -> Any:
            found = client.get(key)
            return None if found is None else found.decode()

        def set(self, key: str, value: str) -> Any:
            return client.set(key, value) == "OK"

    try:
        yield [Decoding()] * threads
    finally:
        client.close()


# What they do --------------------------------------------------------------------------------------


def _getting(opened: Sequence[Any]) -> list[Turn]:
    """Return turns that each get a thread's next key, and check what comes back."""
    numbers = random.Random(2).sample(range(KEYS), KEYS)

    def turn_of(client: Any, keys: Sequence[int]) -> Turn:
        upcoming = cycle(keys)

        def turn() -> None:
            number = next(upcoming)
            if (found := client.get(f"k{number}")) != f"v{number}":
                raise WrongAnswer(f"asked for v{number}, got {found!r}")

        return turn

    return [turn_of(client, numbers[index :: len(opened)]) for index, client in enumerate(opened)]


def _setting(opened: Sequence[Any]) -> list[Turn]:
    """Return turns that each set a key of the thread's own."""

    def turn_of(client: Any, key: str) -> Turn:
        def turn() -> None:
            if not client.set(key, "value"):
                raise WrongAnswer("SET was not answered with OK")

        return turn

    return [turn_of(client, f"t{index}") for index, client in enumerate(opened)]


@contextmanager
def _batches(
    url: str, run: Callable[[Any, Sequence[int]], list[Any]], threads: int
) -> Iterator[Sequence[Turn]]:
    numbers = range(BATCH)
    expected = [f"v{number}" for number in numbers]
    with _pool({}, url, threads) as opened:

        def turn_of(cache: Any) -> Turn:
            def turn() -> None:
                if run(cache, numbers) != expected:
                    raise WrongAnswer("a batch brought other values than asked for")

            return turn

        yield [turn_of(cache) for cache in opened]


def _as_pipeline(cache: Any, numbers: Sequence[int]) -> list[Any]:
    found: list[Any] = cache.pipeline([("GET", f"k{number}") for number in numbers])
    return found


def _one_by_one(cache: Any, numbers: Sequence[int]) -> list[Any]:
    return [cache.get(f"k{number}") for number in numbers]
