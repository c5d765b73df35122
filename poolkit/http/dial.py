"""Opening the socket, to an address that the guard lets through."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence

from ..core.deadline import Deadline
from ..core.dialing import first_to_answer
from ..core.resolving import Found, resolve
from .sockets import BoundedSocket

KEEPALIVE = 30
"""Seconds of silence after which the system asks the other side for a sign of life."""

_PROBES = 3
_PROBE_PAUSE = 10

Dial = Callable[[Deadline], BoundedSocket]
"""Opens a socket until the deadline. Raises :class:`OSError`, or :class:`~poolkit.AddressBlocked`."""


def dial_host(
    host: str, port: int, permit: Callable[[str, Iterable[Found]], Sequence[Found]], until: Deadline
) -> BoundedSocket:
    """Return a socket to *host*, at one of its addresses that *permit* lets through."""
    sock = first_to_answer(permit(host, resolve(host, port, until)), until, BoundedSocket)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE),
        ("TCP_KEEPALIVE", KEEPALIVE),  # macOS
        ("TCP_KEEPINTVL", _PROBE_PAUSE),
        ("TCP_KEEPCNT", _PROBES),
    ):
        if (number := getattr(socket, option, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, number, value)
    return sock


def dial_path(path: str, until: Deadline) -> BoundedSocket:
    """Return a socket to the Unix-domain socket at *path*."""
    sock = BoundedSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(max(0.001, min(until.remaining(), 60.0)))
        sock.connect(path)
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
    return sock
