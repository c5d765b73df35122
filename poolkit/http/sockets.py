"""Sockets that keep a deadline, whoever reads from them or writes to them.

A socket's own time-out is for one call: a server that sends a byte a second never runs into it. These look at
the deadline before each call, so http.client, urllib3 and ssl keep it without knowing of it.
"""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ..core.deadline import NEVER, Deadline

if TYPE_CHECKING:
    _Socket = socket.socket
else:
    _Socket = object

ResultT = TypeVar("ResultT")


class _Bounded(_Socket):
    """Bounds the calls that http.client, urllib3 and ssl make on a socket."""

    deadline: Deadline = NEVER
    piece = sys.maxsize
    """Bytes that one call sends at most."""

    def recv(self, *args: Any) -> bytes:
        return self._in_time(super().recv, *args)

    def recv_into(self, *args: Any) -> int:
        return self._in_time(super().recv_into, *args)

    def send(self, *args: Any) -> int:
        return self._in_time(super().send, *args)

    def sendall(self, data: Any, flags: int = 0) -> None:
        with memoryview(data) as view, view.cast("B") as octets:
            at = 0
            while at < len(octets):
                at += self.send(octets[at : at + self.piece], flags)

    def _in_time(self, call: Callable[..., ResultT], *args: Any) -> ResultT:
        """Return what *call* returns, in the time that is left."""
        while True:
            left = self.deadline.remaining()
            if left <= 0:
                raise TimeoutError("timed out")
            left = min(left, self.deadline.pulse)
            self.settimeout(left if left < _FOREVER else None)
            try:
                return call(*args)
            except TimeoutError as error:  # it is over, or another look is due
                if error.errno is not None:
                    # The system's own: it has given up the connection, and will say once that it ended.
                    raise ConnectionAbortedError(error.errno, error.strerror) from error


class BoundedSocket(_Bounded, socket.socket):
    """A TCP or Unix-domain socket that keeps ``deadline``."""


class BoundedTlsSocket(_Bounded, ssl.SSLSocket):
    """A TLS socket that keeps ``deadline``. Made by a context whose ``sslsocket_class`` it is."""

    piece = 64 * 1024  # TLS looks at the time-out anew for each record, not for the whole

    @classmethod
    def _create(cls, sock: socket.socket, *args: Any, **options: Any) -> BoundedTlsSocket:
        """Make one of *sock*, and shake hands, within the deadline of that."""
        deadline = sock.deadline if isinstance(sock, _Bounded) else NEVER
        shakes = options.pop("do_handshake_on_connect", True)
        made: BoundedTlsSocket = super()._create(  # type: ignore[misc]
            sock, *args, do_handshake_on_connect=False, **options
        )
        made.deadline = deadline
        if shakes:
            try:
                made._in_time(made.do_handshake)
            except BaseException:  # ssl would leave it open after a Ctrl-C
                made.close()
                raise
        return made


_FOREVER = 10_000_000.0
"""Seconds from which on a time-out is none; the system's own limit is a little higher."""
