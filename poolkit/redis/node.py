"""One Redis server: where it is, how commands are sent to it, and what is learnt from its errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
from redis.exceptions import AskError, MovedError

from ..core.combining import Combiner
from ..core.deadline import Deadline
from ..core.events import Events
from ..core.lease import Holder
from ..core.node import Node
from ..core.retry import Try
from ..core.stats import Tally
from ..core.verdict import Phase
from .address import Server
from .commands import Argument, Command, Traits
from .config import RedisConfig
from .connection import PooledConnection
from .dial import make_connection
from .failures import classify
from .lanes import Asked, RedisFlight

ResultT = TypeVar("ResultT")


class RedisNode:
    """One server, or the master that sentinels name.

    *locate* says where it is, each time a connection is opened. *lost* is called, with no lock held, when
    it can't be reached, and *moved* when it said that a slot is elsewhere.
    """

    def __init__(
        self,
        name: str,
        config: RedisConfig,
        *,
        tally: Tally,
        events: Events,
        locate: Callable[[Deadline], Server],
        lost: Callable[[], None] = lambda: None,
        moved: Callable[[MovedError, RedisNode], None] = lambda error, node: None,  # noqa: ARG005
    ) -> None:
        self.name = name
        self._config = config
        self._locate = locate
        self._moved = moved
        self._node: Node[PooledConnection] = Node(
            name,
            config,
            dial=self._dial,
            connect_timeout=config.connect_timeout,
            is_hopeless=_is_hopeless,
            tally=tally,
            events=events,
            waits_out=config.offline_queue,
            lost=lost,
            returned=self._hear,
        )
        self.lender = self._node.lender
        self.outage = self._node.outage
        self._combiner: Combiner[PooledConnection, Asked, Any] | None = None
        if config.combine:
            self._combiner = Combiner(
                self.lender,
                lanes=min(config.lanes, config.max_size),
                launch=RedisFlight,
                tally=tally,
            )
        self._lock = threading.RLock()  # a collection in here may come back
        # Guarded by _lock, but read without it:
        self._server: Server | None = None

    def __repr__(self) -> str:
        return f"<RedisNode at {self._server}: {self._node!r}>"

    @property
    def server(self) -> Server | None:
        """Where it was when a connection was last opened."""
        return self._server

    @property
    def retired(self) -> bool:
        """Whether its commands go elsewhere now, or the pool is closed."""
        return self._node.retired

    # -- use -----------------------------------------------------------------------------------------

    def command(
        self,
        args: Sequence[Argument],
        traits: Traits,
        *,
        decode: bool,
        state: Try,
        deadline: Deadline,
    ) -> Any:
        """Send one command on a connection of this node, and return its reply."""
        if self._combiner is None or not traits.combines:
            return self.use(
                lambda conn: conn.command(args, traits, decode=decode),
                state=state,
                deadline=deadline,
            )
        try:
            return self._combiner.ask(Asked(args, traits, decode), state, deadline)
        except redis.RedisError as error:
            self.heed(error)
            raise

    def use(
        self, work: Callable[[PooledConnection], ResultT], *, state: Try, deadline: Deadline
    ) -> ResultT:
        """Return ``work(connection)``, done with a connection of this node."""
        lease, conn = self.lender.lend(deadline)
        try:
            state.phase = Phase.RUNNING
            return work(conn)
        except redis.RedisError as error:
            self.heed(error)
            raise
        finally:
            self.lender.take_back(lease, conn)

    def batch(self, commands: Sequence[Command], *, state: Try, deadline: Deadline) -> list[Any]:
        """Send *commands* in one round trip, and return their replies; an error of the server is one too."""
        replies = self.use(lambda conn: conn.batch(commands), state=state, deadline=deadline)
        for reply in replies:
            if isinstance(reply, redis.RedisError):
                self.heed(reply)
        return replies

    def heed(self, error: redis.RedisError) -> None:
        """Learn from what went wrong on a connection."""
        if isinstance(error, redis.ReadOnlyError):
            self.condemn()  # it became a replica; the master is to be found anew
        elif isinstance(error, redis.BusyLoadingError):
            self.outage.down(error)()
        elif isinstance(error, AskError) and not self._config.is_cluster:  # MovedError is one too
            there = f"{error.host}:{error.port}"
            error.args = (
                f"slot {error.slot_id} is at {there}: this server is a node of a cluster; use nodes=[…]",
            )

    def condemn(self) -> None:
        """Close all connections that there are: idle ones now, lent ones when they come back."""
        self._node.condemn()

    # -- look after it ---------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Take back what nobody can return, and close what is dead, too old, or was not needed for long."""
        self._node.sweep()

    def retire(self) -> None:
        """Lend nothing more, since commands go elsewhere now; who waits is told to look there."""
        self._node.retire(f"{self._server} has no slots any more")

    def stop(self, deadline: Deadline) -> Sequence[Holder]:
        """Lend nothing more, wait for what is lent until *deadline*, and return who still holds."""
        return self._node.stop(deadline)

    def join(self, deadline: Deadline) -> None:
        """Wait until *deadline* for a probe that is under way."""
        self._node.join(deadline)

    def abandon(self) -> None:
        """In a forked child: touch nothing of the parent's, and take none of its locks."""
        self._node.abandon()

    # -- private ---------------------------------------------------------------------------------------

    def _dial(self, until: Deadline) -> PooledConnection:
        """Open a connection to where the server is now."""
        server = self._locate(until)
        with self._lock:
            moved = self._server not in (None, server)
            self._server = server
        if moved:
            self.condemn()
        conn = make_connection(server, self._config)
        conn.wants_master = self._config.has_sentinels
        conn.node = self._node
        try:
            conn.open(until)
        except BaseException:
            conn.disconnect()
            raise
        return conn

    def _hear(self, conn: PooledConnection) -> None:
        """Heed what the server said on a connection that comes back."""
        news = conn.news
        if news is None:
            return
        conn.news = None
        if isinstance(news, MovedError):
            self._moved(news, self)
        else:
            self.heed(news)


def _is_hopeless(error: BaseException) -> bool:
    return classify(error, Phase.CONNECTING).hopeless
