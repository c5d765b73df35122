"""Who may see the page: whom a callable or a token lets in, or, if asked for, browsers on the same machine."""

from __future__ import annotations

import hashlib
import hmac
import html
import ipaddress
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qs

from ...core import checks
from ...core.errors import ConfigError
from .responses import Response, root, text

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

logger = logging.getLogger("poolkit")

SHORTEST = 16
"""Characters that a token has at least."""

COOKIE_AGE = 12 * 3600
"""Seconds for which a browser that has shown the token is let in."""

REFUSED = "You have no access to this page."

NOT_LOCAL = (
    "This page was mounted with access=LOCAL, so only a browser on its own machine sees it, at localhost and "
    "not through a proxy. Give the Dashboard a token, or a callable that says who may see it."
)

FORWARDED = frozenset(
    {
        "HTTP_CDN_LOOP",
        "HTTP_CF_CONNECTING_IP",
        "HTTP_CLIENT_IP",
        "HTTP_FASTLY_CLIENT_IP",
        "HTTP_FORWARDED",
        "HTTP_TRUE_CLIENT_IP",
        "HTTP_VIA",
        "HTTP_X_CLIENT_IP",
        "HTTP_X_CLUSTER_CLIENT_IP",
        "HTTP_X_ENVOY_EXTERNAL_ADDRESS",
        "HTTP_X_ORIGINAL_FORWARDED_FOR",
        "HTTP_X_REAL_IP",
    }
)
"""What many proxies add to requests, beside all that begins with ``X-Forwarded``. No such list is complete."""


class Access(Protocol):
    """Decides who may see the page."""

    def refuse(self, environ: WSGIEnvironment) -> Response | None:
        """Return what a request is answered with instead; None if it may have what it asks for."""


def access_for(access: object, token: object) -> Access:
    """Return what decides; raise :class:`~poolkit.ConfigError` for what makes no sense."""
    if access is not None and token is not None:
        raise ConfigError("give access= or token=, not both")
    if token is not None:
        return ByToken(checks.text("token", token))
    if access is None:
        raise ConfigError(
            "say who may see the page: give token=, access= as a callable that takes the WSGI environ, or, on a "
            "laptop, access=LOCAL for browsers on the same machine"
        )
    if isinstance(access, OnlyLocal):
        return access
    if not callable(access):
        raise ConfigError(
            f"access must be LOCAL or a callable that takes the WSGI environ, not {checks.kind(access)}"
        )
    return AsTold(access)


class AsTold:
    """Asks a callable. What raises, or says neither True nor False, lets nobody in."""

    def __init__(self, access: Callable[[WSGIEnvironment], object]) -> None:
        self._access = access

    def refuse(self, environ: WSGIEnvironment) -> Response | None:
        """Let in whom the callable does."""
        try:
            said = self._access(environ)
        except Exception:
            logger.exception("the dashboard's access=%r failed, so nobody is let in", self._access)
            said = False
        if said is True:
            return None
        if said is not False:
            logger.error(
                "the dashboard's access=%r must return True or False, not %s, so nobody is let in",
                self._access,
                checks.kind(said),
            )
        return text("403 Forbidden", REFUSED)


class ByToken:
    """Lets in who knows the token: as ``Authorization: Bearer …``, or once as ``?token=…``, for a browser.

    The browser gets a cookie for it, and is sent on to the page without it, so that the token is not in what
    is logged, bookmarked or told to others from then on. The cookie is no token: that can't be had from it.
    """

    def __init__(self, token: str) -> None:
        if not re.fullmatch(rf"[A-Za-z0-9._~+/=-]{{{SHORTEST},}}", token):
            raise ConfigError(
                f"token must have {SHORTEST} or more letters, digits and -._~+/=: "
                "secrets.token_urlsafe() makes one"
            )
        self._token = token.encode()
        # Several dashboards on one host may be beneath each other, where all their cookies are sent.
        self._cookie = f"poolkit-{self._sign('the name of the cookie')[:12]}"

    def refuse(self, environ: WSGIEnvironment) -> Response | None:
        """Let in who shows the token or the cookie; exchange the one for the other."""
        scheme, _, shown = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(shown.strip()):
            return None
        shown = parse_qs(environ.get("QUERY_STRING", "")).get("token", [""])[0]
        if self._is_token(shown):
            return self._exchange(environ)
        if any(map(self._is_valid, self._cookies(environ))):
            return None
        again = html.escape(root(environ))
        # Followed from another site, a link does not send the cookie that was just set; from here it does.
        return Response(
            "401 Unauthorized",
            (
                '<!doctype html><html lang="en"><title>poolkit</title><p>This page is shown to those who have its '
                "token: open it once with <code>?token=…</code> at its end, or send "
                "<code>Authorization: Bearer …</code>."
                f'<p>If you just did, <a href="{again}">go on</a>.'
            ).encode(),
            "text/html; charset=utf-8",
            (("WWW-Authenticate", 'Bearer realm="poolkit"'),),
        )

    def _exchange(self, environ: WSGIEnvironment) -> Response:
        until = str(int(time.time()) + COOKIE_AGE)
        secure = "; Secure" if environ.get("wsgi.url_scheme") == "https" else ""
        cookie = (
            f"{self._cookie}={until}.{self._sign(until)}; Path={root(environ)}; Max-Age={COOKIE_AGE}; "
            f"HttpOnly; SameSite=Strict{secure}"
        )
        return text("303 See Other", "Go on.", ("Location", root(environ)), ("Set-Cookie", cookie))

    def _is_token(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), self._token)

    def _cookies(self, environ: WSGIEnvironment) -> Iterator[str]:
        for pair in environ.get("HTTP_COOKIE", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self._cookie:
                yield value

    def _is_valid(self, cookie: str) -> bool:
        until, _, signature = cookie.partition(".")
        signed = hmac.compare_digest(
            signature.encode("utf-8", "surrogateescape"), self._sign(until).encode()
        )
        return signed and int(until) > time.time()

    def _sign(self, words: str) -> str:
        message = b"poolkit dashboard " + words.encode("utf-8", "surrogateescape")
        return hmac.new(self._token, message, hashlib.sha256).hexdigest()


class OnlyLocal:
    """Lets in browsers on the same machine that come directly, and that asked for this machine by its own name.

    A page elsewhere may have a browser here ask for the address of this machine under a name of its own (DNS
    rebinding). And a proxy on this machine has its address too: many tell that they are one, or speak HTTP/1.0,
    which no browser does. But some do not, and some servers remove what they tell; so this is never the default.
    """

    def refuse(self, environ: WSGIEnvironment) -> Response | None:
        """Let in who is local, as far as that can be told."""
        local = (
            _is_loopback(environ.get("REMOTE_ADDR", ""))
            and _is_here(environ.get("HTTP_HOST", ""))
            and environ.get("SERVER_PROTOCOL") == "HTTP/1.1"
            and not any(key in FORWARDED or key.startswith("HTTP_X_FORWARDED") for key in environ)
        )
        return None if local else text("403 Forbidden", NOT_LOCAL)


LOCAL = OnlyLocal()
"""Lets in browsers on the same machine alone: for a laptop, and not behind any proxy."""


def _is_here(host: str) -> bool:
    """Whether a ``Host`` field names this machine by itself."""
    name = re.sub(r":\d*$", "", host).strip("[]").lower()
    return name == "localhost" or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback
