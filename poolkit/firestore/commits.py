"""Commits: what may be sent again when the answer was lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..core.deadline import Deadline
from ..core.errors import OutcomeUnknown
from ..core.retry import Retrier, Try
from .failures import classify
from .methods import COMMIT

ResultT = TypeVar("ResultT")


def write(
    retrier: Retrier,
    attempt: Callable[[Try], ResultT],
    *,
    guarded: bool,
    idempotent: bool,
    deadline: Deadline,
    operation: str = COMMIT.name,
) -> ResultT:
    """Return what ``attempt(try)`` returns, which writes; try again where that does no harm.

    What is *guarded* by preconditions can be sent again after a lost answer, since the server refuses it if it has
    run. But then a refusal does not tell whether this was so, or somebody else was quicker: it raises
    :class:`~poolkit.OutcomeUnknown`, unless the caller said *idempotent*.
    """
    lost: Exception | None = None

    def watched(state: Try) -> ResultT:
        nonlocal lost
        try:
            return attempt(state)
        except Exception as error:
            if classify(error, state.phase).unknown:
                lost = error
            raise

    try:
        return retrier.call(
            watched, idempotent=idempotent or guarded, deadline=deadline, operation=operation
        )
    except OutcomeUnknown:
        raise
    except Exception as error:
        if lost is None or idempotent:
            raise
        raise OutcomeUnknown(
            "an answer was lost, so it may have taken effect or not; when it was sent again, safely, "
            f"because of its precondition: {error}"
        ) from error
