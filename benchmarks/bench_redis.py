"""One key a request, T threads on 20 connections: RedisPool beside what people use today."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from operator import attrgetter
from typing import Any

import redis

from benchmarks import answers
from benchmarks.answers import Answer
from benchmarks.asks import Ask, Expected, asking, spread
from benchmarks.crew import Contender
from benchmarks.harness import Plan, Race
from benchmarks.progress import Watcher
from benchmarks.targets import P50, SLOWEST_SHARE, Target
from poolkit.embedded import RedisServer

QUESTIONS = ("get_by_threads", "fairness", "set_by_threads", "pipeline", "tls")
PACKAGES = ("redis", "hiredis", "valkey-glide-sync")

SIZE = 20
KEYS = 10_000
BATCH = 100
WAIT = 30.0
MAX_CLIENTS = 1000  # 500 threads without a bound take one each
THREADS = (1, 8, 50, 500)
BATCH_THREADS = (1, 8)  # a hundred calls of each of 50 threads outlast a round

POOL = "RedisPool"
LEASE = "RedisPool combine=False"
BLOCKING = "redis-py BlockingConnectionPool(20)"
DEFAULT = "redis.Redis default, unbounded"
RAW = "raw connection, pinned"
GLIDE = "valkey-glide-sync"
PIPELINE = "RedisPool, pipeline"
CALLS = "RedisPool, 100 calls"
POOLED = "RedisPool, pooled"
PER_CALL = "redis.Redis, made per call"
PER_CALL_KEPT = "RedisPool, made per call, CA kept"

GET_TARGETS = tuple(
    Target(name="get", contender=POOL, peer=peer, threads=threads, at_least=at_least)
    for peer, threads, at_least in (
        (BLOCKING, 1, 1.0),
        (BLOCKING, 8, 2.5),
        (BLOCKING, 50, 3.5),
        (BLOCKING, 500, 4.0),
        (GLIDE, 8, 0.9),
        (GLIDE, 50, 1.5),
    )
) + tuple(
    Target(name="get, combine=False", contender=LEASE, peer=BLOCKING, threads=threads, at_least=1.5)
    for threads in (8, 50)
)
FAIRNESS_TARGETS = tuple(
    Target(
        name="slowest thread",
        contender=POOL,
        measure=SLOWEST_SHARE,
        threads=threads,
        at_least=1 / 2,
    )
    for threads in (50, 500)
)
PIPELINE_TARGETS = (
    Target(name="pipeline of 100", contender=PIPELINE, peer=CALLS, threads=1, at_least=10.0),
)
TLS_TARGETS = tuple(
    Target(name="latency", contender=POOLED, peer=peer, measure=P50, threads=1, at_most=0.1)
    for peer in (PER_CALL, PER_CALL_KEPT)
)

Clients = Callable[[int], AbstractContextManager[Sequence[Any]]]  # for each thread its client
Way = tuple[str, Clients, bool]  # its name, and whether it is ours

_NUMBERS = random.Random(2).sample(range(KEYS), KEYS)
VALUES: Expected = [(f"k{number}", f"v{number}") for number in _NUMBERS]
WRITTEN: Expected = [(f"w{number}", True) for number in _NUMBERS]
BATCHES: Expected = [
    tuple(zip(*VALUES[start : start + BATCH], strict=True)) for start in range(0, KEYS, BATCH)
]


def answered(plan: Plan, wanted: Collection[str], watcher: Watcher) -> Iterator[Answer]:
    """Start a server, race, and answer the wanted questions."""
    server = RedisServer(tls=True, settings={"maxclients": str(MAX_CLIENTS)})
    with server as url:
        with closing(redis.Redis.from_url(url)) as client:
            client.mset(dict(VALUES))
        if {"get_by_threads", "fairness"} & set(wanted):
            yield from _gets_answered(url, plan, wanted, watcher)
        if "set_by_threads" in wanted:
            yield _sets_answered(url, plan, watcher)
        if "pipeline" in wanted:
            yield _pipeline_answered(url, plan, watcher)
        if "tls" in wanted:
            yield _tls_answered(server, plan, watcher)


def _gets_answered(
    url: str, plan: Plan, wanted: Collection[str], watcher: Watcher
) -> Iterator[Answer]:
    name = "redis.get_by_threads"
    contenders = [_contender(*way, attrgetter("get"), VALUES) for way in ways(url)]
    race = Race(name=name, contenders=contenders, threads=THREADS, budget=90.0)
    results = race.run(plan, watcher)
    if "get_by_threads" in wanted:
        question = f"Redis: how many GETs a second, when threads share {SIZE} connections?"
        yield answers.speed(name, question, results, BLOCKING, GET_TARGETS)
    if "fairness" in wanted:
        question = "Redis: for each request of the median thread, how many had the slowest thread?"
        yield answers.fairness("redis.fairness", question, results, (50, 500), FAIRNESS_TARGETS)


def _sets_answered(url: str, plan: Plan, watcher: Watcher) -> Answer:
    name = "redis.set_by_threads"
    contenders = [_contender(*way, _setting, WRITTEN) for way in ways(url)]
    race = Race(name=name, contenders=contenders, threads=THREADS, budget=20.0)
    question = f"Redis: how many SETs a second, when threads share {SIZE} connections?"
    return answers.speed(name, question, race.run(plan, watcher), BLOCKING, ())


def _pipeline_answered(url: str, plan: Plan, watcher: Watcher) -> Answer:
    name = "redis.pipeline"
    pool, blocking, glide = partial(_pool, url), partial(_blocking, url), partial(_glide, url)
    contenders = [
        _contender(PIPELINE, pool, True, _pool_pipeline, BATCHES),
        _contender(CALLS, pool, True, _calls, BATCHES),
        _contender(f"{BLOCKING}, pipeline", blocking, False, _redis_pipeline, BATCHES),
        _contender(f"{BLOCKING}, {BATCH} calls", blocking, False, _calls, BATCHES),
        _contender(f"{GLIDE}, pipeline", glide, False, attrgetter("batch"), BATCHES),
        _contender(f"{GLIDE}, {BATCH} calls", glide, False, _calls, BATCHES),
    ]
    race = Race(name=name, contenders=contenders, threads=BATCH_THREADS, budget=24.0)
    question = f"Redis: {BATCH} GETs in a pipeline, or one after the other?"
    return answers.speed(name, question, race.run(plan, watcher), CALLS, PIPELINE_TARGETS)


def _tls_answered(server: RedisServer, plan: Plan, watcher: Watcher) -> Answer:
    name = "redis.tls"
    url, ca_file = server.tls_url, str(server.ca_file)
    tls_ways: list[Way] = [
        (POOLED, partial(_pool, url, ca_file=ca_file), True),
        (PER_CALL, partial(_per_call, url, ca_file), False),
        (PER_CALL_KEPT, partial(_pool_per_call, url, ca_file), False),
    ]
    contenders = [_contender(*way, attrgetter("get"), VALUES) for way in tls_ways]
    race = Race(name=name, contenders=contenders, threads=(1,), budget=8.0)
    question = "Redis over TLS: a connection a call, or a pool?"
    return answers.speed(name, question, race.run(plan, watcher), PER_CALL, TLS_TARGETS)


# The contenders ------------------------------------------------------------------------------------


def ways(url: str) -> list[Way]:
    """Return every way to reach the server; ours beside the peers that it is compared with."""
    return [
        (RAW, partial(_pinned, url), False),
        (DEFAULT, partial(_default, url), False),
        (POOL, partial(_pool, url), True),
        (LEASE, partial(_pool, url, combine=False), True),
        (BLOCKING, partial(_blocking, url), False),
        (GLIDE, partial(_glide, url), False),
    ]


def _contender(
    name: str, clients: Clients, ours: bool, ask_of: Callable[[Any], Ask], expected: Expected
) -> Contender:
    """Return the contender whose threads ask of their clients what ``ask_of`` makes of each."""
    opened = partial(asking, partial(_asks, clients, ask_of), expected)
    return Contender(name, opened, ours, floor=name == RAW)


@contextmanager
def _asks(clients: Clients, ask_of: Callable[[Any], Ask], threads: int) -> Iterator[Sequence[Ask]]:
    with clients(threads) as opened:
        yield [ask_of(client) for client in opened]


@contextmanager
def _pool(url: str, threads: int, **settings: Any) -> Iterator[Sequence[Any]]:
    """Yield a RedisPool, all the connections made that its threads can use."""
    # Imported late: while it can't be, only its own contenders fail, and say why.
    from poolkit import RedisPool

    with RedisPool(url, max_size=SIZE, acquire_timeout=WAIT, **settings) as cache:
        with ExitStack() as held:
            for _ in range(min(threads, SIZE)):
                held.enter_context(cache.connection())
        yield [cache] * threads


@contextmanager
def _blocking(url: str, threads: int) -> Iterator[Sequence[Any]]:
    pool = redis.BlockingConnectionPool.from_url(
        url, max_connections=SIZE, timeout=WAIT, decode_responses=True
    )
    with _connected(pool, min(threads, SIZE)) as client:
        yield [client] * threads


@contextmanager
def _default(url: str, threads: int) -> Iterator[Sequence[Any]]:
    """redis-py's own pool makes a connection for each thread; it refuses the 101st unless told otherwise."""
    bound = {"max_connections": threads} if threads > 100 else {}
    with _connected(
        redis.ConnectionPool.from_url(url, decode_responses=True, **bound), threads
    ) as client:
        yield [client] * threads


@contextmanager
def _connected(pool: redis.ConnectionPool, connections: int) -> Iterator[redis.Redis]:
    """Yield a client of one of redis-py's pools, so many connections made."""
    with closing(pool):
        for conn in [pool.get_connection() for _ in range(connections)]:
            pool.release(conn)
        yield redis.Redis(connection_pool=pool)


@contextmanager
def _pinned(url: str, threads: int) -> Iterator[Sequence[Any]]:
    """One connection a thread; more threads than connections share them, by index and under a lock."""
    with ExitStack() as stack:
        pool = stack.enter_context(
            closing(redis.ConnectionPool.from_url(url, decode_responses=True))
        )
        conns = [pool.get_connection() for _ in range(min(threads, SIZE))]
        yield [Pinned(run) for run in spread([_run_on(conn) for conn in conns], threads)]


class Pinned:
    """A connection without a pool, as a client."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run

    def get(self, key: str) -> Any:
        return self._run("GET", key)

    def set(self, key: str, value: str) -> bool:
        return self._run("SET", key, value) == "OK"


def _run_on(conn: Any) -> Callable[..., Any]:
    def run(*words: str) -> Any:
        conn.send_command(*words)
        return conn.read_response()

    return run


@contextmanager
def _glide(url: str, threads: int) -> Iterator[Sequence[Any]]:
    """Valkey's client with a Rust core: one connection, on which it sends what all threads ask."""
    import glide_sync

    parts = redis.connection.parse_url(url)
    client = glide_sync.GlideClient.create(
        glide_sync.GlideClientConfiguration(
            [glide_sync.NodeAddress(parts["host"], parts["port"])],
            credentials=glide_sync.ServerCredentials(parts["password"]),
            request_timeout=round(WAIT * 1000),
        )
    )
    with closing(client):
        yield [Glide(client, partial(glide_sync.Batch, is_atomic=False))] * threads


class Glide:
    """A glide client that answers ``str``, as the others do."""

    def __init__(self, client: Any, make_batch: Callable[[], Any]) -> None:
        self._client = client
        self._make_batch = make_batch

    def get(self, key: str) -> Any:
        found = self._client.get(key)
        return None if found is None else found.decode()

    def set(self, key: str, value: str) -> bool:
        return self._client.set(key, value) == "OK"

    def batch(self, keys: Sequence[str]) -> Any:
        batch = self._make_batch()
        for key in keys:
            batch.get(key)
        return tuple(value.decode() for value in self._client.exec(batch, raise_on_error=True))


@contextmanager
def _per_call(url: str, ca_file: str, threads: int) -> Iterator[Sequence[Any]]:
    """What many do: redis-py reads the system's CAs at each connection, which takes longer than TLS."""

    def make() -> AbstractContextManager[Any]:
        return closing(redis.Redis.from_url(url, decode_responses=True, ssl_ca_certs=ca_file))

    yield [MadePerCall(make)] * threads


@contextmanager
def _pool_per_call(url: str, ca_file: str, threads: int) -> Iterator[Sequence[Any]]:
    """A connection a call without the CAs in it: they are read once, in the config."""
    from poolkit import RedisConfig, RedisPool

    config = RedisConfig(url=url, ca_file=ca_file)
    yield [MadePerCall(lambda: RedisPool(config))] * threads


class MadePerCall:
    """Makes a client for each call."""

    def __init__(self, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self._make = make

    def get(self, key: str) -> Any:
        with self._make() as client:
            return client.get(key)


# What they are asked -------------------------------------------------------------------------------


def _setting(client: Any) -> Ask:
    return lambda key: client.set(key, "value")


def _calls(client: Any) -> Ask:
    return lambda keys: tuple([client.get(key) for key in keys])


def _pool_pipeline(cache: Any) -> Ask:
    return lambda keys: tuple(cache.pipeline([("GET", key) for key in keys]))


def _redis_pipeline(client: Any) -> Ask:
    def ask(keys: Sequence[str]) -> Any:
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.get(key)
        return tuple(pipeline.execute())

    return ask
