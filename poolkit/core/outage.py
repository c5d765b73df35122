"""Whether the backend can be reached, and if not, since when and why.

While it is down, callers are told at once instead of each finding out alone, and a single probe, with
backoff, looks whether it is back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from random import uniform
from time import monotonic

from .errors import BackendUnavailable
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
    :meth:`down`. *explain* may add to the text of the cause what to do about it.
    """

    def __init__(
        self,
        name: str,
        housekeeper: Housekeeper,
        *,
        probe: Callable[[], None],
        explain: Callable[[str], str] = str,
    ) -> None:
        self._name = name
        self._explain = explain
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
        self._ended = False

    def check(self) -> None:
        """Raise :class:`~poolkit.BackendUnavailable` if the backend is down."""
        if self.cause is not None:
            raise self.error()

    def error(self) -> BackendUnavailable:
        """Return the error that says the backend is down, with its cause."""
        probe_now = False
        with self._lock:
            # It may have come up since somebody saw it down: then the last cause is the answer.
            cause, hopeless = self._last_cause, self._hopeless
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

    def down(self, cause: BaseException, *, hopeless: bool = False) -> None:
        """Note that the backend can't be reached, and plan the next probe."""
        with self._lock:
            if self._ended:
                return
            self.cause = self._last_cause = cause
            self._hopeless = hopeless
            if hopeless:
                self._next_probe = monotonic() + HOPELESS_PAUSE
                return
            if self._timer is not None:
                return  # several may report the same outage; one probe is enough
            self._failures += 1
            pause = min(LONGEST_PAUSE, FIRST_PROBE * 2.0 ** min(self._failures - 1, 10))
            pause = uniform(pause / 2, pause)
            self._next_probe = monotonic() + pause
            self._timer = self._housekeeper.after(pause, self._look)

    def up(self) -> None:
        """Note that the backend was reached."""
        with self._lock:
            self.cause = None
            self._hopeless = False
            self._failures = 0

    def end(self) -> None:
        """Plan no more probes."""
        with self._lock:
            self._ended = True
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _look(self) -> None:
        with self._lock:
            self._timer = None
            needed = self.cause is not None and not self._hopeless and not self._ended
        if needed:
            self._probe()


def _one_line(cause: BaseException | None) -> str:
    return " ".join(str(cause).split()) or type(cause).__name__
