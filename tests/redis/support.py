"""What the tests of RedisPool share."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from urllib.parse import urlsplit

from poolkit import Listener
from poolkit.embedded import RedisServer
from tests.faults.proxy import FaultProxy

SCHEDULING = 0.15
"""Seconds that a busy machine may add to what is promised."""


def through(proxy: FaultProxy, server: RedisServer) -> str:
    """Return the address of *server*, by way of *proxy*."""
    parts = urlsplit(server.url)
    return parts._replace(netloc=f":{server.password}@127.0.0.1:{proxy.port}").geturl()


class Stopwatch:
    """Measures a block: ``seconds``."""

    seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self._began = monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.seconds = monotonic() - self._began


class Recorder(Listener):
    """Remembers the kinds of events, and the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []

    def kinds(self) -> list[str]:
        """Return what was heard, in order."""
        return [kind for kind, _ in self.events]


def _record(name: str) -> object:
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
    setattr(Recorder, _name, _record(_name))
