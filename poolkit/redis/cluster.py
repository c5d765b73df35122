"""Which node of a cluster a command goes to, and where it goes then when that one says that it is not the one.

The rules are those of the Redis cluster specification: MOVED for a slot that has moved, ASK for one that is moving.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
from redis.exceptions import AskError, ClusterDownError, MovedError

from ..core.deadline import Deadline
from ..core.errors import (
    BackendUnavailable,
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
    PoolKitError,
)
from ..core.events import Events
from ..core.retry import Try
from ..core.stats import Tally
from ..core.verdict import Phase
from .commands import ASKING, Argument, Command, Traits
from .config import RedisConfig
from .connection import PooledConnection
from .failures import part_has_run
from .node import RedisNode
from .slots import Slots

ResultT = TypeVar("ResultT")

_SILENCES = (
    redis.ConnectionError,
    redis.TimeoutError,
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
)
"""What it looks like when a node does not answer."""

REDIRECTS = 8
"""How often a command follows MOVED and ASK before it gives up: more means that the nodes disagree."""


class Cluster:
    """The masters of a cluster, and how commands find theirs; see :class:`~.topology.Topology`."""

    def __init__(self, config: RedisConfig, *, tally: Tally, events: Events) -> None:
        self._slots = slots = Slots(config, tally=tally, events=events)
        self.node_for = slots.node_for
        self.node_at = slots.node_at
        self.wait = slots.wait
        self.nodes = slots.nodes
        self.sweep = slots.sweep
        self.end = slots.end
        self.join = slots.join
        self.abandon = slots.abandon

    def __repr__(self) -> str:
        return f"<Cluster of {self._slots!r}>"

    def command(
        self,
        args: Sequence[Argument],
        traits: Traits,
        *,
        decode: bool,
        state: Try,
        deadline: Deadline,
    ) -> Any:
        """Send one command to the node that has its key, and return its reply."""
        return self._route(
            lambda node: node.command(args, traits, decode=decode, state=state, deadline=deadline),
            lambda conn: conn.command(args, traits, decode=decode),
            traits.first_key(args),
            state=state,
            deadline=deadline,
        )

    def use(
        self,
        work: Callable[[PooledConnection], ResultT],
        key: Argument | None,
        *,
        state: Try,
        deadline: Deadline,
    ) -> ResultT:
        """Return ``work(connection)``, done with a connection to the node that has *key*."""
        return self._route(
            lambda node: node.use(work, state=state, deadline=deadline),
            work,
            key,
            state=state,
            deadline=deadline,
        )

    def _route(
        self,
        at: Callable[[RedisNode], ResultT],
        work: Callable[[PooledConnection], ResultT],
        key: Argument | None,
        *,
        state: Try,
        deadline: Deadline,
    ) -> ResultT:
        """Return ``at(node)`` of the node that has *key*; where the slot is only moving to, ``work(connection)``."""
        asking: RedisNode | None = None
        for _ in range(REDIRECTS):
            node = asking or self.node_for(key, deadline)
            try:
                if asking is None:
                    return at(node)
                return node.use(lambda conn: _ask(conn, work), state=state, deadline=deadline)
            except MovedError as error:
                self._slots.moved(error, node)
                asking = None
            except AskError as error:
                asking = self._slots.target(error, node)
            except BackendUnavailable:
                if not node.retired or self._slots.ended:
                    raise
                state.phase = Phase.CONNECTING
                asking = None
            except ClusterDownError as error:
                self._slots.down(error)
                raise
            except _SILENCES:
                self._slots.doubt(node)
                raise
        raise ClusterDownError("the nodes of the cluster do not agree where this key is")

    def batch(self, commands: Sequence[Command], *, state: Try, deadline: Deadline) -> list[Any]:
        """Send *commands* in one round trip a node, and return their replies in order.

        Those whose slot has moved, or is moving, are sent again one by one.
        """
        replies: list[Any] = [None] * len(commands)
        shares: dict[RedisNode, list[int]] = {}
        for position, (args, traits) in enumerate(commands):
            node = self.node_for(traits.first_key(args), deadline)
            shares.setdefault(node, []).append(position)
        done = False
        for node, positions in shares.items():
            try:
                found = node.batch(
                    [commands[at] for at in positions], state=state, deadline=deadline
                )
            except (redis.RedisError, PoolKitError) as error:
                if isinstance(error, _SILENCES):
                    self._slots.doubt(node)
                if done:
                    raise part_has_run(error) from error
                if (
                    not isinstance(error, BackendUnavailable)
                    or not node.retired
                    or self._slots.ended
                ):
                    raise
                state.phase = Phase.CONNECTING
                return self.batch(commands, state=state, deadline=deadline)
            done = True
            for at, reply in zip(positions, found, strict=True):
                replies[at] = reply
                if isinstance(reply, MovedError):
                    self._slots.moved(reply, node)
        for at, reply in enumerate(replies):
            if isinstance(reply, ClusterDownError):
                self._slots.down(reply)
            if isinstance(reply, AskError):
                args, traits = commands[at]
                try:
                    replies[at] = self.command(
                        args, traits, decode=True, state=state, deadline=deadline
                    )
                except redis.ResponseError as error:
                    replies[at] = error
                except (redis.RedisError, PoolKitError) as error:
                    raise part_has_run(error) from error
        return replies


def _ask(conn: PooledConnection, work: Callable[[PooledConnection], ResultT]) -> ResultT:
    """Do *work* where a slot is moving to, this time only."""
    conn.command(("ASKING",), ASKING)
    return work(conn)
