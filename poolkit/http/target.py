"""Where a request goes: a URL taken apart, once for each text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote, urlencode, urljoin

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from ..core import checks
from ..core.errors import ConfigError

PORTS = {"http": 80, "https": 443}

UNIX = "http+unix"
"""The scheme of a URL whose host is the path of a Unix-domain socket, percent-encoded."""

SET_BASE = "; or set base_url"

_LOCAL = "http://localhost"
_SHORT = 1000  # characters of a URL that is worth remembering
_LABELS = re.compile(r"[^.]{1,63}(\.[^.]{1,63})*\.?")

Params = Mapping[str, Any] | Iterable[tuple[str, Any]] | str | bytes


class Origin(NamedTuple):
    """One server: ``host`` is a name, an address without brackets, or the path of a socket."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        if self.scheme == UNIX:
            return f"unix:{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.has_usual_port else f":{self.port}")

    @property
    def has_usual_port(self) -> bool:
        """Whether the port is that of the scheme."""
        return self.port == PORTS.get(self.scheme)


@dataclass(frozen=True)
class Target:
    """A URL taken apart: ``origin``, ``host`` (what the header says), ``path`` with the query."""

    url: str = field(repr=False)
    origin: Origin
    host: str
    path: str = field(repr=False)
    userinfo: str | None = field(repr=False)

    def __str__(self) -> str:
        """Return the URL without what may be secret: the query and who asks."""
        return f"{self.origin}{self.path.partition('?')[0]}"

    @property
    def absolute(self) -> str:
        """The URL as a proxy is told it: no fragment, and nothing of who asks."""
        return f"{self.origin}{self.path}"

    def joined(self, location: str) -> Target:
        """Return where *location* leads from here, as a redirect means it."""
        over_socket = self.origin.scheme == UNIX
        try:
            url = urljoin(_LOCAL + self.path if over_socket else self.url, location)
        except ValueError:
            raise ConfigError("url is not a URL") from None
        if over_socket and url.startswith(f"{_LOCAL}/"):
            url = self.url.removesuffix(self.path) + url.removeprefix(_LOCAL)
        return parse(url)


def parse(given: str) -> Target:
    """Take a URL apart. Raises :class:`~poolkit.ConfigError`, which does not show it."""
    return _parse_once(given) if len(given) <= _SHORT else _parse(given)


def _parse(given: str) -> Target:
    url, socket = given, ""
    if url.lower().startswith(f"{UNIX}://"):
        socket, slash, rest = url[len(UNIX) + 3 :].partition("/")
        url = f"{_LOCAL}{slash}{rest}"
    try:
        parts = parse_url(url)
    except LocationParseError:
        raise ConfigError("url is not a URL, or its port is not one from 1 to 65535") from None
    path = parts.request_uri
    if url is not given:
        if not unquote(socket) or "\0" in unquote(socket):
            raise ConfigError(f"url names no socket; one is {UNIX}://%2Frun%2Fname.sock/path")
        return Target(
            f"{UNIX}://{socket}{path}", Origin(UNIX, unquote(socket), 0), "localhost", path, None
        )
    scheme, host = parts.scheme, parts.host
    if scheme not in PORTS:
        raise ConfigError(
            f"url must begin with http://, https:// or {UNIX}://"
            + (f", not {scheme}:" if scheme else SET_BASE)
        )
    if not host:
        raise ConfigError("url has no host")
    if not host.startswith("[") and not _LABELS.fullmatch(host):
        raise ConfigError("url is not a URL: a part of its host's name is empty or too long")
    if parts.port == 0:
        raise ConfigError("url has the port 0; it is one from 1 to 65535")
    origin = Origin(scheme, host.strip("[]"), parts.port or PORTS[scheme])
    # A zone of this machine is nobody else's business.
    name = host.rpartition("%")[0] + "]" if "%" in host else host
    shown = name if origin.has_usual_port else f"{name}:{origin.port}"
    return Target(url, origin, shown, path, parts.auth)


_parse_once = lru_cache(maxsize=2048)(_parse)


def locate(base: str, url: object, params: Params | None) -> Target:
    """Return where *url* leads, within *base* if it has no scheme, with *params* added to its query."""
    if not isinstance(url, str):
        raise ConfigError(f"url must be a string, not {checks.kind(url)}")
    if base and "://" not in url.partition("?")[0]:
        is_within = url and not url.startswith("?")
        url = f"{base.rstrip('/')}/{url.lstrip('/')}" if is_within else base + url
    if params is not None and (query := encode(params)):
        whole, _, _ = url.partition("#")
        separator = "" if whole.endswith(("?", "&")) else "&" if "?" in whole else "?"
        url = f"{whole}{separator}{query}"
    return parse(url)


def encode(params: Params, field_name: str = "params") -> str:
    """Return *params* as they stand in a query or a form: lists repeat the name, None is left out."""
    if isinstance(params, bytes):
        return params.decode("ascii", "replace")
    if isinstance(params, str):
        return params
    pairs = params.items() if isinstance(params, Mapping) else params
    listed: list[tuple[bytes, bytes]] = []
    try:
        for name, given in pairs:
            values = given if isinstance(given, (list, tuple, set, frozenset)) else (given,)
            for value in values:
                if value is None:
                    continue
                if isinstance(value, (Mapping, list, tuple)):
                    raise ConfigError(
                        f"{field_name}[{name!r}] must be text, a number or a list of them, "
                        f"not {checks.kind(value)}"
                    )
                listed.append((_bytes(field_name, name), _bytes(field_name, value)))
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{field_name} must be a dict or a list of pairs, not {checks.kind(params)}"
        ) from None
    return urlencode(listed)


def _bytes(field_name: str, value: object) -> bytes:
    return value if isinstance(value, bytes) else checks.utf8(field_name, str(value))
