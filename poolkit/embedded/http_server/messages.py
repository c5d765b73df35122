"""Requests and answers of HTTP/1.1, and their bodies as they come in and go out."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

MOST_BYTES = 1 << 30
"""Bytes of a body at most."""

Fields = Sequence[tuple[str, str]]


class BadRequest(ValueError):
    """What was sent can't be answered; the message says why."""


@dataclass
class Request:
    """One request as it came; *head* has all lines but the empty one."""

    method: str
    target: str
    version: str
    head: bytes
    body: bytes = b""

    @functools.cached_property
    def headers(self) -> Fields:
        """The header fields in their order and case."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]

    @functools.cached_property
    def path(self) -> str:
        return urlsplit(self.target).path

    @functools.cached_property
    def query(self) -> Fields:
        return parse_qsl(urlsplit(self.target).query, keep_blank_values=True)


@dataclass
class Answer:
    """Status, header fields and body: one piece, or pieces of *length* bytes in all, or of who knows."""

    status: int = 200
    fields: Fields = ()
    body: bytes | Iterator[bytes] = b""
    length: int | None = None
    after: float = 0.0  # seconds to wait before it is given

    def head(self, *, closes: bool) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {reason(self.status)}"]
        lines += [f"{name}: {value}" for name, value in self.fields]
        if self.length is not None:
            lines.append(f"Content-Length: {self.length}")
        elif self.has_body:
            lines.append("Transfer-Encoding: chunked")
        if closes:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    @property
    def has_body(self) -> bool:
        return self.status >= 200 and self.status not in (204, 304)


def reason(status: int) -> str:
    """Return the words for a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unnamed"


def whole(kind: str, body: bytes, *, status: int = 200, fields: Fields = ()) -> Answer:
    """Return an answer of one piece."""
    return Answer(status, [("Content-Type", kind), *fields], body, len(body))


def as_json(value: object) -> Answer:
    return whole("application/json", json.dumps(value).encode())


def whole_number(text: str, most: int) -> int:
    """Read a number. Raises :class:`BadRequest` for anything else, and above *most*."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 12 or int(text) > most:
        raise BadRequest(f"{text[:50]!r} is no number from 0 to {most}")
    return int(text)


@dataclass
class Body:
    """The body of a request that is still coming in."""

    request: Request
    length: int | None  # None when it comes in chunks
    chunks: list[bytes] = field(default_factory=list)

    def take(self, buffer: bytearray) -> bool:
        """Take what belongs to it off the buffer; tell whether that was all."""
        if self.length is None:
            return self._take_chunks(buffer)
        if len(buffer) < self.length:
            return False
        self.request.body = bytes(buffer[: self.length])
        del buffer[: self.length]
        return True

    def _take_chunks(self, buffer: bytearray) -> bool:
        while (end := buffer.find(b"\r\n")) >= 0:
            try:
                size = int(buffer[:end].partition(b";")[0], 16)
            except ValueError:
                raise BadRequest("a chunk without a size") from None
            if size == 0:
                return self._end_chunks(buffer, end)
            if len(buffer) < end + 2 + size + 2:
                return False
            self.chunks.append(bytes(buffer[end + 2 : end + 2 + size]))
            del buffer[: end + 2 + size + 2]
        return False

    def _end_chunks(self, buffer: bytearray, end: int) -> bool:
        if buffer[end : end + 4] == b"\r\n\r\n":
            last = end + 4
        elif (trailers := buffer.find(b"\r\n\r\n", end)) >= 0:
            last = trailers + 4
        else:
            return False
        del buffer[:last]
        self.request.body = b"".join(self.chunks)
        return True


def chunked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces as chunks; an empty one stays empty, since as a chunk it is the end."""
    for piece in pieces:
        yield b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
    yield b"0\r\n\r\n"
