"""Connecting to a host by whichever of its addresses answers first: side by side if the first is slow.

The order is that of :rfc:`8305` ("Happy Eyeballs"), so that a host whose IPv6 goes nowhere is reached as fast
as by IPv4.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain, zip_longest
from time import monotonic
from typing import TypeVar

from .deadline import Deadline
from .resolving import Found

HEAD_START = 0.25
"""Seconds that an address gets before the next one is tried beside it (RFC 8305, section 5)."""

SocketT = TypeVar("SocketT", bound=socket.socket)


def first_to_answer(
    addresses: Sequence[Found], until: Deadline, make: Callable[..., SocketT]
) -> SocketT:
    """Return a socket, not blocking, to the address that answers first, *until* then at the latest.

    *make* is given a family, a kind and a protocol, and makes a socket. Raises :class:`OSError`.
    """
    left = _in_turns(addresses)
    trying: dict[int, SocketT] = {}
    failure: OSError = OSError("the name has no address")
    poll = select.poll()
    next_start = monotonic()
    try:
        while left or trying:
            if left and (not trying or monotonic() >= next_start):
                try:
                    sock = _begin(left.pop(0), make)
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


def _in_turns(found: Sequence[Found]) -> list[Found]:
    """Return the addresses, those of IPv6 and IPv4 by turns, beginning with the family of the first."""
    first = [each for each in found if each[0] == found[0][0]] if found else []
    others = [each for each in found if each[0] != found[0][0]] if found else []
    return [each for each in chain(*zip_longest(first, others)) if each is not None]


def _begin(address: Found, make: Callable[..., SocketT]) -> SocketT:
    """Begin to connect."""
    family, kind, protocol, _, where = address
    sock = make(family, kind, protocol)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(where)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock
