"""What a model is told when a pool could not do its part: what failed, and whether to try again. Nothing secret.

The messages of poolkit's errors are for the log: they name hosts, threads and lines of code.
"""

from __future__ import annotations

import math
import secrets
import traceback
from collections.abc import Mapping
from typing import Any

from mcp.server.mcpserver.exceptions import ResourceError, ToolError

from ...core.errors import (
    BackendUnavailable,
    DeadlineExceeded,
    OutcomeUnknown,
    PoolClosed,
    PoolKitError,
    PoolOverloaded,
    PoolTimeout,
)
from .threads import NoThread

RETRY_AFTER = 2.0
"""Seconds after which to try again where poolkit does not know better."""

WHO: Mapping[str, str] = {
    "postgres": "The database",
    "redis": "The key-value store",
    "http": "A service that this tool calls",
    "firestore": "The document store",
}
ANYBODY = "A service behind this tool"


class CallFailed(ToolError, ResourceError):
    """A call failed because of the pools; the text is for the model, ``__cause__`` is the pool's error.

    ``reason`` is ``busy``, ``unreachable``, ``too_slow``, ``outcome_unknown`` or ``closing``. ``retryable`` says
    whether what failed may be asked for again: after ``retry_after`` seconds, if that is not None. ``reference`` is
    in the log, beside all that there is to say.
    """

    def __init__(
        self, text: str, *, reason: str, retryable: bool, retry_after: float | None = None
    ) -> None:
        self.reference = secrets.token_hex(4)
        super().__init__(f"{text} (Reference {self.reference}.)")
        self.reason = reason
        self.retryable = retryable
        self.retry_after = retry_after

    def as_dict(self) -> dict[str, Any]:
        """Return what a program can read of it, as JSON has it."""
        return {
            "reason": self.reason,
            "retryable": self.retryable,
            "retryAfter": self.retry_after,
            "reference": self.reference,
        }


def explained(error: Exception, seconds: float | None) -> CallFailed | None:
    """Return what to tell a model of *error*, in a call that had so many *seconds*; None if it has some left.

    Of a group the worst is told. None for an error that is none of the pools', and for one that only a programmer can
    mend, such as :class:`~poolkit.ConfigError`, in a group too.
    """
    worst: CallFailed | None = None
    for each in leaves(error):
        told = _explained(each, seconds) if isinstance(each, PoolKitError) else None
        if told is None:
            return None
        worst = told if worst is None else max(worst, told, key=_severity)
    return worst


def leaves(error: BaseException) -> list[BaseException]:
    """Return the errors that *error* consists of: itself if it is no group."""
    parts = getattr(error, "exceptions", None)  # Python 3.10 has no class for groups
    if not isinstance(parts, tuple):
        return [error]
    return [leaf for part in parts for leaf in leaves(part)]


def _severity(told: CallFailed) -> tuple[bool, bool, float]:
    return told.reason == "outcome_unknown", not told.retryable, told.retry_after or 0.0


def _explained(error: PoolKitError, seconds: float | None) -> CallFailed | None:
    who = "The server" if isinstance(error, NoThread) else WHO.get(_backend(error), ANYBODY)
    if isinstance(error, OutcomeUnknown):
        return CallFailed(
            f"{who} did not confirm what it was asked to do: it may or may not have happened. "
            "Check before doing it again.",
            reason="outcome_unknown",
            retryable=False,
        )
    if isinstance(error, (PoolTimeout, PoolOverloaded, NoThread)):
        return CallFailed(
            f"{who} is busy. Try again in {RETRY_AFTER:g} s.",
            reason="busy",
            retryable=True,
            retry_after=RETRY_AFTER,
        )
    if isinstance(error, DeadlineExceeded):
        if seconds is None:  # what passed was a deadline of the tool's own
            stopped = "it was stopped"
        else:
            stopped = f"the call was stopped after the {seconds:g} s that it may take,"
        return CallFailed(
            f"{who} took too long: {stopped} while {error.stage}. It may be tried again; asking for less may help.",
            reason="too_slow",
            retryable=True,
        )
    if isinstance(error, PoolClosed):
        return CallFailed(
            f"The server is being shut down. Try again in {RETRY_AFTER:g} s.",
            reason="closing",
            retryable=True,
            retry_after=RETRY_AFTER,
        )
    if isinstance(error, BackendUnavailable):
        return _unreachable(who, error.retry_after)
    return None


def _unreachable(who: str, retry_after: float | None) -> CallFailed:
    if retry_after is None:
        return CallFailed(
            f"{who} can't be used until somebody mends its settings. Don't try again; tell the user.",
            reason="unreachable",
            retryable=False,
        )
    after = max(RETRY_AFTER, float(math.ceil(retry_after)))
    return CallFailed(
        f"{who} can't be reached at the moment. Try again in {after:g} s.",
        reason="unreachable",
        retryable=True,
        retry_after=after,
    )


def _backend(error: BaseException) -> str:
    """Return which backend raised *error*: the one whose code it came through last."""
    found = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        parts = frame.f_globals.get("__name__", "").split(".")
        if parts[0] == "poolkit" and len(parts) > 1 and parts[1] in WHO:
            found = parts[1]
    return found
