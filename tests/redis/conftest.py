"""What the tests of RedisPool over several servers share."""

from __future__ import annotations

import pytest

from poolkit.embedded import RedisCluster, RedisServer


@pytest.fixture
def tags(redis_cluster: RedisCluster) -> list[str]:
    """Give a hash tag for each master of the cluster."""
    found: dict[RedisServer, str] = {}
    number = 0
    while len(found) < 3:
        found.setdefault(redis_cluster.master_of(f"{number}"), f"{{{number}}}")
        number += 1
    return list(found.values())
