"""What happens in a pool, told to whoever listens.

A pool knows no logs, metrics or dashboards; they are listeners. An event is built only when somebody
listens to its kind, so a pool without listeners pays one look at an empty tuple.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .lease import Holder

logger = logging.getLogger("poolkit")


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened in the pool named ``pool``."""

    pool: str


@dataclass(frozen=True, kw_only=True)
class Opened(Event):
    """The pool began to work in this process."""


@dataclass(frozen=True, kw_only=True)
class Connected(Event):
    """A connection was opened; it took ``seconds``."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class Ready(Event):
    """The backend can be used: it was reached for the first time, or again after an outage."""


@dataclass(frozen=True, kw_only=True)
class Reconnecting(Event):
    """The backend can't be reached (``error``); the next look, number ``attempt``, is in ``delay`` seconds."""

    attempt: int
    delay: float
    error: BaseException


@dataclass(frozen=True, kw_only=True)
class Acquired(Event):
    """A thread got a connection after ``waited`` seconds."""

    holder: Holder
    waited: float


@dataclass(frozen=True, kw_only=True)
class Released(Event):
    """A thread gave its connection back after ``used`` seconds."""

    holder: Holder
    used: float


@dataclass(frozen=True, kw_only=True)
class Removed(Event):
    """A connection was closed; ``reason`` says why."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class TimedOut(Event):
    """A thread got no connection; ``error`` is what it was given after ``waited`` seconds."""

    waited: float
    error: BaseException


@dataclass(frozen=True, kw_only=True)
class Retried(Event):
    """Attempt number ``attempt`` failed with ``error``; the next one follows in ``delay`` seconds."""

    attempt: int
    delay: float
    error: BaseException


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """An operation, or an attempt to reach the backend, ended with ``error``."""

    error: BaseException


@dataclass(frozen=True, kw_only=True)
class Ended(Event):
    """An operation ended after ``seconds``, waiting and retries included; with ``error``, if it failed.

    ``operation`` is the first word of a statement, the name of a command, or a method.
    """

    operation: str
    seconds: float
    error: BaseException | None


@dataclass(frozen=True, kw_only=True)
class Leaked(Event):
    """A connection was taken back from ``holder``, which can't return it any more: ``reason``."""

    holder: Holder
    reason: str


@dataclass(frozen=True, kw_only=True)
class Closed(Event):
    """The pool was closed; ``held`` connections were still lent."""

    held: int


class Listener:
    """Base for listeners: override what you want to hear.

    Methods are called in the thread in which it happened, after all locks are let go, and should be
    quick. One that raises is logged once and never harms the caller.
    """

    def opened(self, event: Opened) -> None:
        """The pool began to work in this process."""

    def connected(self, event: Connected) -> None:
        """A connection was opened."""

    def ready(self, event: Ready) -> None:
        """The backend can be used: for the first time, or again."""

    def reconnecting(self, event: Reconnecting) -> None:
        """The backend can't be reached, and will be looked for again."""

    def acquired(self, event: Acquired) -> None:
        """A thread got a connection."""

    def released(self, event: Released) -> None:
        """A thread gave its connection back."""

    def removed(self, event: Removed) -> None:
        """A connection was closed."""

    def timed_out(self, event: TimedOut) -> None:
        """A thread got no connection."""

    def retried(self, event: Retried) -> None:
        """An attempt failed and another one follows."""

    def failed(self, event: Failed) -> None:
        """An operation, or an attempt to reach the backend, failed for good."""

    def ended(self, event: Ended) -> None:
        """An operation ended, well or not. To listen to this costs a little for each."""

    def leaked(self, event: Leaked) -> None:
        """A connection was taken back from a holder that can't return it."""

    def closed(self, event: Closed) -> None:
        """The pool was closed."""


_METHODS: dict[type[Event], str] = {
    Opened: "opened",
    Connected: "connected",
    Ready: "ready",
    Reconnecting: "reconnecting",
    Acquired: "acquired",
    Released: "released",
    Removed: "removed",
    TimedOut: "timed_out",
    Retried: "retried",
    Failed: "failed",
    Ended: "ended",
    Leaked: "leaked",
    Closed: "closed",
}


class Events:
    """Tells the listeners of one pool.

    A backend may have *kinds* of events of its own, with the methods that hear of them; *base* is a
    listener that hears nothing of any.
    """

    __slots__ = ("_accused", "_heard", "pool")

    def __init__(
        self,
        pool: str,
        listeners: Sequence[Listener],
        *,
        kinds: Mapping[type[Event], str] | None = None,
        base: type[Listener] = Listener,
    ) -> None:
        self.pool = pool
        self._heard = {
            kind: _overridden(listeners, name, base)
            for kind, name in {**_METHODS, **(kinds or {})}.items()
        }
        self._accused: dict[object, object] = {}

    def wanted(self, kind: type[Event]) -> bool:
        """Whether anybody listens to events of this *kind*."""
        return bool(self._heard[kind])

    def tell(self, kind: type[Event], **details: Any) -> None:
        """Tell an event of this *kind* to those who listen to it. Call it with no lock held."""
        heard = self._heard[kind]
        if not heard:
            return
        event = kind(pool=self.pool, **details)
        for listen in heard:
            try:
                listen(event)
            except Exception:
                me = object()
                if self._accused.setdefault(listen, me) is me:  # of several threads, one logs it
                    logger.exception(
                        "pool %r: the listener %r failed; this is logged once", self.pool, listen
                    )


def _overridden(
    listeners: Sequence[Listener], name: str, base: type[Listener]
) -> tuple[Callable[[Any], None], ...]:
    deaf = (None, getattr(base, name))
    return tuple(
        getattr(listener, name)
        for listener in listeners
        if getattr(type(listener), name, None) not in deaf
    )
