"""The one background thread of a process: timers for probes, reaping and checks.

It starts with the first timer and ends with the last, so a process whose pools are closed has no thread
left. What it runs must be short; it is a daemon and never keeps the interpreter alive. After a fork
the child starts with an empty one; pools that open there plan their timers anew.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import weakref
from collections.abc import Callable
from random import uniform
from time import monotonic

logger = logging.getLogger("poolkit")


class Timer:
    """A call that is planned. Cancelling is idempotent."""

    __slots__ = ("_call", "_owner", "cancelled", "period")

    def __init__(self, owner: Housekeeper, call: Callable[[], None], period: float | None) -> None:
        self._owner = owner
        # Bound methods are held weakly: a pool that was dropped unclosed must not live on in here.
        self._call: Callable[[], Callable[[], None] | None]
        if hasattr(call, "__self__"):
            self._call = weakref.WeakMethod(call)
        else:
            self._call = lambda: call
        self.period = period
        self.cancelled = False

    def cancel(self) -> None:
        """Do not call any more."""
        self.cancelled = True
        self._owner._wake()

    def run(self) -> None:
        """Call now; what it raises is logged."""
        call = self._call()
        if call is None:
            self.cancelled = True
            return
        try:
            call()
        except BaseException:  # even SystemExit: it is not this task's thread to end
            logger.exception("a periodic task of poolkit failed: %r", call)


class Housekeeper:
    """Calls things later, one after the other, in one thread."""

    def __init__(self) -> None:
        self._order = itertools.count()
        # Taken by itself: an interruption in Condition.__enter__, which is Python, would leave it locked.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # Guarded by _lock:
        self._due: list[tuple[float, int, Timer]] = []
        self._thread: threading.Thread | None = None

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call once, *seconds* from now."""
        return self._plan(seconds, Timer(self, call, None))

    def soon(self, call: Callable[[], None]) -> None:
        """Call once, as soon as possible; here and now when Python ends and lets no thread begin any more."""
        try:
            self.after(0.0, call)
        except RuntimeError:
            call()

    def every(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call again and again, about *seconds* apart (jittered by a tenth, so that pools spread)."""
        return self._plan(uniform(0.9, 1.1) * seconds, Timer(self, call, seconds))

    @property
    def is_alive(self) -> bool:
        """Whether what is planned will be done: the thread has not died."""
        thread = self._thread
        return not self._due or (thread is not None and thread.is_alive())

    def join(self, timeout: float) -> None:
        """Wait up to *timeout* seconds for the thread to end, if nothing is planned any more."""
        with self._lock:
            self._drop_cancelled_locked()
            thread = self._thread if not self._due else None
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _plan(self, seconds: float, timer: Timer) -> Timer:
        with self._lock:
            heapq.heappush(self._due, (monotonic() + seconds, next(self._order), timer))
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="poolkit-housekeeper", daemon=True)
                thread.start()  # may raise: then the next one to plan tries again
                self._thread = thread
            self._changed.notify()
        return timer

    def _wake(self) -> None:
        with self._lock:
            self._changed.notify()

    def _run(self) -> None:
        while (timer := self._next()) is not None:
            timer.run()
            if timer.period is not None and not timer.cancelled:
                self._plan(uniform(0.9, 1.1) * timer.period, timer)
            del timer  # or it, and what it calls, would live until the next one is due

    def _next(self) -> Timer | None:
        """Wait for the next timer that is due; None when nothing is planned: then the thread ends."""
        with self._lock:
            while True:
                self._drop_cancelled_locked()
                if not self._due:
                    self._thread = None
                    return None
                wait = self._due[0][0] - monotonic()
                if wait <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(wait)

    def _drop_cancelled_locked(self) -> None:
        if any(timer.cancelled for _, _, timer in self._due):
            self._due = [entry for entry in self._due if not entry[2].cancelled]
            heapq.heapify(self._due)


_current = Housekeeper()


def housekeeper() -> Housekeeper:
    """Return the housekeeper of this process."""
    return _current


def _after_fork() -> None:
    global _current
    _current = Housekeeper()


os.register_at_fork(after_in_child=_after_fork)
