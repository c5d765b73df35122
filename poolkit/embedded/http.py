"""A private HTTP server, on nothing but Python's own library: for a laptop, a test, a demo."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from poolkit.core import checks

from . import http_server
from .http_server.process import listening
from .process import EmbeddedError, Home
from .server import Server
from .tls import AUTHORITY, CERTIFICATE, write_certificate

SOCKET = "http.sock"
PATIENCE = 5.0  # seconds for an answer to counts()


def http(
    *, tls: bool = False, keep_alive: float | None = None, startup_timeout: float = 30.0
) -> HttpServer:
    """Run a private HTTP/1.1 server for the length of a block, which gets its URL.

    It listens on 127.0.0.1 and on a Unix socket, keeps connections alive, and is gone when the block
    ends, or when this process does, whatever ended it. With *tls* its port speaks TLS alone, with a certificate for
    localhost and 127.0.0.1 that :attr:`HttpServer.ca_file` vouches for. A connection idle for *keep_alive*
    seconds is closed, as ``Keep-Alive: timeout=`` tells; without it, none is. It serves:

    ``/bytes/N``
        N bytes, up to 1 GiB: 0 to 250, again and again. ``/gzip/N`` the same compressed, in chunks.
    ``/json``
        a small object.
    ``/echo``
        what was asked, with any method, as JSON: ``method path query version headers body``, the pairs of
        ``query`` and ``headers`` as they came; ``base64`` tells whether ``body`` is, being no text.
    ``/delay/S``
        an answer after S seconds, in which others are served.
    ``/status/N?NAME=VALUE``
        status N, 200 to 599, with header fields as in the query. ``/headers?NAME=VALUE`` status 200.
    ``/redirect/N?to=URL&status=S``
        N redirects, then on to ``to``, or what ``/echo`` says; with status 302 or S.
    ``/count``
        ``connections`` taken so far, ``requests`` so far, ``open`` ones now, this one included.

    Raises :class:`EmbeddedError`, with the server's log, if it can't be started within *startup_timeout* seconds.
    For more than the URL, keep the :class:`HttpServer` itself.
    """
    return HttpServer(tls=tls, keep_alive=keep_alive, startup_timeout=startup_timeout)


@dataclass(frozen=True)
class Counts:
    """What came in over a server's port since its start."""

    connections: int
    requests: int
    open: int  # connections now


class HttpServer(Server):
    """A private HTTP server, with the switches that a test needs: stop, kill, freeze, start again.

    A context manager, whose block gets the URL. Not for several threads at a time. A fork of the
    owning process can connect to it, but neither control nor end it. See :func:`http` for what it serves.
    """

    product = "the HTTP server"

    def __init__(
        self,
        *,
        tls: bool = False,
        keep_alive: float | None = None,
        startup_timeout: float = 30.0,
    ) -> None:
        super().__init__(startup_timeout=startup_timeout)
        if keep_alive is not None:
            checks.seconds("keep_alive", keep_alive, zero=False)
        self._tls = tls
        self._keep_alive = keep_alive

    def __enter__(self) -> str:
        self.start()
        return self.url

    def stop(self, *, timeout: float = 30.0) -> None:
        """Shut it down in order: what was asked is answered, and then each connection is closed.

        Raises :class:`EmbeddedError` if it still runs after *timeout* seconds.
        """
        self._shut_down(signal.SIGTERM, timeout, called="a shutdown")

    def restart(self) -> None:
        """Stop it and start it again, on the same port."""
        self.stop()
        self.start()

    def counts(self) -> Counts:
        """Return what came in over its port since its start, without a trace in that.

        Raises :class:`EmbeddedError` for no answer within 5 seconds.
        """
        try:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.settimeout(PATIENCE)
                asking.connect(str(self.socket_path))
                asking.sendall(b"GET /count HTTP/1.0\r\n\r\n")
                with asking.makefile("rb") as answer:
                    told = answer.read().partition(b"\r\n\r\n")[2]
            return Counts(**json.loads(told))
        except (OSError, ValueError) as error:
            raise EmbeddedError(f"{self.product} doesn't answer: {error}") from error

    @property
    def url(self) -> str:
        """Its address, without a slash at the end; it stays the same over a restart."""
        return f"https://localhost:{self.port}" if self._tls else f"http://127.0.0.1:{self.port}"

    @property
    def socket_path(self) -> Path:
        """Its Unix socket, which speaks plain HTTP, and counts nothing."""
        return self._started().path / SOCKET

    @property
    def ca_file(self) -> Path:
        """The PEM file of the authority that signed the certificate, for localhost and 127.0.0.1."""
        if not self._tls:
            raise EmbeddedError("this server has no TLS: make it with tls=True")
        return self._started().path / AUTHORITY

    def _make_home(self) -> Home:
        # As ourselves: this Python may be where no other user can go.
        return Home("http", longest=len(SOCKET), polite=signal.SIGKILL, demoted=False)

    def _create(self, home: Home) -> None:
        if self._tls:
            write_certificate(home)

    def _command(self, home: Home, port: int) -> Sequence[str | Path]:
        (home.path / SOCKET).unlink(missing_ok=True)  # of one that was killed
        command: list[str | Path] = [*http_server.COMMAND, str(port), home.path / SOCKET]
        if self._tls:
            command += ["--certificate", home.path / CERTIFICATE]
        if self._keep_alive is not None:
            command += ["--keep-alive", str(self._keep_alive)]
        return command

    def _is_ready(self, home: Home) -> bool:
        return listening(home.pid) in home.log().splitlines()
