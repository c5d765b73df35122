"""Answers, with the header fields that keep a page to itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

ALWAYS = (
    ("Content-Security-Policy", POLICY),
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
)


@dataclass(frozen=True)
class Response:
    """What a request is answered with."""

    status: str
    body: bytes
    kind: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()

    def send(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer the request; the body of a HEAD is left out."""
        length = ("Content-Length", str(len(self.body)))
        start_response(self.status, [("Content-Type", self.kind), length, *ALWAYS, *self.headers])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [self.body]


def text(status: str, words: str, *headers: tuple[str, str]) -> Response:
    """Return a response of a few words."""
    return Response(status, f"{words}\n".encode(), headers=headers)


def root(environ: WSGIEnvironment, *, query: bool = False) -> str:
    """Return the path where the app is mounted, with a slash at its end, and the *query* of the request if wanted."""
    # One at its start: after two a browser looks for the name of another host.
    script = quote(environ.get("SCRIPT_NAME", "").encode("latin-1").strip(b"/"))
    path = f"/{script}/" if script else "/"
    asked = environ.get("QUERY_STRING", "") if query else ""
    return f"{path}?{quote(asked.encode('latin-1'), safe='=&%+~/')}" if asked else path
