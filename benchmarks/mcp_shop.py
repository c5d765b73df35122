"""The MCP servers that bench_mcp.py measures: ``python -m benchmarks.mcp_shop noop|pooled FD``.

``noop`` is a plain server, as the mcp package has it, with a tool that does nothing; ``pooled`` has one that asks
Redis, Postgres and a service over HTTP, where the environment says. Each runs in one process of uvicorn, with the
same settings.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

import anyio
import uvicorn
from mcp.server.mcpserver import MCPServer

from poolkit import PoolKit
from poolkit.hosts.mcp import PooledServer, Pools


def noop() -> MCPServer[Any]:
    """Return a plain server."""
    server: MCPServer[Any] = MCPServer("shop", log_level="WARNING")

    @server.tool()
    def look_up(number: int) -> str:
        """Do nothing."""
        return f"v{number}"

    return server


def pooled() -> MCPServer[Any]:
    """Return a server whose tool uses three pools, in ``SHOP_THREADS`` threads, if that is set."""
    threads = os.environ.get("SHOP_THREADS")
    pools = Pools(PoolKit.from_env(), threads=int(threads) if threads else None)
    server = PooledServer("shop", pools=pools, log_level="WARNING")
    service = os.environ["SHOP_SERVICE"]

    @server.tool()
    def look_up(number: int) -> str:
        """Look up a value: in Redis, in Postgres, and with a service."""
        value = pools.redis.get(f"k{number}")
        rows = pools.postgres.query("select %s::int", [number], idempotent=True)
        body = pools.http.get(service).data
        assert rows == [(number,)]
        assert len(body) == 200
        return str(value)

    @server.tool()
    def leaks() -> int:
        """Return how many connections were leaked, or are still held."""
        stats = pools.kit.stats().values()
        return sum(each.leaked + each.in_use for each in stats)

    return server


async def serve(server: MCPServer[Any], descriptor: int) -> None:
    """Serve on a socket that listens already."""
    app = server.streamable_http_app(json_response=True, stateless_http=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, backlog=2048)
    with socket.socket(fileno=descriptor) as listener:
        await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    kinds = {"noop": noop, "pooled": pooled}
    anyio.run(serve, kinds[sys.argv[1]](), int(sys.argv[2]))
