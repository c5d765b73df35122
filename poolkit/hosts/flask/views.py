"""A deadline for the requests of a single view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ...core import checks

ViewT = TypeVar("ViewT", bound=Callable[..., Any])

_MARK = "_poolkit_deadline"


@dataclass(frozen=True)
class ViewDeadline:
    """The ``seconds`` that requests for a view have, None for no limit."""

    seconds: float | None


def request_deadline(seconds: float | None) -> Callable[[ViewT], ViewT]:
    """Give the requests for a view *seconds* from their arrival instead of ``POOLKIT_DEADLINE``, None for no limit.

    A decorator, beneath the route. What the client asks for by the deadline's header holds if it is less.
    """
    limit = ViewDeadline(checks.limit("request_deadline", seconds))

    def mark(view: ViewT) -> ViewT:
        setattr(view, _MARK, limit)
        return view

    return mark


def deadline_of(view: Callable[..., Any] | None) -> ViewDeadline | None:
    """Return the deadline that *view* was given, None if it was not."""
    return getattr(view, _MARK, None)
