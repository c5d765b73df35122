"""Connections that are held for too long, and pools that fill up: looked for now and then, and named."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from time import perf_counter

from ..core import checks
from ..core.housekeeper import Timer, housekeeper
from ..core.lease import Holder
from .backends import AnyPool
from .health import nobody

logger = logging.getLogger("poolkit.leaks")

_Lease = tuple[str, int, float]
"""What tells a lease from all others: the pool, the thread and when it began."""


class LeakDetector:
    """Looks *every* so many seconds for two signs of a leak, and warns of each once.

    A lease held for longer than the pool's ``leak_threshold``, with where it was acquired and where its thread is;
    when it ends, that is told too. And a pool whose connections have become more while its idle ones became fewer.
    *overdue* and *given_back* are called with the pool's name and the holder, when one is found and when it ends.
    """

    def __init__(
        self,
        pools: Mapping[str, AnyPool],
        *,
        every: float = 60.0,
        overdue: Callable[[str, Holder], object] = nobody,
        given_back: Callable[[str, Holder], object] = nobody,
    ) -> None:
        self._pools = dict(pools)
        self._tell_overdue = overdue
        self._tell_given_back = given_back
        self._every = checks.seconds("every", every, zero=False)
        self._timer: Timer | None = None
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._overdue: dict[_Lease, Holder] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    def start(self) -> None:
        """Look from now on."""
        self._timer = housekeeper().every(self._every, self.look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def look(self) -> None:
        """Look now, and warn of what is new."""
        for name, pool in self._pools.items():
            self._look_at_leases(name, pool)
            self._look_at_sizes(name, pool)

    def report(self) -> str:
        """Return, for a human, who holds connections now, and which of them for too long."""
        lines = []
        for pool in self._pools.values():
            holders = pool.leases()
            lines.append(pool.stats().summary())
            for holder in holders:
                late = " (too long)" if _is_overdue(pool, holder) else ""
                lines.append(f"  held by {holder.describe()}{late}")
        return "\n".join(lines)

    def _look_at_leases(self, name: str, pool: AnyPool) -> None:
        held = {
            (name, id(holder.thread), holder.since): holder
            for holder in pool.leases()
            if _is_overdue(pool, holder)
        }
        with self._lock:
            new = [holder for key, holder in held.items() if key not in self._overdue]
            ended = [
                self._overdue.pop(key)
                for key in list(self._overdue)
                if key[0] == name and key not in held
            ]
            self._overdue.update(held)
        for holder in new:
            logger.warning(
                "pool %r: a connection is held for longer than leak_threshold (%g s) by %s; it was there:\n%s",
                pool.name,
                pool.config.leak_threshold,
                holder.describe(),
                holder.stack(),
                extra={"pool": pool.name, "call_site": holder.call_site},
            )
            self._tell_overdue(pool.name, holder)
        for holder in ended:
            logger.warning(
                "pool %r: the connection acquired at %s by thread %r was given back after about %.0f s",
                pool.name,
                holder.call_site,
                holder.thread_name,
                perf_counter() - holder.since,
                extra={"pool": pool.name, "call_site": holder.call_site},
            )
            self._tell_given_back(pool.name, holder)

    def _look_at_sizes(self, name: str, pool: AnyPool) -> None:
        stats = pool.stats()
        with self._lock:
            before = self._sizes.get(name)
            self._sizes[name] = (stats.size, stats.idle)
        if before is None:
            return
        size, idle = before
        if stats.size > size and stats.idle < idle:
            logger.warning(
                "pool %r: %d connections are open, %d more than at the last look, but %d are idle, "
                "%d fewer; if that goes on, connections are not given back: use them in a with block",
                pool.name,
                stats.size,
                stats.size - size,
                stats.idle,
                idle - stats.idle,
                extra={"pool": pool.name},
            )


def _is_overdue(pool: AnyPool, holder: Holder) -> bool:
    return bool(holder.held_for >= pool.config.leak_threshold)
