"""Servers and pools that tests may break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from psycopg import sql

from poolkit import PostgresPool
from poolkit.embedded import PostgresServer
from tests.faults.proxy import FaultProxy

from .observing import Watch, at, unique, until, watching


@pytest.fixture(scope="session")
def _breakable() -> Iterator[PostgresServer]:
    server = PostgresServer(max_connections=150, settings={"log_connections": "on"})
    with server:
        yield server


@pytest.fixture
def breakable(_breakable: PostgresServer) -> Iterator[PostgresServer]:
    """Give a server that the test may kill and freeze; it is mended afterwards."""
    _breakable.start()
    yield _breakable
    _breakable.start()
    _breakable.resume()


@pytest.fixture
def watch(conninfo: str) -> Iterator[Watch]:
    """Give eyes on the shared server."""
    with watching(conninfo) as watch:
        yield watch


@pytest.fixture
def make_pool() -> Iterator[Callable[..., PostgresPool]]:
    """Give a maker of pools that are closed after the test."""
    with ExitStack() as pools:

        def make(conninfo: str, **settings: Any) -> PostgresPool:
            pool = PostgresPool(conninfo, **settings)
            pools.callback(pool.close, 1.0)
            return pool

        yield make


@pytest.fixture
def make_proxy() -> Iterator[Callable[[PostgresServer], FaultProxy]]:
    """Give a maker of proxies in front of a server."""
    with ExitStack() as proxies:

        def make(server: PostgresServer) -> FaultProxy:
            return proxies.enter_context(FaultProxy("127.0.0.1", server.port))

        yield make


@pytest.fixture
def db(conninfo: str, make_pool: Callable[..., PostgresPool]) -> PostgresPool:
    """Give a pool of one connection on the shared server, so that the next borrower gets the same one."""
    return make_pool(conninfo, min_size=1, max_size=1, acquire_timeout=10)


@pytest.fixture
def table(watch: Watch) -> Iterator[sql.Identifier]:
    """Give the name of a table of the test's own, ``(id int primary key, name text)``."""
    name = sql.Identifier(unique("t"))
    watch.ask(sql.SQL("create table {} (id int primary key, name text)").format(name))
    yield name
    watch.ask(sql.SQL("drop table {}").format(name))


@pytest.fixture
def counted(
    postgres_server: PostgresServer,
    make_proxy: Callable[[PostgresServer], FaultProxy],
    make_pool: Callable[..., PostgresPool],
) -> tuple[PostgresPool, FaultProxy]:
    """Give a pool of one connection, open already, and the proxy that counts its round trips."""
    proxy = make_proxy(postgres_server)
    pool = make_pool(at(postgres_server.conninfo, port=proxy.port), min_size=1, max_size=1)
    pool.open()
    until(lambda: pool.stats().size == 1)
    proxy.reset_round_trips()
    return pool, proxy
