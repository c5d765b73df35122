"""A listener that remembers, for tests that look at the order and the kinds of what is told."""

from __future__ import annotations

from typing import Any

from poolkit import Listener


class Recorder(Listener):
    """Remembers the kinds of events, and the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def kinds(self) -> list[str]:
        """Return what was heard, in order."""
        return [kind for kind, _ in self.events]

    def of(self, kind: str) -> list[Any]:
        """Return the events of one kind."""
        return [event for heard, event in self.events if heard == kind]


def recording(name: str) -> Any:
    """Return the method of a recorder that hears of events of the kind *name*."""

    def method(self: Recorder, event: object) -> None:
        self.events.append((name, event))

    return method


for _name in (
    "opened",
    "connected",
    "ready",
    "reconnecting",
    "acquired",
    "released",
    "removed",
    "timed_out",
    "retried",
    "failed",
    "leaked",
    "closed",
):
    setattr(Recorder, _name, recording(_name))
