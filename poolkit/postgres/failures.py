"""Which PostgreSQL error means what. By SQLSTATE, since classes mix what must be told apart.

The codes: PostgreSQL documentation, appendix A.
"""

from __future__ import annotations

import psycopg

from ..core.errors import OutcomeUnknown, PoolKitError
from ..core.verdict import OWN, Again, Phase, Verdict

_NOT_RUN = Verdict(Again.SAFE)
_FULL = Verdict(Again.SAFE, throttled=True)
_HOPELESS = Verdict(Again.NEVER, hopeless=True)
_LOST_UNKNOWN = Verdict(Again.IF_IDEMPOTENT, unknown=True)
_PARTLY_RUN = Verdict(Again.IF_IDEMPOTENT, unknown=True)

_SERIALIZATION = {"40001", "40P01"}  # serialization_failure, deadlock_detected
_CONNECTION_LOST = {
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    "57P04",  # database_dropped
    "57P05",  # idle_session_timeout
    "25P03",  # idle_in_transaction_session_timeout
    "08000",
    "08003",
    "08006",
    "08007",  # transaction_resolution_unknown
    "40003",  # statement_completion_unknown
}
_BY_POOLER = "08P01"
"""protocol_violation, to PostgreSQL; by PgBouncer it is whatever it has to tell before it hangs up."""
_NOT_PASSED_ON = ("query_wait_timeout", "server login has been failing")
"""What it says when it has not come to send a statement to the server."""
_TOO_MANY = {"53300"}  # too_many_connections
_LOSSES = {
    psycopg.OperationalError,
    # Made by libpq or psycopg of what no server means to say: bytes that are not the protocol's.
    psycopg.DatabaseError,
    psycopg.InternalError,
}


class NotRun(psycopg.OperationalError):
    """The connection was lost before the server came to the statement."""


def classify(error: BaseException, phase: Phase) -> Verdict:
    """Say what *error* means for an operation that had come to *phase*."""
    if isinstance(error, PoolKitError):
        return _classify_own(error, phase)
    if not isinstance(error, psycopg.Error):
        return OWN
    if isinstance(error, NotRun):
        return _NOT_RUN
    if phase is Phase.CONNECTING:
        return _classify_connecting(error)
    state = error.sqlstate
    if state in _SERIALIZATION:
        return _PARTLY_RUN if phase is Phase.IN_PARTS else _NOT_RUN
    by_pooler = state == _BY_POOLER and error.diag.severity == "FATAL"
    if by_pooler and any(sign in str(error) for sign in _NOT_PASSED_ON):
        return _NOT_RUN
    if by_pooler or state in _CONNECTION_LOST or (state is None and is_loss(error)):
        return _NOT_RUN if phase is Phase.IN_TRANSACTION else _LOST_UNKNOWN
    return OWN


def is_stale(error: psycopg.Error) -> bool:
    """Whether *error* says that a prepared statement can't be used any more, so that nothing was run."""
    if isinstance(error, psycopg.errors.InvalidSqlStatementName):
        return True
    return isinstance(error, psycopg.errors.FeatureNotSupported) and "cached plan" in str(error)


def is_loss(error: psycopg.Error) -> bool:
    """Whether *error*, without a SQLSTATE, says that the connection broke, as opposed to a misuse of it on our side."""
    pgconn = error.pgconn
    if isinstance(error, psycopg.OperationalError) and pgconn is not None:
        return pgconn.status != psycopg.pq.ConnStatus.OK
    return type(error) in _LOSSES


def _classify_own(error: PoolKitError, phase: Phase) -> Verdict:
    # Out of a transaction that was not being committed, it is about something else the caller did there.
    if isinstance(error, OutcomeUnknown) and phase is not Phase.IN_TRANSACTION:
        return _LOST_UNKNOWN
    return OWN


def _classify_connecting(error: psycopg.Error) -> Verdict:
    state = error.sqlstate or _guess_state(error)
    if state in _TOO_MANY:
        return _FULL
    if state is not None and state[:2] in ("28", "3D", "42"):
        return _HOPELESS  # no such user, password or database: trying again can only lock us out
    return _NOT_RUN


def _guess_state(error: psycopg.Error) -> str | None:
    """Return the SQLSTATE of a failed login: libpq keeps only the text of those errors."""
    text = str(error)
    for sign, state in _LOGIN_SIGNS:
        if sign in text:
            return state
    return None


_LOGIN_SIGNS = (
    ("too many clients", "53300"),
    ("too many connections", "53300"),
    ("remaining connection slots are reserved", "53300"),
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ("authentication failed", "28000"),
    ('role "', "28000"),
    ("certificate verify failed", "28000"),
    ("root certificate file", "28000"),
    ("does not support SSL", "28000"),
    ('database "', "3D000"),
    ("no such database", "3D000"),  # PgBouncer's, like the next
    ("unsupported startup parameter", "42704"),
)
