"""One round of one contender: its threads start together, warm up, and take turns until the time is over.

A contender gives one callable a thread; a call is a turn.
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks import machine

Turn = Callable[[], object]

ASIDE = object()
"""What a turn returns that is not to be counted: it was taken for the sake of the others."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Contender:
    """One way of doing the work: ``opened(threads)`` sets up, yields a turn for each thread, and tears down.

    A ``floor`` does less than the work: it shows what nobody can beat.
    """

    name: str
    opened: Callable[[int], AbstractContextManager[Sequence[Turn]]]
    ours: bool = False
    floor: bool = False


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long one round takes, in seconds."""

    warmup: float = 0.15
    seconds: float = 0.5
    patience: float = 20.0  # for the turns under way when the time is over

    def of(self, threads: int, slices: int = 1) -> Timing:
        """Return the time of one slice; twice as long for hundreds of threads, which take few turns each."""
        factor = (2 if threads >= 100 else 1) / slices
        return dataclasses.replace(self, warmup=self.warmup * factor, seconds=self.seconds * factor)


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one contender did in the timed part of one round; seconds, and turns of each thread."""

    seconds: float
    turns: tuple[int, ...]
    p50: float
    p99: float
    longest: float
    cpu_seconds: float  # of this process: its clients, not the server
    rss_bytes: int
    stolen: float
    errors: int = 0
    first_error: str | None = None

    @property
    def throughput(self) -> float:
        return sum(self.turns) / self.seconds

    @property
    def slowest_share(self) -> float:
        """Return the turns of the slowest thread over those of the median thread."""
        middle = statistics.median(self.turns)
        return min(self.turns) / middle if middle else 0.0


def run_round(contender: Contender, threads: int, timing: Timing) -> Round:
    """Open the contender, let its threads take turns, join them, and close it."""
    gc.collect()
    crew = Crew(timing)
    try:
        with contender.opened(threads) as turns:
            if len(turns) != threads:
                raise ValueError(f"{contender.name} gave {len(turns)} turns for {threads} threads")
            try:
                crew.run(turns)
            finally:
                crew.stop()
    finally:
        crew.join()  # closing the contender may have freed the last of them
    return crew.summary()


class ThreadsStuck(Exception):
    """Threads did not come back from their turns, not even after the contender was closed."""


class Window:
    """The timed part of a round: from ``start`` to ``stop``, on the clock. Until it begins, for ever away."""

    def __init__(self) -> None:
        self.start = self.stop = float("inf")

    def begin(self, now: float, timing: Timing) -> None:
        self.start = now + timing.warmup
        self.stop = self.start + timing.seconds

    def cut(self) -> None:
        self.stop = float("-inf")


class Log:
    """What one thread saw: turns that ended in the window, latencies of those that ended after its start."""

    def __init__(self) -> None:
        self.turns = 0
        self.latencies = array("d")
        self.errors = 0
        self.first_error: str | None = None

    def failed(self, error: BaseException) -> None:
        self.errors += 1
        if self.first_error is None:
            self.first_error = describe_error(error)


def take_turns(turn: Turn, window: Window, log: Log, clock: Clock) -> None:
    """Take turns until the window closes.

    The last turn, under way when the window closes, is no turn of this window, but its latency counts:
    left out, a thread that waited all the time would look as if it had never waited.
    """
    began = clock()
    while began < window.stop:
        try:
            counts = turn() is not ASIDE
        except BaseException as error:  # a thread's SystemExit would not be seen anywhere else
            log.failed(error)
            began = clock()
            continue
        ended = clock()
        if counts and ended >= window.start:
            log.latencies.append(ended - began)
            if ended <= window.stop:
                log.turns += 1
        began = ended


class Counters:
    """What the process and the machine have used up to now."""

    def __init__(self) -> None:
        self.clock = time.perf_counter()
        self.cpu = time.process_time()
        self.ticks = machine.cpu_ticks()
        self.rss = machine.rss_bytes()


class Crew:
    """The threads of one round."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._window = Window()
        self._logs: list[Log] = []
        self._threads: list[threading.Thread] = []
        self._clock = time.perf_counter
        self._before = self._after = Counters()

    def run(self, turns: Sequence[Turn]) -> None:
        """Start a thread for each turn, all at once, and return when the time is over."""
        barrier = threading.Barrier(len(turns) + 1, action=self._begin)
        self._logs = [Log() for _ in turns]
        try:
            for number, (turn, log) in enumerate(zip(turns, self._logs, strict=True)):
                thread = threading.Thread(
                    target=self._work,
                    args=(barrier, turn, log),
                    name=f"bench-{number}",
                    daemon=True,
                )
                thread.start()
                self._threads.append(thread)
            barrier.wait(self._timing.patience)
        except BaseException:
            barrier.abort()
            raise
        time.sleep(self._timing.warmup)
        self._before = Counters()
        time.sleep(self._timing.seconds)
        self._after = Counters()

    def stop(self) -> None:
        """Tell the threads to stop after their present turn, and wait for them, within the patience."""
        if self._alive() and self._clock() < self._window.stop:
            self._window.cut()
        self._wait()

    def join(self) -> None:
        """Wait for threads that closing the contender has freed; raise if some are stuck for good."""
        if self._alive():
            self._wait()
        if stuck := self._alive():
            waited = f"{self._timing.patience:g} s after the end of the round"
            raise ThreadsStuck(f"{len(stuck)} of {len(self._threads)} threads are stuck, {waited}")

    def summary(self) -> Round:
        """Return what the threads did; once they are joined."""
        before, after = self._before, self._after
        latencies = sorted(latency for log in self._logs for latency in log.latencies)
        # With hundreds of threads after the GIL, this one wakes late: scale to the window.
        watched = (after.clock - before.clock) / self._timing.seconds
        return Round(
            seconds=self._timing.seconds,
            turns=tuple(log.turns for log in self._logs),
            p50=quantile(latencies, 0.50),
            p99=quantile(latencies, 0.99),
            longest=latencies[-1] if latencies else 0.0,
            cpu_seconds=(after.cpu - before.cpu) / watched,
            rss_bytes=after.rss,
            stolen=machine.stolen(before.ticks, after.ticks),
            errors=sum(log.errors for log in self._logs),
            first_error=next((log.first_error for log in self._logs if log.first_error), None),
        )

    def _begin(self) -> None:
        self._window.begin(self._clock(), self._timing)

    def _work(self, barrier: threading.Barrier, turn: Turn, log: Log) -> None:
        try:
            barrier.wait()
        except threading.BrokenBarrierError:
            return
        take_turns(turn, self._window, log, self._clock)

    def _alive(self) -> list[threading.Thread]:
        return [thread for thread in self._threads if thread.is_alive()]

    def _wait(self) -> None:
        until = time.monotonic() + self._timing.patience
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of the ordered values lie; nearest rank, 0 for none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def describe_error(error: BaseException) -> str:
    """Return the error's kind and the first line of its message."""
    message = str(error).strip().splitlines()
    return f"{type(error).__name__}: {message[0]}" if message else type(error).__name__
