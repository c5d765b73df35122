"""Opening the socket: every address that the guard lets through, side by side if the first is slow.

The order is that of :rfc:`8305` ("Happy Eyeballs"), so that a host whose IPv6 goes nowhere is reached as fast
as by IPv4.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import chain, zip_longest
from time import monotonic

from ..core.deadline import Deadline
from ..core.resolving import Found, resolve
from .sockets import BoundedSocket

HEAD_START = 0.25
"""Seconds that an address gets before the next one is tried beside it (RFC 8305, section 5)."""

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
    sock = _first_to_answer(_in_turns(permit(host, resolve(host, port, until))), until)
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
    except BaseException:
        sock.close()
        raise
    return sock


def _in_turns(found: Sequence[Found]) -> list[Found]:
    """Return the addresses, those of IPv6 and IPv4 by turns, beginning with the family of the first."""
    first = [each for each in found if each[0] == found[0][0]] if found else []
    others = [each for each in found if each[0] != found[0][0]] if found else []
    return [each for each in chain(*zip_longest(first, others)) if each is not None]


def _first_to_answer(addresses: Sequence[Found], until: Deadline) -> BoundedSocket:
    """Return a socket to the address that answers first."""
    left = list(addresses)
    trying: dict[int, BoundedSocket] = {}
    failure: OSError = OSError("the name has no address")
    poll = select.poll()
    next_start = monotonic()
    try:
        while left or trying:
            if left and (not trying or monotonic() >= next_start):
                try:
                    sock = _begin(left.pop(0))
                except OSError as error:
                    failure = error
                    continue
                trying[sock.fileno()] = sock
                poll.register(sock, select.POLLOUT)
                next_start = monotonic() + HEAD_START
            wait = until.remaining()
            if wait <= 0:
                raise TimeoutError("the connection was not made in time")
            if left:
                wait = min(wait, max(0.0, next_start - monotonic()))
            for fileno, _ in poll.poll(min(wait, until.pulse, 60.0) * 1000 + 1):
                poll.unregister(fileno)
                sock = trying.pop(fileno)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not code:
                    return sock
                sock.close()
                failure = OSError(code, os.strerror(code))
        raise failure
    finally:
        for sock in trying.values():
            with suppress(OSError):
                sock.close()


def _begin(address: Found) -> BoundedSocket:
    """Begin to connect."""
    family, kind, protocol, _, where = address
    sock = BoundedSocket(family, kind, protocol)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(where)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock
