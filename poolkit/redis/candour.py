"""Saying that the outcome of a write is unknown where redis-py only says that its answer was lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import redis

from ..core.errors import OutcomeUnknown
from ..core.verdict import Phase
from .commands import Argument, Session, traits_of
from .failures import classify


@contextmanager
def candid(commands: Sequence[Sequence[Argument]]) -> Iterator[None]:
    """Raise :class:`~poolkit.OutcomeUnknown` if the answer to *commands* is lost, and one must not be repeated."""
    try:
        yield
    except redis.RedisError as error:
        if classify(error, Phase.RUNNING).unknown and any(map(_leaves_a_trace, commands)):
            raise OutcomeUnknown(
                f"its answer was lost, so it may have taken effect or not: {error}"
            ) from error
        raise


def _leaves_a_trace(args: Sequence[Argument]) -> bool:
    """Whether a command must not be repeated on another connection: what it does to its own is gone with that."""
    traits = traits_of(args)
    if traits.session is Session.KEEPS:
        return not traits.repeatable(args)
    return traits.name == "EXEC"
