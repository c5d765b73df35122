"""PostgresPool through PgBouncer, for the campaign."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import ClassVar

import psycopg

from poolkit.embedded import EmbeddedError, PostgresServer
from tests.faults.subjects import until
from tests.faults.subjects.postgres import OURS, SLOTS, Postgres
from tests.postgres import bouncer

FEWER = 3
"""Connections from PgBouncer to the server, which the pool has more of to PgBouncer."""


class Both(bouncer.PgBouncer):
    """A PgBouncer, and the server behind it."""

    def __init__(self) -> None:
        self.behind = PostgresServer(max_connections=SLOTS)
        super().__init__(self.behind, default_pool_size=str(FEWER), max_client_conn=str(SLOTS))

    def start(self) -> None:
        """Start both, or what has ended of them."""
        bouncer.program()  # without it, there is nothing to start
        self.behind.start()
        super().start()

    def resume(self) -> None:
        """Have both go on."""
        with suppress(EmbeddedError):
            self.behind.resume()
        super().resume()

    def close(self) -> None:
        """End both."""
        super().close()
        self.behind.close()


class PgBouncer(Postgres):
    """The same through PgBouncer; what the server holds is asked past it."""

    name = "pgbouncer"
    settings: ClassVar = {"pgbouncer": True}

    def __init__(self) -> None:
        self.server: Both = Both()
        self.behind = self.server.behind
        self._cell = ""

    @property
    def secrets(self) -> list[str]:
        return [self.behind.conninfo.partition("postgres:")[2].partition("@")[0]]

    def answers(self) -> None:
        super().answers()
        # The first who asks is told that it was down, which is what makes it look.
        assert until(self._passes_on, 5), "PgBouncer does not find the server"

    def connections(self) -> int:
        clients = self.server.ask("SHOW CLIENTS")
        return sum(client["application_name"].startswith(OURS) for client in clients)

    @contextmanager
    def crowd(self) -> Iterator[None]:
        self.server.ask("SET max_client_conn = 1")
        try:
            self.evict()
            yield
        finally:
            self.server.ask(f"SET max_client_conn = {SLOTS}")

    @property
    def _holder(self) -> PostgresServer:
        return self.behind

    def _passes_on(self) -> bool:
        try:
            with psycopg.connect(self.server.socket_conninfo, autocommit=True) as conn:
                conn.execute("select 1")
        except psycopg.OperationalError:
            return False
        return True
