"""The block in which the caller's own code has one connection: ``with cache.connection()``."""

from __future__ import annotations

from types import TracebackType

from ..core.deadline import ambient
from ..core.errors import BackendUnavailable
from ..core.lease import Lease
from ..core.lifecycle import Lifecycle
from .client import HeldClient, hold
from .commands import Argument
from .connection import PooledConnection
from .node import RedisNode
from .running import Running


class Borrowed:
    """A connection for the length of a ``with`` block; see :meth:`RedisPool.connection`."""

    __slots__ = ("_client", "_conn", "_key", "_lease", "_lifecycle", "_node", "_template")

    _client: HeldClient
    _lease: Lease[PooledConnection]
    _node: RedisNode

    def __init__(
        self, lifecycle: Lifecycle[Running], template: HeldClient, key: Argument | None
    ) -> None:
        self._lifecycle = lifecycle
        self._template = template
        self._key = key
        self._conn: PooledConnection | None = None

    def __enter__(self) -> HeldClient:
        if self._conn is not None:
            raise RuntimeError("this block is already entered; ask the pool for another connection")
        topology = self._lifecycle.open().topology
        self._node = topology.node_for(self._key, ambient())
        while True:
            try:
                self._lease, self._conn = self._node.lender.lend(ambient())
                break
            except BackendUnavailable:
                # Who waits for a master may find that another one has taken over.
                there = topology.node_for(self._key, ambient())
                if there is self._node:
                    raise
                self._node = there
        self._client = hold(self._template, self._conn)
        return self._client

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            pool = self._client.connection_pool
            pool.conn = None
            try:
                if pool.users:
                    conn.disconnect()  # a client or a pipeline that goes on with it must not cross the next lease
            finally:
                self._node.lender.take_back(self._lease, conn)
