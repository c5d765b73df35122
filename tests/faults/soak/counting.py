"""The operations that pools tell, beside those that callers count for themselves."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from poolkit import Listener
from poolkit.core.events import Ended


@dataclass
class Count:
    """Operations, and those of them that ended with an error."""

    operations: int = 0
    errors: int = 0

    def add(self, other: Count) -> None:
        """Count what another one has counted, too."""
        self.operations += other.operations
        self.errors += other.errors


class _Mine(threading.local):
    counted = False


class Told(Listener):
    """Counts, by pool, what is told by threads that do not count for themselves: health checks, faults, and blocks.

    How many operations a block comes to is the pool's own affair; of any other call, it is one.
    """

    def __init__(self) -> None:
        self.mine = _Mine()
        """``counted``, while the calling thread makes a call that it counts itself."""
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._counts: dict[str, Count] = {}

    def ended(self, event: Ended) -> None:
        if self.mine.counted:
            return
        with self._lock:
            count = self._counts.setdefault(event.pool, Count())
            count.add(Count(1, event.error is not None))

    def of(self, pool: str) -> Count:
        """Return what was counted of the pool of that name."""
        with self._lock:
            return self._counts.get(pool, Count())
