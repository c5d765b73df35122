"""What happens in pools, as log records: one logger a pool, ``poolkit.pool.NAME``, with structured ``extra`` fields.

At INFO that is what a production server wants to know: a pool opened and closed, a backend lost and found, callers
that got no connection. Leaks are logged by the pools themselves. At DEBUG it is each connection too, and each use of
one with :class:`LeaseLogListener`.
"""

from __future__ import annotations

import logging
import threading
from time import monotonic

from ..core import events
from ..core.events import Event, Listener

PREFIX = "poolkit.pool."

QUIET = 1.0
"""Seconds in which errors of one kind of a pool are counted rather than logged again: an outage makes thousands."""


class LogListener(Listener):
    """A :class:`~poolkit.Listener` that logs what it hears; one serves any number of pools.

    Each record has ``pool`` and ``event`` as extra fields, and what the event says: ``seconds``, ``error``,
    ``call_site``, ``thread_name`` and so on. None has a statement's parameters, a key, a URL or a password.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Guarded by _lock: when an error of a kind was last logged, and how many came since.
        self._errors: dict[tuple[str, str], tuple[float, int]] = {}

    def opened(self, event: events.Opened) -> None:
        _log(event, logging.INFO, "opened")

    def closed(self, event: events.Closed) -> None:
        level = logging.WARNING if event.held else logging.INFO
        _log(event, level, f"closed, {event.held} connections still lent", held=event.held)

    def ready(self, event: events.Ready) -> None:
        _log(event, logging.INFO, "the backend can be used")

    def reconnecting(self, event: events.Reconnecting) -> None:
        _log(
            event,
            logging.WARNING if event.attempt == 1 else logging.INFO,
            f"the backend can't be reached ({type(event.error).__name__}), "
            f"attempt {event.attempt} is in {event.delay:.3f} s",
            attempt=event.attempt,
            delay=event.delay,
            error=type(event.error).__name__,
        )

    def connected(self, event: events.Connected) -> None:
        _log(
            event,
            logging.DEBUG,
            f"a connection was opened in {event.seconds:.3f} s",
            seconds=event.seconds,
        )

    def removed(self, event: events.Removed) -> None:
        _log(event, logging.DEBUG, f"a connection was closed: {event.reason}", reason=event.reason)

    def timed_out(self, event: events.TimedOut) -> None:
        self._log_error(event, event.error, f"no connection within {event.waited:.3f} s")

    def failed(self, event: events.Failed) -> None:
        self._log_error(event, event.error, "an operation failed")

    def _log_error(self, event: Event, error: BaseException, what: str) -> None:
        """Log an error, unless one of its kind was logged a moment ago: then count it."""
        kind = type(error).__name__
        key = (event.pool, kind)
        now = monotonic()
        with self._lock:
            last, kept_back = self._errors.get(key, (-QUIET, 0))
            if now - last < QUIET:
                self._errors[key] = (last, kept_back + 1)
                return
            self._errors[key] = (now, 0)
        more = f"; {kept_back} more before that were not logged" if kept_back else ""
        _log(event, logging.WARNING, f"{what}: {kind}{more}", error=kind, kept_back=kept_back)


class LeaseLogListener(LogListener):
    """A :class:`LogListener` that also logs each use of a connection, at DEBUG. That costs a little each time."""

    def acquired(self, event: events.Acquired) -> None:
        _log(
            event,
            logging.DEBUG,
            f"a connection was lent to thread {event.holder.thread_name!r} after {event.waited:.3f} s",
            waited=event.waited,
            call_site=event.holder.call_site,
        )

    def released(self, event: events.Released) -> None:
        _log(
            event,
            logging.DEBUG,
            f"a connection came back from thread {event.holder.thread_name!r} after {event.used:.3f} s",
            used=event.used,
            call_site=event.holder.call_site,
        )


def logger_of(pool: str) -> logging.Logger:
    """Return the logger of the pool called *pool*; a dot in its name makes no hierarchy."""
    return logging.getLogger(PREFIX + pool.replace(".", "_"))


def _log(event: Event, level: int, text: str, **fields: object) -> None:
    logger = logger_of(event.pool)
    if logger.isEnabledFor(level):
        extra = {"pool": event.pool, "event": type(event).__name__, **fields}
        logger.log(level, "pool %r: %s", event.pool, text, extra=extra)
