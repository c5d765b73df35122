"""What the tests of FirestorePool share."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Any

from google.cloud.firestore import Increment

from poolkit import FirestorePool, Listener
from poolkit.firestore.running import Running

SCHEDULING = 0.15
"""Seconds that a busy machine may add to what is promised."""

ONE_MORE = Increment(1)


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
    """Remembers the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def kinds(self) -> list[str]:
        """Return what was heard, in order."""
        return [kind for kind, _ in self.events]


def _record(name: str) -> Any:
    def method(self: Recorder, event: object) -> None:
        self.events.append((name, event))

    return method


for _name in ("opened", "connected", "ready", "reconnecting", "acquired", "released", "removed",
              "timed_out", "retried", "failed", "leaked", "closed"):  # fmt: skip
    setattr(Recorder, _name, _record(_name))


def running_of(store: FirestorePool) -> Running:
    """Return what runs of a pool that is open."""
    running = store._lifecycle.running
    assert running is not None
    return running


def number_at(store: FirestorePool, path: str) -> int:
    """Return the number that a counter has come to, 0 if there is none."""
    data = store.get(path).to_dict()
    return 0 if data is None else data["n"]
