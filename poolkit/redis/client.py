"""redis-py's own clients, over the connections of a pool: the whole of its API, with the pool's promises.

Single commands are sent by the pool, and again where that is safe; pipelines, transactions and pub/sub are
redis-py's, on a connection that is lent for as long as they need it. That of a cluster is in cluster_client.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import redis
from redis.client import CaseInsensitiveDict

from ..core.deadline import ambient
from .candour import candid
from .client_pools import HeldPool, LentPool
from .cluster_client import PooledCluster, make_cluster_client
from .config import RedisConfig
from .connection import PooledConnection
from .running import Running


class _Candid:
    """Says that the outcome of a write is unknown where redis-py only says that its answer was lost."""

    def _send_command_parse_response(
        self, conn: PooledConnection, command_name: str, *args: Any, **options: Any
    ) -> Any:
        with candid([args]):
            return super()._send_command_parse_response(conn, command_name, *args, **options)  # type: ignore[misc]


class CandidPipeline(_Candid, redis.client.Pipeline):
    """A pipeline of redis-py's that is sent once, and says so if it can't know what became of it.

    redis-py's own calls a lost EXEC a change of a watched key, after which callers begin again.
    """

    def _execute_transaction(self, connection: Any, commands: Any, raise_on_error: bool) -> Any:
        with candid([args for args, _ in commands]):
            return super()._execute_transaction(connection, commands, raise_on_error)

    def _execute_pipeline(self, connection: Any, commands: Any, raise_on_error: bool) -> Any:
        with candid([args for args, _ in commands]):
            return super()._execute_pipeline(connection, commands, raise_on_error)


class _CandidClient(_Candid, redis.Redis):
    def pipeline(self, transaction: Any = True, shard_hint: Any = None) -> CandidPipeline:
        """Return a pipeline, by default one that is a transaction."""
        return CandidPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint
        )


class PooledClient(_CandidClient):
    """A ``redis.Redis`` whose single commands are sent again where that is safe."""

    connection_pool: LentPool

    def _execute_command(self, *args: Any, **options: Any) -> Any:
        if self.connection is not None:  # it keeps one for itself
            return super()._execute_command(*args, **options)
        return self.connection_pool.run().use(
            lambda conn: self._send_command_parse_response(conn, args[0], *args, **options), args
        )


class HeldClient(_CandidClient):
    """A ``redis.Redis`` on the one connection that a block holds."""

    connection_pool: HeldPool


def make_client(config: RedisConfig, run: Callable[[], Running]) -> redis.Redis | PooledCluster:
    """Return a client over all the nodes there are."""
    return make_cluster_client(config, run) if config.is_cluster else _make_client(config, run)


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
    client.connection_pool = template.connection_pool.holding(conn)
    callbacks = CaseInsensitiveDict({})  # its own to change
    dict.update(callbacks, template.response_callbacks)  # whose names are in capitals already
    client.response_callbacks = callbacks
    return client
