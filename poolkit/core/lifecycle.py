"""Open on first use, once, in whichever process; close once, and stay closed.

What a pool needs to run (locks, threads, connections) belongs to one process. A :class:`Lifecycle` holds
it; after a fork the child drops what the parent had, touching none of its sockets, and opens its own on
first use.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from .deadline import Deadline
from .errors import PoolClosed
from .lease import Holder

logger = logging.getLogger("poolkit")

EXIT_TIMEOUT = 0.5
"""Seconds that pools nobody closed get, all together, when the interpreter exits."""


class Running(Protocol):
    """What a pool needs to run, for one process."""

    def stop(self, deadline: Deadline) -> Sequence[Holder]:
        """Refuse new calls, wait for those under way until *deadline*, close all; return who still holds."""

    def abandon(self) -> None:
        """In a forked child: make sure that nothing here ever touches the parent's sockets."""


RunningT = TypeVar("RunningT", bound=Running)


def _nothing(*_: Any) -> None:
    """Tell nobody."""


class Lifecycle(Generic[RunningT]):
    """New, then open, then closed; open anew in each forked child that was not closed.

    *opened* is called with what has started, and *closed* with what was stopped and who still holds: each once, with
    no lock held.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], RunningT],
        *,
        opened: Callable[[RunningT], object] = _nothing,
        closed: Callable[[RunningT, Sequence[Holder]], object] = _nothing,
    ) -> None:
        self.name = name
        self._tell_opened = opened
        self._tell_closed = closed
        self.when_opened: list[Callable[[], object]] = []
        """Called with no lock held, each time that it has started, in whichever process."""
        self._start = start
        self._lock = threading.Lock()
        # Guarded by _lock, but read without it:
        self.running: RunningT | None = None
        self.latest: RunningT | None = None
        """What runs, or ran last in this process: its figures stay when it is closed."""
        self._closed = False
        self._stopped = threading.Event()
        self._stopped.set()
        _all.add(self)

    @property
    def state(self) -> str:
        """``new``, ``open`` or ``closed``."""
        if self._closed:
            return "closed"
        return "open" if self.running is not None else "new"

    def open(self) -> RunningT:
        """Return what runs, starting it if this process has not yet."""
        running = self.running
        if running is not None:
            return running
        if self._closed:
            raise self.closed_error()  # at once, while another thread may still be busy closing
        with self._lock:
            if self._closed:
                raise self.closed_error()
            running = self.running
            if running is not None:
                return running
            running = self.running = self.latest = self._start()
        self._tell_opened(running)
        for call in self.when_opened:
            call()
        return running

    def close(self, deadline: Deadline) -> None:
        """Stop what runs. Idempotent; a second caller waits for the first, until *deadline*."""
        with self._lock:
            self._closed = True
            running, self.running = self.running, None
            if running is not None:
                self._stopped.clear()
        if running is None:
            left = deadline.remaining()
            self._stopped.wait(None if left > threading.TIMEOUT_MAX else max(0.0, left))
            return
        try:
            held = running.stop(deadline)
        finally:
            self._stopped.set()
        self._tell_closed(running, held)

    def closed_error(self) -> PoolClosed:
        """Return the error for a call on a closed pool."""
        return PoolClosed(f"pool {self.name!r} is closed; make a new one")

    def after_fork(self) -> None:
        """Drop the parent's in the child."""
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._stopped.set()
        running, self.running = self.running, None
        self.latest = None
        if running is not None:
            _abandoned.append(running)
            running.abandon()


_all: weakref.WeakSet[Lifecycle[Any]] = weakref.WeakSet()

# What a fork left over is kept for good: its finalizers might take locks that nobody will ever release.
_abandoned: list[Running] = []


def _after_fork() -> None:
    for lifecycle in list(_all):
        lifecycle.after_fork()


def _at_exit() -> None:
    deadline = Deadline.after(EXIT_TIMEOUT)
    for lifecycle in list(_all):
        try:
            lifecycle.close(deadline)
        except Exception:
            logger.exception("pool %r could not be closed at exit", lifecycle.name)


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
