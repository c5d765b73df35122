"""Who goes next at a document that several transactions of this pool want at a time.

Firestore finds out that transactions are in each other's way when they have done their work, or waits for locks, for
seconds; then all but one begin anew. Within one pool that can be known before: at a document over which a transaction
was aborted, those of this pool queue up before they read it, for as long as it is in demand. So they follow each
other as fast as the server answers, and only other processes can get in their way.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from time import monotonic

from ..core.deadline import Deadline

HOT = 10.0
"""Seconds for which a document counts as in demand after the last sign of that."""

PATIENCE = 5.0
"""Seconds to wait in a line at most; then the server is to decide."""

PATIENCE_HOLDING = 0.2
"""The same for one who has other documents, which those before it may be waiting for."""

MOST_HOT = 10_000
"""Documents to remember at most."""


class Turn:
    """One attempt at a transaction: the documents that it has read or means to write, and has its turn at."""

    __slots__ = ("held", "touched")

    def __init__(self) -> None:
        self.touched: dict[str, None] = {}
        self.held: list[str] = []


class _Line:
    __slots__ = ("owner", "waiting")

    def __init__(self, owner: Turn) -> None:
        self.owner = owner
        self.waiting: deque[tuple[Turn, threading.Event]] = deque()


class Lines:
    """The lines of one pool, in one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._hot: dict[str, float] = {}
        self._lines: dict[str, _Line] = {}

    def wait(self, turn: Turn, names: Iterable[str], deadline: Deadline) -> None:
        """Wait for the turn at those of the documents that are in demand; in vain at most for a while."""
        for name in sorted(names):  # all in the same order, so that few wait for each other
            turn.touched[name] = None
            if name in self._hot and name not in turn.held:
                self._wait_for(turn, name, deadline)

    def leave(self, turn: Turn) -> None:
        """Let the next ones have their turn."""
        with self._lock:
            woken = [self._pass_on_locked(name) for name in turn.held]
            turn.held.clear()
        for event in woken:
            if event is not None:
                event.set()

    def heat(self, names: Iterable[str]) -> None:
        """Take note that transactions were in each other's way at these documents."""
        until = monotonic() + HOT
        with self._lock:
            for name in names:
                self._hot[name] = until
            if len(self._hot) > MOST_HOT:
                now = monotonic()
                self._hot = {name: at for name, at in self._hot.items() if at > now}

    def _wait_for(self, turn: Turn, name: str, deadline: Deadline) -> None:
        event = threading.Event()
        with self._lock:
            line = self._lines.get(name)
            if line is None:
                if self._hot.get(name, 0.0) < monotonic():
                    self._hot.pop(name, None)
                    return
                self._lines[name] = _Line(turn)
                turn.held.append(name)
                return
            line.waiting.append((turn, event))
        patience = PATIENCE_HOLDING if turn.held else PATIENCE
        try:
            Deadline.after(patience).earlier(deadline).wait(event)
        finally:
            with self._lock:
                if event.is_set() or line.owner is turn:
                    turn.held.append(name)
                else:
                    line.waiting.remove((turn, event))

    def _pass_on_locked(self, name: str) -> threading.Event | None:
        line = self._lines[name]
        if not line.waiting:
            del self._lines[name]
            return None
        self._hot[name] = monotonic() + HOT
        line.owner, event = line.waiting.popleft()
        return event
