"""A private PostgreSQL with a standby, which can be made to take over."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from poolkit.core.errors import ConfigError

from .group import Group
from .postgres import PostgresServer
from .process import EmbeddedError, Home

SETTINGS = {
    "wal_level": "replica",
    "max_wal_senders": "10",
    "hot_standby": "on",
    # For a standby whose primary comes back: it would look for it every five seconds.
    "wal_retrieve_retry_interval": "100ms",
}
OURS = ("primary_conninfo", "synchronous_standby_names")
USER = "postgres"
ANSWER_TIMEOUT = 5.0
"""Seconds for an answer to what is asked about the state of things."""


def postgres_standby(
    *,
    max_connections: int = 100,
    settings: Mapping[str, str] | None = None,
    synchronous: bool = True,
    startup_timeout: float = 30.0,
) -> PostgresStandby:
    """Run a private PostgreSQL with a standby for the length of a block, which gets the :class:`PostgresStandby`.

    *settings* are those of postgresql.conf, for both. *synchronous*: whether what is committed is on the standby
    before it is acknowledged. Raises :class:`EmbeddedError` if it isn't in order within *startup_timeout* seconds.
    """
    return PostgresStandby(
        max_connections=max_connections,
        settings=settings,
        synchronous=synchronous,
        startup_timeout=startup_timeout,
    )


class PostgresStandby(Group["Member"]):
    """A primary, and a standby that follows it and takes over when it is told to.

    Both share a password. Each can be stopped, killed, frozen and started again by itself; while a synchronous
    standby is away, commits wait for it. Not for several threads at a time.
    """

    def __init__(
        self,
        *,
        max_connections: int = 100,
        settings: Mapping[str, str] | None = None,
        synchronous: bool = True,
        startup_timeout: float = 30.0,
    ) -> None:
        super().__init__(startup_timeout=startup_timeout)
        if kept := [name for name in settings or () if name.lower() in OURS]:
            raise ConfigError(f"{', '.join(kept)}: the standby's own business")
        self._settings = {**SETTINGS, **(settings or {})}
        self._max_connections = max_connections
        self._synchronous = synchronous
        self._server()  # what makes no sense is refused here, not when it is started

    def start(self) -> None:
        """Start all of it, or what has ended of it, and wait until it is in order.

        A server that was the primary, until the other one took over, becomes the standby of that: with its data
        anew, so what only it had is lost.
        """
        if self._all:
            self.primary.start()
            self._follow()
        super().start()

    def promote(self, timeout: float | None = None) -> None:
        """Have the standby take over; on return it is the primary, and takes writes.

        A primary that runs is shut down in order before, and so passes on what it has; one that was killed or
        frozen is left as it is. Until :meth:`start` there is no standby then. Raises :class:`EmbeddedError` if that
        takes longer than *timeout* seconds, or as many as it may take to start.
        """
        primary, standby = self._started()
        if not standby.runs:
            raise EmbeddedError(f"{standby!r} doesn't run, and so can't take over")
        if primary.runs:
            primary.stop()
        standby.promote(self._startup_timeout if timeout is None else timeout)
        self._all.reverse()

    @property
    def primary(self) -> PostgresServer:
        """The server that is the primary now."""
        return self._started()[0]

    @property
    def standby(self) -> PostgresServer:
        """The other one: the standby, or after :meth:`promote` what was the primary before."""
        return self._started()[1]

    @property
    def conninfo(self) -> str:
        """The address of both, with the password, that leads to the one which takes writes."""
        ports = sorted(server.port for server in self._started())
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        return (
            f"postgresql://{USER}:{self._password}@{hosts}/postgres?target_session_attrs=read-write"
        )

    def _create(self) -> None:
        self._all = [self._server(), self._server()]
        self.primary.start()
        self._follow()

    def _server(self) -> Member:
        return Member(
            max_connections=self._max_connections,
            settings=self._settings,
            startup_timeout=self._startup_timeout,
            password=self._password,
        )

    def _follow(self) -> None:
        """Have the standby follow the primary, if it doesn't."""
        primary, standby = self._started()
        if standby.source is primary:
            standby.start()
            return
        standby.follow(primary)
        if self._synchronous:
            # Only now: with nobody there, commits would wait.
            primary.ask("alter system set synchronous_standby_names = '*'")
            primary.ask("select pg_reload_conf()")

    def _amiss(self) -> str:
        primary, standby = self._started()
        running = self._running()
        if primary not in running:
            return f"{primary!r} is the primary, and doesn't run"
        if standby not in running or standby.source is not primary:
            return ""  # it takes writes, or will when the other one is back
        state = primary.ask("select state, sync_state from pg_stat_replication")
        wanted = "streaming|sync" if self._synchronous else "streaming|async"
        return "" if state == wanted else f"{standby!r} is {state or 'not there'}, not {wanted}"


class Member(PostgresServer):
    """A server that begins as the primary, unless it is told whom to :meth:`follow`."""

    source: Member | None = None
    """The primary that it follows."""

    def follow(self, source: Member) -> None:
        """Start as the standby of *source*, with a copy of its data instead of any of its own."""
        self.source = source
        if self._home is not None:
            self.kill()
            shutil.rmtree(self._home.path / "data")
            self._fill(self._home)
        self.start()

    def promote(self, timeout: float) -> None:
        """Stop to follow, and take writes."""
        whole = max(1, round(timeout))
        if self.ask(f"select pg_promote(true, {whole})", timeout=whole + ANSWER_TIMEOUT) != "t":
            raise EmbeddedError(
                f"{self!r} has not taken over within {whole} s. Its log:\n{self.log()}"
            )
        self.source = None

    def ask(self, text: str, *, timeout: float = ANSWER_TIMEOUT) -> str:
        """Run one statement, and return the answer as psql writes it."""
        home = self._started()
        address = self._address(home, home.path)
        try:
            done = subprocess.run(
                [self._programs / "psql", "-XAtq", "-d", address, "-c", text],
                capture_output=True,
                text=True,
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=timeout,
                env={"PATH": os.defpath, "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired as error:
            raise EmbeddedError(f"{self!r} did not answer within {timeout:g} s") from error
        if done.returncode:
            raise EmbeddedError(f"{self!r}: {done.stderr.strip()}")
        return done.stdout.strip()

    def _initialize(self, home: Home, data: Path) -> None:
        if self.source is None:
            super()._initialize(home, data)
            return
        self._run(
            home,
            self._programs / "pg_basebackup",
            f"--pgdata={data}",
            f"--dbname={self.source._address(home, '127.0.0.1')}",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
        )
        # It was copied too: but nobody follows this one.
        with (data / "postgresql.auto.conf").open("a") as file:
            file.write("synchronous_standby_names = ''\n")

    def _address(self, home: Home, host: str | Path) -> str:
        """Return where it is, for a program that may read what is in *home*: everybody sees its arguments."""
        secret = home.write("pgpass", f"*:*:*:*:{self._password}\n")
        return f"host={host} port={self._port} user={USER} dbname=postgres passfile={secret}"
