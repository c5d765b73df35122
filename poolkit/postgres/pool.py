"""PostgresPool: psycopg_pool's connections, lent with deadlines, safe retries, and names for who holds them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import psycopg
from psycopg import IsolationLevel
from psycopg.rows import RowFactory, TupleRow

from ..core import checks
from ..core.config import config_from
from ..core.deadline import ambient
from ..core.errors import ConfigError
from ..core.pool import Pool
from ..core.retry import Try
from .blocks import Borrowed, InTransaction
from .config import PostgresConfig, check_sizes
from .running import Running
from .statement import COUNT, FIRST_ROW, ROWS, Statement, Wanted, shorten

if TYPE_CHECKING:
    from psycopg import sql
    from typing_extensions import LiteralString

    Query = LiteralString | sql.SQL | sql.Composed
    Params = Sequence[Any] | Mapping[str, Any]

logger = logging.getLogger("poolkit.postgres")

RowT = TypeVar("RowT")
ResultT = TypeVar("ResultT")


class PostgresPool(Pool[PostgresConfig, Running]):
    """A thread-safe pool of PostgreSQL connections.

    Takes a conninfo, or a :class:`~poolkit.PostgresConfig`, or the config's fields as keywords. Opens itself
    on first use, in each process; ``with`` opens and closes it.

    Methods that need a connection raise :class:`~poolkit.PoolTimeout`, :class:`~poolkit.PoolOverloaded`,
    :class:`~poolkit.BackendUnavailable`, :class:`~poolkit.PoolClosed` and
    :class:`~poolkit.DeadlineExceeded`; errors of the statement itself are psycopg's own.
    """

    def __init__(self, conninfo: str | PostgresConfig | None = None, /, **settings: Any) -> None:
        super().__init__(
            config_from(PostgresConfig, "conninfo", conninfo, settings),
            start=self._start,
            ping=self._select_one,
        )

    # -- use -----------------------------------------------------------------------------------------

    @overload
    def query(
        self, text: Query, params: Params | None = None, *, idempotent: bool = False
    ) -> list[TupleRow]: ...

    @overload
    def query(
        self,
        text: Query,
        params: Params | None = None,
        *,
        row_factory: RowFactory[RowT],
        idempotent: bool = False,
    ) -> list[RowT]: ...

    def query(
        self,
        text: Query,
        params: Params | None = None,
        *,
        row_factory: RowFactory[Any] | None = None,
        idempotent: bool = False,
    ) -> list[Any]:
        """Run one statement, committed by itself, and return all rows. One round trip.

        *params* are bound, never formatted into *text*. *idempotent* says that the statement may be sent
        again when its answer was lost; else that raises :class:`~poolkit.OutcomeUnknown`.
        """
        rows: list[Any] = self._statement(text, params, ROWS, row_factory, idempotent)
        return rows

    @overload
    def query_one(
        self, text: Query, params: Params | None = None, *, idempotent: bool = False
    ) -> TupleRow | None: ...

    @overload
    def query_one(
        self,
        text: Query,
        params: Params | None = None,
        *,
        row_factory: RowFactory[RowT],
        idempotent: bool = False,
    ) -> RowT | None: ...

    def query_one(
        self,
        text: Query,
        params: Params | None = None,
        *,
        row_factory: RowFactory[Any] | None = None,
        idempotent: bool = False,
    ) -> Any:
        """Run one statement like :meth:`query`, and return its first row, or None if there is none."""
        return self._statement(text, params, FIRST_ROW, row_factory, idempotent)

    def execute(
        self, text: Query, params: Params | None = None, *, idempotent: bool = False
    ) -> int:
        """Run one statement, committed by itself, and return how many rows it touched. One round trip."""
        count: int = self._statement(text, params, COUNT, None, idempotent)
        return count

    def executemany(self, text: Query, params_seq: Iterable[Params]) -> int:
        """Run a statement once for each of *params_seq*, all or none; return how many rows were touched."""
        with self.transaction() as conn:
            cursor = conn.cursor()
            cursor.executemany(text, params_seq)
        return max(0, cursor.rowcount)

    @overload
    def stream(
        self, text: Query, params: Params | None = None, *, size: int = 1000
    ) -> Iterator[TupleRow]: ...

    @overload
    def stream(
        self,
        text: Query,
        params: Params | None = None,
        *,
        size: int = 1000,
        row_factory: RowFactory[RowT],
    ) -> Iterator[RowT]: ...

    def stream(
        self,
        text: Query,
        params: Params | None = None,
        *,
        size: int = 1000,
        row_factory: RowFactory[Any] | None = None,
    ) -> Iterator[Any]:
        """Iterate over the rows of a query in constant memory, *size* rows a round trip.

        A connection is held from the first row until the iterator ends or is closed.
        """
        checks.count("size", size, at_least=1)
        with self.transaction() as conn:
            kind = conn.row_factory if row_factory is None else row_factory
            cursor = conn.cursor("poolkit_stream", row_factory=kind)
            try:
                cursor.execute(text, params)
                while rows := cursor.fetchmany(size):
                    yield from rows
                    if len(rows) < size:
                        break
                cursor.close()
            except BaseException:
                # The rollback closes it on the server; doing that here could fail once more.
                cursor._closed = True
                raise

    def connection(self) -> Borrowed:
        """Borrow a connection for a ``with`` block, with psycopg_pool's semantics.

        Statements open a transaction; the end of the block commits it, an exception rolls it back.
        """
        return Borrowed(self._lifecycle)

    def transaction(
        self, *, isolation: IsolationLevel | None = None, read_only: bool = False
    ) -> InTransaction:
        """Borrow a connection for a ``with`` block that is one transaction.

        Commits at the end, rolls back on any exception. N statements cost N + 2 round trips. Raises
        :class:`~poolkit.OutcomeUnknown` if the connection is lost during the commit.
        """
        return InTransaction(
            self._lifecycle, _isolation(isolation), checks.flag("read_only", read_only)
        )

    def run(
        self,
        work: Callable[[psycopg.Connection[Any]], ResultT],
        *,
        idempotent: bool = False,
        isolation: IsolationLevel | None = None,
        read_only: bool = False,
    ) -> ResultT:
        """Return ``work(connection)``, run in a transaction that is tried again as a whole.

        It is tried again after a serialization failure, a deadlock, or a connection lost before the
        commit; after one lost during the commit only if *idempotent* or *read_only*. So *work* may be
        called several times: it should do nothing but database work.
        """
        level = _isolation(isolation)
        checks.flag("read_only", read_only)

        def attempt(state: Try) -> ResultT:
            block = InTransaction(self._lifecycle, level, read_only)
            conn = block.begin(state)
            try:
                result = work(conn)
            except BaseException as error:
                astray = block.astray(error)
                block.roll_back(error)
                if astray is not None:
                    raise astray from error
                raise
            block.commit(state)
            return result

        return self._lifecycle.open().retrier.call(
            attempt, idempotent=idempotent or read_only, deadline=ambient(), operation="TRANSACTION"
        )

    def resize(self, *, min_size: int, max_size: int) -> None:
        """Change how many connections are kept ready, and open at most."""
        check_sizes(min_size, max_size)
        running = self._lifecycle.open()
        running.supply.resize(min_size, max_size)
        running.lender.resize(max_size)

    def drain(self) -> None:
        """Replace all connections: idle ones now, lent ones when they come back."""
        self._lifecycle.open().supply.drain()

    def check(self) -> None:
        """Ask each idle connection whether it is alive, and replace those that are not."""
        self._lifecycle.open().supply.check()

    # -- private -------------------------------------------------------------------------------------

    def _start(self) -> Running:
        return Running(self.config)

    def _select_one(self) -> None:
        self.query("SELECT 1", idempotent=True)

    def _statement(
        self,
        text: Query,
        params: Params | None,
        wanted: Wanted,
        row_factory: RowFactory[Any] | None,
        idempotent: bool,
    ) -> Any:
        running = self._lifecycle.running or self._lifecycle.open()
        limit = ambient()

        def attempt(state: Try) -> Any:
            statement = Statement(text, params, wanted, row_factory)
            result = running.run(statement, state, limit)
            if statement.seconds >= running.slow_query:
                logger.warning(
                    "pool %r: slow statement, %.3f s: %s",
                    self.name,
                    statement.seconds,
                    shorten(text),
                )
            return result

        return running.retrier.call(attempt, idempotent=idempotent, deadline=limit, operation=text)


def _isolation(level: IsolationLevel | None) -> IsolationLevel | None:
    if level is not None and not isinstance(level, IsolationLevel):
        raise ConfigError(f"isolation must be a psycopg.IsolationLevel, not {checks.kind(level)}")
    return level
