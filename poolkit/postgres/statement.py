"""One statement: what is asked, how it is run alone, and what is made of the answer, whichever way it went."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import psycopg
from psycopg import pq, sql
from psycopg._queries import PostgresQuery
from psycopg.adapt import Transformer
from psycopg.rows import RowFactory

from ..core.deadline import ambient
from .connection import PooledConnection
from .cursors import PooledCursor
from .failures import is_stale
from .replication import astray, not_replicated

ALL = -1
"""To load all rows."""

KEPT_ROWS = 1000
"""Rows of a result that may stay in memory until the connection is used again, or for a second."""

LARGE = 16_384
"""Bytes of a parameter from which on a statement is sent by itself: others should not wait for it to be written."""


class Answer:
    """What came back for a statement that was sent with others: its rows, if it returns any, as tuples."""

    __slots__ = ("_conn", "_result", "rows", "seconds")

    def __init__(
        self,
        conn: PooledConnection,
        result: pq.abc.PGresult,
        rows: list[tuple[Any, ...]] | None,
        seconds: float,
    ) -> None:
        self._conn = conn
        self._result = result
        self.rows = rows
        self.seconds = seconds
        """How long the server took, as far as that can be told apart from what ran before."""

    @property
    def count(self) -> int:
        """How many rows it touched, or has."""
        return self._result.ntuples if self.rows is not None else self._result.command_tuples or 0

    def rows_as(self, row_factory: RowFactory[Any] | None) -> list[Any]:
        """Return the rows that were loaded, made by *row_factory*."""
        if self.rows is None:
            return []
        if row_factory is None:
            return self.rows
        cursor = PooledCursor(self._conn, row_factory=row_factory)
        cursor._tx = Transformer(cursor)
        cursor._set_results([self._result])
        make = row_factory(cursor)
        return [make(row) for row in self.rows]


class Wanted(NamedTuple):
    """What a caller wants of a statement: how many rows to load, and what to make of its result."""

    rows: int
    of_cursor: Callable[[psycopg.Cursor[Any]], Any]
    of_answer: Callable[[Answer, RowFactory[Any] | None], Any]


def _first(rows: list[Any]) -> Any:
    return rows[0] if rows else None


ROWS = Wanted(
    ALL,
    lambda cursor: cursor.fetchall() if cursor.rownumber is not None else [],
    lambda answer, row_factory: answer.rows_as(row_factory),
)
FIRST_ROW = Wanted(
    1,
    lambda cursor: cursor.fetchone() if cursor.rownumber is not None else None,
    lambda answer, row_factory: _first(answer.rows_as(row_factory)),
)
COUNT = Wanted(
    0,
    lambda cursor: max(0, cursor.rowcount),
    lambda answer, _: answer.count,
)


class Statement:
    """One statement with its parameters; see also :class:`poolkit.core.combining.Asked`."""

    __slots__ = (
        "formats",
        "params",
        "query",
        "row_factory",
        "seconds",
        "text",
        "types",
        "values",
        "wanted",
    )

    def __init__(
        self, text: Any, params: Any, wanted: Wanted, row_factory: RowFactory[Any] | None
    ) -> None:
        self.text = text
        self.values = params
        self.wanted = wanted
        self.row_factory = row_factory
        self.seconds = 0.0
        """How long the server took."""

    def alone(self, conn: PooledConnection, silence: Callable[[], None] | None = None) -> Any:
        """Run it on *conn*, by itself."""
        conn.silence = silence
        began = perf_counter()
        try:
            cursor = self._run(conn)
        finally:
            conn.silence = None
        self.seconds = perf_counter() - began
        return self.wanted.of_cursor(cursor)

    def pack(self) -> bool:
        """Adapt the parameters; a statement with long ones is not to be sent with others.

        Without a connection psycopg's dumpers write UTF-8; pools that speak something else don't combine.
        """
        adapted = PostgresQuery(Transformer(None))
        adapted.convert(self.text, self.values)
        self.query = adapted.query
        self.params = adapted.params
        self.types = adapted.types
        self.formats = adapted.formats
        return self.params is None or all(
            each is None or len(each) <= LARGE for each in self.params
        )

    def value(self, answer: Answer) -> Any:
        """Return what :meth:`alone` would have returned."""
        self.seconds = answer.seconds
        return self.wanted.of_answer(answer, self.row_factory)

    def _run(self, conn: PooledConnection) -> psycopg.Cursor[Any]:
        """Run it and return the cursor that has its result, until the next statement.

        A cursor used again saves a fifth of a short statement's time.
        """
        if self.row_factory is not None:
            return self._execute(conn, PooledCursor(conn, row_factory=self.row_factory))
        cursor = conn.spare
        if cursor is None:
            cursor = conn.spare = PooledCursor(conn)
        self._execute(conn, cursor)
        if cursor.rowcount > KEPT_ROWS:
            conn.spare = None
        return cursor

    def _execute(self, conn: PooledConnection, cursor: psycopg.Cursor[Any]) -> psycopg.Cursor[Any]:
        try:
            cursor.execute(self.text, self.values)
        except psycopg.Error as error:
            strayed = astray(conn, error)
            if strayed is not None and not conn.in_parts:
                raise strayed from error
            if not is_stale(error):
                raise
            conn._prepared.clear()  # the tables have changed; it was not run
            cursor.execute(self.text, self.values)
        if conn.unreplicated:
            raise not_replicated(conn, ambient())
        return cursor


def shorten(query: object, length: int = 100) -> str:
    """Return the text of *query* on one line, cut at *length* characters, for a log. No values in it."""
    if isinstance(query, bytes):
        query = query.decode("utf-8", "replace")
    elif isinstance(query, sql.Composable):
        query = _without_values(query)
    line = " ".join(str(query).split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _without_values(query: sql.Composable) -> str:
    if isinstance(query, sql.Composed):
        return "".join(_without_values(part) for part in query)
    return "…" if isinstance(query, sql.Literal) else query.as_string(None)
