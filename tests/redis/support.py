"""What the tests of RedisPool share."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import urlsplit

from poolkit import PoolTimeout, RedisPool
from poolkit.embedded import RedisServer
from poolkit.redis.node import RedisNode
from tests.faults.proxy import FaultProxy

SCHEDULING = 0.15
"""Seconds that a busy machine may add to what is promised."""


def through(proxy: FaultProxy, server: RedisServer) -> str:
    """Return the address of *server*, by way of *proxy*."""
    parts = urlsplit(server.url)
    return parts._replace(netloc=f":{server.password}@127.0.0.1:{proxy.port}").geturl()


def node_of(cache: RedisPool) -> RedisNode:
    """Return the one node of a pool that is open."""
    running = cache._lifecycle.running
    assert running is not None
    (node,) = running.topology.nodes()
    return node


def turns_left(cache: RedisPool, most: int) -> int:
    """Return how many connections can be held at once, *most* at most."""
    held = []
    try:
        for _ in range(most):
            block = cache.connection()
            with suppress(PoolTimeout):
                block.__enter__()
                held.append(block)
        return len(held)
    finally:
        for block in held:
            block.__exit__(None, None, None)
