"""Ask a Redis server something over a plain socket: enough RESP for that, and no driver."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from types import TracebackType

# A reply: a text, a number, nothing, or a list of those. mypy follows no deeper than is of use here.
Reply = str | int | None | list["Reply"]


class ReplyError(Exception):
    """The server answered with an error."""


class Conversation:
    """A connection to a server on 127.0.0.1, one question at a time, each within *timeout* seconds.

    Raises :class:`OSError` when there is no answer, and :class:`ReplyError` when it is an error.
    """

    def __init__(self, port: int, password: str, *, timeout: float) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self._stream = self._socket.makefile("rb")
        try:
            self.ask("AUTH", password)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Conversation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, *words: str | int) -> Reply:
        """Send a command; return the reply."""
        self._socket.sendall(_command(words))
        return self._read()

    def close(self) -> None:
        """End the conversation."""
        self._stream.close()
        self._socket.close()

    def _read(self) -> Reply:
        line = self._stream.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("the server closed the connection")
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"+":
            return rest
        if kind == b"-":
            raise ReplyError(rest)
        number = int(rest)
        if kind == b":":
            return number
        if number < 0:
            return None
        if kind == b"*":
            return [self._read() for _ in range(number)]
        return self._stream.read(number + 2)[:-2].decode()


def ask(port: int, password: str, *words: str | int, timeout: float = 1.0) -> Reply:
    """Ask the server on that port one question."""
    with Conversation(port, password, timeout=timeout) as server:
        return server.ask(*words)


def table(reply: Reply) -> dict[str, str]:
    """Read a list of names and values in turn, as Sentinel's, or the lines of an INFO."""
    if isinstance(reply, list):
        words = list(map(str, reply))
        return dict(zip(words[::2], words[1::2], strict=True))
    pairs = (line.partition(":") for line in str(reply).splitlines())
    return {name: value for name, colon, value in pairs if colon}


def _command(words: Sequence[str | int]) -> bytes:
    encoded = [str(word).encode() for word in words]
    parts = [b"*%d\r\n" % len(encoded)]
    parts += [b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded]
    return b"".join(parts)
