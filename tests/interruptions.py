"""What interrupts a thread in the middle of something: at a point that is counted, or by Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType

import pytest

from .core.support import Task, eventually


class Struck(BaseException):
    """What an interruption raises."""


class Interruption:
    """Raises :class:`Struck` at the n-th point of a block where the interpreter looks for signals.

    That is on entering a function, and when one written in C has returned (CPython's "eval breaker");
    only points in files count whose path has one of *within*. ``where`` says which it was; None if there are fewer.
    """

    def __init__(
        self, at: int, *, within: Sequence[str] = ("/poolkit/", "/site-packages/redis/")
    ) -> None:
        self._left = at
        self._within = within
        self.where: str | None = None

    def __enter__(self) -> Interruption:
        sys.setprofile(self._look)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, called: object) -> None:
        if event not in ("call", "c_return"):
            return
        file = frame.f_code.co_filename
        if not any(part in file for part in self._within):
            return
        if "/tests/" in file or frame.f_code.co_name == "__del__":  # can't be raised in a finalizer
            return
        self._left -= 1
        if self._left == 0:
            what = f"after {called.__name__}" if event == "c_return" else "on entry"  # type: ignore[attr-defined]
            self.where = (
                f"{file.rpartition('/')[2]}:{frame.f_lineno} {frame.f_code.co_name}, {what}"
            )
            raise Struck


@contextmanager
def ctrl_c_when(ready: Callable[[], object]) -> Iterator[None]:
    """Press Ctrl-C as soon as *ready*, and expect the block to end with it."""
    main = threading.main_thread().ident
    assert main == threading.get_ident()
    heard = threading.Event()

    def hear(number: int, frame: object) -> None:
        heard.set()
        raise KeyboardInterrupt

    def press() -> None:
        eventually(ready)
        # The interpreter sleeps through one that comes when it is just about to wait for a lock.
        while not heard.is_set():
            signal.pthread_kill(main, signal.SIGINT)
            heard.wait(0.1)

    before = signal.signal(signal.SIGINT, hear)
    try:
        task = Task(press)
        with pytest.raises(KeyboardInterrupt):
            yield
        task.result()
    finally:
        signal.signal(signal.SIGINT, before)
