"""One request: the deadline in force while it is worked on, and what it still held at its end."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from threading import get_ident
from time import monotonic, perf_counter
from types import TracebackType
from typing import Any, TypeVar

from ..core.deadline import NEVER, Deadline, ambient, impose
from ..kit.kit import PoolKit
from .held import Span, holds, recall

ResultT = TypeVar("ResultT")

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
        "_limit",
        "_many",
        "_outside",
        "_pools",
        "_steps",
        "_thread",
        "name",
    )

    def __init__(
        self, kit: PoolKit, name: str, allowed: float | None, asked: float | None = None
    ) -> None:
        self.name = name
        self._pools = kit.pools.values()
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
                holding = holds(self._pools, [(0.0, steps[-1][1])])
                self._steps = (
                    [step for step in steps if holds(self._pools, [step])] if holding else []
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
        return self.is_here and holds(self._pools, self._steps)

    def end(self) -> None:
        """Take back what this thread got in the request and still holds, and have that told. Never raises."""
        if self.is_here:  # or it would be somebody else's
            recall(self._pools, self._steps, reason=f"{self.name} ended")

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
