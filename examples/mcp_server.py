"""An MCP server whose tools use all four pools.

Over stdio, as a client starts it::

    python examples/mcp_server.py

Over streamable HTTP, at http://127.0.0.1:8000/mcp::

    python examples/mcp_server.py --http 8000

Where its backends are is read from the environment: POOLKIT_POSTGRES_CONNINFO, POOLKIT_REDIS_URL,
POOLKIT_HTTP_BASE_URL, POOLKIT_FIRESTORE_PROJECT … If nothing is set there, it runs servers of its own for as long as it
serves: embedded ones (pip install 'poolkit[mcp,embedded]'), and Google's Firestore emulator, which has to be installed.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any, TypedDict

from anyio import to_thread
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

from poolkit import PoolKit, embedded
from poolkit.hosts.mcp import PooledServer, Pools

pools = Pools(PoolKit.from_env, deadline=10)
"""The kit is made when the server begins to serve, and closed when it ends."""


@asynccontextmanager
async def lifespan(_: MCPServer[PoolKit]) -> AsyncIterator[PoolKit]:
    """See to it that there are customers. The pools are open by now."""
    await to_thread.run_sync(add_customers)
    yield pools.kit


server = PooledServer("shop", pools=pools, lifespan=lifespan, log_level="WARNING")


class Customer(TypedDict):
    """What is known of a customer."""

    number: int
    name: str
    balance: int
    asked_by: list[str]


@server.tool(annotations=ToolAnnotations(idempotent_hint=True))
def look_up_customer(number: int, asked_by: str) -> Customer:
    """Look up a customer by number: name, account balance, and who has asked before."""
    name = name_of(number)
    account = pools.http.get("/echo", params={"balance": 100 * number}).json()
    visits = f"visits/{number}"
    before = pools.firestore.get(visits).to_dict() or {}
    people = [*before.get("people", []), asked_by][-10:]
    pools.firestore.set(visits, {"people": people}, idempotent=True)
    return Customer(
        number=number, name=name, balance=int(dict(account["query"])["balance"]), asked_by=people
    )


@server.tool()
@pools.bounded(deadline=2)  # less than the ten seconds that others have
def rename_customer(number: int, name: str, ctx: Context[PoolKit]) -> str:
    """Give a customer another name."""
    kit = ctx.request_context.lifespan_context  # the same as pools.kit
    if not kit.postgres.execute("update customers set name = %s where number = %s", [name, number]):
        raise ToolError(f"There is no customer {number}.")
    kit.redis.delete(f"customer:{number}")
    return f"Customer {number} is now called {name}."


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
async def count_customers() -> int:
    """Count all customers."""
    # A coroutine must not block: it has a thread wait for it.
    row = await to_thread.run_sync(
        lambda: pools.postgres.query_one("select count(*) from customers", idempotent=True)
    )
    assert row is not None
    return int(row[0])


def name_of(number: int) -> str:
    """Return a customer's name, from Redis if it was asked for in the last minute."""
    key = f"customer:{number}"
    if known := pools.redis.get(key):
        return str(json.loads(known))
    row = pools.postgres.query_one(
        "select name from customers where number = %s", [number], idempotent=True
    )
    if row is None:
        raise ToolError(f"There is no customer {number}.")
    pools.redis.set(key, json.dumps(row[0]), ttl=60)
    return str(row[0])


def add_customers() -> None:
    """Add three customers, unless they are there."""
    pools.postgres.execute(
        "create table if not exists customers (number int primary key, name text)"
    )
    pools.postgres.execute(
        "insert into customers values (1, 'Ada'), (2, 'Grace'), (3, 'Barbara') on conflict do nothing"
    )


def run_backends(running: ExitStack) -> dict[str, str]:
    """Run a server for each pool, until *running* is closed, and return the settings for them."""
    return {
        "POOLKIT_POSTGRES_CONNINFO": running.enter_context(embedded.postgres()),
        "POOLKIT_REDIS_URL": running.enter_context(embedded.redis()),
        "POOLKIT_HTTP_BASE_URL": running.enter_context(embedded.http()),
        "POOLKIT_FIRESTORE_PROJECT": "shop",
        "POOLKIT_FIRESTORE_EMULATOR_HOST": running.enter_context(embedded.firestore()),
    }


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description="An MCP server whose tools use all four pools.")
    parser.add_argument("--http", type=int, metavar="PORT", help="over HTTP, instead of stdio")
    port = parser.parse_args().http
    with ExitStack() as running:
        if not any(name.startswith("POOLKIT_") for name in os.environ):
            os.environ.update(run_backends(running))
        transport: dict[str, Any] = {"transport": "stdio"}
        if port is not None:
            transport = {"transport": "streamable-http", "port": port}
        server.run(**transport)


if __name__ == "__main__":
    main()
