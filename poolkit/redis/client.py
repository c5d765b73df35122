"""redis-py's own clients, over the connections of a pool: the whole of its API, with the pool's promises.

Single commands are sent again where that is safe; pipelines, transactions and pub/sub are redis-py's, on a
connection that is lent for as long as they need it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import redis
from redis.maint_notifications import MaintNotificationsConfig

from ..core.deadline import ambient
from .config import RedisConfig
from .connection import PooledConnection, TcpConnection
from .dial import connection_options
from .node import Node
from .running import Running


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

    def __init__(self, config: RedisConfig, find: Callable[[], Node]) -> None:
        super().__init__(config)
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

    def get_connection(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        """Return the connection that is held."""
        if self.conn is None:
            raise redis.ConnectionError("the block that held this connection has ended")
        return self.conn

    def release(self, connection: Any) -> None:
        """Do nothing: it is held until the block ends."""

    def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: ARG002
        """Close the connection that is held."""
        if self.conn is not None:
            self.conn.disconnect()


class PooledClient(redis.Redis):
    """A ``redis.Redis`` whose single commands are sent again where that is safe."""

    run: Callable[[], Running]

    def _execute_command(self, *args: Any, **options: Any) -> Any:
        return self.run().use(
            lambda conn: self._send_command_parse_response(conn, args[0], *args, **options), args
        )


class HeldClient(redis.Redis):
    """A ``redis.Redis`` on the one connection that a block holds."""

    connection_pool: HeldPool


def make_client(config: RedisConfig, run: Callable[[], Running]) -> PooledClient:
    """Return a client over the one node there is."""
    pool = LentPool(config, lambda: run().topology.node_for(None, ambient()))
    client = PooledClient(connection_pool=pool)
    client.run = run
    return client


def make_held_client(config: RedisConfig) -> HeldClient:
    """Return a client to be copied by :func:`hold`: making one is slow."""
    return HeldClient(connection_pool=HeldPool(config))


def hold(template: HeldClient, conn: PooledConnection) -> HeldClient:
    """Return a client on *conn* alone."""
    client = copy.copy(template)
    client.connection_pool = copy.copy(template.connection_pool)
    client.connection_pool.conn = conn
    return client
