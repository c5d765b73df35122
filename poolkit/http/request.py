"""A request: made of what a caller gives, checked, and changed by hooks and redirects until it is sent."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from urllib3 import HTTPHeaderDict
from urllib3.util.request import ACCEPT_ENCODING

from ..core import checks
from ..core.errors import ConfigError
from ..core.version import __version__
from .body import Body
from .target import Target
from .wire import compose, is_field_value, is_token

Headers = Mapping[str, str | None] | Iterable[tuple[str, str | None]]
Auth = tuple[str, str] | str | Callable[[Any], Any]
"""A user and a password; a bearer token; or what is called with the :class:`Request` and changes it."""

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods that may be sent twice (RFC 9110, section 9.2.2)."""

_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_ABOUT_BODY = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-type",
    "digest",
    "last-modified",
    "transfer-encoding",
)
"""Header fields that go where the body goes (RFC 9110, section 15.4)."""

_CREDENTIALS = ("authorization", "cookie", "proxy-authorization")


class Request:
    """One request. Hooks may change ``headers``; ``method``, ``url`` and ``body`` are to be read.

    ``idempotent`` says whether it may be sent again when its answer was lost.
    """

    __slots__ = ("auth", "content", "headers", "idempotent", "method", "target")

    def __init__(
        self,
        method: str,
        target: Target,
        *,
        headers: HTTPHeaderDict,
        content: Body,
        auth: Auth | None = None,
        idempotent: bool | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.content = content
        self.auth = auth
        if idempotent is None:
            idempotent = method in IDEMPOTENT or "idempotency-key" in headers
        self.idempotent = idempotent

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.target}>"

    @property
    def url(self) -> str:
        """Where it goes, with its query."""
        return self.target.url

    @property
    def body(self) -> Any:
        """What is sent after the head; None for nothing."""
        return self.content.given

    def authorize(self) -> None:
        """Add the credentials."""
        if self.auth is not None:
            sign(self, self.auth)
        elif self.target.userinfo is not None and "authorization" not in self.headers:
            self.headers["Authorization"] = basic_of(self.target.userinfo)

    def head(self, path: str, length: int | None, *, streams: bool) -> bytes:
        """Return the head for a body of *length* bytes, or of unknown length if it *streams*.

        Raises :class:`~poolkit.ConfigError` for a header field that is none.
        """
        fields = self.headers
        if "transfer-encoding" in fields:
            raise ConfigError("headers: poolkit sets Transfer-Encoding, from the body")
        if streams and length is None:
            fields = fields.copy()
            fields["Transfer-Encoding"] = "chunked"
            fields.discard("Content-Length")
        elif length is not None and (length or self.method in _WITH_BODY):
            fields = fields.copy()
            fields["Content-Length"] = str(length)
        elif "content-length" in fields:
            fields = fields.copy()
            fields.discard("Content-Length")  # the server would wait for a body that does not come
        if self.content.content_type is not None and "content-type" not in fields:
            fields = fields.copy()
            fields["Content-Type"] = self.content.content_type
        head = compose(self.method, path, self.target.host, fields)
        if head is None:
            check_fields(fields)
            raise ConfigError("headers can't be sent")
        return head

    def redirected(self, status: int, target: Target) -> Request:
        """Return the request that follows this one (RFC 9110, section 15.4)."""
        method, content, headers = self.method, self.content, self.headers.copy()
        becomes_get = status == 303 and method not in ("GET", "HEAD")
        if becomes_get or (status in (301, 302) and method == "POST"):
            method, content = "GET", Body()
            for name in _ABOUT_BODY:
                headers.discard(name)
        headers.discard("host")
        auth = self.auth
        if target.origin != self.target.origin:
            auth = None
            for name in _CREDENTIALS:
                headers.discard(name)
        return Request(
            method,
            target,
            headers=headers,
            content=content,
            auth=auth,
            idempotent=None if method != self.method else self.idempotent,
        )


def sign(request: Any, auth: Auth) -> None:
    """Add the credentials to a request, one of ours or of requests."""
    if isinstance(auth, tuple):
        request.headers["Authorization"] = _basic(*auth)
    elif isinstance(auth, str):
        request.headers["Authorization"] = f"Bearer {auth}"
    else:
        auth(request)


def check_method(method: object) -> str:
    """Return *method* in capital letters, or raise :class:`~poolkit.ConfigError`."""
    name = checks.text("method", method).upper()
    if not is_token(name):
        raise ConfigError("method must be a word, like GET")
    if name == "CONNECT":
        raise ConfigError("method CONNECT is for proxies; set proxy=")
    return name


def check_fields(fields: HTTPHeaderDict) -> None:
    """Raise :class:`~poolkit.ConfigError` unless *fields* can be sent. No value is shown."""
    for name, value in fields.iteritems():
        if not isinstance(value, str):
            raise ConfigError(f"headers[{name!r}] must be a string, not {checks.kind(value)}")
        if not is_token(name):
            raise ConfigError(f"headers: {name[:40]!r} is not the name of a header field")
        if not is_field_value(value):
            raise ConfigError(
                f"headers[{name!r}] has characters that a header field can't have, a line break say"
            )


def fields_of(given: Headers | None, name: str = "headers") -> HTTPHeaderDict:
    """Return what a caller gave as header fields; check_fields looks at them when they are sent."""
    fields = HTTPHeaderDict()
    for key, value in _pairs(given, name):
        if value is not None:
            fields.add(key, value)
    return fields


def replaced(fields: HTTPHeaderDict, given: Headers) -> HTTPHeaderDict:
    """Return *fields*, those *given* instead where they are of the same name; for None there is none."""
    merged = fields.copy()
    pairs = _pairs(given, "headers")
    for key, _ in pairs:
        merged.discard(key)
    for key, value in pairs:
        if value is not None:
            merged.add(key, value)
    return merged


def _pairs(given: Headers | None, name: str) -> list[tuple[str, str | None]]:
    if given is None:
        return []
    try:
        pairs = [(key, value) for key, value in _items(given)]
    except (TypeError, ValueError):
        raise ConfigError(
            f"{name} must be a dict or a list of pairs, not {checks.kind(given)}"
        ) from None
    for key, value in pairs:
        if not isinstance(key, str):
            raise ConfigError(f"{name} must have strings as names, not {checks.kind(key)}")
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{name}[{key!r}] must be a string, not {checks.kind(value)}")
    return pairs


def _items(given: Headers) -> Iterable[tuple[Any, Any]]:
    if isinstance(given, HTTPHeaderDict):
        return given.iteritems()
    return given.items() if isinstance(given, Mapping) else given


def check_auth(auth: object) -> Auth | None:
    """Return *auth* if it is one of the three kinds, or raise :class:`~poolkit.ConfigError`."""
    if isinstance(auth, str) and not is_field_value(auth):
        raise ConfigError(
            "auth has characters that a header field can't have, a line break at its end say"
        )
    if auth is None or isinstance(auth, str) or callable(auth):
        return auth
    if isinstance(auth, (tuple, list)) and [type(item) for item in auth] == [str, str]:
        checks.utf8("auth", f"{auth[0]}:{auth[1]}")
        return auth[0], auth[1]
    raise ConfigError(
        "auth must be (user, password), a bearer token, or a function that is called with the request, "
        f"not {checks.kind(auth)}"
    )


def basic_of(userinfo: str) -> str:
    """Return the credentials that a URL has before its host."""
    return _basic(*map(unquote, userinfo.partition(":")[::2]))


def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode("ascii")


def default_fields(given: HTTPHeaderDict) -> HTTPHeaderDict:
    """Return what every request has, those *given* instead where they are of the same name."""
    usual = HTTPHeaderDict({"Accept-Encoding": ACCEPT_ENCODING, "User-Agent": _USER_AGENT})
    return replaced(usual, given)


_USER_AGENT = f"poolkit/{__version__}"
