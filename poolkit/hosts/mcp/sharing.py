"""One kit for all clients of a server: opened by the first, closed after the last."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ...core.errors import PoolClosed, PoolTimeout
from ...kit.kit import PoolKit

PATIENCE = 60.0
"""Seconds that a client waits while another one opens or closes the kit: as long as most clients wait themselves."""


class _Step:
    """An opening or a closing that one thread is busy with."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.error: BaseException | None = None
        """Why the opening failed."""


class SharedKit:
    """A kit that is open while anybody wants it.

    *kit* is a kit, or a function that makes one; what has been closed is followed by a new one. Who wants it says so
    with :meth:`join`, and with :meth:`leave` at the end, whatever becomes of :meth:`open` in between. The last two
    block: one thread at a time opens or closes, and others wait for it, *patience* seconds at most.
    """

    def __init__(self, kit: PoolKit | Callable[[], PoolKit], *, patience: float = PATIENCE) -> None:
        self._make = kit if not isinstance(kit, PoolKit) else None
        self._patience = patience
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._wanted = 0
        self._open: PoolKit | None = None
        self._step: _Step | None = None  # while there is one, it is not open
        # Replaced by who opens it, read by anybody:
        self.kit: PoolKit | None = kit if isinstance(kit, PoolKit) else None
        """The kit there is now, open or not; None before a function has made one."""

    def join(self) -> None:
        """Say that one more wants it."""
        with self._lock:
            self._wanted += 1

    def open(self) -> PoolKit:
        """Return the kit, open. Raises what opening it raised, for those too who waited for that."""
        while True:
            mine = _Step()
            with self._lock:
                if self._open is not None:
                    return self._open
                under_way = self._step
                if under_way is None:
                    if not self._wanted:
                        raise PoolClosed("nobody wants the kit any more")
                    self._step = mine
            if under_way is None:
                return self._do_open(mine)
            if not under_way.over.wait(self._patience):
                raise PoolTimeout(
                    f"the kit was not open within {self._patience:g} s: "
                    "another client is still busy opening or closing it"
                )
            if under_way.error is not None:
                raise under_way.error

    def leave(self) -> None:
        """Say that one wants it no more; after the last one, close it."""
        with self._lock:
            self._wanted -= 1
        self._close_unwanted()

    # -- private -------------------------------------------------------------------------------------

    def _do_open(self, step: _Step) -> PoolKit:
        opened = None
        try:
            kit = self.kit = self._next()
            try:
                kit.open()
                opened = kit
            except BaseException:
                kit.close(0.0)  # as a whole, so that a new one follows it
                raise
        except BaseException as error:
            step.error = error
            raise
        finally:
            self._end(step, opened)
        self._close_unwanted()  # all may have left meanwhile
        return kit

    def _next(self) -> PoolKit:
        if self._make is not None:
            return self._make()
        assert self.kit is not None
        return self.kit.again() if self.kit.state == "closed" else self.kit

    def _close_unwanted(self) -> None:
        while True:
            mine = _Step()
            with self._lock:
                if self._wanted:
                    return
                kit, under_way = self._open, self._step
                if kit is not None:
                    self._open, self._step = None, mine
            if kit is not None:
                break
            if under_way is None or not under_way.over.wait(self._patience):
                return  # it is closed; or who is busy with it will close it
        try:
            kit.close()
        finally:
            self._end(mine, None)

    def _end(self, step: _Step, opened: PoolKit | None) -> None:
        with self._lock:
            self._open, self._step = opened, None
        step.over.set()
