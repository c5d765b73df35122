"""A piece of work for a worker thread: who starts it, who ends it, and what came of it, between two threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import anyio

from ...core.deadline import Deadline
from . import loops


class Work:
    """It waits until a thread takes it, or it is withdrawn; then it runs until it is over.

    *until* is when it has to have begun, and *name* what it is called in errors and logs.
    """

    def __init__(self, body: Callable[[], Any], *, name: str, until: Deadline) -> None:
        self.name = name
        self.until = until
        self.over = anyio.Event()
        """Set in the event loop when there is an outcome."""
        self._body = body
        self._context = loops.context_for_thread()
        # Each of these is taken once, by one of two.
        self._start = deque((None,))  # by the thread as it begins, or by who withdraws before that
        self._end = deque((None,))  # by the thread as it ends, or by who interrupts before that
        self._scope: anyio.CancelScope | None = None
        self._result: Any = None
        self._error: BaseException | None = None

    # -- in the event loop ---------------------------------------------------------------------------

    @property
    def waits(self) -> bool:
        """Whether it has neither begun nor been withdrawn."""
        return bool(self._start)

    def withdraw(self) -> bool:
        """Return whether it had not begun; then it won't."""
        return _taken(self._start)

    def interrupt(self) -> None:
        """Cancel what its thread does in the event loop, and let that have no other work afterwards."""
        if _taken(self._end) and self._scope is not None:
            self._scope.cancel()

    def fail(self, error: BaseException) -> None:
        """End it, withdrawn as it is."""
        self._error = error
        self.over.set()

    def outcome(self) -> Any:
        """Return what came of it, or raise it. Once."""
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error  # or it would be in a cycle with its traceback

    # -- in a worker thread --------------------------------------------------------------------------

    def begin(self, scope: anyio.CancelScope) -> bool:
        """Return whether the thread is to run it, which has *scope* in the event loop."""
        self._scope = scope
        return _taken(self._start)

    def run(self) -> bool:
        """Run it, and return whether it was not interrupted."""
        try:
            self._result = self._context.run(self._body)
        except BaseException as error:  # noqa: BLE001 - raised where the outcome is waited for
            self._error = error
        return _taken(self._end)


def _taken(token: deque[None]) -> bool:
    """Whether it is this thread that has taken *token*."""
    try:
        token.pop()
    except IndexError:
        return False
    return True
