"""The addresses of a host, looked up within a deadline.

``getaddrinfo`` takes no time-out: a name server that is silent keeps it for half a minute. So it runs in a
thread, which is left alone when it takes too long. Who wants the same name meanwhile waits for the same thread.
"""

from __future__ import annotations

import copy
import os
import socket
import threading
from collections.abc import Sequence
from typing import Any

from .deadline import Deadline

Found = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
"""What ``getaddrinfo`` says of one address: family, type, protocol, canonical name, and what ``connect`` takes."""


def resolve(host: str, port: int, until: Deadline) -> Sequence[Found]:
    """Return the addresses for TCP of *host*, *until* then at the latest.

    Raises :class:`TimeoutError` after that, and what ``getaddrinfo`` raises, mostly :class:`socket.gaierror`.
    """
    if _is_address(host):
        return _look_up(host, port)
    mine = _Lookup(host, port)
    lookup = mine
    try:
        lookup = _under_way.setdefault((host, port), mine)
        if lookup is mine:
            mine.start()
    except BaseException as error:
        mine.end(error)  # others may wait for it
        if isinstance(error, RuntimeError):
            raise OSError(f"no thread can be had to look up {host!r}") from error
        raise
    return lookup.result(until)


class _Lookup:
    """One call of ``getaddrinfo``."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._done = threading.Event()
        self._found: Sequence[Found] = []
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name=f"poolkit-lookup-{self._host}", daemon=True).start()

    def end(self, error: BaseException | None = None) -> None:
        """Have nobody wait for it any more."""
        if _under_way.get((self._host, self._port)) is self:
            del _under_way[self._host, self._port]
        self._error = error
        self._done.set()

    def result(self, until: Deadline) -> Sequence[Found]:
        """Wait for what was found."""
        if not until.wait(self._done):
            raise TimeoutError(f"{self._host!r} could not be looked up in time")
        if isinstance(self._error, Exception):
            raise copy.copy(self._error)  # each thread has a traceback of its own
        if self._error is not None:
            raise OSError(f"the lookup of {self._host!r} was interrupted")
        return self._found

    def _run(self) -> None:
        try:
            self._found = _look_up(self._host, self._port)
        except BaseException as error:  # noqa: BLE001 - raised where the result is wanted
            self.end(error)
        else:
            self.end()


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except (OSError, ValueError):
            continue
        return True
    return False


def _look_up(host: str, port: int) -> Sequence[Found]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


# Adding one, and taking it out, are single dict operations.
_under_way: dict[tuple[str, int], _Lookup] = {}

# The threads that would end them are the parent's.
os.register_at_fork(after_in_child=_under_way.clear)
