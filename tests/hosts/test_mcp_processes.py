"""MCP servers as they run: a process, spoken to over its pipes or over HTTP by a client of the mcp package."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import stdio_client

from ..core.support import eventually
from .mcp_support import Watch, happens, over_http, over_stdio, run

MODERN, LEGACY = "auto", "legacy"


@pytest.fixture
def watch(conninfo):
    """Give a look into the database."""
    with Watch(conninfo) as watch:
        yield watch


class Wire:
    """A way to reach a server: clients made by :meth:`client` reach the same one over HTTP, each its own over stdio."""

    def __init__(self, kind, mode, log, settings, http=None):
        self.kind = kind
        self.log = log
        self._mode = mode
        self._settings = settings
        self._http = http

    @asynccontextmanager
    async def client(self):
        if self._http is not None:
            async with Client(self._http.url, mode=self._mode) as client:
                yield client
        else:
            with self.log.open("a") as errors:
                transport = stdio_client(over_stdio(**self._settings), errlog=errors)
                async with Client(transport, mode=self._mode) as client:
                    yield client

    def stop(self):
        """Have a server that speaks HTTP end; one that speaks over pipes ended with its client."""
        if self._http is not None:
            self._http.stop()


@contextmanager
def wired(kind, mode, log, **settings):
    """Run a server, or have it run when its client comes."""
    if kind == "stdio":
        yield Wire(kind, mode, log, settings)
    else:
        with over_http(log, **settings) as http:
            yield Wire(kind, mode, log, settings, http)


@pytest.fixture(params=[("stdio", MODERN), ("stdio", LEGACY), ("http", MODERN), ("http", LEGACY)])
def wire(request, conninfo, tmp_path):
    """Give a server with two connections, and more time for a call than a test has."""
    kind, mode = request.param
    settings = {
        "POOLKIT_POSTGRES_CONNINFO": f"{conninfo} application_name=shop"
        if "=" in conninfo
        else f"{conninfo}?application_name=shop",
        "POOLKIT_POSTGRES_MIN_SIZE": "1",
        "POOLKIT_POSTGRES_MAX_SIZE": "2",
        "POOLKIT_POSTGRES_ACQUIRE_TIMEOUT": "60",
        "POOLKIT_POSTGRES_STATEMENT_TIMEOUT": "60",
        "POOLKIT_POSTGRES_COMBINE": "false",
        "SHOP_DEADLINE": "60",
    }
    with wired(kind, mode, tmp_path / "log", **settings) as wire:
        yield wire


@pytest.mark.parametrize("wire", [("stdio", LEGACY), ("http", MODERN)], indirect=True)
def test_a_tool_is_called_and_nothing_is_left_when_the_server_ends(wire, watch):
    async def main():
        async with wire.client() as client:
            result = await client.call_tool("add", {"a": 2, "b": 3})
            assert result.structured_content == {"result": 5}
            assert watch.connections("shop") > 0

    run(main)
    wire.stop()
    eventually(lambda: watch.connections("shop") == 0)
    assert wire.log.read_text() == ""


def test_a_cancelled_call_ends_its_query_and_its_wait_for_a_connection(wire, watch):
    async def main():
        async with wire.client() as client, anyio.create_task_group() as group:
            scopes = []

            async def call(tool, mark):
                with anyio.CancelScope() as scope:
                    scopes.append(scope)
                    await client.call_tool(tool, {"mark": mark})

            group.start_soon(call, "sleep", "mark-sync")
            group.start_soon(call, "sleep_async", "mark-async")
            await happens(lambda: watch.running("mark-") == 2)
            group.start_soon(call, "sleep", "mark-waiting")
            await reaches(client, in_use=2, waiting=1)

            scopes[2].cancel()  # waits for a connection
            await reaches(client, in_use=2, waiting=0)
            assert watch.running("mark-") == 2

            scopes[0].cancel()
            scopes[1].cancel()
            await reaches(client, in_use=0, waiting=0)
            await happens(lambda: watch.running("mark-") == 0)
            assert (await client.call_tool("add", {"a": 2, "b": 3})).structured_content == {
                "result": 5
            }

    run(main)
    wire.stop()
    assert "unexpected" not in wire.log.read_text()


def test_a_client_that_goes_ends_its_query(wire, watch):
    """Over HTTP, one of the older protocol has to say so: the server keeps its session for when it comes back."""
    if wire.kind == "http" and wire._mode == LEGACY:
        pytest.skip("a lost connection cancels nothing in this protocol")

    async def main():
        with anyio.CancelScope() as scope:
            async with wire.client() as client, anyio.create_task_group() as group:
                group.start_soon(client.call_tool, "sleep", {"mark": "mark-gone"})
                await happens(lambda: watch.running("mark-gone") == 1)
                scope.cancel()

    run(main)
    eventually(lambda: watch.running("mark-gone") == 0)


async def reaches(client, **wanted):
    """Wait until the database's pool of the server is as *wanted*."""
    while True:
        state = (await client.call_tool("state")).structured_content
        if {name: state[name] for name in wanted} == wanted:
            return
        await anyio.sleep(0.05)


@pytest.mark.parametrize("kind", ["stdio", "http"])
def test_a_kit_that_can_not_open_ends_the_process_and_says_why(kind, tmp_path):
    log = tmp_path / "log"
    settings = {
        "POOLKIT_REDIS_URL": "redis://:hush@127.0.0.1:1/0",
        "POOLKIT_REDIS_LAZY_CONNECT": "false",
        "POOLKIT_REDIS_OFFLINE_QUEUE": "false",
    }
    if kind == "http":
        with over_http(log, **settings) as http:
            assert http.process.wait(30) == 3
    else:

        async def main():
            with log.open("w") as errors, pytest.raises(Exception):  # noqa: B017 - mcp's business
                transport = stdio_client(over_stdio(**settings), errlog=errors)
                async with Client(transport, mode=LEGACY) as client:
                    await client.list_tools()

        run(main)
    told = log.read_text()
    assert "BackendUnavailable" in told
    assert "127.0.0.1:1" in told
    assert "hush" not in told
