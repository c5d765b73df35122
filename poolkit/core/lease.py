"""Leases, and the book of who holds what.

A lease is one use of one connection by one thread. Knowing who holds it must cost next to nothing, so a
lease keeps the caller's code object and offset, and works out file and line only when somebody asks.
"""

from __future__ import annotations

import gc
import os
import sys
import sysconfig
import threading
import traceback
import weakref
from collections import deque
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from types import CodeType, FrameType
from typing import Any, Generic, TypeVar

ResourceT = TypeVar("ResourceT")

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_BETWEEN = ("contextlib.py", os.path.join("tenacity", "__init__.py"))
_LIBRARIES = (
    _PACKAGE,
    "<frozen ",
    *(sysconfig.get_path(kind) + os.sep for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
)


@dataclass(frozen=True)
class Holder:
    """Who holds a connection, at the moment it was asked.

    ``thread_name``, ``call_site`` (``file:line in function``) where it was acquired, ``held_for`` in
    seconds, ``now_at``, where the thread was then (empty in events, which are told by that thread), and
    ``since``, which together with ``thread`` tells one lease from another.
    """

    thread_name: str
    call_site: str
    held_for: float
    now_at: str
    thread: threading.Thread
    since: float = 0.0

    def stack(self) -> str:
        """Return where that thread is now, as a traceback; empty if it has ended."""
        frame = _frame_of(self.thread)
        return "".join(traceback.format_stack(frame)) if frame is not None else ""

    def describe(self) -> str:
        """Return all of it in one line."""
        return (
            f"thread {self.thread_name!r} for {self.held_for:.3f} s, "
            f"acquired at {self.call_site}, now at {self.now_at}"
        )


class Lease(Generic[ResourceT]):
    """One use of one connection by one thread.

    It refers to the connection weakly: the borrower owns it, so that a connection that was forgotten
    is noticed when it is collected. ``thread`` acquired it; ``user`` is the last other one that was seen to use
    the connection, if there is any: the lease is an orphan when both have ended.
    """

    __slots__ = ("_code", "_offset", "_resource", "passing", "since", "thread", "user", "waited")

    def __init__(self, resource: ResourceT, waited: float, caller: FrameType) -> None:
        self._resource = weakref.ref(resource)
        self._code: CodeType = caller.f_code
        self._offset: int = caller.f_lasti
        self.thread = self.user = threading.current_thread()
        self.passing = False
        """Whether it is on its way to another thread: the one that had it may end."""
        self.waited = waited
        self.since = perf_counter()

    @property
    def resource(self) -> ResourceT | None:
        """The connection; None if it has been collected."""
        return self._resource()

    def used(self) -> None:
        """Note that this thread is about to use the connection."""
        thread = threading.current_thread()
        if thread is not self.thread:
            self.user = thread

    @property
    def is_orphan(self) -> bool:
        """Whether all threads that had it have ended, and none is about to have it."""
        thread = self.thread
        if thread.is_alive() or self.user.is_alive() or self.passing:
            return False
        # In this order: one that has ended had passed it on before, and who has it then says so last.
        return self.thread is thread

    def pass_to(self, thread: threading.Thread, caller: FrameType) -> None:
        """Have *thread* hold it from now on, for what *caller* asked."""
        self.thread = self.user = thread
        self._code, self._offset = caller.f_code, caller.f_lasti
        self.passing = False

    def holder(self, *, locate: bool = False, now: float | None = None) -> Holder:
        """Return who holds it, *now*; *locate* looks up where that thread is."""
        thread = self.thread if self.thread.is_alive() else self.user
        return Holder(
            thread_name=thread.name,
            call_site=_describe(self._code, self._offset),
            held_for=(perf_counter() if now is None else now) - self.since,
            now_at=_now_at(thread) if locate else "",
            thread=thread,
            since=self.since,
        )


class LeaseBook(Generic[ResourceT]):
    """All leases that are open. Adding and striking out are single dict operations, atomic without a lock."""

    __slots__ = ("forgotten", "open")

    def __init__(self) -> None:
        self.open: dict[Lease[ResourceT], None] = {}
        # Filled by finalizers, which run at any point of any thread and so may take no lock. They run only once: who is
        # interrupted when he has taken a connection out of here loses it for good, so only the housekeeper does that,
        # and who closes the pool.
        self.forgotten: deque[tuple[Lease[ResourceT], ResourceT]] = deque()

    def __len__(self) -> int:
        return len(self.open)

    def add(self, lease: Lease[ResourceT]) -> None:
        """Enter *lease*."""
        self.open[lease] = None

    def strike(self, lease: Lease[ResourceT]) -> bool:
        """Strike *lease* out. True for exactly one caller: that one has to return the connection."""
        try:
            # Not pop(): an interruption after a call would lose the connection.
            del self.open[lease]
        except KeyError:
            return False
        return True

    def next_forgotten(self) -> tuple[Lease[ResourceT], ResourceT] | None:
        """Return a lease whose connection was collected, each once; None if there is none."""
        try:
            return self.forgotten.popleft()
        except IndexError:
            return None

    def holders(self) -> list[Holder]:
        """Return who holds connections now, the longest first."""
        leases = sorted(self.open.copy(), key=lambda lease: lease.since)
        now = perf_counter()
        return [lease.holder(locate=True, now=now) for lease in leases]

    def orphans(self) -> list[Lease[ResourceT]]:
        """Return the leases whose threads have ended."""
        return [lease for lease in self.open.copy() if lease.is_orphan]


def caller() -> FrameType:
    """Return the innermost frame of the user's: outside of poolkit and of what stands between."""
    frame = sys._getframe(2)
    while frame.f_back is not None and _is_between(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def stands_between(folder: str) -> None:
    """Have the code in *folder*, a driver's that calls poolkit, not count as the user's."""
    path = os.path.abspath(folder) + os.sep
    if path not in _drivers:
        _drivers.append(path)
        _is_between.cache_clear()


_drivers: list[str] = []


@cache
def _is_between(file: str) -> bool:
    """Whether the code in *file* stands between the user's and the connection."""
    return file.startswith((_PACKAGE, *_drivers)) or file.endswith(_BETWEEN)


def _frame_of(thread: threading.Thread) -> FrameType | None:
    ident = thread.ident
    if ident is None or not thread.is_alive():
        return None
    return _frames().get(ident)


def _frames() -> dict[int, FrameType]:
    """Return where each thread is.

    Before Python 3.12 a collection must not begin in there: what it runs waits for other threads, which wait for
    this one (python/cpython#106883).
    """
    if sys.version_info >= (3, 12):
        return sys._current_frames()
    with _collecting:
        enabled = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames()
        finally:
            if enabled:
                gc.enable()


_collecting = threading.RLock()  # a collection in here may come back
os.register_at_fork(after_in_child=_collecting._at_fork_reinit)  # type: ignore[attr-defined]


def _now_at(thread: threading.Thread) -> str:
    """Return where *thread* is, in its own code if possible: not inside a library that it called."""
    innermost = frame = _frame_of(thread)
    if innermost is None:
        return "nowhere: it has ended"
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        frame = frame.f_back
    frame = frame or innermost
    return _describe(frame.f_code, frame.f_lasti)


def _describe(code: CodeType, offset: int) -> str:
    line: Any = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= offset < end:
            line = number
            break
    name = getattr(code, "co_qualname", code.co_name)
    return f"{code.co_filename}:{line} in {name}"
