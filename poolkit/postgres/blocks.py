"""The blocks in which the caller's own code has a connection: ``with db.connection()``, ``with db.transaction()``."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import psycopg
from psycopg import IsolationLevel
from psycopg.rows import TupleRow

from ..core.deadline import ambient
from ..core.errors import OutcomeUnknown, PoolKitError
from ..core.lease import Lease
from ..core.lending import Lender
from ..core.lifecycle import Lifecycle
from ..core.retry import Try
from ..core.verdict import Phase
from .cleaning import undo
from .connection import IDLE, INERROR, PooledConnection
from .failures import NotRun, classify
from .replication import astray, not_replicated
from .running import Running


class Borrowed:
    """A connection for the length of a ``with`` block; see :meth:`PostgresPool.connection`."""

    __slots__ = ("_conn", "_lease", "_lender", "_lifecycle")

    def __init__(self, lifecycle: Lifecycle[Running]) -> None:
        self._lifecycle = lifecycle
        self._conn: PooledConnection | None = None

    def __enter__(self) -> psycopg.Connection[TupleRow]:
        if self._conn is not None:
            raise RuntimeError("this block is already entered; ask the pool for another connection")
        self._lender = (self._lifecycle.running or self._lifecycle.open()).lender
        self._lease, self._conn = self._lender.lend(ambient())
        self._conn.expose()
        self._conn._autocommit = False
        return self._conn

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        conn, self._conn = self._conn, None
        if conn is None or self._lender.abandoned:
            return
        try:
            if error is not None:
                astray(conn, error)
            elif conn.pgconn.transaction_status != IDLE and not conn.closed:
                _commit(conn, conn.commit)
            elif conn.unreplicated:  # by a commit of the block's own
                raise not_replicated(conn, ambient())
        finally:
            self._lender.take_back(self._lease, conn)


class InTransaction:
    """A connection in a transaction for a ``with`` block; see :meth:`PostgresPool.transaction`."""

    __slots__ = (
        "_conn",
        "_isolation",
        "_lease",
        "_lender",
        "_lifecycle",
        "_read_only",
        "_transaction",
    )

    _lease: Lease[PooledConnection]
    _lender: Lender[PooledConnection]
    _transaction: psycopg.Transaction

    def __init__(
        self, lifecycle: Lifecycle[Running], isolation: IsolationLevel | None, read_only: bool
    ) -> None:
        self._lifecycle = lifecycle
        self._isolation = isolation
        self._read_only = read_only
        self._conn: PooledConnection | None = None

    def __enter__(self) -> psycopg.Connection[TupleRow]:
        if self._conn is not None:
            raise RuntimeError(
                "this block is already entered; ask the pool for another transaction"
            )
        # A connection that breaks at BEGIN has done nothing yet: another one will do.
        retrier = self._lifecycle.open().retrier
        return retrier.call(self.begin, idempotent=False, deadline=ambient(), operation="BEGIN")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if error is not None:
            if isinstance(error, (psycopg.Error, PoolKitError)):
                self._count_error(error)
            self.astray(error)
            return self.roll_back(error)
        try:
            self.commit(Try())
        except BaseException as failure:
            self._count_error(failure)
            raise
        return False

    def begin(self, state: Try) -> psycopg.Connection[TupleRow]:
        """Borrow a connection and begin; one round trip."""
        self._lender = (self._lifecycle.running or self._lifecycle.open()).lender
        self._lease, conn = self._lender.lend(ambient())
        state.phase = Phase.IN_TRANSACTION
        try:
            conn.expose()
            if self._isolation is not None:
                conn.isolation_level = self._isolation
            if self._read_only:
                conn.read_only = True
            self._transaction = psycopg.Transaction(conn)
            self._transaction.__enter__()
        except BaseException:
            self._lender.take_back(self._lease, conn)
            raise
        self._conn = conn
        return conn

    def astray(self, error: BaseException) -> NotRun | None:
        """Return the error to try again for, if *error* came of a server that takes no writes any more."""
        conn = self._conn
        return astray(conn, error) if conn is not None else None

    def roll_back(self, error: BaseException) -> bool:
        """Roll back because of *error* and give the connection back; True for :class:`psycopg.Rollback`."""
        conn, self._conn = self._conn, None
        if conn is None or self._lender.abandoned:
            return False
        try:
            return undo(conn, self._transaction, error) if not conn.closed else False
        finally:
            self._lender.take_back(self._lease, conn)

    def commit(self, state: Try) -> None:
        """Commit, one round trip, and give the connection back."""
        conn, self._conn = self._conn, None
        if conn is None or self._lender.abandoned:
            return
        try:
            # psycopg would end such a transaction without a word, and without a commit.
            if conn.closed:
                raise psycopg.OperationalError(
                    "the connection was lost inside the block, so nothing of it was committed"
                )
            if conn.pgconn.transaction_status == INERROR:
                raise psycopg.errors.InFailedSqlTransaction(
                    "a statement of the block failed and its error was caught, so all of it is rolled back; "
                    "a savepoint (with conn.transaction()) around that statement keeps the rest"
                )
            state.phase = Phase.COMMITTING
            _commit(conn, lambda: self._transaction.__exit__(None, None, None))
        finally:
            self._lender.take_back(self._lease, conn)

    def _count_error(self, error: BaseException) -> None:
        running = self._lifecycle.running
        if running is not None:
            running.retrier.count_error(error)


def _commit(conn: PooledConnection, commit: Callable[[], object]) -> None:
    """Commit; a connection lost meanwhile leaves open whether it took effect."""
    if conn.busy:
        raise psycopg.ProgrammingError(
            "the block ended while its connection was in use, by a COPY, an iterator over rows or another "
            "thread, so it is rolled back; end that inside the block"
        )
    try:
        commit()
    except psycopg.Error as error:
        if classify(error, Phase.COMMITTING).unknown:
            raise OutcomeUnknown(
                f"the connection was lost during COMMIT, so it may have taken effect or not: {error}"
            ) from error
        raise
    if conn.unreplicated:
        raise not_replicated(conn, ambient())
