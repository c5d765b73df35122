"""The example of an MCP server, as its docstring says to run it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing, contextmanager

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import stdio_client

from poolkit.embedded import EmbeddedError, HttpServer
from poolkit.embedded.firestore import find_jar

from ..core.support import LONG, eventually
from .mcp_support import ROOT, environment, over_stdio, run, said

EXAMPLE = ROOT / "examples" / "mcp_server.py"


@pytest.fixture
def backends(conninfo, redis_url, firestore_server):
    """Give the settings for the servers of this run."""
    with HttpServer() as url:
        yield {
            "POOLKIT_POSTGRES_CONNINFO": conninfo,
            "POOLKIT_REDIS_URL": redis_url,
            "POOLKIT_HTTP_BASE_URL": url,
            "POOLKIT_FIRESTORE_PROJECT": "shop",
            "POOLKIT_FIRESTORE_EMULATOR_HOST": firestore_server.emulator_host,
        }


async def visit(client, who):
    """Use all its tools; *who* has to be new to it."""
    assert (await client.call_tool("count_customers")).structured_content == {"result": 3}

    result = await client.call_tool("look_up_customer", {"number": 2, "asked_by": who})
    assert not result.is_error, said(result)
    customer = result.structured_content
    assert (customer["number"], customer["balance"]) == (2, 200)
    assert customer["asked_by"][-1] == who

    renamed = await client.call_tool("rename_customer", {"number": 2, "name": f"{who}'s"})
    assert said(renamed) == f"Customer 2 is now called {who}'s."
    again = await client.call_tool("look_up_customer", {"number": 2, "asked_by": who})
    assert again.structured_content["name"] == f"{who}'s"
    assert again.structured_content["asked_by"][-2:] == [who, who]

    nobody = await client.call_tool("look_up_customer", {"number": 77, "asked_by": who})
    assert nobody.is_error
    assert "There is no customer 77" in said(nobody)


@pytest.mark.slow
def test_it_serves_over_stdio(backends, tmp_path):
    async def main():
        with (tmp_path / "log").open("w") as log:
            transport = stdio_client(over_stdio(EXAMPLE, arguments=[], **backends), errlog=log)
            async with Client(transport) as client:
                await visit(client, "Charles")

    run(main)
    assert (tmp_path / "log").read_text() == ""


@pytest.mark.slow
def test_it_serves_several_clients_over_http(backends, tmp_path):
    async def main(url):
        async with Client(url) as one, Client(url, mode="legacy") as other:
            await visit(one, "Annabella")
            await visit(other, "Augustus")
            async with anyio.create_task_group() as group:
                for client in [one, other] * 10:
                    group.start_soon(client.call_tool, "count_customers")

    with serving(tmp_path, **backends) as url:
        run(lambda: main(url))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_it_brings_its_own_backends_if_nothing_is_configured(tmp_path):
    try:
        find_jar()
    except EmbeddedError as error:
        pytest.skip(str(error))

    async def main():
        with (tmp_path / "log").open("w") as log:
            transport = stdio_client(over_stdio(EXAMPLE, arguments=[]), errlog=log)
            async with Client(transport) as client:
                await visit(client, "Ralph")

    run(main, seconds=90)


@contextmanager
def serving(folder, **settings):
    """Run the example over HTTP, until the end of the block."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLE), "--http", str(port)],
            env=environment(**settings),
            stdout=log,
            stderr=log,
        )
    try:
        eventually(lambda: process.poll() is not None or answers(port))
        yield f"http://127.0.0.1:{port}/mcp"
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(LONG) == -signal.SIGTERM, (folder / "log").read_text()
    finally:
        process.kill()
        process.wait(LONG)


def answers(port):
    """Whether somebody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
