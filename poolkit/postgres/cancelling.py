"""Having the server stop what it runs for a connection: told so before a deadline, or in the background."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors, waiting
from psycopg._capabilities import capabilities

from ..core.deadline import Deadline

if TYPE_CHECKING:
    from .connection import PooledConnection

logger = logging.getLogger("poolkit.postgres")

BACKGROUND = 5.0
"""Seconds for a cancel that goes on in the background, after the caller was let go."""

_INTERVAL = 0.1  # psycopg's own: how often a wait looks for Ctrl-C


def cancel(conn: PooledConnection, until: Deadline) -> bool:
    """Ask the server to stop; True if it took the request before *until*. Goes on in the background."""
    if not capabilities.has_cancel_safe():
        # Before libpq 17 nobody can tell when it has arrived; the connection is given up, so that it
        # never hits the next borrower's statement.
        cancel_in_background(conn)
        return False
    gen = conn._cancel_gen()
    try:
        waiting.wait_conn(gen, interval=_INTERVAL, timeout=until.remaining())
    except errors._WaitTimeout:
        _in_background(conn, lambda: waiting.wait_conn(gen, interval=_INTERVAL, timeout=BACKGROUND))
        return False
    except psycopg.Error as error:
        _warn(conn.generation.name, error)
        return False
    return True


def cancel_in_background(conn: PooledConnection) -> None:
    """Ask the server to stop, without waiting for it."""
    if capabilities.has_cancel_safe():
        gen = conn._cancel_gen()
        _in_background(conn, lambda: waiting.wait_conn(gen, interval=_INTERVAL, timeout=BACKGROUND))
    else:
        _in_background(conn, conn.pgconn.get_cancel().cancel)


def _in_background(conn: PooledConnection, cancel: Callable[[], object]) -> None:
    conn.cancelling = True
    name = conn.generation.name

    def run() -> None:
        try:
            cancel()
        except psycopg.Error as error:
            _warn(name, error)

    threading.Thread(target=run, name=f"poolkit-cancel-{name}", daemon=True).start()


def _warn(name: str, error: psycopg.Error) -> None:
    logger.warning("pool %r: a statement could not be cancelled: %s", name, error)
