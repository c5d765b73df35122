"""redis-py's own clients, over the connections of a pool: the whole of its API, with the pool's promises.

Single commands are sent again where that is safe; pipelines, transactions and pub/sub are redis-py's, on a
connection that is lent for as long as they need it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from ..core.deadline import ambient
from ..core.retry import Phase, Try
from .address import Server
from .commands import traits_of
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

    def __init__(
        self, config: RedisConfig, run: Callable[[], Running], find: Callable[[], Node]
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

    connection_pool: LentPool

    def _execute_command(self, *args: Any, **options: Any) -> Any:
        if self.connection is not None:  # it keeps one for itself
            return super()._execute_command(*args, **options)
        return self.connection_pool.run().use(
            lambda conn: self._send_command_parse_response(conn, args[0], *args, **options), args
        )


class HeldClient(redis.Redis):
    """A ``redis.Redis`` on the one connection that a block holds."""

    connection_pool: HeldPool


class PooledCluster(redis.RedisCluster):
    """A ``redis.RedisCluster`` whose single commands are sent again where that is safe."""

    def __init__(self, run: Callable[[], Running], **options: Any) -> None:
        self._run = run
        super().__init__(**options)

    def _internal_execute_command(self, *args: Any, **kwargs: Any) -> Any:
        def attempt(state: Try) -> Any:
            state.phase = Phase.RUNNING
            return super(PooledCluster, self)._internal_execute_command(*args, **kwargs)

        return self._run().retrier.call(
            attempt, idempotent=traits_of(args).repeatable(args), deadline=ambient()
        )


def make_client(config: RedisConfig, run: Callable[[], Running]) -> redis.Redis | PooledCluster:
    """Return a client over all the nodes there are."""
    return _make_cluster_client(config, run) if config.is_cluster else _make_client(config, run)


def _make_cluster_client(config: RedisConfig, run: Callable[[], Running]) -> PooledCluster:
    """Return a client that finds the nodes by itself, and their connections in the pool."""

    def pool_at(*, host: str, port: int, **_: Any) -> LentPool:
        server = Server(host, int(port))
        return LentPool(config, run, lambda: run().topology.node_at(server))

    return PooledCluster(
        run,
        url=f"redis://{config.servers[0]}",
        connection_pool_class=pool_at,
        decode_responses=config.decode_responses,
        protocol=3,
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )


def _make_client(config: RedisConfig, run: Callable[[], Running]) -> PooledClient:
    """Return a client over the one node there is."""
    pool = LentPool(config, run, lambda: run().topology.node_for(None, ambient()))
    return PooledClient(connection_pool=pool)


def make_held_client(config: RedisConfig) -> HeldClient:
    """Return a client to be copied by :func:`hold`: making one is slow."""
    return HeldClient(connection_pool=HeldPool(config))


def hold(template: HeldClient, conn: PooledConnection) -> HeldClient:
    """Return a client on *conn* alone."""
    client = copy.copy(template)
    client.connection_pool = copy.copy(template.connection_pool)
    client.connection_pool.conn = conn
    return client
