"""Serve what a client of HTTP is tried with, on a loopback port and a Unix socket.

Run as a script it is a process of its own: it imports only the standard library. It is an
``asyncio.Protocol`` since that answers more requests a second than a client in Python can make.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import functools
import json
import os
import resource
import signal
import ssl
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

CHUNK = 256 * 1024
KEPT = 1024 * 1024  # bytes; a body up to here is made once
MOST_BYTES = 1 << 30
HEAD_LIMIT = 64 * 1024
FILES = 10240  # macOS refuses more
# The period is prime: a piece that is lost, doubled or misplaced shows.
PATTERN = bytes(range(251)) * (CHUNK // 251 + 2)

Fields = Sequence[tuple[str, str]]


def listening(pid: int | None) -> str:
    """Return the line that the process writes to its log when its port is open."""
    return f"process {pid} is listening"


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


def content(length: int) -> Iterator[bytes]:
    """Yield *length* bytes, always the same ones: 0 to 250, again and again."""
    for start in range(0, length, CHUNK):
        offset = start % 251
        yield PATTERN[offset : offset + min(CHUNK, length - start)]


def whole(kind: str, body: bytes, *, status: int = 200, fields: Fields = ()) -> Answer:
    """Return an answer of one piece."""
    return Answer(status, [("Content-Type", kind), *fields], body, len(body))


def as_json(value: object) -> Answer:
    return whole("application/json", json.dumps(value).encode())


class Site:
    """What is served, and the counts of it."""

    def __init__(self, keep_alive: float | None) -> None:
        self.keep_alive = keep_alive
        self.connections = 0  # accepted on the port so far
        self.requests = 0  # that came in over it
        self.open: set[Connection] = set()
        self.ends = False
        self._pages: dict[str, Callable[[Request, str], Answer]] = {
            "bytes": self._bytes,
            "count": self._count,
            "delay": self._delay,
            "echo": self._echo,
            "gzip": self._gzip,
            "headers": self._headers,
            "json": self._json,
            "redirect": self._redirect,
            "status": self._status,
        }
        self._listeners: list[asyncio.Server] = []
        self._ended = asyncio.Event()

    def answer(self, request: Request) -> Answer:
        """Return the answer to the request; what it doesn't know is 404."""
        name, _, argument = unquote(request.path).lstrip("/").partition("/")
        page = self._pages.get(name)
        if page is None:
            return whole("text/plain", f"there is no {request.path}\n".encode(), status=404)
        return page(request, argument)

    def listens(self, *listeners: asyncio.Server) -> None:
        """Know what to close at the end."""
        self._listeners += listeners

    def end(self) -> None:
        """Take no connection any more; close those that are idle now, and the others after an answer."""
        self.ends = True
        for listener in self._listeners:
            listener.close()
        for connection in list(self.open):
            connection.close_if_idle()
        self.look_for_end()

    def look_for_end(self) -> None:
        """Be at the end when the last connection is gone."""
        if self.ends and not self.open:
            self._ended.set()

    async def ended(self) -> None:
        """Wait for the end."""
        await self._ended.wait()

    def _bytes(self, _request: Request, argument: str) -> Answer:
        length = whole_number(argument, MOST_BYTES)
        if length <= KEPT:
            return _kept(length)
        return Answer(200, [("Content-Type", "application/octet-stream")], content(length), length)

    def _gzip(self, _request: Request, argument: str) -> Answer:
        fields = [("Content-Type", "application/octet-stream"), ("Content-Encoding", "gzip")]
        return Answer(200, fields, gzipped(content(whole_number(argument, MOST_BYTES))))

    def _json(self, _request: Request, _argument: str) -> Answer:
        return as_json({"name": "poolkit", "numbers": [1, 2, 3], "nothing": None, "text": "grün"})

    def _echo(self, request: Request, _argument: str) -> Answer:
        try:
            body, encoded = request.body.decode(), False
        except UnicodeDecodeError:
            body, encoded = base64.b64encode(request.body).decode(), True
        return as_json(
            {
                "method": request.method,
                "path": request.path,
                "query": request.query,
                "version": request.version,
                "headers": request.headers,
                "body": body,
                "base64": encoded,
            }
        )

    def _delay(self, _request: Request, argument: str) -> Answer:
        try:
            seconds = float(argument)
        except ValueError:
            raise BadRequest(f"{argument!r} is no number of seconds") from None
        if not 0 <= seconds <= 3600:
            raise BadRequest("a delay is 0 to 3600 s")
        answer = whole("text/plain", f"after {seconds:g} s\n".encode())
        answer.after = seconds
        return answer

    def _status(self, request: Request, argument: str) -> Answer:
        status = whole_number(argument, 599)
        if status < 200:
            raise BadRequest("a final status is 200 to 599")
        fields = fields_of(request.query)
        if status in (204, 304):
            return Answer(status, fields)
        return whole("text/plain", f"{reason(status)}\n".encode(), status=status, fields=fields)

    def _headers(self, request: Request, _argument: str) -> Answer:
        return self._status(request, "200")

    def _redirect(self, request: Request, argument: str) -> Answer:
        left = whole_number(argument, 1_000_000)
        if left == 0:
            return self._echo(request, "")
        query = dict(request.query)
        target = query.get("to", "/redirect/0")
        if left > 1:
            again = urlencode(request.query)
            target = f"/redirect/{left - 1}{'?' if again else ''}{again}"
        status = whole_number(query.get("status", "302"), 399)
        if status < 300:
            raise BadRequest("the status of a redirect is 300 to 399")
        return Answer(status, fields_of([("Location", target)]), b"", 0)

    def _count(self, _request: Request, _argument: str) -> Answer:
        return as_json(
            {
                "connections": self.connections,
                "requests": self.requests,
                "open": sum(connection.counts for connection in self.open),
            }
        )


@functools.lru_cache(maxsize=64)
def _kept(length: int) -> Answer:
    return whole("application/octet-stream", b"".join(content(length)))


def gzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces compressed, as they come; some of them are empty."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


def whole_number(text: str, most: int) -> int:
    """Read a number. Raises :class:`BadRequest` for anything else, and above *most*."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 12 or int(text) > most:
        raise BadRequest(f"{text[:50]!r} is no number from 0 to {most}")
    return int(text)


def fields_of(query: Fields) -> Fields:
    """Return the query as header fields. Raises :class:`BadRequest` for what can't be one."""
    for name, value in query:
        if not name.replace("-", "").isalnum() or not name.isascii():
            raise BadRequest(f"{name!r} is no name of a header field")
        if any(not 32 <= ord(character) < 256 for character in value):
            raise BadRequest("a header field's value is one line of latin-1")
    return query


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


class Connection(asyncio.Protocol):
    """One client: its requests are answered one after the other."""

    def __init__(self, site: Site, *, counts: bool) -> None:
        self.counts = counts
        self._site = site
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._body: Body | None = None
        self._busy = False  # with an answer
        self._closes = False  # after it
        self._pieces: Iterator[bytes] | None = None
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._site.open.add(self)
        self._site.connections += self.counts
        self._rest()

    def connection_lost(self, _error: Exception | None) -> None:
        self._site.open.discard(self)
        self._site.look_for_end()
        self._busy = True  # no answer goes anywhere any more
        self._pieces = None
        self._stop_timer()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._go_on()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._pieces is not None:
            self._pump()

    def close_if_idle(self) -> None:
        """Close it, unless a request is under way."""
        if self._busy or self._body is not None or self._buffer:
            self._closes = True
        else:
            self._transport.close()

    def _go_on(self) -> None:
        """Answer all requests that have come in."""
        try:
            while not self._busy and (request := self._next_request()) is not None:
                self._stop_timer()
                self._site.requests += self.counts
                self._busy = True
                self._give(request)
        except BadRequest as error:
            self._refuse(error)

    def _next_request(self) -> Request | None:
        if self._body is None:
            end = self._buffer.find(b"\r\n\r\n", 0, HEAD_LIMIT)
            if end < 0:
                if len(self._buffer) > HEAD_LIMIT:
                    raise BadRequest("the head is too long")
                return None
            head = bytes(self._buffer[:end])
            del self._buffer[: end + 4]
            self._body = self._begin(head)
        if not self._body.take(self._buffer):
            return None
        request = self._body.request
        self._body = None
        return request

    def _begin(self, head: bytes) -> Body:
        try:
            method, target, version = head.partition(b"\r\n")[0].decode("ascii").split(" ")
        except ValueError:
            raise BadRequest("no line of a request") from None
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            raise BadRequest("neither HTTP/1.1 nor 1.0")
        request = Request(method, target, version, head)
        # Most have none of these: not worth a look at each header.
        low = head.lower()
        fields = {}
        if any(
            name in low for name in (b"\nconnection:", b"\ncontent-length:", b"\nexpect:", b"\ntr")
        ):
            fields = {name.lower(): value.lower() for name, value in request.headers}
        connection = fields.get("connection", "")
        if "close" in connection or (version == "HTTP/1.0" and "keep-alive" not in connection):
            self._closes = True
        if fields.get("expect") == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in fields.get("transfer-encoding", ""):
            return Body(request, None)
        return Body(request, whole_number(fields.get("content-length", "0"), MOST_BYTES))

    def _give(self, request: Request) -> None:
        try:
            answer = self._site.answer(request)
        except BadRequest as error:
            answer = whole("text/plain", f"{error}\n".encode(), status=400)
        if answer.after:
            self._timer = self._loop.call_later(answer.after, self._begin_answer, request, answer)
        else:
            self._begin_answer(request, answer)

    def _begin_answer(self, request: Request, answer: Answer) -> None:
        self._timer = None
        self._closes = self._closes or self._site.ends
        if self._site.keep_alive is not None and not self._closes:
            kept = ("Keep-Alive", f"timeout={self._site.keep_alive:g}")
            answer = Answer(answer.status, [*answer.fields, kept], answer.body, answer.length)
        head = answer.head(closes=self._closes)
        if request.method == "HEAD" or not answer.has_body:
            self._transport.write(head)
        elif isinstance(answer.body, bytes):
            self._transport.write(head + answer.body)
        else:
            self._transport.write(head)
            pieces = answer.body if answer.length is not None else chunked(answer.body)
            self._pieces = pieces
            self._pump()
            return
        self._end_answer()

    def _pump(self) -> None:
        """Give the next piece if the client has taken what it was given, and see to the others."""
        if self._pieces is None or self._paused:
            return
        piece = next(self._pieces, None)
        if piece is None:
            self._pieces = None
            self._end_answer()
            return
        if piece:
            self._transport.write(piece)
        self._loop.call_soon(self._pump)

    def _end_answer(self) -> None:
        if self._closes:
            self._transport.close()  # still busy: what else came is not answered
            return
        self._busy = False
        self._rest()
        if self._buffer:
            self._loop.call_soon(self._go_on)

    def _refuse(self, error: BadRequest) -> None:
        said = f"{error}\n".encode()
        self._busy = True
        answer = whole("text/plain", said, status=400)
        self._transport.write(answer.head(closes=True) + said)
        self._transport.close()

    def _rest(self) -> None:
        if self._site.keep_alive is not None:
            self._timer = self._loop.call_later(self._site.keep_alive, self.close_if_idle)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def chunked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces as chunks; an empty one stays empty, since as a chunk it is the end."""
    for piece in pieces:
        yield b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
    yield b"0\r\n\r\n"


async def serve(
    port: int, path: str, certificate: str | None = None, keep_alive: float | None = None
) -> None:
    """Serve until killed, or told to end by SIGTERM.

    *path* is the Unix socket's, which has no TLS and whose requests aren't counted. *certificate* is a
    PEM file with the key and the chain.
    """
    _open_many_files()
    loop = asyncio.get_running_loop()
    site = Site(keep_alive)
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    counted = functools.partial(Connection, site, counts=True)
    aside = functools.partial(Connection, site, counts=False)
    site.listens(
        await loop.create_server(counted, "127.0.0.1", port, ssl=context, backlog=4096),
        await loop.create_unix_server(aside, path),
    )
    loop.add_signal_handler(signal.SIGTERM, site.end)
    sys.stdout.write(f"{listening(os.getpid())}\n")
    sys.stdout.flush()
    await site.ended()


def _open_many_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def main() -> None:
    """Read the command line, and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--certificate")
    parser.add_argument("--keep-alive", type=float)
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.path, options.certificate, options.keep_alive))


if __name__ == "__main__":
    main()
