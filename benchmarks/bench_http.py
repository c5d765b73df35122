"""One GET a request, T threads on 20 connections: HttpPool beside what people use today."""

from __future__ import annotations

import http.client
import queue
import ssl
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from benchmarks import answers, streaming
from benchmarks.answers import Answer
from benchmarks.asks import Ask, asking
from benchmarks.crew import Contender
from benchmarks.harness import Plan, Race
from benchmarks.progress import Watcher
from benchmarks.targets import CPU, P50, SLOWEST_SHARE, Target
from benchmarks.web import HUGE, LARGE, SMALL, Web, body, served

QUESTIONS = (
    "get_by_threads",
    "fairness",
    "get_100_kb",
    "tls_by_threads",
    "tls_100_kb",
    "pooled_tls",
    "stream_1_gib",
)
PACKAGES = ("urllib3", "requests", "httpx")

SIZE = 20
WAIT = 30.0
THREADS = (1, 8, 50, 500)
MOST_THREADS = max(THREADS)

POOL = "HttpPool"
OUR_SESSION = "HttpPool.session()"
MANAGER = "urllib3 PoolManager(20)"
SESSION = "requests.Session"
HTTPX = "httpx.Client"
RAW = "http.client, SimpleQueue of 20"
UNPOOLED = "http.client, a connection a request"
PER_CALL = "requests.get(), nothing kept"

GET_TARGETS = tuple(
    Target(name=name, contender=ours, peer=peer, threads=threads, at_least=at_least)
    for name, ours, peer, at_least in (
        ("get", POOL, MANAGER, 1.2),
        ("get", POOL, SESSION, 2.5),
        ("get", POOL, HTTPX, 1.5),
        ("get, session()", OUR_SESSION, SESSION, 1.0),
    )
    for threads in (1, 8, 50)
)
LARGE_TARGETS = tuple(
    Target(name="get 100 kB", contender=POOL, peer=MANAGER, threads=threads, at_least=1.0)
    for threads in (1, 8, 50)
)
FAIRNESS_TARGETS = (
    Target(
        name="slowest thread", contender=POOL, measure=SLOWEST_SHARE, threads=500, at_least=1 / 3
    ),
)
POOLED_TARGETS = (
    tuple(
        Target(name="latency", contender=POOL, peer=peer, measure=P50, threads=1, at_most=0.1)
        for peer in (PER_CALL, UNPOOLED)
    )
    + tuple(
        Target(name="throughput", contender=POOL, peer=peer, threads=8, at_least=5.0)
        for peer in (PER_CALL, UNPOOLED)
    )
    + tuple(
        Target(name="client's CPU", contender=POOL, peer=peer, measure=CPU, threads=8, at_most=0.6)
        for peer in (PER_CALL, UNPOOLED)
    )
)
STREAM_MB = 10.0  # more than at the start

Get = Callable[[str], Any]
Opened = Callable[[], AbstractContextManager[Get]]
Way = tuple[str, Opened, bool]  # its name, and whether it is ours


def answered(plan: Plan, wanted: Collection[str], watcher: Watcher) -> Iterator[Answer]:
    """Start the servers, race, and answer the wanted questions."""
    with served() as web:
        if {"get_by_threads", "fairness"} & set(wanted):
            yield from _gets_answered(web, plan, wanted, watcher)
        if "get_100_kb" in wanted:
            question = (
                f"HTTP: how many GETs of 100 kB a second, when threads share {SIZE} connections?"
            )
            race = _race("http.get_100_kb", web, LARGE, THREADS, 24.0)
            yield answers.speed(
                race.name, question, race.run(plan, watcher), MANAGER, LARGE_TARGETS
            )
        if "tls_by_threads" in wanted:
            question = "HTTP over TLS: how many GETs of 200 bytes a second?"
            race = _race("http.tls_by_threads", web, SMALL, THREADS, 20.0, tls=True)
            yield answers.speed(race.name, question, race.run(plan, watcher), MANAGER, ())
        if "tls_100_kb" in wanted:
            question = "HTTP over TLS: how many GETs of 100 kB a second?"
            race = _race("http.tls_100_kb", web, LARGE, (1, 50), 12.0, tls=True)
            yield answers.speed(race.name, question, race.run(plan, watcher), MANAGER, ())
        if "pooled_tls" in wanted:
            yield _pooled_answered(web, plan, watcher)
        if "stream_1_gib" in wanted:
            yield _stream_answered(web, watcher)


def _gets_answered(
    web: Web, plan: Plan, wanted: Collection[str], watcher: Watcher
) -> Iterator[Answer]:
    results = _race("http.get_by_threads", web, SMALL, THREADS, 80.0).run(plan, watcher)
    if "get_by_threads" in wanted:
        question = (
            f"HTTP: how many GETs of 200 bytes a second, when threads share {SIZE} connections?"
        )
        yield answers.speed("http.get_by_threads", question, results, MANAGER, GET_TARGETS)
    if "fairness" in wanted:
        question = "HTTP: for each request of the median thread, how many had the slowest thread?"
        yield answers.fairness("http.fairness", question, results, (50, 500), FAIRNESS_TARGETS)


def _pooled_answered(web: Web, plan: Plan, watcher: Watcher) -> Answer:
    name = "http.pooled_tls"
    chosen = [way for way in ways(web, tls=True) if way[0] in (POOL, MANAGER, UNPOOLED)]
    chosen.append((PER_CALL, partial(_per_call, web.ca_file), False))
    contenders = [_contender(way, web.url(SMALL, tls=True), SMALL) for way in chosen]
    race = Race(name=name, contenders=contenders, threads=(1, 8), budget=10.0)
    question = "HTTP over TLS: what does keeping connections save?"
    return answers.speed(name, question, race.run(plan, watcher), PER_CALL, POOLED_TARGETS)


def _stream_answered(web: Web, watcher: Watcher) -> Answer:
    url = web.url(HUGE)
    return streaming.answer(
        "http.stream_1_gib",
        "HTTP: does memory stay flat while 1 GiB is streamed?",
        {POOL: partial(_pool_streams, url), MANAGER: partial(_manager_streams, url)},
        ours=POOL,
        length=HUGE,
        at_most_mb=STREAM_MB,
        watcher=watcher,
    )


def _race(
    name: str, web: Web, length: int, threads: Sequence[int], budget: float, *, tls: bool = False
) -> Race:
    url = web.url(length, tls=tls)
    contenders = [_contender(way, url, length) for way in ways(web, tls=tls)]
    return Race(name=name, contenders=contenders, threads=threads, budget=budget)


# The contenders ------------------------------------------------------------------------------------


def ways(web: Web, *, tls: bool) -> list[Way]:
    """Return every way to ask; ours beside the peers that it is compared with."""
    ca_file = web.ca_file if tls else None
    address = web.url(SMALL, tls=tls)
    return [
        (RAW, partial(_raw, address, ca_file), False),
        (POOL, partial(_pool, ca_file), True),
        (MANAGER, partial(_manager, ca_file), False),
        (OUR_SESSION, partial(_our_session, ca_file), True),
        (SESSION, partial(_session, ca_file), False),
        (HTTPX, partial(_httpx, ca_file), False),
        (UNPOOLED, partial(_unpooled, address, ca_file), False),
    ]


def _contender(way: Way, url: str, length: int) -> Contender:
    name, opened, ours = way
    expected = [(url, body(length))] * MOST_THREADS
    return Contender(name, partial(asking, partial(_shared, opened), expected), ours)


@contextmanager
def _shared(opened: Opened, threads: int) -> Iterator[Sequence[Ask]]:
    with opened() as get:
        yield [get] * threads


@contextmanager
def _pool(ca_file: str | None) -> Iterator[Get]:
    with _http_pool(ca_file) as pool:
        yield lambda url: pool.get(url).data


@contextmanager
def _our_session(ca_file: str | None) -> Iterator[Get]:
    with _http_pool(ca_file) as pool, pool.session() as session:
        yield lambda url: session.get(url).content


def _http_pool(ca_file: str | None, **settings: Any) -> Any:
    # Imported late: while it can't be, only its own contenders fail, and say why.
    from poolkit import HttpPool

    trust = {} if ca_file is None else {"verify": ca_file}
    return HttpPool(max_size=SIZE, max_idle=SIZE, acquire_timeout=WAIT, **trust, **settings)


@contextmanager
def _manager(ca_file: str | None) -> Iterator[Get]:
    with urllib3.PoolManager(maxsize=SIZE, block=True, retries=False, ca_certs=ca_file) as manager:
        yield lambda url: manager.request("GET", url).data


@contextmanager
def _session(ca_file: str | None) -> Iterator[Get]:
    with requests.Session() as session:
        adapter = HTTPAdapter(pool_maxsize=SIZE, pool_block=True)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        # Said with each request: REQUESTS_CA_BUNDLE counts for more than what a session says.
        trust: Any = {} if ca_file is None else {"verify": ca_file}
        yield lambda url: session.get(url, **trust).content


@contextmanager
def _httpx(ca_file: str | None) -> Iterator[Get]:
    import httpx

    limits = httpx.Limits(max_connections=SIZE, max_keepalive_connections=SIZE)
    verify = _context(ca_file) or False
    with httpx.Client(limits=limits, timeout=WAIT, verify=verify) as client:

        def get(url: str) -> bytes:
            try:
                return client.get(url).content
            except (httpx.RemoteProtocolError, httpx.ReadError):
                # With many threads httpx 0.28 now and then takes a connection that it is closing
                # itself, whatever the server.
                return client.get(url).content

        yield get


@contextmanager
def _raw(url: str, ca_file: str | None) -> Iterator[Get]:
    """The least there is: connections in a queue, and no more than HTTP."""
    make, path = _maker(url, ca_file)
    idle: queue.SimpleQueue[http.client.HTTPConnection] = queue.SimpleQueue()
    with ExitStack() as connections:
        for _ in range(SIZE):
            idle.put(connections.enter_context(closing(make())))

        def get(url: str) -> bytes:
            connection = idle.get()
            try:
                connection.request("GET", path(url))
                return connection.getresponse().read()
            finally:
                idle.put(connection)

        yield get


@contextmanager
def _unpooled(url: str, ca_file: str | None) -> Iterator[Get]:
    """A connection a request; the CAs are read once, or they would take longest."""
    make, path = _maker(url, ca_file)

    def get(url: str) -> bytes:
        with closing(make()) as connection:
            connection.request("GET", path(url), headers={"Connection": "close"})
            return connection.getresponse().read()

    yield get


@contextmanager
def _per_call(ca_file: str) -> Iterator[Get]:
    """What many do: requests reads the CAs at each call, which takes longer than TLS."""
    yield lambda url: requests.get(url, verify=ca_file, timeout=WAIT).content


def _maker(
    url: str, ca_file: str | None
) -> tuple[Callable[[], http.client.HTTPConnection], Callable[[str], str]]:
    """Return what makes a connection to the server of *url*, and what cuts the server off a URL."""
    address = urlsplit(url)
    assert address.hostname is not None
    base = len(f"{address.scheme}://{address.netloc}")
    make: Callable[[], http.client.HTTPConnection]
    make = partial(http.client.HTTPConnection, address.hostname, address.port, timeout=WAIT)
    if (context := _context(ca_file)) is not None:
        make = partial(
            http.client.HTTPSConnection,
            address.hostname,
            address.port,
            timeout=WAIT,
            context=context,
        )
    return make, lambda url: url[base:]


def _context(ca_file: str | None) -> ssl.SSLContext | None:
    return None if ca_file is None else ssl.create_default_context(cafile=ca_file)


# Streams, each in a process of its own ----------------------------------------------------------------


def _pool_streams(url: str) -> Iterator[bytes]:
    pool = _http_pool(None, max_response_bytes=2 * HUGE, request_timeout=120.0)
    with pool, pool.stream("GET", url) as response:
        yield from response.stream(streaming.PIECE)


def _manager_streams(url: str) -> Iterator[bytes]:
    with urllib3.PoolManager(retries=False) as manager:
        response = manager.request("GET", url, preload_content=False)
        yield from response.stream(streaming.PIECE)
        response.release_conn()
