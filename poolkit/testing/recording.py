"""A listener that keeps what it heard."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

from ..core import events as told
from ..core.events import Event, Listener

EventT = TypeVar("EventT", bound=Event)


class Recorder(Listener):
    """Keeps all events it hears, from any thread, in the order in which they came: ``listeners=[recorder]``."""

    def __init__(self) -> None:
        self._heard: deque[Event] = deque()

    @property
    def events(self) -> list[Event]:
        """What was heard so far."""
        return list(self._heard)

    def of(self, kind: type[EventT]) -> list[EventT]:
        """Return the events of one *kind* that were heard so far."""
        return [event for event in self.events if isinstance(event, kind)]

    def clear(self) -> None:
        """Forget what was heard."""
        self._heard.clear()

    def opened(self, event: told.Opened) -> None:
        self._heard.append(event)

    def connected(self, event: told.Connected) -> None:
        self._heard.append(event)

    def ready(self, event: told.Ready) -> None:
        self._heard.append(event)

    def reconnecting(self, event: told.Reconnecting) -> None:
        self._heard.append(event)

    def acquired(self, event: told.Acquired) -> None:
        self._heard.append(event)

    def released(self, event: told.Released) -> None:
        self._heard.append(event)

    def removed(self, event: told.Removed) -> None:
        self._heard.append(event)

    def timed_out(self, event: told.TimedOut) -> None:
        self._heard.append(event)

    def retried(self, event: told.Retried) -> None:
        self._heard.append(event)

    def failed(self, event: told.Failed) -> None:
        self._heard.append(event)

    def ended(self, event: told.Ended) -> None:
        self._heard.append(event)

    def leaked(self, event: told.Leaked) -> None:
        self._heard.append(event)

    def closed(self, event: told.Closed) -> None:
        self._heard.append(event)
