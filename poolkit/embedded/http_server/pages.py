"""The pages that the server has, each by the first part of its path."""

from __future__ import annotations

import base64
import functools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from urllib.parse import unquote, urlencode

from .messages import (
    MOST_BYTES,
    Answer,
    BadRequest,
    Fields,
    Request,
    as_json,
    reason,
    whole,
    whole_number,
)

CHUNK = 256 * 1024
KEPT = 1024 * 1024  # bytes; a body up to here is made once
# The period is prime: a piece that is lost, doubled or misplaced shows.
PATTERN = bytes(range(251)) * (CHUNK // 251 + 2)

Page = Callable[[Request, str], Answer]
"""What answers a request, given what follows the page's name in its path."""


def content(length: int) -> Iterator[bytes]:
    """Yield *length* bytes, always the same ones: 0 to 250, again and again."""
    for start in range(0, length, CHUNK):
        offset = start % 251
        yield PATTERN[offset : offset + min(CHUNK, length - start)]


def _bytes(_request: Request, argument: str) -> Answer:
    length = whole_number(argument, MOST_BYTES)
    if length <= KEPT:
        return _kept(length)
    return Answer(200, [("Content-Type", "application/octet-stream")], content(length), length)


def _gzip(_request: Request, argument: str) -> Answer:
    fields = [("Content-Type", "application/octet-stream"), ("Content-Encoding", "gzip")]
    return Answer(200, fields, gzipped(content(whole_number(argument, MOST_BYTES))))


def _json(_request: Request, _argument: str) -> Answer:
    return as_json({"name": "poolkit", "numbers": [1, 2, 3], "nothing": None, "text": "grün"})


def _echo(request: Request, _argument: str) -> Answer:
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


def _delay(_request: Request, argument: str) -> Answer:
    try:
        seconds = float(argument)
    except ValueError:
        raise BadRequest(f"{argument!r} is no number of seconds") from None
    if not 0 <= seconds <= 3600:
        raise BadRequest("a delay is 0 to 3600 s")
    answer = whole("text/plain", f"after {seconds:g} s\n".encode())
    answer.after = seconds
    return answer


def _status(request: Request, argument: str) -> Answer:
    status = whole_number(argument, 599)
    if status < 200:
        raise BadRequest("a final status is 200 to 599")
    fields = fields_of(request.query)
    if status in (204, 304):
        return Answer(status, fields)
    return whole("text/plain", f"{reason(status)}\n".encode(), status=status, fields=fields)


def _headers(request: Request, _argument: str) -> Answer:
    return _status(request, "200")


def _redirect(request: Request, argument: str) -> Answer:
    left = whole_number(argument, 1_000_000)
    if left == 0:
        return _echo(request, "")
    query = dict(request.query)
    target = query.get("to", "/redirect/0")
    if left > 1:
        again = urlencode(request.query)
        target = f"/redirect/{left - 1}{'?' if again else ''}{again}"
    status = whole_number(query.get("status", "302"), 399)
    if status < 300:
        raise BadRequest("the status of a redirect is 300 to 399")
    return Answer(status, fields_of([("Location", target)]), b"", 0)


@functools.lru_cache(maxsize=64)
def _kept(length: int) -> Answer:
    return whole("application/octet-stream", b"".join(content(length)))


def gzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces compressed, as they come; some of them are empty."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


def fields_of(query: Fields) -> Fields:
    """Return the query as header fields. Raises :class:`BadRequest` for what can't be one."""
    for name, value in query:
        if not name.replace("-", "").isalnum() or not name.isascii():
            raise BadRequest(f"{name!r} is no name of a header field")
        if any(not 32 <= ord(character) < 256 for character in value):
            raise BadRequest("a header field's value is one line of latin-1")
    return query


PAGES: dict[str, Page] = {
    "bytes": _bytes,
    "delay": _delay,
    "echo": _echo,
    "gzip": _gzip,
    "headers": _headers,
    "json": _json,
    "redirect": _redirect,
    "status": _status,
}


def answer(pages: Mapping[str, Page], request: Request) -> Answer:
    """Return the answer of the page that the request is for; what is none of *pages* is 404."""
    name, _, argument = unquote(request.path).lstrip("/").partition("/")
    page = pages.get(name)
    if page is None:
        return whole("text/plain", f"there is no {request.path}\n".encode(), status=404)
    return page(request, argument)
