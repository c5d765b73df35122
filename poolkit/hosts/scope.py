"""One request: the deadline in force while it is worked on, and what it still held at its end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from threading import get_ident
from time import monotonic, perf_counter
from types import TracebackType
from typing import Any, TypeVar

from ..core.deadline import NEVER, Deadline, ambient, impose
from ..kit.kit import PoolKit

ResultT = TypeVar("ResultT")

logger = logging.getLogger("poolkit.hosts")

Span = tuple[float, float]
"""From when to when, in seconds of :func:`time.perf_counter`."""

_MANY = 64
"""Steps after which a request looks which of them it has to remember."""


class Scope:
    """One request, worked on in steps: the call of the app, each piece of its body, its end.

    ``with`` is a step: the request's deadline is in force in it, and the server's is after it. What is taken in
    it is the request's; what the same thread takes between two steps is that of the code around. Steps of one
    request may be many and far apart, but do not overlap. *allowed* seconds from now is the deadline, None for
    none; *asked* is what the client asked for, which holds if it is less.
    """

    __slots__ = (
        "_arrived",
        "_asked",
        "_began",
        "_first",
        "_inside",
        "_kit",
        "_limit",
        "_many",
        "_outside",
        "_steps",
        "_thread",
        "name",
    )

    def __init__(
        self, kit: PoolKit, name: str, allowed: float | None, asked: float | None = None
    ) -> None:
        self.name = name
        self._kit = kit
        self._arrived = monotonic()
        self._thread = get_ident()
        self._steps: list[Span] = []  # of that thread
        self._many = _MANY
        self._asked = asked
        self._outside = ambient()
        self._limit = self._first = self._inside = self._deadline(allowed).earlier(self._outside)

    def call(self, first: Callable[..., ResultT], *args: Any) -> ResultT:
        """Take the *first* step, for which this is the :func:`current_scope`."""
        before = _current.get()
        _current.set(self)
        try:
            with self:
                return first(*args)
        finally:
            _current.set(before)

    def __enter__(self) -> None:
        self._outside = ambient()
        impose(self._inside)
        self._began = perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        inside = ambient()  # a generator may stand within a block of its own
        self._inside = self._limit if inside is self._first else inside
        impose(self._outside)
        if get_ident() == self._thread:
            steps = self._steps
            steps.append((self._began, perf_counter()))
            if len(steps) >= self._many:
                holding = holds(self._kit, [(0.0, steps[-1][1])])
                self._steps = (
                    [step for step in steps if holds(self._kit, [step])] if holding else []
                )
                self._many = max(_MANY, 2 * len(self._steps))

    def allow(self, seconds: float | None) -> None:
        """Have the step under way, and those after it, end *seconds* after the request's arrival instead.

        A block that the step stands in keeps its own deadline if that is earlier; what was around it is in force
        again from its end to that of the step.
        """
        before, self._limit = self._limit, self._deadline(seconds).earlier(self._outside)
        inside = ambient()
        impose(self._limit if inside is before else inside.earlier(self._limit))

    @property
    def is_here(self) -> bool:
        """Whether this is the thread that the request came in."""
        return get_ident() == self._thread

    def holds_anything(self) -> bool:
        """Whether this thread holds what it got in the request."""
        return self.is_here and holds(self._kit, self._steps)

    def end(self) -> None:
        """Take back what this thread got in the request and still holds, and have that told. Never raises."""
        if self.is_here:  # or it would be somebody else's
            recall(self._kit, self._steps, reason=f"{self.name} ended")

    def _deadline(self, allowed: float | None) -> Deadline:
        asked = self._asked
        seconds = asked if allowed is None or (asked is not None and asked < allowed) else allowed
        return NEVER if seconds is None else Deadline(self._arrived + seconds, seconds)


_current: ContextVar[Scope | None] = ContextVar("poolkit_scope", default=None)


def current_scope() -> Scope | None:
    """Return the request whose first step this is, None if there is none.

    A thread that was started in one with a copy of the context has none: it is not what ends with the request.
    """
    scope = _current.get()
    return scope if scope is not None and scope.is_here else None


def holds(kit: PoolKit, spans: Iterable[Span]) -> bool:
    """Whether the calling thread still holds anything of *kit* that it got in one of the *spans*."""
    return any(
        pool.holds(since=since, until=until)
        for pool in kit.pools.values()
        for since, until in spans
    )


def recall(kit: PoolKit, spans: Iterable[Span], *, reason: str) -> None:
    """Take back what the calling thread still holds of *kit* and got in one of the *spans*. Never raises."""
    for pool in kit.pools.values():
        try:
            if pool.holds():  # mostly not, and then there is no need to look span by span
                for since, until in spans:
                    pool.recall(since=since, until=until, reason=reason)
        except Exception:
            logger.exception("pool %r: what %s could not be taken back", pool.name, reason)
