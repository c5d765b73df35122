"""Several calls of one operation at a time, each in a thread and on a lease of its own."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def side_by_side(
    work: Callable[[ItemT], ResultT], items: Sequence[ItemT], workers: int
) -> list[ResultT]:
    """Return ``work(item)`` of each item, in order, up to *workers* at a time; the caller's thread is one of them.

    The first that raises ends it: what has not begun is not done any more, what has is waited for.
    """
    helpers = min(workers, len(items)) - 1
    if helpers < 1:
        return [work(item) for item in items]
    shared = _Shared(work, items)
    threads = []
    try:
        for _ in range(helpers):
            context = contextvars.copy_context()  # the deadline is in it
            thread = threading.Thread(
                target=context.run, args=(shared.work,), name="poolkit-worker", daemon=True
            )
            thread.start()
            threads.append(thread)
    except RuntimeError:
        pass  # no more threads to be had: those that there are do it
    try:
        shared.work()
    finally:
        shared.over = True
        for thread in threads:
            thread.join()
    if shared.error is not None:
        raise shared.error
    return shared.results


class _Shared(Generic[ItemT, ResultT]):
    def __init__(self, work: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> None:
        self._work = work
        self._items = items
        self._lock = threading.Lock()
        self._next = 0
        self.results: list[ResultT] = [None] * len(items)  # type: ignore[list-item]
        self.error: BaseException | None = None
        self.over = False

    def work(self) -> None:
        """Do one item after the other, until there is none left."""
        while not self.over:
            with self._lock:
                at = self._next
                self._next += 1
            if at >= len(self._items):
                return
            try:
                self.results[at] = self._work(self._items[at])
            except BaseException as error:  # noqa: BLE001 - raised again, in the caller's thread
                with self._lock:
                    self.error = self.error or error
                self.over = True
