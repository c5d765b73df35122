"""The servers that tests share, and the making of those they may break."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from poolkit.embedded import PostgresServer

# A run in the background of a script is born with Ctrl-C ignored, and so would be all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
