"""What is said on a new connection before it can be used: all of it in one round trip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import redis
from redis.exceptions import NoPermissionError
from redis.utils import str_if_bytes

if TYPE_CHECKING:
    from .connection import PooledConnection

LIBRARY = "redis-py(poolkit)"
"""What the server's ``CLIENT LIST`` calls us."""

Exchange = Callable[[Sequence[tuple[Any, ...]]], Iterator[Any]]


def greet(conn: PooledConnection, exchange: Exchange) -> Any:
    """Log in, name ourselves, select the database and look if it is loaded; return what HELLO answered.

    *exchange* sends commands and yields their replies. Raises the first error among those that matter.
    """
    needed: list[tuple[Any, ...]] = [("HELLO", conn.protocol, *_credentials(conn))]
    if conn.client_name:
        needed.append(("CLIENT", "SETNAME", conn.client_name))
    if conn.db:
        needed.append(("SELECT", conn.db))
    if conn.ready_check:
        needed.append(("PING",))
    if conn.wants_master:
        needed.append(("ROLE",))
    polite = [
        ("CLIENT", "SETINFO", "LIB-NAME", LIBRARY),
        ("CLIENT", "SETINFO", "LIB-VER", redis.__version__),
    ]
    replies = list(exchange([*needed, *polite]))
    for command, reply in zip(needed, replies, strict=False):
        if command[0] == "PING" and isinstance(reply, NoPermissionError):
            continue  # a user that may not look; commands will tell
        if isinstance(reply, Exception):
            raise reply if reply is not replies[0] else _discreet(reply, needed[0])
    if conn.wants_master and str_if_bytes(replies[len(needed) - 1][0]) != "master":
        raise redis.ConnectionError("this server is not the master any more")
    return replies[0]


def _discreet(error: Exception, hello: Sequence[Any]) -> Exception:
    """Return what to raise for an *error* that answered *hello*: who does not know it may quote the password."""
    text = str(error)
    if "unknown command" in text.lower():
        return redis.ResponseError("it does not know HELLO: Redis 6 or newer is needed")
    secret = str_if_bytes(hello[-1]) if "AUTH" in hello else ""
    if secret and secret in text:
        return type(error)(text.replace(secret, "***"))
    return error


def _credentials(conn: PooledConnection) -> tuple[Any, ...]:
    if conn.credential_provider is not None:
        given = tuple(conn.credential_provider.get_credentials())
    elif conn.password or conn.username:
        given = (conn.username or "default", conn.password or "")
    else:
        return ()
    return ("AUTH", *(given if len(given) == 2 else ("default", *given)))
