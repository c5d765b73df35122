"""An MCP server for tests, run as a process: ``mcp_shop.py stdio``, or ``mcp_shop.py http FD [json]``."""

from __future__ import annotations

import logging
import os
import socket
import sys

import anyio
from mcp.server.mcpserver import Context

from poolkit import PoolKit
from poolkit.hosts.mcp import PooledServer, Pools

# Before the server is made, which would have it fold its lines.
logging.basicConfig(level="WARNING", stream=sys.stderr, format="%(name)s %(message)s")

pools = Pools(
    PoolKit.from_env(http=os.environ.get("SHOP_HTTP") is not None),
    deadline=float(os.environ.get("SHOP_DEADLINE", "20")),
)
server = PooledServer("shop", pools=pools, log_level="WARNING")


@server.tool()
def add(a: int, b: int, ctx: Context[PoolKit]) -> int:
    """Add two numbers, in the database."""
    row = pools_of(ctx).postgres.query_one("select %s::int + %s::int", [a, b])
    assert row is not None
    return int(row[0])


@server.tool()
def sleep(mark: str) -> str:
    """Sleep in the database, for a minute."""
    pools.postgres.query(f"select pg_sleep(60) /* {mark} */")
    return "slept"


@server.tool()
async def sleep_async(mark: str) -> str:
    """Sleep in the database, for a minute, in a thread of its own."""
    await anyio.to_thread.run_sync(pools.postgres.query, f"select pg_sleep(60) /* {mark} */")
    return "slept"


@server.tool()
def state() -> dict[str, int]:
    """Tell how the database's pool is."""
    stats = pools.postgres.stats()
    return {"in_use": stats.in_use, "waiting": stats.waiting}


def pools_of(ctx: Context[PoolKit]) -> PoolKit:
    """Return the kit, out of the context."""
    return ctx.request_context.lifespan_context


async def serve_http(descriptor: int, *, json: bool) -> None:
    """Serve on a socket that was opened by another process."""
    import uvicorn

    app = server.streamable_http_app(json_response=json, stateless_http=json)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
    with socket.socket(fileno=descriptor) as listener:
        uvicorn_server = uvicorn.Server(config)
        await uvicorn_server.serve(sockets=[listener])
    if not uvicorn_server.started:
        sys.exit(3)


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run("stdio")
    else:
        anyio.run(lambda: serve_http(int(sys.argv[2]), json="json" in sys.argv))
