"""Looks whether a server is back, in a thread of its own: connecting may take its time. One look at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .deadline import Deadline
from .outage import Outage

PROBE_TIMEOUT = 2.0
"""Seconds that a probe may take to connect."""


class Prober:
    """Looks for the *outage*, which calls :meth:`probe`.

    *look* connects, within :data:`PROBE_TIMEOUT`, and returns what to do when the look is over: that tells the outage
    what was found, so that the next look can be planned then. It raises nothing.
    """

    def __init__(
        self, name: str, look: Callable[[], Callable[[], object]], *, outage: Callable[[], Outage]
    ) -> None:
        self._name = name
        self._look = look
        self._outage = outage
        self._lock = threading.RLock()  # a collection in here may come back
        # Guarded by _lock:
        self._thread: threading.Thread | None = None
        self._looking = False
        self._ended = False

    @property
    def is_looking(self) -> bool:
        """Whether a look is under way."""
        return self._looking

    def probe(self) -> None:
        """Begin to look, unless that is under way: then that plans the next look. Does not block."""
        thread = threading.Thread(target=self._run, name=f"poolkit-probe-{self._name}", daemon=True)
        with self._lock:
            if self._looking or self._ended:
                return
            try:
                self._looking = True
                thread.start()  # in here, so that who sees it can join it
            except RuntimeError as error:  # no more threads to be had
                self._looking = False
                tell = self._outage().down(error)
            else:
                self._thread = thread
                return
        tell()

    def end(self) -> None:
        """Begin no more looks."""
        with self._lock:
            self._ended = True

    def join(self, deadline: Deadline) -> None:
        """Wait until *deadline* for a look that is under way."""
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, min(PROBE_TIMEOUT + 1.0, deadline.remaining())))

    def _run(self) -> None:
        conclude = self._look()
        with self._lock:
            self._looking = False  # first, so that the next one can be planned
        conclude()
