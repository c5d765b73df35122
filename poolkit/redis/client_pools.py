"""What redis-py's clients take for their pools: they lend the connections of a RedisPool."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis
from redis.maint_notifications import MaintNotificationsConfig

from ..core.deadline import ambient
from .config import RedisConfig
from .connection import PooledConnection
from .dial import connection_options
from .node import RedisNode
from .running import Running
from .transports import TcpConnection


class _NoPool(redis.ConnectionPool):
    """What redis-py needs to know of a pool, without the connections."""

    def __init__(self, config: RedisConfig) -> None:
        options = {
            **connection_options(config),
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        super().__init__(connection_class=TcpConnection, **options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of a poolkit.RedisPool>"

    def close(self) -> None:
        """Do nothing: the connections are the pool's."""


class LentPool(_NoPool):
    """What redis-py takes for its pool: it lends the connections of one node."""

    def __init__(
        self, config: RedisConfig, run: Callable[[], Running], find: Callable[[], RedisNode]
    ) -> None:
        super().__init__(config)
        self.run = run
        self._find = find

    def get_connection(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        """Borrow a connection."""
        lease, conn = self._find().lender.lend(ambient())
        if conn.lease is not lease:
            raise RuntimeError("a connection was lent twice")
        return conn

    def release(self, connection: Any) -> None:
        """Give a connection back."""
        lease = connection.lease
        if lease is not None:
            connection.node.lender.take_back(lease, connection)

    def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: ARG002
        """Replace all connections: idle ones now, lent ones when they come back."""
        self._find().condemn()


class HeldPool(_NoPool):
    """What redis-py takes for its pool: the one connection that a block holds."""

    conn: PooledConnection | None = None
    users: list[None]
    """One entry for each time that somebody has taken the connection and not given it back."""

    def get_connection(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        """Return the connection that is held."""
        conn = self.conn
        if conn is None:
            raise redis.ConnectionError("the block that held this connection has ended")
        self.users.append(None)
        return conn

    def release(self, connection: Any) -> None:  # noqa: ARG002
        """Take note: it is held until the block ends."""
        with suppress(IndexError):
            self.users.pop()

    def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: ARG002
        """Close the connection that is held."""
        if self.conn is not None:
            self.conn.disconnect()

    def holding(self, conn: PooledConnection) -> HeldPool:
        """Return a pool like this one that has *conn*."""
        pool = copy.copy(self)
        pool.conn, pool.users = conn, []
        return pool
