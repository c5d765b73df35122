"""How long the machine, not the pool, kept everybody waiting."""

from __future__ import annotations

import threading
import time
from types import TracebackType

TICK = 0.002
"""Seconds that the thread asks to sleep; what it sleeps longer was taken from it."""

WORTH_NOTING = 0.000_2


def queued() -> float:
    """Return for how many seconds the calling thread was ready to run and no core was free; 0 where nobody tells."""
    try:
        with open("/proc/thread-self/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


class Control:
    """A thread that wants nothing but to wake up in time, and notes when it did not.

    It needs a core and the interpreter as any caller does, and no pool: what it loses in some span of time, a caller
    may have lost too. A context manager.
    """

    def __init__(self) -> None:
        # Spans of time, in order, and the share of each in which it had a core and not the interpreter.
        self._lost: list[tuple[float, float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def __enter__(self) -> Control:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def lost(self, since: float, until: float) -> float:
        """Return how many of the seconds between two moments of the monotonic clock were lost."""
        return sum(
            max(0.0, min(until, end) - max(since, begin)) for begin, end, _ in list(self._lost)
        )

    def contended(self, since: float, until: float) -> float:
        """Return how many of them were lost to those who had the interpreter."""
        return sum(
            max(0.0, min(until, end) - max(since, begin)) * share
            for begin, end, share in list(self._lost)
        )

    @property
    def worst(self) -> float:
        """The longest span that was lost in one go, in seconds."""
        return max((end - begin for begin, end, _ in list(self._lost)), default=0.0)

    def _run(self) -> None:
        before, waited = time.monotonic(), queued()
        while not self._over.is_set():
            time.sleep(TICK)
            now = time.monotonic()
            late = now - before - TICK
            if late > WORTH_NOTING:
                for_a_core, waited = queued() - waited, queued()
                share = max(0.0, 1.0 - for_a_core / late)
                self._lost.append((before + TICK, now, share))
            before = now
