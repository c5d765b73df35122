"""The errors that poolkit raises, under one root.

What the caller did wrong in the backend's own terms (a unique violation, a wrong Redis type, an HTTP 404)
is not here: it passes through as the driver raised it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .lease import Holder
    from .stats import PoolStats


class PoolKitError(Exception):
    """Root of all errors that poolkit raises."""


class ConfigError(PoolKitError, ValueError):
    """A setting or an argument is wrong; the message names it, its kind and the remedy, never a secret."""


class PoolClosed(PoolKitError):
    """The pool was closed before or during the call. A closed pool stays closed: make a new one."""


class PoolTimeout(PoolKitError, TimeoutError):
    """No connection became free within ``acquire_timeout``.

    ``stats`` is the pool's :class:`~poolkit.PoolStats` at that moment and ``holders`` the list of
    :class:`~poolkit.Holder` that had the connections; the message prints both.
    """

    def __init__(
        self,
        message: str,
        *,
        stats: PoolStats | None = None,
        holders: Sequence[Holder] = (),
    ) -> None:
        super().__init__(message)
        self.stats = stats
        self.holders = list(holders)

    def __str__(self) -> str:
        lines = [super().__str__()]
        if self.stats is not None:
            lines.append(f"  {self.stats.summary()}")
        lines += [f"  held by {holder.describe()}" for holder in self.holders[:20]]
        if len(self.holders) > 20:
            lines.append(f"  … and {len(self.holders) - 20} more")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        # Threads can't leave their process, so neither can holders; the message has them in words.
        return type(self), (str(self),)


class PoolOverloaded(PoolKitError):
    """The pool refused the call on arrival, because waiting could not have helped."""


class BackendUnavailable(PoolKitError, ConnectionError):
    """The backend can't be reached. ``__cause__`` says why.

    ``retry_after`` is the number of seconds until the next attempt to reach it; ``None`` when poolkit
    makes none by itself, because only a person can mend the cause (a wrong password, say).
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(PoolKitError, TimeoutError):
    """The deadline passed. ``stage`` says during what: ``waiting``, ``connecting`` or ``running``."""

    def __init__(self, message: str, *, stage: str) -> None:
        super().__init__(message)
        self.stage = stage

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_deadline_exceeded, (type(self), self.args[0], self.stage)

    def in_doubt(self, why: str) -> DeadlineOutcomeUnknown:
        """Return the error that says the same of what may have taken effect; *why* follows its text."""
        doubtful = DeadlineOutcomeUnknown(f"{self}{why}", stage=self.stage)
        doubtful.plain = self
        return doubtful


class Cancelled(DeadlineExceeded):
    """The :class:`~poolkit.Cancellation` of a deadline was cancelled. ``stage`` says during what."""

    def in_doubt(self, why: str) -> CancelledOutcomeUnknown:
        doubtful = CancelledOutcomeUnknown(f"{self}{why}", stage=self.stage)
        doubtful.plain = self
        return doubtful


def _rebuild_deadline_exceeded(
    kind: type[DeadlineExceeded], message: str, stage: str
) -> DeadlineExceeded:
    return kind(message, stage=stage)


class OutcomeUnknown(PoolKitError):
    """What was sent may have taken effect or not, and sending it again could double it.

    Look at the backend's state before repeating the call, or say ``idempotent=True`` where
    repeating is harmless; then poolkit repeats it by itself.
    """


class DeadlineOutcomeUnknown(DeadlineExceeded, OutcomeUnknown):
    """The deadline passed while something ran whose cancellation the backend has not confirmed."""

    plain: DeadlineExceeded | None = None
    """The error without the doubt, for what may be repeated anyway."""


class CancelledOutcomeUnknown(Cancelled, DeadlineOutcomeUnknown):
    """It was cancelled while something ran, and the backend has not confirmed that it has stopped."""


class ResponseTooLarge(PoolKitError):
    """The answer is larger than the limit that the pool sets."""


class AddressBlocked(PoolKitError):
    """The address is one that the pool's guard does not let through."""
