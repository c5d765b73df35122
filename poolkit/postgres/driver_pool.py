"""psycopg_pool's pool, that loses no connection to a thread that is interrupted on its way there or back.

psycopg_pool takes a connection back in several steps, and one that was closed is missing in it for good if the
thread is interrupted between them. So callers only lay down what it is to have back, which is a single step, and
the housekeeper, which nobody interrupts, brings it there. What never came that far is collected: its finalizer
tells, unless psycopg_pool has let go of it.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

import psycopg_pool

from ..core.deadline import Deadline
from ..core.housekeeper import housekeeper
from .connection import PooledConnection

# What it warns of reaches callers as errors; a program without logging needs no lines of it on stderr.
logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())


class DriverPool(psycopg_pool.ConnectionPool[PooledConnection]):
    """A psycopg_pool.ConnectionPool that is asked by :meth:`take` and :meth:`give_back`."""

    ending = False
    """Whether it is about to be closed, and only closes what comes back."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.left: deque[PooledConnection] = deque()
        """What it is to have back."""
        self.missed: deque[PooledConnection] = deque()
        """What was collected on its way. Filled by finalizers."""
        super().__init__(*args, **options)

    def take(self, until: Deadline) -> PooledConnection:
        """Return a connection, waiting *until* then for one. Raises psycopg_pool's errors."""
        while True:
            try:
                return self.getconn(timeout=max(until.stretch(), 0.000_001))
            except psycopg_pool.PoolTimeout:
                if until.expired:
                    raise
            except BaseException as error:
                if not isinstance(error, Exception):
                    # Ctrl-C. We are still in its queue, and it would hand a connection to nobody.
                    # Who else is in it just queues up again.
                    for waiter in list(self._waiting):
                        waiter.fail(psycopg_pool.PoolTimeout())
                raise

    def give_back(self, conn: PooledConnection) -> None:
        """Have it get *conn* back; it opens another one in place of one that is closed."""
        self.left.append(conn)
        if self.closed or self.ending:
            self.bring_back()
        else:
            housekeeper().soon(self.bring_back)

    def bring_back(self) -> None:
        """Bring it what it is to have back."""
        while self.left:
            try:
                conn = self.left.popleft()
            except IndexError:
                return  # another thread does the same
            self.putconn(conn)
            conn.let_go = conn.closed

    def misses(self, conn: PooledConnection) -> bool:
        """Whether *conn*, which was collected, is missing in it. Called by a finalizer: no locks.

        That happens when Ctrl-C comes while it is on its way to the thread that asked for it, or back.
        """
        if self.closed:
            return False
        self.missed.append(conn)
        return True

    def recover(self) -> PooledConnection:
        """Return one of those missed, to be given back. A finalizer runs only once: nobody may drop it again."""
        conn = self.missed.popleft()
        conn._pool = self  # as if it had been lent
        return conn

    def abandon(self) -> None:
        """In a forked child: let go of it."""
        # Else its finalizer would stop threads that don't exist here, with locks they may have held.
        self._closed = True
