"""Cursors that tell their connection what they send, so that it knows whether it is still clean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from psycopg.abc import PQGen

    from .connection import PooledConnection


class PooledCursor(psycopg.Cursor[Any]):
    """A psycopg.Cursor that tells its connection what it sends."""

    __slots__ = ()

    _conn: PooledConnection

    def _start_query(self, query: Any = None) -> PQGen[None]:
        # psycopg calls this for every statement of a cursor, and then the connection's own.
        self._conn.watch(query)
        return super()._start_query(query)

    def copy(self, statement: Any, *args: Any, **options: Any) -> Any:
        self._conn.watch(statement)  # COPY starts without telling what it copies
        return super().copy(statement, *args, **options)


class PooledServerCursor(psycopg.ServerCursor[Any]):
    """A psycopg.ServerCursor that tells its connection what it sends."""

    __slots__ = ()

    _conn: PooledConnection

    def execute(self, query: Any, *args: Any, **options: Any) -> Any:
        self._conn.watch(query)
        return super().execute(query, *args, **options)

    def _start_query(self, query: Any = None) -> PQGen[None]:
        self._conn.watch(None)  # the DECLARE that psycopg made of the query
        return super()._start_query(query)
