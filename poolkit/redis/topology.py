"""Which node a command goes to. With one server, or one master, there is little to ask; see also cluster.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..core.deadline import Deadline
from ..core.retry import Try
from .address import Server
from .commands import Argument, Command, Traits
from .node import RedisNode


class Topology(Protocol):
    """Knows the nodes, and sends commands where they belong."""

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

    def batch(self, commands: Sequence[Command], *, state: Try, deadline: Deadline) -> list[Any]:
        """Send *commands* in one round trip a node, and return their replies in order."""

    def node_for(self, key: Argument | None, deadline: Deadline) -> RedisNode:
        """Return the node that has *key*; for None, any."""

    def node_at(self, server: Server) -> RedisNode:
        """Return the node that *server* is."""

    def nodes(self) -> list[RedisNode]:
        """Return the nodes there are now."""

    def sweep(self) -> None:
        """Look after the nodes."""

    def end(self) -> None:
        """Look for no more nodes."""

    def join(self, deadline: Deadline) -> None:
        """Wait until *deadline* for looks and probes that are under way."""

    def abandon(self) -> None:
        """In a forked child: touch nothing of the parent's, and take none of its locks."""


class Single:
    """One node."""

    def __init__(self, node: RedisNode) -> None:
        self._node = node
        self.command = node.command
        self.batch = node.batch

    def node_for(self, key: Argument | None, deadline: Deadline) -> RedisNode:  # noqa: ARG002
        """Return the only node."""
        return self._node

    def node_at(self, server: Server) -> RedisNode:  # noqa: ARG002
        """Return the only node."""
        return self._node

    def nodes(self) -> list[RedisNode]:
        """Return the only node."""
        return [self._node]

    def sweep(self) -> None:
        """Look after it."""
        self._node.sweep()

    def end(self) -> None:
        """Do nothing: there is nothing to look for."""

    def join(self, deadline: Deadline) -> None:
        """Wait until *deadline* for a probe that is under way."""
        self._node.join(deadline)

    def abandon(self) -> None:
        """In a forked child: touch nothing of the parent's."""
        self._node.abandon()
