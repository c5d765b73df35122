"""That nothing is held at the end of a test."""

from __future__ import annotations

import time
from collections.abc import Iterable

from ..core import checks
from ..core.lease import Holder
from ..core.pool import Pool
from ..kit.kit import PoolKit

_LOOK = 0.005


def assert_nothing_held(*pools: PoolKit | Pool[object, object], timeout: float = 1.0) -> None:  # type: ignore[type-var]
    """Raise :class:`AssertionError`, which names the holders, if connections of *pools* are held.

    Up to *timeout* seconds are given for them to come back: a thread may be just about to.
    """
    until = time.monotonic() + checks.seconds("timeout", timeout)
    while held := list(_holders(pools)):
        if time.monotonic() >= until:
            raise AssertionError(
                "connections are still held:\n"
                + "\n".join(f"  pool {name!r}: {holder.describe()}" for name, holder in held)
            )
        time.sleep(_LOOK)


def _holders(pools: Iterable[PoolKit | Pool[object, object]]) -> Iterable[tuple[str, Holder]]:  # type: ignore[type-var]
    for given in pools:
        for pool in given.pools.values() if isinstance(given, PoolKit) else [given]:
            for holder in pool.leases():
                yield pool.name, holder
