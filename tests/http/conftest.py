"""Servers, certificates, names and proxies for the tests of HttpPool."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from poolkit.embedded import HttpServer
from tests.http.certificates import Certificates
from tests.http.dns import ScriptedDns
from tests.http.proxies import ForwardProxy
from tests.http.scripted import Blackhole, Script, ScriptedServer


@pytest.fixture(scope="session")
def http_server() -> Iterator[HttpServer]:
    """Give the one HTTP server of this run: for tests that leave it running."""
    server = HttpServer()
    with server:
        yield server


@pytest.fixture(scope="session")
def https_server() -> Iterator[HttpServer]:
    """Give the one HTTPS server of this run; its ``ca_file`` vouches for it."""
    server = HttpServer(tls=True)
    with server:
        yield server


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedServer]]:
    """Give a maker of servers that do as scripted; what a script raises fails the test."""
    with ExitStack() as servers:

        def start(script: Script, **options: Any) -> ScriptedServer:
            return servers.enter_context(ScriptedServer(script, **options))

        yield start


@pytest.fixture
def blackhole() -> Iterator[Blackhole]:
    """Give a port on which no connection is accepted or refused."""
    with Blackhole() as hole:
        yield hole


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Give certificates, good and bad."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedDns]:
    """Give a hold on what names resolve to."""
    names = ScriptedDns()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    yield names
    names.release()


@pytest.fixture
def forward_proxy() -> Iterator[Callable[..., ForwardProxy]]:
    """Give a maker of forward proxies."""
    with ExitStack() as proxies:

        def start(**options: Any) -> ForwardProxy:
            proxy = ForwardProxy(**options)
            proxies.enter_context(proxy)
            return proxy

        yield start
