"""The figures of the last minutes: taken every few seconds by the housekeeper, so that requests pay nothing."""

from __future__ import annotations

import os
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic

from ...core.housekeeper import Timer, housekeeper
from ...core.stats import PoolStats
from ...kit.backends import AnyPool

WINDOW = 300.0
"""Seconds that charts show."""

MINUTE = 60.0
"""Seconds that figures of the last minute are of."""

MOST = 3000
"""Moments that are kept at most, for who looks very often."""

SERIES = (
    "in_use",
    "idle",
    "waiting",
    "max_size",
    "operations",
    "errors",
    "leases",
    "wait_p50",
    "wait_p99",
    "use_p50",
    "use_p99",
)
"""What is known of a pool at each moment. Operations, errors and leases a second; durations in seconds, or None."""

Values = tuple[float | None, ...]
"""One of each of :data:`SERIES`."""


@dataclass(frozen=True)
class Frame:
    """One moment: ``number`` counts them, ``at`` is in seconds since the epoch; the values are by backend."""

    number: int
    at: float
    values: Mapping[str, Values]


class Recording:
    """What was seen in one process."""

    def __init__(self, pools: Mapping[str, AnyPool], *, every: float) -> None:
        self.id = f"{os.getpid()}-{secrets.token_hex(4)}"
        """Tells it from that of any other process."""
        self.began = time.time()
        self._pools = pools
        self._every = every
        # Appended to by the housekeeper alone, and copied by readers: single atomic operations.
        self._frames: deque[Frame] = deque(maxlen=_number(WINDOW, every))
        self._looks: deque[tuple[float, dict[str, PoolStats]]] = deque(
            maxlen=_number(MINUTE, every) + 1
        )
        self._timers: list[Timer] = []

    def begin(self) -> None:
        """Look now, and from now on."""
        self._timers = [
            housekeeper().after(0.0, self.look),
            housekeeper().every(self._every, self.look),
        ]

    def end(self) -> None:
        """Look no more; what was seen stays."""
        for timer in self._timers:
            timer.cancel()

    def __del__(self) -> None:
        for timer in self._timers:
            timer.cancelled = (
                True  # not cancel(): a collection may come when its lock is held, or after a fork
            )

    def look(self) -> None:
        """Take down how the pools are now, and what they did since the last time."""
        now = monotonic()
        stats = {backend: pool.stats() for backend, pool in self._pools.items()}
        if self._looks:
            before, earlier = self._looks[-1]
            if now <= before:
                return
            values = {
                backend: _values(stats[backend], earlier[backend], now - before)
                for backend in stats
            }
            number = self._frames[-1].number + 1 if self._frames else 1
            self._frames.append(Frame(number, time.time(), values))
        self._looks.append((now, stats))

    def frames(self, after: int = 0) -> list[Frame]:
        """Return what was seen, the oldest first: those with a number above *after*."""
        return [frame for frame in self._frames.copy() if frame.number > after]

    def minute_ago(self, backend: str) -> tuple[float, PoolStats] | None:
        """Return how a pool was about a minute ago, or when it was first seen, and how many seconds ago that was."""
        looks = self._looks.copy()
        if not looks:
            return None
        then, stats = looks[0]
        return max(0.001, monotonic() - then), stats[backend]


class Sampler:
    """Keeps a :class:`Recording` in each process that uses a kit, as long as the kit is open."""

    def __init__(self, pools: Mapping[str, AnyPool], *, every: float) -> None:
        self.every = every
        self._pools = pools
        # By process. Not one attribute and a lock: a fork might leave that locked.
        self._recordings: dict[int, Recording] = {}

    @property
    def recording(self) -> Recording | None:
        """What was seen in this process, None if its pools were not used yet."""
        return self._recordings.get(os.getpid())

    def start(self) -> None:
        """Begin in this process, if that is not done yet."""
        made = Recording(self._pools, every=self.every)
        if self._recordings.setdefault(os.getpid(), made) is made:
            made.begin()
            for pid in self._recordings.keys() - {os.getpid()}:
                del self._recordings[pid]  # the parent's

    def stop(self) -> None:
        """End in this process."""
        recording = self.recording
        if recording is not None:
            recording.end()


def _number(seconds: float, every: float) -> int:
    """Return how many looks there are in so many *seconds*."""
    return max(2, min(MOST, round(seconds / every)))


def _values(now: PoolStats, before: PoolStats, seconds: float) -> Values:
    """Return the values of :data:`SERIES`, from two snapshots that are so many *seconds* apart."""
    wait, use = now.wait.since(before.wait), now.use.since(before.use)
    return (
        now.in_use,
        now.idle,
        now.waiting,
        now.max_size,
        *(
            round(max(0, counted) / seconds, 2)
            for counted in (
                now.operations - before.operations,
                now.errors - before.errors,
                now.leases + now.shared - before.leases - before.shared,
            )
        ),
        *(
            round(value, 7) if taken.count else None
            for taken in (wait, use)
            for value in (taken.p50, taken.p99)
        ),
    )
