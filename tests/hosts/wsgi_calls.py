"""Calling a WSGI app as a server does, with the validator in between."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any
from wsgiref.validate import validator


@dataclass
class Answer:
    """What an app answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return what the body says."""
        return json.loads(self.body)


def call(
    app: Any, path: str = "/", *, method: str = "GET", query: str = "", **environ: str
) -> Answer:
    """Have *app* answer a request from this machine; *environ* overrides what a server says, None leaves out."""
    given = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "/pools",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost:8000",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **environ,
    }
    found: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Any:
        found[:] = [status, headers]
        return lambda data: None

    given = {name: value for name, value in given.items() if value is not None}
    answer = validator(app)(given, start_response)
    try:
        body = b"".join(answer)
    finally:
        answer.close()
    status, headers = found
    return Answer(int(status.split()[0]), dict(headers), body)
