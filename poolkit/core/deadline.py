"""One wall-clock budget over everything that happens inside a block.

A :class:`Deadline` is an instant, so it can be handed down through waits, connects and retries without
being recomputed; a timeout can't. Inside poolkit only deadlines are passed.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from time import monotonic
from types import TracebackType

from . import checks
from .errors import DeadlineExceeded


class Deadline:
    """An instant on the monotonic clock by which something has to be done. Immutable.

    ``at`` is in seconds of :func:`time.monotonic`; infinity for :data:`NEVER`. ``budget`` is the
    number of seconds it was given, for messages.
    """

    __slots__ = ("at", "budget")

    at: float
    budget: float

    def __init__(self, at: float, budget: float) -> None:
        object.__setattr__(self, "at", at)
        object.__setattr__(self, "budget", budget)

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the deadline that lies *seconds* from now."""
        return cls(monotonic() + seconds, seconds)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Deadline can't be changed")

    def __repr__(self) -> str:
        if self.at == math.inf:
            return "Deadline(never)"
        return f"Deadline({self.budget:g} s, {self.remaining():.3f} s left)"

    def remaining(self) -> float:
        """Return the seconds left; negative when it has passed, infinity when there is none."""
        return self.at - monotonic()

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return self.at <= monotonic()

    @property
    def never(self) -> bool:
        """Whether there is no limit at all."""
        return self.at == math.inf

    def earlier(self, other: Deadline) -> Deadline:
        """Return the one of the two that comes first."""
        return self if self.at <= other.at else other

    def exceeded(self, what: str, *, stage: str) -> DeadlineExceeded:
        """Return the error that says the deadline passed while *what* was at *stage*."""
        return DeadlineExceeded(
            f"{what}: the deadline of {self.budget:g} s passed while {stage}", stage=stage
        )


NEVER = Deadline(math.inf, math.inf)
"""The deadline that never comes."""

_ambient: ContextVar[Deadline] = ContextVar("poolkit_deadline", default=NEVER)

ambient = _ambient.get
"""Return the deadline in force here: the earliest of the enclosing :class:`deadline` blocks."""

impose = _ambient.set
"""Put a deadline in force from here on: for work in steps, with which its deadline comes and goes."""


class deadline:  # noqa: N801 - used like a function: ``with deadline(0.8):``
    """Bound everything in the block to *seconds* of wall-clock time.

    It covers waiting for a connection, connecting, sending, reading and every retry, in all pools.
    Nested blocks take the earlier deadline. Raises :class:`~poolkit.ConfigError` for a negative or
    NaN number. ``with`` gives the :class:`Deadline` that holds.
    """

    __slots__ = ("_before", "_mine", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._mine: Deadline | None = None
        self._before = NEVER
        self._seconds = checks.seconds("deadline", seconds, forever=True)

    def __enter__(self) -> Deadline:
        if self._mine is not None:
            raise RuntimeError("this deadline block is already entered; make a new one")
        self._before = _ambient.get()
        mine = self._mine = Deadline.after(self._seconds).earlier(self._before)
        _ambient.set(mine)
        return mine

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        mine, self._mine = self._mine, None
        if mine is not None:
            _ambient.set(self._before)

    def __del__(self) -> None:
        # An interruption may come between the two, and on entering them: else its thread would keep the deadline.
        mine = getattr(self, "_mine", None)  # it may not even have been made
        if mine is not None and _ambient.get() is mine:
            _ambient.set(self._before)
