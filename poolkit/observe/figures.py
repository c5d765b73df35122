"""The figures of a pool that metrics show: names, units and where they are in :class:`~poolkit.PoolStats`.

Names are those of OpenTelemetry's semantic conventions 1.44 where there is one; ``poolkit.*`` where there is none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from ..core.stats import BOUNDS, Histogram, PoolStats

POOL_NAME = "db.client.connection.pool.name"
"""The attribute that names the pool."""

BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""Upper bounds in seconds of the buckets of durations, as the conventions have them."""


@dataclass(frozen=True)
class Figure:
    """One number: as it is now, or counted since the pool was opened."""

    name: str
    unit: str
    help: str
    read: Callable[[PoolStats], float]
    state: str = ""
    """The attribute ``state`` of the number, if there are several of the name."""


@dataclass(frozen=True)
class Duration:
    """How long something took."""

    name: str
    help: str
    read: Callable[[PoolStats], Histogram]


NOW = (
    Figure(
        "db.client.connection.count",
        "{connection}",
        "Connections that are open.",
        lambda stats: stats.in_use,
        "used",
    ),
    Figure(
        "db.client.connection.count",
        "{connection}",
        "Connections that are open.",
        lambda stats: stats.idle,
        "idle",
    ),
    Figure(
        "db.client.connection.max",
        "{connection}",
        "Connections that may be open.",
        lambda stats: stats.max_size,
    ),
    Figure(
        "db.client.connection.pending_requests",
        "{request}",
        "Threads that wait for a connection.",
        lambda stats: stats.waiting,
    ),
)
"""What is so now."""

COUNTED = (
    Figure(
        "db.client.connection.timeouts",
        "{timeout}",
        "Waits for a connection that were too long.",
        lambda stats: stats.timeouts,
    ),
    Figure(
        "poolkit.connections.created", "{connection}", "Connections opened.", lambda s: s.created
    ),
    Figure("poolkit.connections.closed", "{connection}", "Connections closed.", lambda s: s.closed),
    Figure("poolkit.operations", "{operation}", "Operations run.", lambda s: s.operations),
    Figure("poolkit.errors", "{error}", "Operations that ended with an error.", lambda s: s.errors),
    Figure("poolkit.retries", "{retry}", "Attempts beyond the first.", lambda s: s.retries),
    Figure("poolkit.refused", "{request}", "Callers turned away on arrival.", lambda s: s.refused),
    Figure("poolkit.leaked", "{lease}", "Connections reclaimed from holders.", lambda s: s.leaked),
    Figure("poolkit.leases", "{lease}", "Uses of connections.", lambda s: s.leases + s.shared),
    Figure("poolkit.batches", "{batch}", "Requests sent together.", lambda s: s.batches),
)
"""What was counted."""

TAKEN = (
    Duration(
        "db.client.connection.create_time", "Time to open a connection.", lambda stats: stats.create
    ),
    Duration(
        "db.client.connection.wait_time", "Time to get a connection.", lambda stats: stats.wait
    ),
    Duration(
        "db.client.connection.use_time",
        "Time between getting and returning.",
        lambda stats: stats.use,
    ),
)
"""How long it took."""


def by_bucket(histogram: Histogram) -> list[int]:
    """Return how many observations are in each of :data:`BUCKETS`, and in the one above.

    An observation is known within 6 %, so one that near a bound may be in the neighbour.
    """
    found = [0] * (len(BUCKETS) + 1)
    for index, count in enumerate(histogram.buckets):
        if count:
            found[_WHERE[index]] += count
    return found


_MIDDLES = [0.0, *((low * high) ** 0.5 for low, high in pairwise(BOUNDS))]
_WHERE = [bisect_left(BUCKETS, middle) for middle in _MIDDLES] + [len(BUCKETS)]
