"""What goes over the wire: the head of a request is composed, the head of a response is read and taken apart.

The parser of http.client is that for e-mail, which takes most of the time of a short request.
"""

from __future__ import annotations

import http.client
import re
from typing import Any, Protocol

from urllib3 import HTTPHeaderDict

LONGEST_HEAD = 256 * 1024
"""Bytes that the head of a response may have."""

MOST_FIELDS = 200
"""Header fields that a response may have."""

MOST_INTERIM = 20
"""Responses of status 1xx that may come before the one that counts."""

_PIECE = 64 * 1024
_LARGE = 256 * 1024
_LONGEST_SIZE = 16 * 1024  # of a chunk, with extensions, which nobody uses
_MOST_NAMES = 1000  # that are remembered
_DIGITS = 18  # of a length; more than a file can have

_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE = re.compile(r"HTTP/(1\.\d) +([1-9]\d\d)(?: (.*))?", re.ASCII)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?\r?\n")
_BAD_OCTET = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FIELDS = re.compile(f"(?:{_NAME.pattern}: {_VALUE.pattern}\r\n)*")


_FRAMING = frozenset(
    ("connection", "content-encoding", "content-length", "keep-alive", "transfer-encoding")
)


class Receiver(Protocol):
    """A socket to read from."""

    def recv(self, size: int, /) -> bytes: ...


def is_token(text: str) -> bool:
    """Whether *text* may be a method or the name of a header field (RFC 9110, section 5.6.2)."""
    return _NAME.fullmatch(text) is not None


def is_field_value(text: str) -> bool:
    """Whether *text* can be the value of one header field, and nothing more than that."""
    return _VALUE.fullmatch(text) is not None


def compose(method: str, target: str, host: str, fields: HTTPHeaderDict) -> bytes | None:
    """Return the head of a request; None if one of *fields* is not a header field.

    *fields* may hold a ``Host`` of their own.
    """
    given = list(fields.iteritems())
    text = "".join([f"{name}: {value}\r\n" for name, value in given])
    if _FIELDS.fullmatch(text) is None or text.count("\n") != len(given):
        return None
    if ":" in "".join([name for name, _ in given]):  # a name and the start of a value
        return None
    if "host" not in fields:
        text = f"Host: {host}\r\n{text}"
    return f"{method} {target} HTTP/1.1\r\n{text}\r\n".encode("latin-1")


class Reader:
    """Reads from a socket with a buffer, for the life of a connection.

    It is what http.client takes for the file of a response: ``read``, ``readline`` and their like are for it.
    """

    __slots__ = ("_at", "_held", "_socket")

    def __init__(self, sock: Receiver) -> None:
        self._socket = sock
        self._held = b""
        self._at = 0

    @property
    def is_empty(self) -> bool:
        """Whether all that was received has been read."""
        return self._at >= len(self._held)

    def head(self) -> str:
        """Read up to the next blank line, and return what is before it; empty if the other side has hung up.

        Raises :class:`http.client.HTTPException` if there is too much, or it ends in between.
        """
        held = self._held[self._at :].lstrip(b"\r\n")  # some servers send more than is due
        while (end := _BLANK_LINE.search(held)) is None:
            if len(held) > LONGEST_HEAD:
                raise http.client.HTTPException(
                    f"the head of the response is longer than {LONGEST_HEAD // 1024} KiB"
                )
            more = self._socket.recv(_PIECE) or b""  # urllib3's TLS in TLS ends with 0
            if not more:
                if held:
                    raise http.client.IncompleteRead(held)
                return ""
            held = (held + more).lstrip(b"\r\n")
        self._held, self._at = held, end.end()
        return held[: end.start()].decode("latin-1")

    def read(self, size: int | None = -1) -> bytes:
        """Read *size* bytes, fewer only at the end; all up to the end without one."""
        if size is None or size < 0:
            size = -1
        pieces = [self._take(size)]
        missing = size - len(pieces[0])
        while missing:
            piece = self._socket.recv(min(missing, _LARGE) if size >= 0 else _PIECE) or b""
            if not piece:
                break
            pieces.append(piece)
            if size >= 0:
                missing -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read1(self, size: int = -1) -> bytes:
        """Read up to *size* bytes, as many as there are, waiting only if there are none."""
        if size == 0:
            return b""
        if not self.is_empty:
            return self._take(size)
        return self._socket.recv(size if 0 < size < _PIECE else _PIECE) or b""

    def readinto(self, buffer: Any) -> int:
        """Fill *buffer*; return the number of bytes, fewer only at the end."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def readline(self, limit: int = -1) -> bytes:
        """Read to the end of the line, at most *limit* bytes."""
        while True:
            end = self._held.find(b"\n", self._at)
            length = (end + 1 if end >= 0 else len(self._held)) - self._at
            if end >= 0 or 0 <= limit <= length:
                return self._take(length if limit < 0 else min(length, limit))
            more = self._socket.recv(_PIECE)
            if not more:
                return self._take(-1)
            self._held, self._at = self._held[self._at :] + more, 0

    def peek(self, size: int = 0) -> bytes:  # noqa: ARG002 - as io.BufferedReader has it
        """Return what is there, and leave it there."""
        if self.is_empty:
            self._held, self._at = self._socket.recv(_PIECE) or b"", 0
        return self._held[self._at :]

    def flush(self) -> None:
        """Do nothing: http.client calls it."""

    def close(self) -> None:
        """Do nothing: it lives as long as its connection."""

    def _take(self, size: int) -> bytes:
        """Return up to *size* bytes of those that are held."""
        at, held = self._at, self._held
        if size < 0 or at + size >= len(held):
            self._held, self._at = b"", 0
            return held[at:] if at else held
        self._at = at + size
        return held[at : at + size]


class Answer(http.client.HTTPResponse):
    """A response as http.client has it, begun by a parser of our own.

    Raises :class:`http.client.HTTPException` for what is not HTTP, and
    :class:`http.client.RemoteDisconnected` when the other side has hung up before it said anything.
    """

    def __init__(self, reader: Reader, method: str) -> None:
        self.fp = reader  # type: ignore[assignment]
        self.debuglevel = 0
        self._method = method
        self.said: dict[str, str] = {}
        """The fields about the connection and the body, by their names in small letters."""
        version, fields = self._read_head(reader)
        self.code = self.status
        self.version = 10 if version == "1.0" else 11
        self.headers = self.msg = fields  # type: ignore[assignment]
        self._coding = self.said.get("transfer-encoding", "").lower()
        if self._coding not in ("", "chunked", "identity"):
            raise http.client.HTTPException("a Transfer-Encoding that nobody asked for")
        self.chunked = self._coding == "chunked"
        self.chunk_left = None
        self.length = self._body_length()
        self.will_close = self._closes_after()

    def _read_head(self, reader: Reader) -> tuple[str, HTTPHeaderDict]:
        for _ in range(MOST_INTERIM):
            head = reader.head()
            if not head:
                raise http.client.RemoteDisconnected("the server hung up without an answer")
            if _BAD_OCTET.search(head) is not None or head.count("\r") != head.count("\r\n"):
                raise http.client.HTTPException("the head has characters that no head may have")
            first, _, rest = head.partition("\n")
            match = _STATUS_LINE.fullmatch(first.rstrip())
            if match is None:
                raise http.client.BadStatusLine(f"({len(first)} characters, not a status line)")
            version, status, reason = match.groups()
            self.status = int(status)
            self.reason = (reason or "").strip()
            if self.status >= 200 or self.status == 101:
                return version, _fields(rest, self.said)
        raise http.client.HTTPException(f"more than {MOST_INTERIM} interim responses")

    def _body_length(self) -> int | None:
        """Return the number of bytes of the body; None if its end is known only when it comes."""
        if self._method == "HEAD" or self.status in (204, 304):
            self.chunked = False
            return 0
        text = self.said.get("content-length")
        if self._coding or text is None:
            return None
        if "," in text:
            text, *others = {item.strip() for item in text.split(",")}
            if others:
                text = ""
        if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
            raise http.client.HTTPException("the Content-Length is not one number")
        return int(text)

    def _closes_after(self) -> bool:
        if self.length is None and not self.chunked:
            return True
        if self._coding and "content-length" in self.said:
            return True  # somebody may have taken it for another length (RFC 9112, section 6.3)
        options = self.said.get("connection", "").lower()
        return "close" in options or (self.version == 10 and "keep-alive" not in options)

    def _get_chunk_left(self) -> int | None:
        """Return what is left of the chunk, the next one's size at its end; None after the last one.

        http.client's takes for a size what int() takes, ``-5`` say, and anything for the end of a chunk.
        """
        left: int | None = self.chunk_left
        if left:
            return left
        if left == 0 and self.fp.readline(3) not in (b"\r\n", b"\n"):
            raise http.client.HTTPException("a chunk is longer than its size")
        line = self.fp.readline(_LONGEST_SIZE)
        if not line:
            raise http.client.IncompleteRead(b"")
        size = _CHUNK_SIZE.fullmatch(line)
        if size is None:
            raise http.client.HTTPException("a chunk begins with what is not a size")
        left = int(size[1], 16) or None
        if left is None:
            self._read_and_discard_trailer()  # type: ignore[attr-defined]
            self._close_conn()
        self.chunk_left = left
        return left

    def _close_conn(self) -> None:
        self.fp = None  # type: ignore[assignment]

    def __del__(self) -> None:
        """Not io's, which would close it."""


def _fields(text: str, said: dict[str, str]) -> HTTPHeaderDict:
    """Return the header fields in *text*, and put those about the connection and the body into *said*."""
    fields = HTTPHeaderDict()
    if not text:
        return fields
    lines = text.split("\n")
    if len(lines) > MOST_FIELDS:
        raise http.client.HTTPException(f"more than {MOST_FIELDS} header fields")
    if "\n " in text or "\n\t" in text:
        lines = _unfolded(lines)
    for line in lines:
        name, colon, value = line.partition(":")
        known = _names.get(name)
        if known is None:
            if not colon or _NAME.fullmatch(name) is None:
                raise http.client.HTTPException(f"not a header field, in {len(line)} characters")
            known = name.lower()
            if len(_names) < _MOST_NAMES:
                _names[name] = known
        elif not colon:
            raise http.client.HTTPException("a header field without a colon")
        value = value.strip(" \t\r")
        fields.add(name, value)
        if known in _FRAMING:
            said[known] = f"{said[known]},{value}" if known in said else value
    return fields


_names: dict[str, str] = {}  # names that are well-formed, in small letters


def _unfolded(lines: list[str]) -> list[str]:
    """Return *lines*, those joined that are one field in several (RFC 9112, section 5.2)."""
    whole: list[str] = []
    for line in lines:
        if line[:1] in (" ", "\t") and whole:
            whole[-1] = f"{whole[-1].rstrip()} {line.strip()}"
        else:
            whole.append(line)
    return whole
