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

from ..core import kernel_time, sockets
from ..core.deadline import NEVER, Deadline

if TYPE_CHECKING:
    _Socket = socket.socket
else:
    _Socket = object

ResultT = TypeVar("ResultT")


LONGEST = 3600.0
"""Seconds of one wait in the system; longer ones are several."""


class _Bounded(_Socket):
    """Bounds the calls that http.client, urllib3 and ssl make on a socket."""

    deadline: Deadline = NEVER
    piece = sys.maxsize
    """Bytes that one call sends at most."""

    def recv(self, *args: Any) -> bytes:
        return self._read(super().recv, *args)

    def recv_into(self, *args: Any) -> int:
        return self._read(super().recv_into, *args)

    def sendall(self, data: Any, flags: int = 0) -> None:
        with memoryview(data) as view, view.cast("B") as octets:
            at = 0
            while at < len(octets):
                at += self.send(octets[at : at + self.piece], flags)

    def _read(self, call: Callable[..., ResultT], *args: Any) -> ResultT:
        raise NotImplementedError

    def _left(self) -> float:
        """Return the seconds of the next wait."""
        deadline = self.deadline
        left = deadline.remaining()
        if left <= 0:
            raise TimeoutError("timed out")
        return min(left, deadline.pulse, LONGEST)


class BoundedSocket(_Bounded, socket.socket):
    """A TCP or Unix-domain socket that keeps ``deadline``."""

    _time: kernel_time.KernelTime | None = None
    _received = 0

    def recv(self, *args: Any) -> bytes:
        data = super().recv(*args)
        self._received += len(data)
        return data

    def recv_into(self, *args: Any) -> int:
        count = super().recv_into(*args)
        self._received += count
        return count

    def is_silent(self) -> bool:
        """Whether all that ever came was read, and it has not ended. If not so, that may just not be known."""
        return sockets.is_silent(self, self._received)

    def send(self, data: Any, flags: int = 0) -> int:  # noqa: ARG002 - none are in use
        sent = 0
        while data and not sent:
            sent = kernel_time.send(self, data, self._left())
        return sent

    def _read(self, call: Callable[..., ResultT], *args: Any) -> ResultT:
        if self._time is None:
            self._time = kernel_time.KernelTime(self)
        while True:
            self._time.allow(self, self._left())
            try:
                return call(*args)
            except BlockingIOError:
                pass  # the kernel's time is up; ours perhaps not
            except TimeoutError as error:
                kernel_time.check_if_lost(error)
                raise


class BoundedTlsSocket(_Bounded, ssl.SSLSocket):
    """A TLS socket that keeps ``deadline``. Made by a context whose ``sslsocket_class`` it is."""

    piece = 64 * 1024  # TLS looks at the time-out anew for each record, not for the whole

    def send(self, *args: Any) -> int:
        return self._read(super().send, *args)

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
                made._read(made.do_handshake)
            except BaseException:  # ssl would leave it open after a Ctrl-C
                made.close()
                raise
        return made

    def _read(self, call: Callable[..., ResultT], *args: Any) -> ResultT:
        while True:
            self.settimeout(self._left())
            try:
                return call(*args)
            except TimeoutError as error:
                kernel_time.check_if_lost(error)  # else it is over, or another look is due
