"""Reads and writes of a plain socket that end in time, which the kernel keeps.

Python's own time-outs poll before each call. That is a system call more, and lets go of the interpreter lock once
more; where other threads want it, getting it back costs more than the call. Not for TLS: one read of it may be many
of the socket's.
"""

from __future__ import annotations

import math
import select
import socket
import struct
from typing import Any

SLACK = 0.010
"""Seconds that a read may end late, to spare a system call."""


class KernelTime:
    """What the kernel knows of how long the reads of a socket may take. Made of one, has it block."""

    __slots__ = ("_told",)

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(None)
        self._told = math.inf

    def allow(self, sock: socket.socket, seconds: float) -> None:
        """Have the next read raise :class:`BlockingIOError` after so many *seconds*; if many, maybe earlier."""
        if self._told > seconds + SLACK or self._told < seconds / 2:
            value = struct.pack("ll", int(seconds), max(1, int(seconds % 1 * 1_000_000)))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            self._told = seconds


def send(sock: socket.socket, data: Any, seconds: float) -> int:
    """Send some bytes, and return how many: none if that was not possible within so many *seconds*."""
    try:
        return socket.socket.send(sock, data, socket.MSG_DONTWAIT)
    except BlockingIOError:
        poller = select.poll()
        poller.register(sock, select.POLLOUT)
        poller.poll(max(1, seconds * 1000))
        return 0


def check_if_lost(error: TimeoutError) -> None:
    """Raise the loss of the connection if *error* is the kernel's, which has given it up: its next word is the end."""
    if error.errno is not None:
        raise ConnectionAbortedError(error.errno, error.strerror) from error
