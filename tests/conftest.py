"""The servers that tests share, the making of those they may break, and the garbage collector of a run."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from poolkit import embedded
from poolkit.embedded import (
    EmbeddedError,
    FirestoreServer,
    HttpServer,
    PostgresServer,
    PostgresStandby,
    RedisCluster,
    RedisSentinel,
    RedisServer,
)
from poolkit.embedded.firestore import find_jar
from tests import generated

generated.load(os.environ.get("HYPOTHESIS_PROFILE", "usual"))

# A run in the background of a script is born with Ctrl-C ignored, and so would be all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def _what_others_made() -> None:
    """Have the collector look at what the tests of a file make, and leave alone what was there before.

    That is a lot: all the tests, what they have imported, and servers. Looking at it stops every thread for 0.4 s,
    now and then, which no deadline can keep; and many tests collect once for each point at which they interrupt.
    """
    gc.collect()
    # What is frozen stays: a pool that a thread of its own still looks after would probe for the rest of the run.
    if not any(thread.name.startswith("poolkit-") for thread in threading.enumerate()):
        gc.freeze()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Give the one PostgreSQL of this run: for tests that leave it as they found it."""
    server = PostgresServer()
    with server:
        yield server


@pytest.fixture
def conninfo(postgres_server: PostgresServer) -> str:
    """Give the address of the shared PostgreSQL."""
    return postgres_server.conninfo


@pytest.fixture(scope="session")
def postgres_template() -> Iterator[PostgresServer]:
    """Give a stopped PostgreSQL, to make others from: initdb runs once, not for each of them."""
    server = PostgresServer()
    with server:
        server.stop()
        yield server


@pytest.fixture
def own_postgres(postgres_template: PostgresServer) -> Iterator[Callable[..., PostgresServer]]:
    """Give a maker of started PostgreSQL servers: for tests that kill, freeze or fill theirs."""
    with ExitStack() as servers:

        def start(**options: Any) -> PostgresServer:
            server = PostgresServer(**{"template": postgres_template, **options})
            servers.enter_context(server)
            return server

        yield start


@pytest.fixture(scope="session")
def _postgres_standby() -> Iterator[PostgresStandby]:
    with embedded.postgres_standby() as group:
        yield group


@pytest.fixture
def postgres_standby(_postgres_standby: PostgresStandby) -> PostgresStandby:
    """Give a primary with a standby; they may be broken, and are mended for the next test."""
    _mend([_postgres_standby.primary, _postgres_standby.standby])
    _postgres_standby.start()
    return _postgres_standby


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Give the one Redis of this run: for tests that leave it as they found it, but for its keys."""
    server = RedisServer()
    with server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Give the address of the shared Redis, which is empty."""
    redis_server.ask("FLUSHALL")
    return redis_server.url


@pytest.fixture
def own_redis() -> Iterator[Callable[..., RedisServer]]:
    """Give a maker of started Redis servers: for tests that kill, freeze or fill theirs."""
    with ExitStack() as servers:

        def start(**options: Any) -> RedisServer:
            server = RedisServer(**options)
            servers.enter_context(server)
            return server

        yield start


@pytest.fixture(scope="session")
def _tls_redis() -> Iterator[RedisServer]:
    server = RedisServer(tls=True)
    with server:
        yield server


@pytest.fixture
def tls_redis(_tls_redis: RedisServer) -> RedisServer:
    """Give the one Redis of this run that has TLS; it is empty, and may be stopped."""
    _mend([_tls_redis])
    _empty([_tls_redis])
    return _tls_redis


@pytest.fixture(scope="session")
def _redis_cluster() -> Iterator[RedisCluster]:
    with embedded.redis_cluster() as cluster:
        yield cluster


@pytest.fixture
def redis_cluster(_redis_cluster: RedisCluster) -> RedisCluster:
    """Give a cluster of three masters with a replica each; it is empty, and may be broken."""
    _mend(_redis_cluster.servers)
    _redis_cluster.wait_ok()
    _empty(_redis_cluster.servers)
    return _redis_cluster


@pytest.fixture(scope="session")
def _redis_sentinel() -> Iterator[RedisSentinel]:
    with embedded.redis_sentinel() as sentinel:
        yield sentinel


@pytest.fixture
def redis_sentinel(_redis_sentinel: RedisSentinel) -> RedisSentinel:
    """Give a master with a replica and three sentinels; they are empty, and may be broken."""
    _mend(_redis_sentinel.servers + _redis_sentinel.sentinel_servers)
    _redis_sentinel.wait_ok()
    _empty(_redis_sentinel.servers)
    return _redis_sentinel


@pytest.fixture
def own_http() -> Iterator[Callable[..., HttpServer]]:
    """Give a maker of started HTTP servers: for tests that kill or freeze theirs, or count."""
    with ExitStack() as servers:

        def start(**options: Any) -> HttpServer:
            server = HttpServer(**options)
            servers.enter_context(server)
            return server

        yield start


@pytest.fixture(scope="session")
def firestore_server() -> Iterator[FirestoreServer]:
    """Give the one Firestore emulator of this run: for tests that leave it as they found it, but for documents."""
    with _started_firestore() as server:
        yield server


@pytest.fixture(scope="session")
def _frail_firestore() -> Iterator[FirestoreServer]:
    with _started_firestore() as server:
        yield server


@pytest.fixture
def frail_firestore(_frail_firestore: FirestoreServer) -> FirestoreServer:
    """Give a Firestore emulator that may be killed and frozen; it is mended for the next test."""
    _mend([_frail_firestore])
    return _frail_firestore


@contextmanager
def _started_firestore() -> Iterator[FirestoreServer]:
    server = FirestoreServer()
    try:
        find_jar()
    except EmbeddedError as error:
        pytest.skip(str(error))
    with server:
        yield server


def _mend(servers: Sequence[PostgresServer | RedisServer | FirestoreServer]) -> None:
    for server in servers:
        with suppress(EmbeddedError):  # one that does not run can't be frozen
            server.resume()  # first: a frozen one answers nothing
        server.start()


def _empty(servers: list[RedisServer]) -> None:
    for server in servers:
        if server.info("INFO", "replication")["role"] == "master":
            server.ask("FLUSHALL")
