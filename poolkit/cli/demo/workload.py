"""Many threads that start together and make requests, and the time that each request took."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from time import perf_counter, sleep

Lookup = Callable[[int], object]
"""One request: takes a key, returns the value stored under it, raises when it fails."""

_RUN_UP = 0.5  # s in which all threads pass the barrier, which lets them through one by one
_TICK = 0.05  # s between two looks at the threads
_GRACE = 5.0  # s that requests under way may take when time is up


def milliseconds(seconds: float) -> str:
    """Return *seconds* as milliseconds for people; a dash for NaN."""
    if math.isnan(seconds):
        return "-"
    return f"{seconds * 1000:,.{0 if seconds >= 0.01 else 1}f}"


class WrongAnswer(Exception):
    """A request was answered with another key's value."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one run of a workload gave. Times are in seconds."""

    asked: int
    latencies: Sequence[float]
    """Of the requests that were answered, in ascending order."""
    refused: Counter[str]
    """Failures that the run exists to show, by message."""
    broken: Counter[str]
    """Failures that it doesn't."""
    elapsed: float
    """From the start of the threads to the end of the last."""

    @property
    def answered(self) -> int:
        return len(self.latencies)

    @property
    def errors(self) -> int:
        return self.refused.total() + self.broken.total()

    @property
    def cut_short(self) -> int:
        """The number of requests that were not made, or not over, when time was up."""
        return self.asked - self.answered - self.errors

    @property
    def throughput(self) -> float:
        """Requests answered in a second."""
        return self.answered / self.elapsed if self.elapsed else 0.0

    def percentile(self, percent: float) -> float:
        """Return the latency that *percent* of the answered requests kept within (nearest rank).

        NaN when none was answered.
        """
        if not self.latencies:
            return math.nan
        rank = math.ceil(percent / 100 * len(self.latencies))
        return self.latencies[max(rank, 1) - 1]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The same requests for every contender: *threads* times *requests_per_thread* key lookups."""

    threads: int
    requests_per_thread: int
    keys: int
    """Keys are 1 to this."""
    value: Callable[[int], object]
    """The right answer for a key."""

    @property
    def requests(self) -> int:
        return self.threads * self.requests_per_thread

    def run(
        self,
        lookup: Lookup,
        *,
        seconds: float,
        refusals: tuple[type[Exception], ...],
        tick: Callable[[int], None],
    ) -> Measured:
        """Make all requests; stop making new ones after *seconds*.

        Errors of the types *refusals* are counted apart from the others. *tick* is called some
        twenty times a second with the number of requests that are over.
        """
        crew = _Crew(self, lookup, refusals)
        try:
            crew.start()
            crew.wait(seconds, tick)
        finally:
            crew.stop()
        return crew.measured()


@dataclass
class _Worker:
    """What one thread has to say. Only that thread writes it."""

    latencies: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    over: int = 0
    ended_at: float = 0.0


class _Crew:
    def __init__(
        self, workload: Workload, lookup: Lookup, refusals: tuple[type[Exception], ...]
    ) -> None:
        self._workload = workload
        self._lookup = lookup
        self._refusals = refusals
        self._workers = [_Worker() for _ in range(workload.threads)]
        # Daemons, so that one that hangs in a driver can't keep the process alive.
        self._threads = [
            threading.Thread(
                target=self._work, args=(number,), name=f"request-{number}", daemon=True
            )
            for number in range(workload.threads)
        ]
        self._barrier = threading.Barrier(workload.threads + 1, action=self._start_clock)
        self._stopped = threading.Event()
        self._started_at = 0.0

    def start(self) -> None:
        try:
            for thread in self._threads:
                thread.start()
            self._barrier.wait(timeout=60)
        except BaseException:
            self._barrier.abort()
            raise

    def wait(self, seconds: float, tick: Callable[[int], None]) -> None:
        until = self._started_at + seconds
        for thread in self._threads:
            while thread.is_alive():
                thread.join(_TICK)
                tick(sum(worker.over for worker in self._workers))
                if perf_counter() > until:
                    self._stopped.set()
                if perf_counter() > until + _GRACE:
                    return

    def stop(self) -> None:
        self._stopped.set()

    def measured(self) -> Measured:
        now = perf_counter()
        return Measured(
            asked=self._workload.requests,
            latencies=sorted(chain.from_iterable(worker.latencies for worker in self._workers)),
            refused=Counter(chain.from_iterable(worker.refused for worker in self._workers)),
            broken=Counter(chain.from_iterable(worker.broken for worker in self._workers)),
            elapsed=max(worker.ended_at or now for worker in self._workers) - self._started_at,
        )

    def _start_clock(self) -> None:
        self._started_at = perf_counter() + _RUN_UP

    def _work(self, number: int) -> None:
        worker = self._workers[number]
        try:
            self._barrier.wait()
        except threading.BrokenBarrierError:
            return
        sleep(max(0.0, self._started_at - perf_counter()))
        first = number * self._workload.requests_per_thread
        # All first requests are due at the start, however late their threads get to run: counting
        # from there, the time that threads take from one another is not lost.
        began = self._started_at
        for request in range(first, first + self._workload.requests_per_thread):
            if self._stopped.is_set():
                break
            # A step that shares no factor with the number of keys visits them all, far apart.
            began = self._request(worker, request * 7919 % self._workload.keys + 1, began)
        worker.ended_at = perf_counter()

    def _request(self, worker: _Worker, key: int, began: float) -> float:
        """Make the request that was due when it *began*; return when it was over."""
        try:
            value = self._lookup(key)
            if value != self._workload.value(key):
                raise WrongAnswer(f"asked for key {key}, got {value!r}")
        except self._refusals as error:
            worker.refused.append(_short(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is counted and reported
            worker.broken.append(f"{type(error).__name__}: {_short(error)}")
        else:
            worker.latencies.append(perf_counter() - began)
        worker.over += 1
        return perf_counter()


def _short(error: Exception) -> str:
    """Return the part of a message that doesn't change from one request to the next."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # libpq tries several addresses, a line each, and puts the server's own words after FATAL.
    line = next((line for line in lines if "FATAL:" in line), lines[0])
    return line.rpartition("FATAL:")[2].strip()
