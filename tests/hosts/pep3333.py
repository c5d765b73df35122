"""A server as PEP 3333 has it, without a network: headers go out with the first bytes, and errors are kept."""

from __future__ import annotations

import io
from typing import Any
from wsgiref.handlers import SimpleHandler
from wsgiref.util import setup_testing_defaults


class Gone(io.BytesIO):
    """A client that disconnects once it has read *pieces* of the response."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def write(self, data: Any) -> int:
        if self.pieces == 0:
            raise BrokenPipeError("the client has gone")
        self.pieces -= 1
        return super().write(data)


class Served(SimpleHandler):
    """One request, served by the standard library: ``status``, ``headers``, ``body``, and ``error`` if it failed."""

    http_version = "1.1"

    def __init__(
        self, app: Any, path: str = "/", *, client: io.BytesIO | None = None, **environ: str
    ) -> None:
        given: dict[str, Any] = {
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "HTTP_HOST": "localhost",
            "QUERY_STRING": "",
            **environ,
        }
        setup_testing_defaults(given)
        given = {name: value for name, value in given.items() if isinstance(value, str)}
        self.written = client or io.BytesIO()
        self.error: BaseException | None = None
        super().__init__(io.BytesIO(), self.written, io.StringIO(), given)
        self.run(app)
        head, _, self.body = self.written.getvalue().partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        self.code = int(first.split()[1]) if rest else 0
        self.fields = {
            name.lower(): value for name, value in (line.split(": ", 1) for line in rest)
        }

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def log_exception(self, exc_info: Any) -> None:
        self.error = exc_info[1]
