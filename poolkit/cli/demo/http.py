"""A service over TLS: a connection a request, requests' own session, and poolkit's pool."""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

import requests
import urllib3

from poolkit import HttpPool, PoolOverloaded, PoolTimeout, embedded

from .scene import Claim, Contender, Run, SlowHost
from .slow_host import call_beside_a_slow_host
from .workload import Lookup, Measured, Workload, milliseconds

CUSTOMERS = 10_000
MAX_SIZE = 20

_PATH = "/echo?customer={}"


@dataclass(frozen=True)
class Service:
    """Where the service is, and who vouches for it."""

    url: str
    port: int
    ca_file: str


@dataclass(frozen=True)
class NoPool:
    """A new connection of urllib3 for every request. The authorities are read once."""

    name: str = "no pool"

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        return (urllib3.exceptions.HTTPError,)

    @contextmanager
    def open(self, address: Service, *, seconds: float) -> Iterator[Lookup]:
        context = ssl.create_default_context(cafile=address.ca_file)

        def lookup(key: int) -> object:
            with closing(
                urllib3.HTTPSConnectionPool(
                    "localhost", address.port, timeout=seconds, ssl_context=context
                )
            ) as once:
                return _customer(once.request("GET", _PATH.format(key), retries=False).json())

        yield lookup


@dataclass(frozen=True)
class RequestsSession:
    """One ``requests.Session`` for all threads: it keeps 10 connections, and makes as many as are wanted."""

    name: str = "requests.Session"

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        return (requests.RequestException,)

    @contextmanager
    def open(self, address: Service, *, seconds: float) -> Iterator[Lookup]:
        with _without_warnings("urllib3.connectionpool"), requests.Session() as session:

            def lookup(key: int) -> object:
                url = address.url + _PATH.format(key)
                return _customer(session.get(url, timeout=seconds, verify=address.ca_file).json())

            yield lookup


@dataclass(frozen=True)
class Poolkit:
    """``poolkit.HttpPool``."""

    name: str = "poolkit"

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        return (PoolTimeout, PoolOverloaded)

    @contextmanager
    def open(self, address: Service, *, seconds: float) -> Iterator[Lookup]:
        with _pool(address, seconds=seconds) as http:
            yield _through(http, address)


def _pool(address: Service, *, seconds: float) -> HttpPool:
    return HttpPool(
        max_size=MAX_SIZE,
        max_idle=MAX_SIZE,
        acquire_timeout=seconds,
        request_timeout=2 * seconds,
        verify=address.ca_file,
    )


def _through(http: HttpPool, address: Service) -> Lookup:
    return lambda key: _customer(http.get(address.url + _PATH.format(key)).json())


def _customer(answer: Any) -> str:
    ((_, customer),) = answer["query"]
    return str(customer)


@contextmanager
def _without_warnings(name: str) -> Iterator[None]:
    """Keep a logger's warnings off the screen: here one for each connection that requests throws away."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class Server:
    """The service, as it counts itself."""

    description = "An HTTPS service on this machine"

    def __init__(self, server: embedded.HttpServer) -> None:
        self.address = Service(server.url, server.port, str(server.ca_file))
        self._server = server

    def census(self) -> Census:
        return Census(self._server)


class Census:
    """See :class:`~.scene.Census`."""

    hit_rate: float | None = None

    def __init__(self, server: embedded.HttpServer) -> None:
        self._server = server
        self._before = server.counts().connections
        self.peak = 0
        self.opened = 0

    def look(self) -> None:
        self.peak = max(self.peak, self._server.counts().open)

    def close(self) -> None:
        give_up = monotonic() + 5
        while self._server.counts().open and monotonic() < give_up:
            sleep(0.02)
        self.opened = self._server.counts().connections - self._before


@dataclass(frozen=True)
class HttpScene:
    """See :class:`~.scene.Scene`."""

    title: str = "a service over TLS"
    request: str = (
        "A request asks the service for one customer."
        f" poolkit's pool has up to {MAX_SIZE} connections."
    )
    contenders: Sequence[Contender[Service]] = (NoPool(), RequestsSession(), Poolkit())
    patience: float = 2.0
    last_step: str = "call a slow host too"

    def workload(self, *, threads: int, requests_per_thread: int) -> Workload:
        return Workload(
            threads=threads, requests_per_thread=requests_per_thread, keys=CUSTOMERS, value=str
        )

    @contextmanager
    def open(self) -> Iterator[Server]:
        server = embedded.HttpServer(tls=True)
        with server:
            yield Server(server)

    def claims(
        self,
        runs: Sequence[Run],
        workload: Workload,  # noqa: ARG002
        address: Service,  # noqa: ARG002
    ) -> list[Claim]:
        measured = {run.contender: run.measured for run in runs}
        before, ours = measured[NoPool().name], measured[Poolkit().name]
        return [_latency_cut(before, ours), _throughput(before, ours)]

    def finale(self, workload: Workload, address: Service) -> SlowHost:
        with embedded.http() as slow, _pool(address, seconds=10.0) as http:
            return call_beside_a_slow_host(
                http, _through(http, address), workload, slow=slow, slots=MAX_SIZE
            )


def _latency_cut(before: Measured, ours: Measured) -> Claim:
    old, new = before.percentile(50), ours.percentile(50)
    change = 100 * (new / old - 1)
    return Claim(
        text="Kept connections cut latency over TLS\nby 90 %",
        measured=f"p50 {milliseconds(old)} -> {milliseconds(new)} ms: {change:+.0f} %",
        met=None if math.isnan(change) else change <= -90,
    )


def _throughput(before: Measured, ours: Measured) -> Claim:
    old, new = before.throughput, ours.throughput
    ratio = new / old if old else math.nan
    return Claim(
        text="and give 5 × the throughput",
        measured=f"{old:,.0f} -> {new:,.0f} req/s: {ratio:.1f} ×",
        met=None if math.isnan(ratio) else ratio >= 5,
    )
