"""The last rare events of a kit's pools: what went wrong, what came back, what changed.

It hears nothing that happens at each request, so it costs requests nothing; and what comes in floods is counted, so
that it neither grows nor pushes out the rest.
"""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
import weakref
from collections import OrderedDict
from dataclasses import dataclass, replace

from ..core import events as told
from ..core.errors import (
    BackendUnavailable,
    PoolClosed,
    PoolKitError,
    PoolOverloaded,
    PoolTimeout,
)
from ..core.events import Listener
from ..core.lease import Holder
from .health import PoolHealth, Status

KEPT = 200
"""Events that are kept; of floods, one stands for all."""

FLOOD = 10.0
"""Seconds within which an event that is like an earlier one is counted with it."""

LONGEST = 300
"""Characters that are kept of a text."""

NEWS = frozenset({"opened", "closed", "ready", "health"})
"""Kinds that are not counted with an earlier one across anything else that the pool told: their order matters."""

BAD_REASONS = frozenset(
    {
        "can't connect",
        "dropped and not closed",
        "found dead when it was to be lent",
        "found dead while idle",
        "lost while lent",
    }
)
"""Why connections are closed that something happened to; all others just had their time."""

_Alike = tuple[str, str, str]
"""What alike events have in common: the pool, the kind, and the text without its numbers."""

_SPEAKING = (BackendUnavailable, PoolClosed, PoolOverloaded, PoolTimeout)
"""Errors whose words are poolkit's own. Those of drivers may quote the values that a statement was given."""


@dataclass(frozen=True, kw_only=True)
class RecentEvent:
    """Something rare that happened in a pool, or ``count`` times something alike.

    ``first`` and ``last`` are in seconds since the epoch. ``kind`` is a word or two; ``level`` is ``good``, ``note``,
    ``warning`` or ``error``. ``text`` has no value of a statement, no key and no password.
    """

    pool: str
    kind: str
    level: str
    text: str
    first: float
    last: float
    count: int = 1


class RecentEvents(Listener):
    """Keeps the last events, each process its own."""

    def __init__(self) -> None:
        self._begin()
        _all.add(self)

    def all(self) -> list[RecentEvent]:
        """Return what is kept, the newest first."""
        with self._lock:
            kept = list(reversed(self._kept.values()))
        return [event for _, event in kept]

    # -- what it hears -------------------------------------------------------------------------------

    def opened(self, event: told.Opened) -> None:
        self._note(event.pool, "opened", "note", "the pool was opened")

    def closed(self, event: told.Closed) -> None:
        held = f", {event.held} connections were still lent" if event.held else ""
        self._note(
            event.pool, "closed", "warning" if held else "note", f"the pool was closed{held}"
        )

    def ready(self, event: told.Ready) -> None:
        self._note(event.pool, "ready", "good", "the backend can be used")

    def reconnecting(self, event: told.Reconnecting) -> None:
        self._note(
            event.pool,
            "reconnecting",
            "error",
            f"the backend can't be reached: {first_line(event.error)}",
        )

    def timed_out(self, event: told.TimedOut) -> None:
        self._note(event.pool, "timed out", "error", _told_of(event.error))

    def retried(self, event: told.Retried) -> None:
        kind = type(event.error).__name__
        self._note(event.pool, "retried", "warning", f"an attempt failed and is repeated: {kind}")

    def failed(self, event: told.Failed) -> None:
        if isinstance(event.error, PoolKitError):  # others are the caller's own, and may come often
            self._note(event.pool, "failed", "error", _told_of(event.error))

    def leaked(self, event: told.Leaked) -> None:
        self._note(
            event.pool,
            "leaked",
            "error",
            f"a connection was taken back: {event.reason}; {_held_by(event.holder)}",
        )

    def removed(self, event: told.Removed) -> None:
        if event.reason in BAD_REASONS:
            self._note(event.pool, "connection lost", "warning", f"a connection was {event.reason}")

    # -- what the kit tells --------------------------------------------------------------------------

    def health_changed(self, pool: str, health: PoolHealth) -> None:
        """Note that a check found something else than the one before."""
        levels = {Status.HEALTHY: "good", Status.DEGRADED: "warning", Status.UNAVAILABLE: "error"}
        reasons = "".join(f"; {reason}" for reason in health.reasons.values())
        self._note(
            pool, "health", levels[health.status], f"the pool is {health.status.value}{reasons}"
        )

    def overdue(self, pool: str, holder: Holder) -> None:
        """Note that a connection is held for too long."""
        self._note(
            pool, "overdue", "error", f"a connection is held for too long; {_held_by(holder)}"
        )

    def given_back(self, pool: str, holder: Holder) -> None:
        """Note that a connection that was held for too long was given back."""
        self._note(
            pool,
            "given back",
            "good",
            f"a connection held for too long was given back; {_held_by(holder)}",
        )

    # -- private -------------------------------------------------------------------------------------

    def _note(self, pool: str, kind: str, level: str, text: str) -> None:
        if len(text) > LONGEST:
            text = f"{text[: LONGEST - 1]}…"
        alike = (pool, kind, _NUMBERS.sub("#", text))
        now = time.time()
        event = RecentEvent(pool=pool, kind=kind, level=level, text=text, first=now, last=now)
        with self._lock:
            before = self._take_alike_locked(alike, now - FLOOD)
            if before is not None:
                event = replace(event, first=before.first, count=before.count + 1)
            number = next(self._numbers)
            self._kept[number] = (alike, event)
            self._latest[alike] = self._told[pool] = number
            while len(self._kept) > KEPT:
                dropped, (alike, _) = self._kept.popitem(last=False)
                if self._latest.get(alike) == dropped:
                    del self._latest[alike]

    def _take_alike_locked(self, alike: _Alike, since: float) -> RecentEvent | None:
        """Remove and return the event that is *alike*, if it last happened after *since*."""
        pool, kind, _ = alike
        number = self._latest.get(alike)
        if number is None or (kind in NEWS and self._told[pool] != number):
            return None
        found = self._kept.get(number)
        if found is None or found[1].last < since:
            return None
        self._kept.pop(number, None)
        return found[1]

    def after_fork(self) -> None:
        """Forget what happened in the parent."""
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()  # a collection in here may come back
        self._numbers = itertools.count()
        # Guarded by _lock:
        self._kept: OrderedDict[int, tuple[_Alike, RecentEvent]] = OrderedDict()  # by number
        self._latest: dict[_Alike, int] = {}  # the number of the last one that is alike
        self._told: dict[str, int] = {}  # the number of the last one of each pool


_NUMBERS = re.compile(r"\d+(?:\.\d+)?")


def _told_of(error: BaseException) -> str:
    """Return what may be told of *error*: all of it if the words are poolkit's own, else its kind."""
    kind = type(error).__name__
    if isinstance(error, _SPEAKING) and error.args:
        return f"{kind}: {error.args[0]}"  # not str(): a PoolTimeout lists all holders
    return kind


def first_line(error: BaseException) -> str:
    """Return the first line that *error* says, or its kind if it says nothing."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _held_by(holder: Holder) -> str:
    return f"thread {holder.thread_name!r} acquired it at {holder.call_site}"


_all: weakref.WeakSet[RecentEvents] = weakref.WeakSet()


def _after_fork() -> None:
    for recent in list(_all):
        recent.after_fork()


os.register_at_fork(after_in_child=_after_fork)
