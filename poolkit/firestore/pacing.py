"""How fast a bulk of writes may go: slowly at first, so that the server can spread the load."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from time import monotonic

from ..core.deadline import Deadline

RATE = 500.0
"""Writes a second to begin with: Firestore's own advice, https://cloud.google.com/firestore/docs/best-practices."""

GROWTH = 1.5
"""By how much the rate grows after each :data:`PHASE`: the same page, "ramping up traffic"."""

PHASE = 300.0
"""Seconds."""


class Pacer:
    """Grants so many writes a second, half as many more every five minutes.

    Up to a second's worth may go at once, and a chunk as soon as those before it have been paid for. A *rate* of
    infinity grants everything at once.
    """

    def __init__(
        self, rate: float, sleep: Callable[[float], object], clock: Callable[[], float] = monotonic
    ) -> None:
        self._sleep = sleep
        self._clock = clock
        self._began = clock()
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._rate = rate
        self._phases = 0
        self._free = rate
        self._at = self._began

    def take(self, count: int, deadline: Deadline) -> bool:
        """Wait until *count* writes may go; return whether that is before *deadline*."""
        with self._lock:
            wait = self._reserve_locked(count)
        if wait <= 0:
            return not deadline.expired
        if wait >= deadline.remaining():
            return False
        deadline.sleep(wait, self._sleep)
        return not deadline.expired

    def _reserve_locked(self, count: int) -> float:
        """Reserve *count* writes, and return in how many seconds they may go."""
        if math.isinf(self._rate):
            return 0.0
        now = self._clock()
        while now - self._began >= (self._phases + 1) * PHASE:
            self._phases += 1
            self._rate *= GROWTH
        self._free = min(self._rate, self._free + (now - self._at) * self._rate)
        wait = -self._free / self._rate if self._free < 0 else 0.0
        self._free -= count
        self._at = now
        return wait
