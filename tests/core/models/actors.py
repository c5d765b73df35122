"""Threads that do one thing after the other, each when they are told to."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from tests.core.support import LONG, Task


class Outcome:
    """What becomes of one call."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self._done = threading.Event()

    @property
    def is_there(self) -> bool:
        """Whether it has ended."""
        return self._done.is_set()

    def note(self, call: Callable[[], Any]) -> None:
        """Call, and note what comes of it."""
        try:
            self.value = call()
        except BaseException as error:
            self.error = error
        self._done.set()

    def end(self) -> BaseException | None:
        """Wait until it has ended, and return what was raised."""
        assert self._done.wait(LONG), "it is stuck"
        return self.error

    def result(self) -> Any:
        """Wait until it has ended, and return what was returned, or raise what was raised."""
        if (error := self.end()) is not None:
            raise error
        return self.value


class Actor:
    """A thread that lives as long as the test, so that what is known of a thread stays known."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.outcome = Outcome()
        self._orders: queue.SimpleQueue[tuple[Outcome, Callable[[], Any]] | None]
        self._orders = queue.SimpleQueue()
        self.thread = Task(self._work, name=name)

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def begin(self, call: Callable[[], Any]) -> Outcome:
        """Have it call; return what will come of it."""
        self.outcome = Outcome()
        self._orders.put((self.outcome, call))
        return self.outcome

    def do(self, call: Callable[[], Any]) -> Any:
        """Have it call, and return or raise what comes of it."""
        return self.begin(call).result()

    def go_home(self) -> None:
        """End the thread."""
        self._orders.put(None)
        self.thread.result()

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            outcome, call = order
            outcome.note(call)
            del order, outcome, call  # what they refer to may be waited for to be collected
