"""Which gRPC status means what.

The codes: https://grpc.github.io/grpc/core/md_doc_statuscodes.html, and Firestore's own words for them,
https://cloud.google.com/firestore/docs/understand-error-codes.
"""

from __future__ import annotations

import grpc
from google.api_core import exceptions

from ..core.errors import OutcomeUnknown, PoolKitError
from ..core.verdict import OWN, Again, Phase, Verdict

_NOT_RUN = Verdict(Again.SAFE)
_NOT_NOW = Verdict(Again.SAFE, throttled=True)
_LOST_UNKNOWN = Verdict(Again.IF_IDEMPOTENT, unknown=True)

_LOSSES = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}
_NEVER_LEFT = (
    "failed to connect to all addresses",
    "no children to pick from",
    "DNS resolution failed",
    "Getting metadata from plugin failed",  # google-auth could get no token
)
_REFUSED = "Received RST_STREAM with error code 7)"
_TOO_LARGE = "larger than max"

_PRECONDITION_FAILED = {
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
}


class NotSent(exceptions.ServiceUnavailable):
    """The call never left this process: its channel was closed meanwhile."""


class Refused(NotSent):
    """The server has more calls on this connection than it allows, and has not looked at this one.

    That is REFUSED_STREAM (RFC 9113, section 8.7). It happens where the client has seen the end of another call
    before the server has.
    """


def classify(error: BaseException, phase: Phase) -> Verdict:
    """Say what *error* means for an operation that had come to *phase*."""
    if isinstance(error, PoolKitError):
        # Out of a transaction that was not being committed, it is about something else the caller did there.
        if isinstance(error, OutcomeUnknown) and phase is not Phase.IN_TRANSACTION:
            return _LOST_UNKNOWN
        return OWN
    if not isinstance(error, exceptions.GoogleAPICallError):
        return OWN
    code = error.grpc_status_code
    if code is grpc.StatusCode.ABORTED:
        return _NOT_NOW
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return OWN if _TOO_LARGE in str(error) else _NOT_NOW
    if code not in _LOSSES:
        return OWN
    if phase in (Phase.CONNECTING, Phase.IN_TRANSACTION) or never_left(error):
        return _NOT_RUN
    return _LOST_UNKNOWN


def classify_part(error: BaseException, phase: Phase) -> Verdict:
    """Say what *error* means for one call of a transaction, which can't go on once it is aborted."""
    if isinstance(error, exceptions.Aborted):
        return OWN
    return classify(error, phase)


def never_left(error: exceptions.GoogleAPICallError) -> bool:
    """Whether a call that ended with *error* was not sent, or not looked at."""
    if isinstance(error, NotSent):
        return True
    if error.grpc_status_code is not grpc.StatusCode.UNAVAILABLE:
        return False
    return any(sign in str(error) for sign in _NEVER_LEFT)


def was_refused(code: grpc.StatusCode, details: str | None) -> bool:
    """Whether a status means that the server has not looked at the call, since it has too many."""
    return code is grpc.StatusCode.UNAVAILABLE and details is not None and _REFUSED in details


def is_precondition(error: BaseException) -> bool:
    """Whether *error* says that a write's precondition did not hold, so that it did nothing."""
    return (
        isinstance(error, exceptions.GoogleAPICallError)
        and error.grpc_status_code in _PRECONDITION_FAILED
    )
