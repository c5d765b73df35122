"""A real PgBouncer, in transaction mode, in front of a server."""

from __future__ import annotations

import functools
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from poolkit.embedded import EmbeddedError, PostgresServer
from poolkit.embedded.process import Home
from poolkit.embedded.server import Server
from tests.postgres.observing import at

FINDER = Path(__file__).parents[2] / ".ci" / "find-pgbouncer"

SETTINGS = {
    "auth_type": "scram-sha-256",
    "admin_users": "postgres",
    "pool_mode": "transaction",
    "default_pool_size": "4",
    # Not 15 s, in which it would tell that the server is down when that is up.
    "server_login_retry": "0.1",
    # Not 120 s: who waits for a server that has gone in vain is told so.
    "query_wait_timeout": "2",
}


@functools.cache
def program() -> str:
    """Return the program. Raises :class:`EmbeddedError` if there is none that is new enough."""
    told = subprocess.run([FINDER], capture_output=True, text=True, check=False, timeout=10)
    if not told.stdout:
        raise EmbeddedError("no PgBouncer of version 1.18 or later is installed")
    return told.stdout.strip()


class PgBouncer(Server):
    """A PgBouncer in front of *server*, which runs already; *settings* are lines of pgbouncer.ini.

    Raises :class:`EmbeddedError` where none is installed.
    """

    product = "PgBouncer"

    def __init__(self, server: PostgresServer, **settings: str) -> None:
        super().__init__(startup_timeout=10.0)
        self._server = server
        self._settings: Mapping[str, str] = {**SETTINGS, **settings}
        self._tried = 0

    def __enter__(self) -> str:
        self.start()
        return self.conninfo

    def start(self) -> None:
        """Start it, and wait until it takes connections; on the same port as before, if any."""
        program()  # before there is anything that would have to be removed
        super().start()

    def stop(self) -> None:
        """End it at once, in order: its clients are hung up on."""
        self._shut_down(signal.SIGTERM, 10.0, called="TERM")

    @property
    def conninfo(self) -> str:
        """Its address over TCP, with the password."""
        return at(self._server.conninfo, port=self.port)

    @property
    def socket_conninfo(self) -> str:
        """Its address over the Unix socket, with the password."""
        return at(self.conninfo, host=self._started().path)

    def ask(self, command: str) -> list[dict[str, Any]]:
        """Return what its console answers, such as to ``SHOW CLIENTS``."""
        with psycopg.connect(
            at(self.socket_conninfo, dbname="pgbouncer"),
            autocommit=True,
            cursor_factory=psycopg.ClientCursor,  # its console knows nothing but plain texts
            row_factory=psycopg.rows.dict_row,
        ) as console:
            cursor = console.execute(command)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def _make_home(self) -> Home:
        return Home("pgbouncer", longest=len(".s.PGSQL.65535"), polite=signal.SIGTERM)

    def _create(self, home: Home) -> None:
        server = conninfo_to_dict(self._server.conninfo)
        home.write("users", f'"{server["user"]}" "{server["password"]}"\n')

    def _command(self, home: Home, port: int) -> Sequence[str | Path]:
        self._tried = port
        settings = {
            **self._settings,
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": home.path,
            "auth_file": home.path / "users",
        }
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        databases = f"[databases]\npostgres = host=127.0.0.1 port={self._server.port}\n"
        return [
            program(),
            home.write("pgbouncer.ini", f"{databases}[pgbouncer]\n{lines}"),
        ]

    def _is_ready(self, home: Home) -> bool:
        try:
            psycopg.connect(
                at(
                    self._server.conninfo,
                    host=home.path,
                    port=self._tried,
                    dbname="pgbouncer",
                    connect_timeout=2,
                ),
            ).close()
        except psycopg.OperationalError:
            return False
        return True
