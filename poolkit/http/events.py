"""What happens to requests, told to listeners that want to hear of it."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.events import Event, Listener


@dataclass(frozen=True, kw_only=True)
class Requested(Event):
    """A request is about to be sent: its ``method``, and its ``url`` without the query."""

    method: str
    url: str


@dataclass(frozen=True, kw_only=True)
class Answered(Event):
    """A request was answered with ``status`` after ``seconds``, waiting and retries included."""

    method: str
    url: str
    status: int
    seconds: float


class HttpListener(Listener):
    """A :class:`~poolkit.Listener` that hears of requests too."""

    def requested(self, event: Requested) -> None:
        """A request is about to be sent; one that follows a redirect is another one."""

    def answered(self, event: Answered) -> None:
        """A request was answered."""


METHODS: dict[type[Event], str] = {Requested: "requested", Answered: "answered"}
"""The methods of a listener that hear of these."""
