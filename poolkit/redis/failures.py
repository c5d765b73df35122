"""Which Redis error means what. By class, matched exactly where redis-py's hierarchy mixes what must be told apart."""

from __future__ import annotations

import ssl
from typing import NoReturn

import redis
from redis import exceptions

from ..core.deadline import ambient
from ..core.errors import (
    Cancelled,
    CancelledOutcomeUnknown,
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
    OutcomeUnknown,
    PoolKitError,
)
from ..core.verdict import OWN, Again, Phase, Verdict

_NOT_RUN = Verdict(Again.SAFE)
_NOT_NOW = Verdict(Again.SAFE, throttled=True)
_HOPELESS = Verdict(Again.NEVER, hopeless=True)
_LOST_UNKNOWN = Verdict(Again.IF_IDEMPOTENT, unknown=True)

_NOT_NOW_ERRORS = (
    exceptions.BusyLoadingError,
    exceptions.TryAgainError,
    exceptions.ClusterDownError,  # and MASTERDOWN
    exceptions.ReadOnlyError,
)
_MOVED = (exceptions.AskError, exceptions.MovedError)
_LOSSES = {redis.ConnectionError, redis.TimeoutError, exceptions.InvalidResponse}


class NotSent(redis.ConnectionError):
    """The connection was lost before the whole of a command was sent, so the server has not run it."""


def classify(error: BaseException, phase: Phase) -> Verdict:
    """Say what *error* means for an operation that had come to *phase*."""
    if isinstance(error, PoolKitError):
        return _LOST_UNKNOWN if isinstance(error, OutcomeUnknown) else OWN
    if not isinstance(error, redis.RedisError):
        return OWN
    if phase is Phase.CONNECTING:
        return _classify_connecting(error)
    if type(error) in _LOSSES:
        return _LOST_UNKNOWN
    if type(error) is NotSent or isinstance(error, _MOVED):
        return _NOT_RUN
    if isinstance(error, _NOT_NOW_ERRORS) or is_busy(error):
        return _NOT_NOW
    return OWN


def classify_alone(error: BaseException, phase: Phase) -> Verdict:
    """Say what *error* means where there is one server only: then to be sent elsewhere is to be refused."""
    return OWN if isinstance(error, _MOVED) else classify(error, phase)


def part_has_run(error: Exception) -> OutcomeUnknown:
    """Return the error for a pipeline of which a part has run already, and another part met *error*."""
    text = f"only a part of the pipeline is known to have run: {error}"
    if isinstance(error, Cancelled):
        return CancelledOutcomeUnknown(text, stage=error.stage)
    if isinstance(error, DeadlineExceeded):
        return DeadlineOutcomeUnknown(text, stage=error.stage)
    return OutcomeUnknown(text)


def raise_seen(error: BaseException, where: str, *, doubtful: bool) -> NoReturn:
    """Raise what the caller gets to see of an *error* of a socket, or of redis-py's parser.

    *doubtful*: whether one of the commands that it leaves unanswered must not be repeated.
    """
    if isinstance(error, (TimeoutError, redis.TimeoutError)):
        limit = ambient()
        if not limit.expired:
            raise redis.TimeoutError(f"no answer from {where} in time") from error
        told = limit.exceeded(f"Redis at {where}", stage="running")
        if doubtful:
            raise told.in_doubt(", so it may have taken effect or not") from error
        raise told from error
    if isinstance(error, OSError):
        raise redis.ConnectionError(f"the connection to {where} was lost: {error}") from error
    odd = (IndexError, TypeError, ValueError)
    if isinstance(error, odd) and not isinstance(error, UnicodeError):
        # redis-py took apart what came, as the error or the message that it began like; or a map has a key that no
        # dictionary takes.
        raise exceptions.InvalidResponse(f"{where} sent what is no reply") from error
    raise error


def is_busy(error: BaseException) -> bool:
    """Whether the server refuses commands because a script runs for too long."""
    return isinstance(error, redis.ResponseError) and str(error).startswith("BUSY ")


def is_full(error: BaseException) -> bool:
    """Whether the server takes no more connections."""
    return "max number of clients" in str(error)


def _classify_connecting(error: redis.RedisError) -> Verdict:
    if is_full(error) or is_busy(error) or isinstance(error, _NOT_NOW_ERRORS):
        return _NOT_NOW
    if isinstance(error, (redis.AuthenticationError, redis.ResponseError)):
        return _HOPELESS  # wrong password, no such database: trying again would not help
    if isinstance(error.__context__, ssl.SSLCertVerificationError):
        return _HOPELESS
    return _NOT_RUN
