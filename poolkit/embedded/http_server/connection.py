"""One connection to a client: what it asks comes in, and answers go out.

It is an ``asyncio.Protocol`` since that answers more requests a second than a client in Python can make.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import cast

from .messages import (
    MOST_BYTES,
    Answer,
    BadRequest,
    Body,
    Request,
    chunked,
    whole,
    whole_number,
)
from .site import Site

HEAD_LIMIT = 64 * 1024
"""Bytes of a request's head at most."""


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
