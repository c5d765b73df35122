"""Exact counters and histograms, and the frozen snapshot that users read.

Each thread counts in a shard of its own, so counting takes no lock and loses nothing; a snapshot adds
the shards up. The shard of a thread that has ended is folded into the sum of the ended ones.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from dataclasses import dataclass, field

_PER_DECADE = 20
_DECADES = 8

BOUNDS: tuple[float, ...] = tuple(
    10.0 ** (step / _PER_DECADE - 6) for step in range(_PER_DECADE * _DECADES + 1)
)
"""Upper bounds of the histograms' buckets in seconds: 1 µs to 100 s, 20 a decade (12 % apart)."""


@dataclass(frozen=True)
class Histogram:
    """How long something took: ``count``, and ``mean p50 p99 max`` in seconds.

    The mean and the maximum are exact, the quantiles are within 6 % (:data:`BOUNDS`). All are 0 when
    nothing was counted.
    """

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0
    buckets: tuple[int, ...] = field(default=(), repr=False)

    def quantile(self, q: float) -> float:
        """Return the value in seconds that the share *q* (0 to 1) of the observations does not exceed."""
        rank = q * self.count
        seen = 0
        for index, amount in enumerate(self.buckets):
            seen += amount
            if amount and seen >= rank:
                return min(_middle(index), self.max)
        return self.max

    def since(self, earlier: Histogram) -> Histogram:
        """Return what was counted after *earlier*, which is of the same pool.

        The maximum is exact if it was the longest so far, else within 6 %, like the quantiles.
        """
        before = earlier.buckets or (0,) * len(self.buckets)
        # Threads go on counting while they are added up, so a bucket may seem to have lost one.
        buckets = tuple(
            max(0, count - counted) for count, counted in zip(self.buckets, before, strict=True)
        )
        count = sum(buckets)
        if not count:
            return Histogram(buckets=buckets)
        mean = max(0.0, self.mean * self.count - earlier.mean * earlier.count) / count
        longest = self.max
        if longest <= earlier.max:
            last = max(index for index, amount in enumerate(buckets) if amount)
            longest = min(longest, _middle(last))
        bare = Histogram(count, mean, max=longest, buckets=buckets)
        return Histogram(count, mean, bare.quantile(0.5), bare.quantile(0.99), longest, buckets)


def _middle(index: int) -> float:
    """Return the geometric middle of bucket *index*; the first holds what took no time at all."""
    if index == 0:
        return 0.0
    if index >= len(BOUNDS):
        return BOUNDS[-1]
    return math.sqrt(BOUNDS[index - 1] * BOUNDS[index])


class Durations:
    """Collects durations for a :class:`Histogram`. For one thread only."""

    __slots__ = ("buckets", "longest", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one observation of *seconds*."""
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds
        if seconds > self.longest:
            self.longest = seconds

    def absorb(self, other: Durations) -> None:
        """Add all that *other* collected."""
        if not any(other.buckets):  # as of hosts that are away; to add takes several times as long
            return
        self.buckets = [a + b for a, b in zip(self.buckets, other.buckets, strict=True)]
        self.total += other.total
        self.longest = max(self.longest, other.longest)

    def snapshot(self) -> Histogram:
        """Return what was collected so far as a frozen value."""
        buckets = tuple(self.buckets)
        count = sum(buckets)
        if not count:
            return Histogram(buckets=buckets)
        bare = Histogram(count, self.total / count, max=self.longest, buckets=buckets)
        return Histogram(
            count, bare.mean, bare.quantile(0.5), bare.quantile(0.99), bare.max, buckets
        )


_COUNTERS = (
    "leases",
    "operations",
    "errors",
    "timeouts",
    "refused",
    "retries",
    "created",
    "closed",
    "leaked",
    "batches",
    "shared",
)
_HISTOGRAMS = ("wait", "use", "create", "lead")


class Shard:
    """One thread's own counters; nobody else writes to them."""

    __slots__ = (*_COUNTERS, *_HISTOGRAMS, "batched", "largest_batch", "thread")

    leases: int
    operations: int
    errors: int
    timeouts: int
    refused: int
    retries: int
    created: int
    closed: int
    leaked: int
    batches: int
    shared: int
    wait: Durations
    use: Durations
    create: Durations
    lead: Durations

    def __init__(self, thread: threading.Thread | None = None) -> None:
        self.thread = thread
        self.batched = 0  # requests in batches
        self.largest_batch = 0
        for name in _COUNTERS:
            setattr(self, name, 0)
        for name in _HISTOGRAMS:
            setattr(self, name, Durations())

    def absorb(self, other: Shard) -> None:
        """Add all that *other* counted."""
        self.batched += other.batched
        self.largest_batch = max(self.largest_batch, other.largest_batch)
        for name in _COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _HISTOGRAMS:
            getattr(self, name).absorb(getattr(other, name))


class _Mine(threading.local):
    shard: Shard | None = None


class Tally:
    """The counters of one pool, written by many threads and read by any."""

    def __init__(self) -> None:
        self._mine = _Mine()
        self._lock = threading.RLock()  # a collection in here may come back
        # Guarded by _lock:
        self._shards: list[Shard] = []
        self._ended = Shard()
        self._fold_at = 64

    def mine(self) -> Shard:
        """Return the calling thread's shard, to count in."""
        shard = self._mine.shard
        if shard is None:
            shard = self._mine.shard = Shard(threading.current_thread())
            with self._lock:
                self._shards.append(shard)
                if len(self._shards) >= self._fold_at:
                    self._fold_locked()
        return shard

    def add(self, other: Tally) -> None:
        """Count all that *other* has counted so far."""
        counted = other.total()
        with self._lock:
            self._ended.absorb(counted)

    def total(self) -> Shard:
        """Return the sum over all threads, those that have ended too."""
        total = Shard()
        with self._lock:
            self._fold_locked()
            total.absorb(self._ended)
            for shard in self._shards:
                total.absorb(shard)
        return total

    def _fold_locked(self) -> None:
        alive = []
        for shard in self._shards:
            if shard.thread is not None and shard.thread.is_alive():
                alive.append(shard)
            else:
                self._ended.absorb(shard)
        self._shards = alive
        self._fold_at = max(64, 2 * len(alive))


@dataclass(frozen=True, kw_only=True)
class PoolStats:
    """A pool at one moment. Counters are exact, and count since the pool was opened in this process.

    Now: ``size`` connections open, of them ``in_use`` lent and ``idle``; ``waiting`` threads.
    Since open: ``leases`` given, ``operations`` run, ``errors`` they ended with, ``timeouts`` and
    refusals (``refused``) while acquiring, ``retries``, connections ``created`` and ``closed``, leases
    ``leaked``. Durations in seconds: ``wait`` for a connection, ``use`` of it, to ``create`` one.

    Also since open: ``batches`` of requests sent together, on average of ``mean_batch`` and at most of
    ``largest_batch`` requests; how long a thread was busy with a batch (``lead``, in seconds); and uses of a
    connection that another thread had leased (``shared``): these count in ``wait``, but are no ``leases``.
    """

    name: str
    max_size: int
    size: int
    in_use: int
    idle: int
    waiting: int
    leases: int
    operations: int
    errors: int
    timeouts: int
    refused: int
    retries: int
    created: int
    closed: int
    leaked: int
    batches: int
    mean_batch: float
    largest_batch: int
    shared: int
    wait: Histogram
    use: Histogram
    create: Histogram
    lead: Histogram

    @property
    def error_rate(self) -> float:
        """The share of operations that ended with an error, in percent."""
        return 100.0 * self.errors / self.operations if self.operations else 0.0

    def summary(self) -> str:
        """Return the state of the pool in one line."""
        return (
            f"pool {self.name!r}: {self.size} of at most {self.max_size} connections open, "
            f"{self.in_use} in use, {self.idle} idle, {self.waiting} waiting"
        )

    @classmethod
    def of(cls, tally: Tally, *, name: str, max_size: int, in_use: int, waiting: int) -> PoolStats:
        """Take the snapshot of *tally* and of what the pool says of itself."""
        total = tally.total()
        # Leases that had not to wait are not entered one by one.
        entered = sum(total.wait.buckets) - total.shared
        total.wait.buckets[0] += max(0, total.leases - entered)
        size = max(0, total.created - total.closed)
        counters: dict[str, int] = {counter: getattr(total, counter) for counter in _COUNTERS}
        return cls(
            name=name,
            max_size=max_size,
            size=size,
            in_use=in_use,
            idle=max(0, size - in_use),
            waiting=waiting,
            wait=total.wait.snapshot(),
            use=total.use.snapshot(),
            create=total.create.snapshot(),
            lead=total.lead.snapshot(),
            largest_batch=total.largest_batch,
            mean_batch=total.batched / total.batches if total.batches else 0.0,
            **counters,
        )
