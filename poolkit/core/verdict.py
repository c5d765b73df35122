"""What a failure means: whether the operation may be tried again, which depends on how far it had come."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol


class Phase(enum.Enum):
    """How far an operation had come when it failed."""

    CONNECTING = "connecting"
    """Nothing of it was sent."""
    RUNNING = "running"
    """It was sent, and takes effect by itself."""
    IN_PARTS = "running, in parts"
    """It was sent, and may take effect in parts, each by itself."""
    IN_TRANSACTION = "in a transaction"
    """It was sent inside a transaction whose commit was not: a lost connection undoes it."""
    COMMITTING = "committing"
    """The commit was sent."""


class Again(enum.Enum):
    """Whether an operation may be tried again."""

    SAFE = "safe"
    """It did not take effect."""
    IF_IDEMPOTENT = "if idempotent"
    """It may have taken effect."""
    NEVER = "never"
    """Trying again would not help, or is the caller's decision."""


@dataclass(frozen=True)
class Verdict:
    """What a failure means. Made in a backend's ``failures.py``, nowhere else.

    ``unknown``: it may have taken effect. ``throttled``: the backend asked for less. ``hopeless``: no
    connection can be made until a person mends the cause. ``wait``: seconds that the backend asked to be
    left alone before it is asked again.
    """

    again: Again
    unknown: bool = False
    throttled: bool = False
    hopeless: bool = False
    wait: float = 0.0


OWN = Verdict(Again.NEVER)
"""The caller's own error: passes through, the connection is fine."""


class Classify(Protocol):
    """Tells what a failure means."""

    def __call__(self, error: BaseException, phase: Phase) -> Verdict: ...
