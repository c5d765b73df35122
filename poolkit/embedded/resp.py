"""Enough of Redis' protocol to set up servers: one command, one answer."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, BinaryIO

from .process import EmbeddedError

Word = str | int | bytes

ANSWER_TIMEOUT = 5.0


def ask(path: Path, password: str, *command: Word) -> Any:
    """Send a command to the server that listens on the socket *path*, and return its answer.

    Strings are decoded so that they can be sent back as they were. When this returns, the server has
    forgotten the connection: who counts its clients sees their own only. Raises
    :class:`EmbeddedError` for an error as answer, and for none.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_TIMEOUT)
            connection.connect(str(path))
            connection.sendall(_encoded("AUTH", password) + _encoded(*command))
            with connection.makefile("rb") as answers:
                _read(answers)
                answer = _read(answers)
                connection.shutdown(socket.SHUT_WR)
                answers.read()
            return answer
    except OSError as error:
        raise EmbeddedError(f"Redis doesn't answer: {error}") from error


def _encoded(*words: Word) -> bytes:
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        encoded = word if isinstance(word, bytes) else str(word).encode(errors="surrogateescape")
        parts.append(b"$%d\r\n%b\r\n" % (len(encoded), encoded))
    return b"".join(parts)


def _read(answers: BinaryIO) -> Any:
    """Read one answer of RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec/)."""
    line = answers.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("the connection was closed")
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        raise EmbeddedError(f"Redis says: {rest.decode(errors='replace')}")
    if kind == b"+":
        return rest.decode()
    number = int(rest)
    if kind == b":":
        return number
    if number < 0:
        return None
    if kind == b"$":
        content = answers.read(number + 2)
        if len(content) < number + 2:
            raise ConnectionError("the connection was closed")
        return content[:-2].decode(errors="surrogateescape")
    return [_read(answers) for _ in range(number)]
