"""PostgresPool, for the campaign."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, ClassVar

import psycopg

from poolkit import PoolKitError, PostgresPool
from poolkit.embedded import PostgresServer, PostgresStandby
from tests.faults.subjects import ACQUIRE_TIMEOUT, ELSEWHERE, SIZE, Midway, until
from tests.postgres import disk
from tests.postgres.observing import at

SLOTS = 20
OURS = "chaos"


class Postgres:
    """Rows of a table are the effects."""

    name = "postgres"
    block = "transaction"
    looks_names_up = False  # libpq does
    forgets = False
    errors = (PoolKitError, psycopg.Error)
    pool: PostgresPool
    server: Any
    settings: ClassVar[Mapping[str, Any]] = {}
    """Of the pool, beyond those of each."""

    def __init__(self) -> None:
        self.server: Any = PostgresServer(max_connections=SLOTS)
        self._cell = ""

    @property
    def secrets(self) -> Sequence[str]:
        return [self.server.conninfo.partition("postgres:")[2].partition("@")[0]]

    def open(self, cell: str, host: str, port: int) -> None:
        self._open(cell, [(host, port), (ELSEWHERE, port)])

    def _open(self, cell: str, places: Sequence[tuple[str, int]], **parameters: str) -> None:
        self._cell = cell
        self.seed()
        self.pool = PostgresPool(
            at(
                self.server.conninfo,
                host=",".join(host for host, _ in places),
                port=",".join(str(port) for _, port in places),
                application_name=f"{OURS}-{os.getpid()}",
                **parameters,
            ),
            name=f"{self.name}-{cell}",
            min_size=2,
            max_size=SIZE,
            acquire_timeout=ACQUIRE_TIMEOUT,
            **self.settings,
        )

    def write(self, id: str) -> str:
        row = self.pool.query_one("insert into effects values (%s, %s) returning id", self._row(id))
        assert row is not None
        return str(row[0])

    def upsert(self, id: str) -> str:
        row = self.pool.query_one(
            "insert into once values (%s, %s) on conflict (id) do update set id = excluded.id returning id",
            self._row(id),
            idempotent=True,
        )
        assert row is not None
        return str(row[0])

    def read(self, id: str) -> str:
        row = self.pool.query_one("select %s::text", [id], idempotent=True)
        assert row is not None
        return str(row[0])

    def in_block(self, ids: Sequence[str], midway: Midway) -> Sequence[str] | None:
        answered = []
        with self.pool.transaction() as conn:
            for number, id in enumerate(ids):
                row = conn.execute(
                    "insert into effects values (%s, %s) returning id", self._row(id)
                ).fetchone()
                answered.append(row[0] if row else "")
                if number == 0:
                    midway()
        return answered

    def hold(self) -> AbstractContextManager[object]:
        return self.pool.connection()

    def seed(self) -> None:
        self._ask("create table if not exists effects (cell text, id text)")
        self._ask("create table if not exists once (cell text, id text primary key)")
        for table in ("effects", "once"):
            for text in disk.needing_room(table):
                self._ask(text)

    def answers(self) -> None:
        self._ask("select 1")

    def effects(self) -> Mapping[str, int]:
        rows = self._ask(
            "select id, count(*) from (select * from effects union all select * from once) as every"
            " where cell = %s group by id",
            [self._cell],
        )
        return {id: int(times) for id, times in rows}

    def connections(self) -> int:
        rows = self._ask(
            "select count(*) from pg_stat_activity where application_name like %s", [f"{OURS}%"]
        )
        return int(rows[0][0])

    @contextmanager
    def crowd(self) -> Iterator[None]:
        with ExitStack() as others:
            self.evict()
            try:
                while True:
                    conn = psycopg.connect(self.server.socket_conninfo, application_name="crowd")
                    others.callback(conn.close)
            except psycopg.OperationalError:
                yield

    @contextmanager
    def refuse_writes(self) -> Iterator[None]:
        self._ask("alter system set default_transaction_read_only = on")
        self._ask("select pg_reload_conf()")
        try:
            yield
        finally:
            self._ask("alter system reset default_transaction_read_only")
            self._ask("select pg_reload_conf()")
            until(lambda: self._ask("show default_transaction_read_only") == [("off",)], 5)

    def fill_disk(self) -> AbstractContextManager[None]:
        return disk.full(self._holder.socket_conninfo)

    def evict(self) -> None:
        self._ask(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name like %s",
            [f"{OURS}%"],
        )

    @property
    def _holder(self) -> PostgresServer:
        """The server that has the effects."""
        server: PostgresServer = self.server
        return server

    def _row(self, id: str) -> list[str]:
        return [self._cell, id]

    def _ask(self, text: Any, params: Any = None) -> list[tuple[Any, ...]]:
        with psycopg.connect(
            self._holder.socket_conninfo, autocommit=True, application_name="bookkeeper"
        ) as conn:
            cursor = conn.execute(text, params)
            return cursor.fetchall() if cursor.description else []


class Primary:
    """Whichever of two servers is the primary, as if it were one."""

    def __init__(self) -> None:
        self.group = PostgresStandby(max_connections=SLOTS)

    def start(self) -> None:
        """Start both, or what has ended of them, and wait until they are in order."""
        self.group.start()

    def close(self) -> None:
        """End both."""
        self.group.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.group.primary, name)


class Standby(Postgres):
    """The same with a standby, which takes over where the primary fails, and has all that was acknowledged."""

    name = "standby"

    def __init__(self) -> None:
        self.server = Primary()
        self._cell = ""

    def open(self, cell: str, host: str, port: int) -> None:
        # Only the way to the primary leads past what is done to it.
        places = [(host, port), (ELSEWHERE, port), ("127.0.0.1", self.server.group.standby.port)]
        self._open(cell, places, target_session_attrs="read-write")

    @contextmanager
    def lag(self) -> Iterator[None]:
        standby = self.server.group.standby
        standby.pause()
        try:
            yield
        finally:
            standby.resume()

    def take_over(self) -> None:
        self.server.group.promote()
