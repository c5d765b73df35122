"""Bringing a connection back to the state in which it was lent."""

from __future__ import annotations

import logging

import psycopg
from psycopg._preparing import PrepareManager
from psycopg.rows import tuple_row

from ..core.deadline import NEVER, Deadline, ambient
from ..core.errors import DeadlineExceeded
from .connection import ACTIVE, CANCEL_GRACE, IDLE, PooledConnection
from .cursors import PooledCursor, PooledServerCursor

logger = logging.getLogger("poolkit.postgres")

PATIENCE = 1.0
"""Seconds for a rollback or reset when a connection comes back; after that it is replaced."""


def clean(conn: PooledConnection) -> bool:
    """Bring *conn* back to the state in which it was lent; False if it must be replaced instead.

    No round trip if nothing was left open or changed.
    """
    pgconn = conn.pgconn
    status = pgconn.transaction_status
    if conn.exposed and conn.lock.locked():
        return False  # another thread or an unfinished iterator still uses it
    if status == IDLE and not conn.altered and not pgconn.pipeline_status:
        if conn.exposed or conn._num_transactions:  # the latter after Ctrl-C on the way in
            _set_back(conn)
        return True
    if conn.closed or status == ACTIVE or pgconn.pipeline_status:
        return False
    _set_back(conn)  # first, so that no handler or cursor of the borrower's takes part
    conn.limit = _grace()
    try:
        if status != IDLE:
            conn.rollback()
        if conn.altered:
            conn.execute("DISCARD ALL", prepare=False)
            # psycopg sees only the first DISCARD ALL of a connection, and would use what is gone.
            conn._prepared.clear()
            conn._prepared._to_flush.clear()
            conn.altered = False
    except (psycopg.Error, DeadlineExceeded) as error:
        logger.warning(
            "pool %r: a connection could not be cleaned and is replaced: %s",
            conn.generation.name,
            error,
        )
        return False
    finally:
        conn.limit = NEVER
    return True


def undo(conn: PooledConnection, transaction: psycopg.Transaction, error: BaseException) -> bool:
    """Roll *transaction* back because of *error*; even if the deadline has just passed.

    Returns whether *error* asked for nothing but that (:class:`psycopg.Rollback`). If rolling back
    fails, psycopg logs it, and :func:`clean` finds out.
    """
    if conn.busy:
        return False  # clean() replaces it
    conn.limit = _grace()
    try:
        return bool(transaction.__exit__(type(error), error, error.__traceback__))
    except DeadlineExceeded:
        return isinstance(error, psycopg.Rollback) and error.transaction in (None, transaction)
    finally:
        conn.limit = NEVER


def tidy(conn: PooledConnection) -> bool:
    """Drop the prepared statements that are not needed any more; return whether all is in order."""
    if not conn._prepared._to_flush:
        return True
    conn.limit = _grace()
    try:
        with conn.lock:
            conn.wait(conn._prepared.maintain_gen(conn))
    except (psycopg.Error, DeadlineExceeded):
        conn.retire()
        return False
    finally:
        conn.limit = NEVER
    return True


def _set_back(conn: PooledConnection) -> None:
    """Undo what the borrower may have set on the Python side."""
    conn.exposed = False
    conn.unreplicated = False
    conn.patience = conn.generation.patience
    conn._num_transactions = 0
    conn._autocommit = True
    conn._isolation_level = conn._read_only = conn._deferrable = None
    conn._begin_statement = b""
    conn._adapters = None
    conn._tpc = None
    conn.row_factory = tuple_row
    conn.cursor_factory = PooledCursor
    conn.server_cursor_factory = PooledServerCursor
    conn._prepared.prepare_threshold = conn.generation.prepare_threshold
    conn._prepared.prepared_max = PrepareManager.prepared_max
    for remembered in (conn._notify_handlers, conn._notice_handlers, conn._notifies_backlog):
        if remembered:
            remembered.clear()


def _grace() -> Deadline:
    """Return until when cleaning up may take: a little longer than the deadline in force, and bounded."""
    deadline = ambient()
    return Deadline.after(PATIENCE).earlier(deadline.grace(CANCEL_GRACE))
