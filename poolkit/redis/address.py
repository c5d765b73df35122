"""Where the servers are: URLs and lists of nodes, parsed. What is wrong is told without showing a password."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ..core import checks
from ..core.errors import ConfigError

DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379

_DIGITS = 9  # of a database's number; int() refuses some thousands of them


@dataclass(frozen=True)
class Server:
    """One server: ``host`` and ``port``, or the ``path`` of its Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Address:
    """What a URL, or a list of nodes, says."""

    servers: tuple[Server, ...]
    tls: bool = False
    db: int | None = None
    username: str = ""
    password: str = field(default="", repr=False)


def parse_url(url: str) -> Address:
    """Return what *url* says: ``redis://``, ``rediss://`` (TLS) or ``unix://``."""
    try:
        return _parse_url(checks.text("url", url).strip())
    except ConfigError as error:
        raise ConfigError(f"url: {error}") from None


def parse_list(name: str, given: str | Sequence[str], port: int = DEFAULT_PORT) -> Address:
    """Return what the field *name* says: ``host:port`` or URLs, in a list or with commas between."""
    items = given.split(",") if isinstance(given, str) else given
    if isinstance(items, (bytes, dict)) or not isinstance(items, Sequence):
        raise ConfigError(f"{name} must be a list of host:port or URLs, not {checks.kind(given)}")
    addresses = []
    for item in items:
        if not isinstance(item, str):
            raise ConfigError(f"{name} must have strings, not {checks.kind(item)}")
        text = item.strip()
        if text.startswith("@"):
            raise ConfigError(
                f"{name}: there is nothing before an '@'; "
                "percent-encode special characters of the password, a comma say"
            )
        try:
            addresses.append(_parse_url(text if "://" in text else f"redis://{text}", port))
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
    if not addresses:
        raise ConfigError(f"{name} must name at least one server, as host:port")
    first = addresses[0]
    for other in addresses:
        if (other.tls, other.username, other.password) != (
            first.tls,
            first.username,
            first.password,
        ):
            raise ConfigError(f"{name}: all must have the same scheme, user and password")
        if other.db or other.servers[0].path:
            raise ConfigError(f"{name} must be host:port, without a database or a socket's path")
    servers = tuple(address.servers[0] for address in addresses)
    return Address(servers, first.tls, None, first.username, first.password)


def _parse_url(url: str, port: int = DEFAULT_PORT) -> Address:
    try:
        parts = urlsplit(url)
        host, given_port = parts.hostname, parts.port
        if parts.netloc.endswith(":"):  # a password may have been cut off there
            raise ValueError
    except ValueError:
        # Its message could quote a password, as what follows the colon.
        raise ConfigError(
            "it can't be read as redis://user:password@host:port/db; "
            "percent-encode special characters of the password"
        ) from None
    if "@" in parts.path + parts.query + parts.fragment:
        raise ConfigError(
            "it has an '@' after the host; percent-encode special characters of the password"
        )
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.scheme == "unix":
        if not parts.path or parts.path == "/":
            raise ConfigError("unix:// needs the path of a socket, as in unix:///run/redis.sock")
        return Address(
            (Server(path=unquote(parts.path)),), False, _db(parts, ""), username, password
        )
    if parts.scheme not in ("redis", "rediss"):
        raise ConfigError("it must begin with redis://, rediss:// or unix://")
    if not host:
        raise ConfigError("it names no host")
    if given_port == 0:
        raise ConfigError("the port must be 1 or more")
    server = Server(host, port if given_port is None else given_port)
    tls = parts.scheme == "rediss"
    return Address((server,), tls, _db(parts, parts.path.strip("/")), username, password)


def _db(parts: SplitResult, from_path: str) -> int | None:
    """Return the number of the database, from the path or from ``?db=``."""
    found = from_path
    for name, value in parse_qsl(parts.query):
        if name != "db":
            raise ConfigError(
                f"the option {name!r} is not known in a URL; settings are keywords of the pool, such as ca_file"
            )
        found = value
    if parts.fragment:
        raise ConfigError("it has a '#'; percent-encode special characters of the password")
    if not found:
        return None
    if not found.isascii() or not found.isdigit() or len(found) > _DIGITS:
        raise ConfigError("the database must be a number, as in redis://host:6379/0")
    return int(found)
