"""One wall-clock budget over everything that happens inside a block, and the deadline in force anywhere."""

from __future__ import annotations

from contextvars import ContextVar
from time import monotonic
from types import TracebackType

from . import checks
from .errors import ConfigError
from .instant import NEVER, PULSE, CancellableDeadline, Cancellation, Deadline

__all__ = ["NEVER", "PULSE", "Cancellation", "Deadline", "ambient", "deadline", "impose"]


class _Block(Deadline):
    """The deadline of a block that was entered: its own, or that *around* it, which came earlier."""

    __slots__ = ("around", "left")

    def __init__(self, at: float, budget: float, around: Deadline) -> None:
        super().__init__(at, budget)
        object.__setattr__(self, "around", around)
        object.__setattr__(self, "left", False)


class _CancellableBlock(CancellableDeadline):
    """The same of one that can be cancelled."""

    __slots__ = ("around", "left")

    def __init__(self, limit: Deadline, around: Deadline) -> None:
        super().__init__(limit.limit, limit.cancellations)
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
            limit = CancellableDeadline(limit, (cancellation,))
        return _CancellableBlock(limit.earlier(around), around)
