"""redis-py's own client of a cluster, over the connections of a pool that knows where the slots are.

Single commands and pipelines are sent by the pool, and again where that is safe; transactions are redis-py's, on a
connection that is lent for as long as they need it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE
from redis.cluster import ClusterPipeline, PipelineStrategy, TransactionStrategy
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from ..core.deadline import ambient
from ..core.errors import PoolKitError
from ..core.retry import Try
from .address import Server
from .candour import candid
from .client_pools import LentPool
from .cluster import Cluster
from .commands import Traits, traits_of
from .config import RedisConfig
from .connection import PooledConnection
from .running import Running

ANYBODY = "*"
"""The host by which redis-py asks whichever node of a cluster the pool can reach."""


class PooledCluster(redis.RedisCluster):
    """A ``redis.RedisCluster`` whose commands the pool sends: where their keys are, and again where that is safe."""

    def __init__(self, run: Callable[[], Running], **options: Any) -> None:
        self.run = run
        self._options = options
        self._process = os.getpid()
        self._slots = self._cluster().wait()
        super().__init__(**options)

    @property
    def nodes_manager(self) -> Any:
        """What redis-py knows of the nodes; anew in a forked child, where nobody gives its locks back."""
        if self._process != os.getpid():
            self._begin_anew()
        return self._nodes_manager

    @nodes_manager.setter
    def nodes_manager(self, manager: Any) -> None:
        self._nodes_manager = manager

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:
        """Return a pipeline, or with *transaction* one whose keys are all in one slot and that runs as a whole."""
        self._keep_up()
        pipe: ClusterPipeline = super().pipeline(transaction, shard_hint)
        pipe._execution_strategy = (
            CandidTransaction(pipe) if transaction else PooledPipeline(pipe, self)
        )
        return pipe

    def close(self) -> None:
        """Do nothing: the connections are the pool's."""

    def _internal_execute_command(self, *args: Any, **options: Any) -> Any:
        self._keep_up()
        return super()._internal_execute_command(*args, **options)

    def _execute_command(self, target_node: Any, *args: Any, **options: Any) -> Any:
        """Send one command to the node that has its key; if it has none, to the one that redis-py wants."""
        client = self.get_redis_connection(target_node)
        key = traits_of(args).first_key(args)
        deadline = ambient()

        def send(conn: PooledConnection) -> Any:
            return client._send_command_parse_response(conn, args[0], *args, **options)

        def attempt(state: Try) -> Any:
            cluster = self._cluster()
            if key is not None:
                return cluster.use(send, key, state=state, deadline=deadline)
            node = cluster.node_at(Server(target_node.host, target_node.port))
            return node.use(send, state=state, deadline=deadline)

        reply = self.run().retrier.call(
            attempt,
            idempotent=traits_of(args).repeatable(args),
            deadline=deadline,
            operation=traits_of(args).name,
        )
        parse = self.cluster_response_callbacks.get(args[0])
        return reply if parse is None else parse(reply, **options)

    def _begin_anew(self) -> None:
        """Let go of all that has locks; callbacks stay."""
        fresh = PooledCluster(self.run, **self._options)
        self._lock = fresh._lock
        self._event_dispatcher = fresh._event_dispatcher
        self._himport_registry = fresh._himport_registry
        self._slots = fresh._slots
        self._nodes_manager = fresh._nodes_manager
        self._process = fresh._process  # last: other threads may be at it too

    def _keep_up(self) -> None:
        """Have redis-py learn anew which nodes there are, if that has changed."""
        slots = self._cluster().wait()
        if slots is not self._slots:
            with suppress(redis.exceptions.RedisClusterException):  # next time, then
                self.nodes_manager.initialize()
                self._slots = slots

    def _cluster(self) -> Cluster:
        topology = self.run().topology
        assert isinstance(topology, Cluster)
        return topology


class PooledPipeline(PipelineStrategy):
    """How a pipeline of redis-py's is sent: by the pool, since redis-py sends again what may have run."""

    def __init__(self, pipe: ClusterPipeline, client: PooledCluster) -> None:
        super().__init__(pipe)
        self._client = client

    def _send_cluster_commands(
        self,
        stack: Any,
        raise_on_error: bool = True,
        allow_redirections: bool = True,  # noqa: ARG002
    ) -> list[Any]:
        began = monotonic()
        described = [(command, traits_of(command.args)) for command in stack]
        together = [
            (command, traits) for command, traits in described if _can_be_batched(command, traits)
        ]
        replies = self._client.run().batch([(command.args, traits) for command, traits in together])
        for (command, _), reply in zip(together, replies, strict=True):
            command.result = self._parse(command, reply)
        for command, traits in described:
            if not _can_be_batched(command, traits):
                command.result = self._send_alone(command)
        if raise_on_error:
            self._raise_first_error(stack, began)
        return [command.result for command in stack]

    def _parse(self, command: Any, reply: Any) -> Any:
        client = self._pipe.get_default_node().redis_connection
        try:
            return client.parse_response(_Told(reply), command.args[0], **command.options)
        except redis.RedisError as error:
            return error

    def _send_alone(self, command: Any) -> Any:
        try:
            return self._client.execute_command(*command.args, **command.options)
        except (redis.RedisError, PoolKitError) as error:
            return error  # others have run


class CandidTransaction(TransactionStrategy):
    """How a transaction of redis-py's is sent: once, by redis-py."""

    def _execute_transaction(self, stack: Any, raise_on_error: bool) -> Any:
        with candid([command.args for command in stack]):
            return super()._execute_transaction(stack, raise_on_error)

    def _send_command_parse_response(
        self, conn: Any, redis_node: Any, command_name: Any, *args: Any, **options: Any
    ) -> Any:
        with candid([args]):
            return super()._send_command_parse_response(
                conn, redis_node, command_name, *args, **options
            )


class _Told:
    """What redis-py takes for the connection that a reply is to be read from."""

    def __init__(self, reply: Any) -> None:
        self._reply = reply

    def read_response(self) -> Any:
        """Return the reply, or raise it."""
        if isinstance(self._reply, Exception):
            raise self._reply
        return self._reply


def _can_be_batched(command: Any, traits: Traits) -> bool:
    """Whether a command of a pipeline says by itself where it goes, and has its reply decoded like all others."""
    if "target_nodes" in command.options or NEVER_DECODE in command.options:
        return False
    return traits.first_key(command.args) is not None


def make_cluster_client(config: RedisConfig, run: Callable[[], Running]) -> PooledCluster:
    """Return a client that learns of the nodes from those that the pool knows."""

    def pool_at(*, host: str, port: int, **_: Any) -> LentPool:
        if host == ANYBODY:
            return LentPool(config, run, lambda: run().topology.node_for(None, ambient()))
        server = Server(host, int(port))
        pool = LentPool(config, run, lambda: run().topology.node_at(server))
        # By these a transaction finds the pool that its connection goes back to.
        pool.connection_kwargs.update(host=host, port=int(port))
        return pool

    def by_name(address: tuple[str, int]) -> tuple[str, int]:
        host, port = address
        return (config.servers[0].host if host == ANYBODY else host, port)

    return PooledCluster(
        run,
        url=f"redis://{ANYBODY}",
        dynamic_startup_nodes=False,
        address_remap=by_name,  # of a node that does not know its own
        connection_pool_class=pool_at,
        decode_responses=config.decode_responses,
        protocol=3,
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
