"""redis-py's own clients, over the connections of a pool: the whole of its API, with the pool's promises.

Single commands, and a cluster's pipelines, are sent by the pool, and again where that is safe; other pipelines,
transactions and pub/sub are redis-py's, on a connection that is lent for as long as they need it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE, CaseInsensitiveDict
from redis.cluster import ClusterPipeline, PipelineStrategy, TransactionStrategy
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from ..core.deadline import ambient
from ..core.errors import OutcomeUnknown, PoolKitError
from ..core.retry import Phase, Try
from .address import Server
from .cluster import Cluster
from .commands import Argument, Session, Traits, traits_of
from .config import RedisConfig
from .connection import PooledConnection
from .dial import connection_options
from .failures import classify
from .node import RedisNode
from .running import Running
from .transports import TcpConnection

ANYBODY = "*"
"""The host by which redis-py asks whichever node of a cluster the pool can reach."""


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


class _Candid:
    """Says that the outcome of a write is unknown where redis-py only says that its answer was lost."""

    def _send_command_parse_response(
        self, conn: PooledConnection, command_name: str, *args: Any, **options: Any
    ) -> Any:
        with _candid([args]):
            return super()._send_command_parse_response(conn, command_name, *args, **options)  # type: ignore[misc]


class CandidPipeline(_Candid, redis.client.Pipeline):
    """A pipeline of redis-py's that is sent once, and says so if it can't know what became of it.

    redis-py's own calls a lost EXEC a change of a watched key, after which callers begin again.
    """

    def _execute_transaction(self, connection: Any, commands: Any, raise_on_error: bool) -> Any:
        with _candid([args for args, _ in commands]):
            return super()._execute_transaction(connection, commands, raise_on_error)

    def _execute_pipeline(self, connection: Any, commands: Any, raise_on_error: bool) -> Any:
        with _candid([args for args, _ in commands]):
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
        with _candid([command.args for command in stack]):
            return super()._execute_transaction(stack, raise_on_error)

    def _send_command_parse_response(
        self, conn: Any, redis_node: Any, command_name: Any, *args: Any, **options: Any
    ) -> Any:
        with _candid([args]):
            return super()._send_command_parse_response(
                conn, redis_node, command_name, *args, **options
            )


@contextmanager
def _candid(commands: Sequence[Sequence[Argument]]) -> Iterator[None]:
    """Raise :class:`~poolkit.OutcomeUnknown` if the answer to *commands* is lost, and one must not be repeated."""
    try:
        yield
    except redis.RedisError as error:
        if classify(error, Phase.RUNNING).unknown and any(map(_leaves_a_trace, commands)):
            raise OutcomeUnknown(
                f"its answer was lost, so it may have taken effect or not: {error}"
            ) from error
        raise


def _leaves_a_trace(args: Sequence[Argument]) -> bool:
    """Whether a command must not be repeated on another connection: what it does to its own is gone with that."""
    traits = traits_of(args)
    if traits.session is Session.KEEPS:
        return not traits.repeatable(args)
    return traits.name == "EXEC"


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


def make_client(config: RedisConfig, run: Callable[[], Running]) -> redis.Redis | PooledCluster:
    """Return a client over all the nodes there are."""
    return _make_cluster_client(config, run) if config.is_cluster else _make_client(config, run)


def _make_cluster_client(config: RedisConfig, run: Callable[[], Running]) -> PooledCluster:
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
