"""How connections are made: for a pool, or for one question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from ..core.deadline import Deadline
from .address import Server
from .commands import Argument, traits_of
from .config import RedisConfig
from .connection import PooledConnection
from .transports import TcpConnection, TlsConnection, UnixConnection

# Deadlines are none of redis-py's time-outs, after which it connects anew, or says that a watched key has changed.
_ONCE = Retry(NoBackoff(), 0, supported_errors=(redis.ConnectionError, redis.TimeoutError))


def make_connection(server: Server, config: RedisConfig) -> PooledConnection:
    """Return a connection to *server*, not open yet."""
    options = connection_options(config)
    conn: PooledConnection
    if server.path:
        conn = UnixConnection(path=server.path, **options)
    elif config.context is not None:
        tls = TlsConnection(host=server.host, port=server.port, **options)
        tls.context = config.context
        conn = tls
    else:
        conn = TcpConnection(host=server.host, port=server.port, **options)
    conn.retry = _ONCE
    conn.command_timeout = config.command_timeout
    conn.ready_check = config.ready_check
    return conn


def connection_options(config: RedisConfig) -> dict[str, Any]:
    """Return redis-py's own settings of a connection."""
    return {
        "db": config.db,
        "username": config.username or None,
        "password": config.password or None,
        "credential_provider": config.credential_provider,
        "client_name": config.client_name or None,
        "decode_responses": config.decode_responses,
        "protocol": 3,
        "socket_timeout": config.command_timeout,
        "socket_connect_timeout": config.connect_timeout,
        "health_check_interval": 0,
        "maint_notifications_config": MaintNotificationsConfig(
            enabled="auto" if config.maintenance_notifications else False
        ),
    }


def ask(
    server: Server,
    config: RedisConfig,
    *questions: Sequence[Argument],
    until: Deadline,
    timeout: float,
) -> list[Any]:
    """Return the replies to *questions*, asked on a connection made for them. Raises what the server refuses."""
    conn = make_connection(server, config)
    conn.ready_check = False
    until = Deadline.after(timeout).earlier(until)
    try:
        conn.open(until)
        return [conn.command(words, traits_of(words), until=until) for words in questions]
    finally:
        conn.disconnect()
