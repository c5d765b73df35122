"""A response: urllib3's, which ends at the deadline, is not larger than allowed, and gives its connection back."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import urllib3
from urllib3 import HTTPHeaderDict
from urllib3.exceptions import DecodeError, HTTPError, ReadTimeoutError
from urllib3.util.response import is_fp_closed

from ..core.deadline import Deadline
from ..core.errors import ResponseTooLarge
from .decoding import is_cut_off
from .wire import Answer

if TYPE_CHECKING:
    from .connection import PooledConnection
    from .request import Request

_PIECE = 64 * 1024


class StatusError(HTTPError):
    """What :meth:`Response.raise_for_status` raises for 4xx and 5xx; it has the ``response``."""

    def __init__(self, message: str, response: Response) -> None:
        super().__init__(message)
        self.response = response

    def __reduce__(self) -> tuple[Any, ...]:
        return HTTPError, self.args  # a response can't leave its process


class Response(urllib3.HTTPResponse):
    """A :class:`urllib3.HTTPResponse`: ``status headers data``, ``json()``, ``read()``, ``stream()``.

    Reading raises :class:`~poolkit.DeadlineExceeded` and :class:`~poolkit.ResponseTooLarge`. The connection
    goes back when the body has been read to its end, or on ``close()``.
    """

    def __init__(
        self,
        answer: Answer,
        conn: PooledConnection,
        request: Request,
        *,
        deadline: Deadline,
        limit: int,
        decode: bool = True,
    ) -> None:
        fields: HTTPHeaderDict = answer.headers  # type: ignore[assignment]
        self.request = request
        """The :class:`Request` that this answers, the last one where redirects were followed."""
        self._deadline = deadline
        self._limit = limit
        # What does not compress gets a little larger, zlib's by less than this:
        self._is_coded = "content-encoding" in answer.said
        self._sent_limit = limit + (limit // 1024 + 1024 if self._is_coded else 0)
        self._decoded = 0
        self._give_back: Callable[[], object] = _nothing
        super().__init__(
            body=answer,
            headers=fields,
            status=answer.status,
            version=answer.version,
            version_string="HTTP/1.0" if answer.version == 10 else "HTTP/1.1",
            reason=answer.reason,
            preload_content=False,
            decode_content=decode,
            original_response=answer,
            connection=conn,
            msg=fields,  # type: ignore[arg-type]
            request_method=request.method,
            request_url=request.target.url,
        )
        # urllib3 has ideas of its own, where a head contradicts itself:
        self.chunked = answer.chunked
        self.length_remaining = answer.length

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.reason} of {self.request!r}>"

    def __del__(self) -> None:
        """Not io's, which would close it: who drops it unread has a leak, and the connection tells of it."""

    def raise_for_status(self) -> Response:
        """Raise :class:`StatusError` if the status is 4xx or 5xx; else return the response."""
        if self.status >= 400:
            side = "client" if self.status < 500 else "server"
            raise StatusError(
                f"{self.request.method} {self.request.target}: "
                f"{self.status} {self.reason} ({side} error)",
                self,
            )
        return self

    def keep(self, give_back: Callable[[], object]) -> None:
        """Have *give_back* called when the connection is needed no more: at once if that is so already."""
        self._give_back = give_back
        if self.length_remaining == 0 and self._original_response is not None:
            self._original_response.close()
            self.release_conn()

    def load(self) -> None:
        """Read the whole body."""
        answer: Any = self._fp
        if self._is_coded or answer.length is None:
            self._body = self.read(cache_content=True)
            return
        self._check(answer.length)
        with self._error_catcher():  # the short way of what read() comes to
            self._body = answer.read()
        self._fp_bytes_read = self._decoded = len(self._body)
        self.length_remaining = 0

    def read(
        self,
        amt: int | None = None,
        decode_content: bool | None = None,
        cache_content: bool = False,
    ) -> bytes:
        """Read *amt* bytes of the body, decoded, fewer only at its end; the rest of it without *amt*."""
        if amt is not None and amt >= 0:
            return super().read(min(amt, self._limit + 1), decode_content)
        if self.length_remaining is not None and not self._is_coded:
            self._check(self._fp_bytes_read + self.length_remaining)
            return super().read(None, decode_content, cache_content)
        pieces = list(self.stream(_PIECE, decode_content))  # a little may expand to very much
        whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if cache_content:
            self._body = whole
        return whole

    def read1(self, amt: int | None = None, decode_content: bool | None = None) -> bytes:
        """Read up to *amt* bytes of the body, decoded, waiting only if there are none."""
        return super().read1(_PIECE if amt is None or amt < 0 else amt, decode_content)

    def read_chunked(
        self, amt: int | None = None, decode_content: bool | None = None
    ) -> Generator[bytes]:
        """Read the body, decoded, as it comes, in pieces of *amt* bytes at most.

        Unlike urllib3's it does not take the chunks apart itself, so that it can go on where ``read()`` ended.
        """
        while piece := self.read1(amt, decode_content):
            yield piece

    def finish(self) -> None:
        """Need nothing more of it: what is left is read if it is little, so that the connection can be kept."""
        try:
            if self.length_remaining is not None and self.length_remaining <= _PIECE:
                self.read(decode_content=False)
        finally:
            self.close()

    def release_conn(self) -> None:
        """Give the connection back; one whose response was not read to its end is closed."""
        give_back, self._give_back = self._give_back, _nothing
        self._connection = None
        give_back()

    def close(self) -> None:
        """Read nothing more, and give the connection back."""
        try:
            super().close()
        finally:
            self.release_conn()

    @contextmanager
    def _error_catcher(self) -> Generator[None]:
        lease = self._connection.lease if self._connection is not None else None  # type: ignore[attr-defined]
        if lease is not None:
            lease.used()
        try:
            with super()._error_catcher():
                yield
        except ReadTimeoutError as error:
            raise self._deadline.exceeded(str(self.request), stage="running") from error

    def _raw_read(self, *args: Any, **options: Any) -> bytes:
        data = super()._raw_read(*args, **options)
        if self._fp_bytes_read > self._sent_limit:
            self._check(self._fp_bytes_read)
        return data

    def _decode(self, *args: Any, **options: Any) -> bytes:
        data = super()._decode(*args, **options)
        if self._decoder is not None and is_fp_closed(self._fp) and self._fp_bytes_read:
            data += self._last_of(self._decoder)
        self._decoded += len(data)
        self._check(self._decoded)
        return data

    def _last_of(self, decoder: Any) -> bytes:
        """Return what a decoder that was given all there is has still to give; raise if it waits for more."""
        if decoder.has_unconsumed_tail:
            return b""
        rest: bytes = decoder.decompress(b"")
        if is_cut_off(decoder):
            raise DecodeError(
                f"{self.request.method} {self.request.target}: the compressed body has no end", None
            )
        return rest

    def _check(self, length: int) -> None:
        """Raise if the body is larger than allowed."""
        if length > self._limit:
            self.close()
            raise ResponseTooLarge(
                f"{self.request.method} {self.request.target}: the response has {length} bytes or more, "
                f"max_response_bytes is {self._limit}"
            )


def _nothing() -> None:
    """The connection is not this response's any more."""
