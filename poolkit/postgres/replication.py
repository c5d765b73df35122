"""What a server says of replication: that it takes no writes any more, or that no standby may have a commit."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from psycopg import errors, pq

from ..core.deadline import Deadline
from ..core.errors import OutcomeUnknown
from .failures import NotRun

if TYPE_CHECKING:
    from .connection import PooledConnection

_NO_WRITES = (b"in_hot_standby", b"default_transaction_read_only")


def astray(conn: PooledConnection, error: BaseException) -> NotRun | None:
    """Return the error to try again for, if *error* says that *conn* leads to a server that takes no writes any more.

    Then all connections of its age are replaced. That server took writes when they were opened, and the conninfo wants
    one that does. None of a transaction that is read-only by itself.
    """
    if not (
        isinstance(error, errors.ReadOnlySqlTransaction)
        and conn.generation.wants_writes
        and not conn.closed
        # Reported by the server itself, whenever that changes, since PostgreSQL 14.
        and any(conn.pgconn.parameter_status(name) == b"on" for name in _NO_WRITES)
    ):
        return None
    conn.strayed = True
    conn.generation.leads_astray(conn)
    return NotRun(
        f"{conn.label}: the server takes no writes any more; the conninfo asks for one that does"
    )


def not_replicated(conn: PooledConnection, deadline: Deadline) -> OutcomeUnknown:
    """Return the error for what was committed on *conn*, and may be nowhere else."""
    conn.unreplicated = False
    why = "committed, but its wait for a standby was cut short: if that takes over, it may be lost"
    if deadline.expired:
        told = deadline.exceeded(conn.label, stage="running")
        return told.in_doubt(f"; it was {why}")
    return OutcomeUnknown(f"{conn.label}: {why}")


def heed(
    wself: weakref.ref[PooledConnection],
    tell: Callable[[pq.abc.PGresult], None] | None,
    notice: pq.abc.PGresult,
) -> None:
    """Take note if a commit was not waited for; its text is of any language, and its SQLSTATE that of all warnings."""
    if notice.error_field(pq.DiagnosticField.SOURCE_FUNCTION) == b"SyncRepWaitForLSN":
        conn = wself()
        if conn is not None:
            conn.unreplicated = True
    if tell is not None:
        tell(notice)
