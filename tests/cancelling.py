"""Ending calls from another thread: the middle of every test of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic
from typing import Any

from poolkit import Cancellation, Cancelled, deadline

from .core.support import Task

PROMPT = 1.0
"""Seconds in which a call ends on the busiest machine; how soon as a rule, kit/test_cancelling.py tells."""


def under(
    cancellation: Cancellation,
    work: Callable[..., Any],
    *args: Any,
    seconds: float = math.inf,
    **options: Any,
) -> Any:
    """Do *work* in a block that can be cancelled, and has so many *seconds*."""
    with deadline(seconds, cancellation=cancellation):
        return work(*args, **options)


def cancel(cancellation: Cancellation, *tasks: Task) -> list[Cancelled]:
    """Cancel, and return what the *tasks* raised, which has to be at once."""
    began = monotonic()
    cancellation.cancel()
    errors = [task.end() for task in tasks]
    assert monotonic() - began <= PROMPT
    raised = [error for error in errors if isinstance(error, Cancelled)]
    assert len(raised) == len(errors), errors
    return raised


def cancelled(task: Task, cancellation: Cancellation) -> Cancelled:
    """Cancel, and return what *task* raised, which has to be at once."""
    (error,) = cancel(cancellation, task)
    return error
