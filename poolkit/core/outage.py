"""Whether the backend can be reached, and if not, why.

While it is down, callers are told at once instead of each finding out alone, and a single probe, with
backoff, looks whether it is back. Who would rather wait than be told can wait for that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from random import uniform
from time import monotonic

from .deadline import Deadline
from .errors import BackendUnavailable
from .events import Events, Ready, Reconnecting
from .housekeeper import Housekeeper, Timer

FIRST_PROBE = 0.05
"""Seconds from the first failure to the first probe; doubles with each failed probe."""

LONGEST_PAUSE = 0.5
"""Seconds between probes at most, so that a backend that is back is noticed well within a second."""

HOPELESS_PAUSE = 1.0
"""Seconds between attempts, made only for callers, when only a person can mend the cause."""


class Outage:
    """Up or down.

    *probe* is called when it is time to look; it must not block, and reports back by :meth:`up` or
    :meth:`down`. These only decide, so they may be called under a lock, and return what to call after it:
    that tells the listeners. *explain* may add to the text of the cause what to do about it.
    """

    def __init__(
        self,
        name: str,
        housekeeper: Housekeeper,
        *,
        events: Events,
        probe: Callable[[], None],
        explain: Callable[[str], str] = str,
    ) -> None:
        self._name = name
        self._explain = explain
        self._events = events
        self._housekeeper = housekeeper
        self._probe = probe
        self._lock = threading.RLock()  # a collection in here may come back
        # Guarded by _lock, but read without it:
        self.cause: BaseException | None = None
        self._last_cause: BaseException | None = None
        self._hopeless = False
        self._failures = 0
        self._next_probe = 0.0
        self._timer: Timer | None = None
        self._reached = False
        self._ended = False
        # Set unless it is down and may come back by itself; changed under _lock:
        self._settled = threading.Event()
        self._settled.set()

    def wait(self, until: Deadline) -> bool:
        """Wait until the backend is back, at most *until* then; return whether it can be reached.

        Returns early when there is nothing to wait for: a cause that only a person can mend, or the end.
        """
        while True:
            settled = until.wait(self._settled)
            back = self.cause is None
            if back or not settled or self._hopeless or self._ended:
                return back and not self._ended
            # It came up, and was down again before this thread could see that.

    @property
    def ended(self) -> bool:
        """Whether nobody need wait for it any more."""
        return self._ended

    def error(self) -> BackendUnavailable:
        """Return the error that says the backend is down, with its cause."""
        probe_now = False
        with self._lock:
            # It may have come up since somebody saw it down: then the last cause is the answer.
            cause = self._last_cause or TimeoutError("nothing has answered yet")
            hopeless = self._hopeless
            wait = self._next_probe - monotonic()
            if self.cause is not None and hopeless and wait <= 0 and not self._ended:
                self._next_probe = monotonic() + HOPELESS_PAUSE
                probe_now = True
        if probe_now:
            self._probe()
        remedy = "; poolkit does not retry this by itself" if hopeless else ""
        error = BackendUnavailable(
            f"pool {self._name!r}: the backend can't be reached: {self._explain(_one_line(cause))}{remedy}",
            retry_after=None if hopeless else max(0.0, wait),
        )
        error.__cause__ = cause
        return error

    def down(self, cause: BaseException, *, hopeless: bool = False) -> Callable[[], None]:
        """Note that the backend can't be reached, and plan the next probe."""
        with self._lock:
            if self._ended:
                return _nothing
            self.cause = self._last_cause = cause
            self._hopeless = hopeless
            if hopeless:
                self._next_probe = monotonic() + HOPELESS_PAUSE
                self._settled.set()
                return _nothing
            self._settled.clear()
            if self._timer is not None:
                return _nothing  # several may report the same outage; one probe is enough
            self._failures += 1
            attempt = self._failures
            pause = min(LONGEST_PAUSE, FIRST_PROBE * 2.0 ** min(self._failures - 1, 10))
            pause = uniform(pause / 2, pause)
            self._next_probe = monotonic() + pause
            self._timer = self._housekeeper.after(pause, self._look)
        return lambda: self._events.tell(Reconnecting, attempt=attempt, delay=pause, error=cause)

    def up(self) -> Callable[[], None]:
        """Note that the backend was reached."""
        if self._reached and self.cause is None:
            return _nothing
        with self._lock:
            news = not self._ended and (not self._reached or self.cause is not None)
            self._reached = True
            self.cause = None
            self._hopeless = False
            self._failures = 0
            self._settled.set()
        return (lambda: self._events.tell(Ready)) if news else _nothing

    def forget(self) -> None:
        """Note that nobody knows any more whether it can be reached: who comes next finds out."""
        with self._lock:
            self._reached = False
            self.cause = None
            self._hopeless = False
            self._failures = 0
            self._settled.set()

    def end(self) -> None:
        """Plan no more probes, and let nobody wait for one."""
        with self._lock:
            self._ended = True
            self._settled.set()
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _look(self) -> None:
        with self._lock:
            self._timer = None
            needed = self.cause is not None and not self._hopeless and not self._ended
        if needed:
            self._probe()


def _one_line(cause: BaseException) -> str:
    return " ".join(str(cause).split()) or type(cause).__name__


def _nothing() -> None:
    """Tell nobody."""
