"""The WSGI app: a page, what it is made of, and the figures it asks for every few seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from ...core import checks
from ...core.errors import ConfigError
from ...kit.kit import PoolKit
from .access import OnlyLocal, access_for
from .responses import Response, root, text
from .sampling import Sampler
from .view import View

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from flask import Blueprint

KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

FILES = {
    "/": "index.html",
    "/dashboard.css": "dashboard.css",
    "/dashboard.js": "dashboard.js",
    "/chart.js": "chart.js",
    "/dom.js": "dom.js",
    "/tables.js": "tables.js",
    "/words.js": "words.js",
    "/icon.svg": "icon.svg",
}
"""What the page is made of."""


class Dashboard:
    """A page that shows the pools of a kit, as a WSGI app for any server, under any path.

    *access* is called with the WSGI environ and returns whether to let in; or *token* has to be shown, see the
    guide; or, on a laptop and behind no proxy, ``access=LOCAL`` lets in browsers on the same machine.
    Figures are taken, and the page asks for them, *every* so many seconds. It answers GET and HEAD, changes nothing,
    and opens no pool.
    """

    def __init__(
        self,
        kit: PoolKit,
        *,
        access: Callable[[WSGIEnvironment], bool] | OnlyLocal | None = None,
        token: str | None = None,
        every: float = 2.0,
    ) -> None:
        if not isinstance(kit, PoolKit):
            raise ConfigError(f"kit must be a PoolKit, not {checks.kind(kit)}")
        self._access = access_for(access, token)
        sampler = Sampler(kit.pools, every=checks.seconds("every", every, zero=False))
        self._view = View(kit, sampler)
        kit.accompany(sampler)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, as WSGI has it."""
        return self._answer(environ).send(environ, start_response)

    def blueprint(self, name: str = "poolkit_dashboard") -> Blueprint:
        """Return it as a Flask blueprint: ``app.register_blueprint(dashboard.blueprint(), url_prefix="/pools")``."""
        from .blueprint import blueprint

        return blueprint(self, name)

    def _answer(self, environ: WSGIEnvironment) -> Response:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return text("405 Method Not Allowed", "This page only shows.", ("Allow", "GET, HEAD"))
        path = environ.get("PATH_INFO", "")
        if not path:  # before access is looked at: a cookie for what is beneath is not sent here
            return text("308 Permanent Redirect", "Go on.", ("Location", root(environ, query=True)))
        refusal = self._access.refuse(environ)
        if refusal is not None:
            return refusal
        if path == "/data.json":
            return _json(self._view.data(**_asked(environ)))
        if path in FILES:
            file = FILES[path]
            return Response("200 OK", _read(file), KINDS[file.partition(".")[2]])
        return text("404 Not Found", "There is no such page.")


def _asked(environ: WSGIEnvironment) -> dict[str, Any]:
    """Return what a request for figures asks for; what makes no sense is as if it were not there."""
    query = parse_qs(environ.get("QUERY_STRING", ""))
    after = query.get("after", ["0"])[0]
    return {
        "process": query.get("process", [""])[0],
        "after": int(after) if after.isascii() and after.isdigit() and len(after) < 16 else 0,
        "stacks": frozenset(query.get("stack", [])),
    }


def _json(data: object) -> Response:
    body = json.dumps(data, separators=(",", ":"), allow_nan=False).encode()
    return Response("200 OK", body, "application/json")


@cache
def _read(file: str) -> bytes:
    return resources.files(__package__).joinpath("page").joinpath(file).read_bytes()
