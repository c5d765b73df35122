"""What the tests of RedisPool share: a way in between, and keys for each master."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from poolkit.embedded import RedisCluster, RedisServer
from tests.faults.proxy import FaultProxy

from .support import through


@pytest.fixture
def proxied(redis_server: RedisServer, redis_url: str) -> Iterator[tuple[FaultProxy, str]]:
    """Give a proxy before the shared server, and the address through it."""
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        yield proxy, through(proxy, redis_server)


@pytest.fixture
def tags(redis_cluster: RedisCluster) -> list[str]:
    """Give a hash tag for each master of the cluster."""
    found: dict[RedisServer, str] = {}
    number = 0
    while len(found) < 3:
        found.setdefault(redis_cluster.master_of(f"{number}"), f"{{{number}}}")
        number += 1
    return list(found.values())
