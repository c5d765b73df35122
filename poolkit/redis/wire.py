"""A socket whose waits end at an instant that can be set anew before each exchange.

redis-py's connections read and write through it, so that whatever they do keeps to the deadline.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any

from ..core import kernel_time
from ..core.deadline import NEVER, Deadline
from ..core.reading import SILENCE

LONGEST = 3600.0
"""Seconds of one wait in the kernel; longer ones are several."""


def shake_hands(sock: ssl.SSLSocket, until: Deadline) -> None:
    """Do the handshake of TLS, *until* then at the latest. Raises :class:`OSError`."""
    while True:
        sock.settimeout(max(0.001, min(until.stretch(), LONGEST)))
        try:
            sock.do_handshake()
        except TimeoutError as error:
            kernel_time.check_if_lost(error)
            if until.expired:
                raise
        else:
            return


class Wire:
    """A socket; no wait of it goes on after ``until``, an instant of :func:`time.monotonic`."""

    def __init__(self, sock: socket.socket) -> None:
        self.until = math.inf
        self.deadline = NEVER
        """What may be cancelled before that."""
        self.sent = 0
        self.silence: Callable[[], None] | None = None
        """Called, once, if nothing has come for :data:`~poolkit.core.reading.SILENCE` seconds."""
        self._sock = sock
        self._prepare()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def bound(self, until: float, deadline: Deadline = NEVER) -> None:
        """Have waits end at the instant *until*, and earlier if *deadline* is cancelled."""
        self.until = until
        self.deadline = deadline

    def settimeout(self, seconds: float | None) -> None:
        """Wait for at most *seconds* from now; what redis-py sets for a single read."""
        if seconds is not None:
            # A moment at least, or what has come already would not be read.
            self.until = min(self.until, monotonic() + max(seconds, 0.001))

    def sendall(self, data: Any) -> None:
        """Send all of *data*, or raise :class:`TimeoutError`; ``sent`` bytes of it were taken then."""
        self.sent = 0
        self.sent = self._send(data)
        if self.sent < len(data):
            whole = memoryview(data)
            while self.sent < len(data):
                self.sent += self._send(whole[self.sent :])

    def recv_into(self, buffer: Any) -> int:
        """Receive some bytes, or raise :class:`TimeoutError`."""
        received: int = self._receive(self._sock.recv_into, buffer)
        return received

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive some bytes, or raise :class:`TimeoutError`; with *flags*, when something is there already."""
        if flags:
            return self._sock.recv(size, flags)
        received: bytes = self._receive(self._sock.recv, size)
        return received

    def _prepare(self) -> None:
        raise NotImplementedError

    def _send(self, data: Any) -> int:
        raise NotImplementedError

    def _receive(self, call: Any, data: Any) -> Any:
        raise NotImplementedError

    def _left(self) -> float:
        left = self.until - monotonic()
        if self.deadline.cancellations:
            left = min(left, self.deadline.stretch())
        if left <= 0:
            raise TimeoutError("timed out")
        return min(left, LONGEST if self.silence is None else SILENCE)

    def _was_silent(self) -> None:
        silence, self.silence = self.silence, None
        if silence is not None:
            silence()


class PlainWire(Wire):
    """One without TLS, where the kernel keeps the time."""

    def _prepare(self) -> None:
        self._time = kernel_time.KernelTime(self._sock)

    def _send(self, data: Any) -> int:
        return kernel_time.send(self._sock, data, self._left())

    def _receive(self, call: Any, data: Any) -> Any:
        while True:
            self._time.allow(self._sock, self._left())
            try:
                return call(data)
            except BlockingIOError:
                self._was_silent()  # the kernel's time is up; ours perhaps not
            except TimeoutError as error:
                kernel_time.check_if_lost(error)
                raise


class TlsWire(Wire):
    """One with TLS, where the kernel's time-outs can't be used: a TLS read is many of the socket's."""

    def _prepare(self) -> None:
        """Nothing to do."""

    def _send(self, data: Any) -> int:
        sent: int = self._receive(self._sock.send, data)
        return sent

    def _receive(self, call: Any, data: Any) -> Any:
        while True:
            self._sock.settimeout(self._left())
            try:
                return call(data)
            except TimeoutError as error:
                kernel_time.check_if_lost(error)
                self._was_silent()  # perhaps that was only the longest of a single wait
