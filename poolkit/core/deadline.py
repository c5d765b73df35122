"""One wall-clock budget over everything that happens inside a block.

A :class:`Deadline` is an instant, so it can be handed down through waits, connects and retries without
being recomputed; a timeout can't. Inside poolkit only deadlines are passed.

A :class:`Cancellation` is an instant too, that lies infinitely far ahead until somebody brings it here. So what
holds for a deadline that has passed holds for one that was cancelled; but who waits for it has to look again
meanwhile, every :data:`PULSE`, since nobody wakes the one who waits.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from types import TracebackType

from . import checks
from .errors import Cancelled, ConfigError, DeadlineExceeded

PULSE = 0.1
"""Seconds between looks of one who waits whether that was cancelled."""


class Cancellation:
    """What ends the calls in its :class:`deadline` blocks early, from any thread."""

    __slots__ = ("__weakref__", "at")

    def __init__(self) -> None:
        self.at = math.inf
        """When it was cancelled, in seconds of :func:`time.monotonic`; infinity as long as it is not."""

    def __repr__(self) -> str:
        return f"<Cancellation {'cancelled' if self.cancelled else 'not cancelled'}>"

    def cancel(self) -> None:
        """Have the calls under way end, and those to come; more than once has no further effect.

        It takes no lock and wakes nobody, so a signal handler or a finalizer may call it too.
        """
        if self.at == math.inf:
            self.at = monotonic()

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self.at != math.inf


class Deadline:
    """An instant on the monotonic clock by which something has to be done. Immutable.

    ``at`` is in seconds of :func:`time.monotonic`; infinity for :data:`NEVER`. ``budget`` is the
    number of seconds it was given, for messages. Where ``cancellations`` are in force, ``at`` is the moment of
    the first one that was cancelled before that.
    """

    __slots__ = ("at", "budget")

    at: float
    budget: float

    cancellations: tuple[Cancellation, ...] = ()
    """Those that end it early."""

    left = False
    """Whether it was that of a block which has been left: then the one ``around`` is in force."""

    around: Deadline

    pulse = math.inf
    """Seconds after which one who waits has to look again: infinity if it can't be cancelled."""

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
        """Return the one of the two that comes first; what cancels either cancels it."""
        if self.cancellations or other.cancellations:
            return _earlier(self, other)
        return self if self.at <= other.at else other

    def grace(self, seconds: float) -> Deadline:
        """Return until when what is left to do at its end may take: *seconds* longer. That can't be cancelled."""
        return Deadline(self.at + seconds, seconds)

    def stretch(self) -> float:
        """Return the seconds that may be waited in one go, before looking again; zero when it has passed."""
        return max(0.0, min(self.remaining(), self.pulse, threading.TIMEOUT_MAX))

    def wait(self, event: threading.Event) -> bool:
        """Wait for *event*; return whether it was set in time."""
        while not event.wait(self.stretch()):
            if self.expired:
                return False
        return True

    def sleep(self, seconds: float, sleep: Callable[[float], object]) -> None:
        """Have *sleep* called for so many *seconds* in all, fewer if it is cancelled meanwhile."""
        sleep(seconds)

    def exceeded(self, what: str, *, stage: str) -> DeadlineExceeded:
        """Return the error that says the deadline passed, or was cancelled, while *what* was at *stage*."""
        return DeadlineExceeded(
            f"{what}: the deadline of {self.budget:g} s passed while {stage}", stage=stage
        )

    @property
    def _limit(self) -> Deadline:
        """What it is without its cancellations."""
        return self


class _Cancellable(Deadline):
    """A deadline that may come early."""

    __slots__ = ("_own", "cancellations")

    _own: Deadline
    pulse = PULSE

    def __init__(self, limit: Deadline, cancellations: tuple[Cancellation, ...]) -> None:
        object.__setattr__(self, "_own", limit)
        object.__setattr__(self, "budget", limit.budget)
        object.__setattr__(self, "cancellations", cancellations)

    def __repr__(self) -> str:
        state = "cancelled" if self._is_cancelled else "can be cancelled"
        return f"{super().__repr__()[:-1]}, {state})"

    @property
    def at(self) -> float:  # type: ignore[override]
        """When it comes, as far as is known now."""
        return min(self._own.at, *(each.at for each in self.cancellations))

    def grace(self, seconds: float) -> Deadline:
        """Return until when what is left to do at its end may take.

        That a deadline was cancelled is noticed up to a pulse later: the time counts from then.
        """
        return Deadline.after(seconds) if self._is_cancelled else self._own.grace(seconds)

    def sleep(self, seconds: float, sleep: Callable[[float], object]) -> None:
        while seconds > 0 and not self.expired:
            sleep(min(seconds, PULSE))
            seconds -= PULSE

    def exceeded(self, what: str, *, stage: str) -> DeadlineExceeded:
        if self._is_cancelled:
            return Cancelled(f"{what}: cancelled while {stage}", stage=stage)
        return super().exceeded(what, stage=stage)

    @property
    def _is_cancelled(self) -> bool:
        return self.at < self._own.at

    @property
    def _limit(self) -> Deadline:
        return self._own


def _earlier(one: Deadline, other: Deadline) -> Deadline:
    """Return the earlier of two deadlines, at least one of which can be cancelled."""
    limit = one._limit.earlier(other._limit)
    both = tuple(dict.fromkeys((*one.cancellations, *other.cancellations)))
    for each in (one, other):
        if each._limit is limit and len(each.cancellations) == len(both):
            return each
    return _Cancellable(limit, both)


NEVER = Deadline(math.inf, math.inf)
"""The deadline that never comes."""


class _Block(Deadline):
    """The deadline of a block that was entered: its own, or that *around* it, which came earlier."""

    __slots__ = ("around", "left")

    def __init__(self, at: float, budget: float, around: Deadline) -> None:
        super().__init__(at, budget)
        object.__setattr__(self, "around", around)
        object.__setattr__(self, "left", False)


class _CancellableBlock(_Cancellable):
    """The same of one that can be cancelled."""

    __slots__ = ("around", "left")

    def __init__(self, limit: Deadline, around: Deadline) -> None:
        super().__init__(limit._limit, limit.cancellations)
        object.__setattr__(self, "around", around)
        object.__setattr__(self, "left", False)


def _in_force(limit: Deadline) -> Deadline:
    """Return *limit*, or the innermost around it whose block was not left.

    A block in a generator may be left while others, entered later, are not.
    """
    while limit.left:
        limit = limit.around
    return limit


_ambient: ContextVar[Deadline] = ContextVar("poolkit_deadline", default=NEVER)

ambient = _ambient.get
"""Return the deadline in force here: the earliest of the enclosing :class:`deadline` blocks."""


def impose(limit: Deadline) -> None:
    """Put *limit* in force from here on: for work in steps, with which its deadline comes and goes.

    If it is that of a block which was left between two steps, the one around it.
    """
    _ambient.set(_in_force(limit) if limit.left else limit)


class deadline:  # noqa: N801 - used like a function: ``with deadline(0.8):``
    """Bound everything in the block to *seconds* of wall-clock time.

    It covers waiting for a connection, connecting, sending, reading and every retry, in all pools.
    Nested blocks take the earlier deadline. Raises :class:`~poolkit.ConfigError` for a negative or
    NaN number. ``with`` gives the :class:`Deadline` that holds.

    A *cancellation* ends them earlier, when another thread calls :meth:`Cancellation.cancel`; *seconds* may be
    infinity then. It holds for nested blocks too.
    """

    __slots__ = ("_cancellation", "_mine", "_seconds")

    def __init__(self, seconds: float, *, cancellation: Cancellation | None = None) -> None:
        self._mine: _Block | _CancellableBlock | None = None
        self._seconds = checks.seconds("deadline", seconds, forever=True)
        if cancellation is not None and not isinstance(cancellation, Cancellation):
            raise ConfigError(
                f"cancellation must be a poolkit.Cancellation, not {checks.kind(cancellation)}"
            )
        self._cancellation = cancellation

    def __enter__(self) -> Deadline:
        if self._mine is not None:
            raise RuntimeError("this deadline block is already entered; make a new one")
        around = _in_force(_ambient.get())
        mine = self._mine = self._begin(around)
        _ambient.set(mine)
        return mine

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        mine = self._mine
        if mine is not None:
            object.__setattr__(mine, "left", True)
            if _ambient.get() is mine:
                _ambient.set(_in_force(mine))
            self._mine = None  # last, or an interruption would leave the rest undone

    def __del__(self) -> None:
        # An interruption may come between the two, and in them: else its thread would keep the deadline.
        mine = getattr(self, "_mine", None)  # it may not even have been made
        if mine is not None:
            object.__setattr__(mine, "left", True)
            if _ambient.get() is mine:
                _ambient.set(mine.around)

    def _begin(self, around: Deadline) -> _Block | _CancellableBlock:
        """Return what is in force in the block, entered now."""
        seconds, cancellation = self._seconds, self._cancellation
        at = monotonic() + seconds
        if cancellation is None and not around.cancellations:
            if around.at < at:
                return _Block(around.at, around.budget, around)
            return _Block(at, seconds, around)
        limit = Deadline(at, seconds)
        if cancellation is not None:
            limit = _Cancellable(limit, (cancellation,))
        return _CancellableBlock(limit.earlier(around), around)
