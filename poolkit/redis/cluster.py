"""Which node of a cluster a command goes to: by the slot of its key, as the nodes themselves tell it.

The rules are those of the Redis cluster specification: 16,384 slots, MOVED for a slot that has moved, ASK for
one that is moving.
"""

from __future__ import annotations

import logging
import random
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar

import redis
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, NoPermissionError
from redis.utils import str_if_bytes

from ..core.deadline import Deadline, ambient
from ..core.errors import (
    BackendUnavailable,
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
    PoolClosed,
    PoolKitError,
)
from ..core.events import Events
from ..core.housekeeper import housekeeper
from ..core.outage import Outage
from ..core.retry import Phase, Try
from ..core.stats import Tally
from .address import Server
from .commands import ASKING, Argument, Command, Traits
from .config import RedisConfig
from .connection import PooledConnection
from .dial import ask
from .failures import classify, part_has_run
from .node import RedisNode

logger = logging.getLogger("poolkit.redis")

ResultT = TypeVar("ResultT")

_SILENCES = (
    redis.ConnectionError,
    redis.TimeoutError,
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
)
"""What it looks like when a node does not answer."""

SLOTS = 16384
REDIRECTS = 8
"""How often a command follows MOVED and ASK before it gives up: more means that the nodes disagree."""

ASK_TIMEOUT = 2.0
"""Seconds that one node may take to say what it knows of the cluster, before the next one is asked."""

DOUBT_PAUSE = 0.2
"""Seconds between two looks at most that are due to commands without an answer."""

SlotMap = list[tuple[int, int, Server]]
"""The first and the last slot of a range, and the master that serves it."""


class Cluster:
    """The masters of a cluster, and their slots."""

    def __init__(self, config: RedisConfig, *, tally: Tally, events: Events) -> None:
        self._config = config
        self._tally = tally
        self._events = events
        self._outage = Outage(config.name, housekeeper(), events=events, probe=self.look_soon)
        self._lock = threading.RLock()  # a collection in here may come back
        # Replaced as a whole under _lock, read without it:
        self._slots: list[RedisNode | None] = []
        # Hints, written by anybody:
        self._doubted: Server | None = None
        self._doubted_at = 0.0
        # Guarded by _lock:
        self._nodes: dict[Server, RedisNode] = {}
        self._retired: weakref.WeakSet[RedisNode] = weakref.WeakSet()
        self._looking: threading.Thread | None = None
        self._look_again = False
        self._ended = False

    def __repr__(self) -> str:
        return f"<Cluster {self._config.name!r} of {len(self._nodes)} masters>"

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
                self._moved(error, node)
                asking = None
            except AskError as error:
                asking = self.node_at(_server_of(error, node))
            except BackendUnavailable:
                if not node.retired or self._ended:
                    raise
                state.phase = Phase.CONNECTING
                asking = None
            except ClusterDownError as error:
                self._down(error)
                raise
            except _SILENCES:
                self._doubt(node)
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
                    self._doubt(node)
                if done:
                    raise part_has_run(error) from error
                if not isinstance(error, BackendUnavailable) or not node.retired or self._ended:
                    raise
                state.phase = Phase.CONNECTING
                return self.batch(commands, state=state, deadline=deadline)
            done = True
            for at, reply in zip(positions, found, strict=True):
                replies[at] = reply
                if isinstance(reply, MovedError):
                    self._moved(reply, node)
        for at, reply in enumerate(replies):
            if isinstance(reply, ClusterDownError):
                self._down(reply)
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

    def node_for(self, key: Argument | None, deadline: Deadline) -> RedisNode:
        """Return the node that has *key*; for None, any."""
        slots = self._slots
        if not slots or self._outage.cause is not None:
            slots = self._wait_for_slots(deadline)
        if key is None:
            while (node := random.choice(slots)) is None:
                pass  # there is one that has slots
        else:
            found = slots[slot_of(key)]
            if found is None:
                self.look_soon()
                raise ClusterDownError("no node serves the slot of this key")
            node = found
        return node

    def wait(self) -> object:
        """Wait until it is known where the slots are; return what is another object when that has changed."""
        self.node_for(None, ambient())
        return self._slots

    def node_at(self, server: Server) -> RedisNode:
        """Return the node that *server* is."""
        with self._lock:
            if self._ended:
                raise PoolClosed(f"pool {self._config.name!r} is closed; make a new one")
            return self._node_at_locked(server)

    # -- look ----------------------------------------------------------------------------------------

    def look_soon(self) -> None:
        """Ask the nodes anew where the slots are, in the background; once for many who want that."""
        with self._lock:
            self._look_again = True
            if self._looking is not None or self._ended:
                return
            thread = threading.Thread(
                target=self._look, name=f"poolkit-topology-{self._config.name}", daemon=True
            )
            try:
                thread.start()  # in here, so that who sees it can join it
            except RuntimeError as error:  # no more threads to be had
                tell = self._outage.down(error)
            else:
                self._looking = thread
                return
        tell()

    def nodes(self) -> list[RedisNode]:
        """Return the masters, and former ones whose connections are still lent."""
        with self._lock:
            return [
                *self._nodes.values(),
                *(node for node in self._retired if len(node.lender.book)),
            ]

    def sweep(self) -> None:
        """Look after the nodes."""
        for node in self.nodes():
            node.sweep()

    def end(self) -> None:
        """Look for no more nodes."""
        with self._lock:
            self._ended = True
        self._outage.end()

    def join(self, deadline: Deadline) -> None:
        """Wait until *deadline* for looks and probes that are under way."""
        with self._lock:
            thread = self._looking
        if thread is not None:
            thread.join(max(0.0, min(ASK_TIMEOUT + 1.0, deadline.remaining())))
        for node in self.nodes():
            node.join(deadline)

    def abandon(self) -> None:
        """In a forked child: touch nothing of the parent's, and take none of its locks."""
        for node in [*self._nodes.values(), *self._retired]:
            node.abandon()

    # -- private -------------------------------------------------------------------------------------

    def _hear(self, error: MovedError, node: RedisNode) -> None:
        """Take note of what a connection was told that redis-py, or the caller, used by itself."""
        with suppress(PoolClosed):
            self._moved(error, node)

    def _moved(self, error: MovedError, node: RedisNode) -> None:
        """Believe the node that a slot is elsewhere, and have all of them asked."""
        there = self.node_at(_server_of(error, node))
        with self._lock:
            if self._slots[error.slot_id] is there:
                return  # known by now
            slots = list(self._slots)
            slots[error.slot_id] = there
            self._slots = slots
        self.look_soon()

    def _node_at_locked(self, server: Server) -> RedisNode:
        node = self._nodes.get(server)
        if node is None:
            node = self._nodes[server] = RedisNode(
                f"{self._config.name} {server}",
                self._config,
                tally=self._tally,
                events=self._events,
                locate=lambda _: server,
                lost=self.look_soon,
                moved=self._hear,
            )
        return node

    def _wait_for_slots(self, deadline: Deadline) -> list[RedisNode | None]:
        """Wait until it is known where the slots are, and the nodes agree that they are served."""
        until = Deadline.after(self._config.acquire_timeout).earlier(deadline)
        if self._outage.cause is None:
            self.look_soon()
            with self._lock:
                thread = self._looking
            if thread is not None:
                while thread.is_alive() and not until.expired:
                    thread.join(until.stretch())
        while not self._slots or self._outage.cause is not None:
            if self._ended:
                raise PoolClosed(f"pool {self._config.name!r} is closed; make a new one")
            patient = self._config.offline_queue and not until.expired
            if patient and self._outage.wait(until):
                continue
            self._tally.mine().refused += 1
            if deadline.expired:
                raise deadline.exceeded(
                    f"pool {self._config.name!r}", stage="connecting"
                ) from self._outage.cause
            raise self._outage.error()
        return self._slots

    def _doubt(self, node: RedisNode) -> None:
        """Have others asked whether *node*, which did not answer, still serves."""
        now = monotonic()
        if now - self._doubted_at >= DOUBT_PAUSE:
            self._doubted, self._doubted_at = node.server, now
            self.look_soon()

    def _down(self, error: ClusterDownError) -> None:
        """Believe a node that the cluster does not serve, until another one says that it does."""
        self._outage.down(error)()

    def _look(self) -> None:
        while True:
            with self._lock:
                self._look_again = False
            tell = None
            try:
                self._apply(self._ask_anybody())
                tell = self._outage.up()
            except Exception as error:  # noqa: BLE001 - whatever it is, nothing was learnt
                # What is known may still serve; its nodes tell when they can't be reached.
                if not self._slots or self._outage.cause is not None:
                    tell = self._outage.down(
                        error, hopeless=classify(error, Phase.CONNECTING).hopeless
                    )
            if tell is not None:
                tell()
            with self._lock:
                if not self._look_again or self._ended:
                    self._looking = None
                    return

    def _ask_anybody(self) -> SlotMap:
        with self._lock:
            silent = [
                server
                for server, node in self._nodes.items()
                if node.outage.cause is not None or server == self._doubted
            ]
            known = [server for server in self._nodes if server not in silent]
        random.shuffle(known)
        others = [server for server in self._config.servers if server not in silent]
        last: Exception | None = None
        answered = False
        for server in dict.fromkeys((*known, *others, *silent)):
            if self._ended or (answered and server in silent):
                break  # these may take their time, and are not the only ones
            try:
                serves, reply = self._ask(server)
            except Exception as error:  # noqa: BLE001 - the next one may know
                last = error
                continue
            answered = True
            if not serves:
                last = ClusterDownError(f"{server} says that the cluster does not serve")
                continue
            ranges = _parse(reply, server)
            if ranges:
                return ranges
            last = ClusterDownError(f"{server} knows of no slots: the cluster is not made yet")
        raise last or ClusterDownError("no node of the cluster can be asked")

    def _ask(self, server: Server) -> tuple[bool, Any]:
        """Return whether *server* says that the cluster serves, and where it says the slots are."""
        until = Deadline.after(ASK_TIMEOUT)
        slots = ("CLUSTER", "SLOTS")
        try:
            info, reply = ask(
                server, self._config, ("CLUSTER", "INFO"), slots, until=until, timeout=ASK_TIMEOUT
            )
        except NoPermissionError:  # of the two, this user needs to be allowed only CLUSTER SLOTS
            (reply,) = ask(server, self._config, slots, until=until, timeout=ASK_TIMEOUT)
            return True, reply
        return "cluster_state:ok" in str_if_bytes(info), reply

    def _apply(self, ranges: SlotMap) -> None:
        """Use what was learnt; masters that have no slots any more are let go."""
        with self._lock:
            if self._ended:
                return
            slots: list[RedisNode | None] = [None] * SLOTS
            for first, last, server in ranges:
                slots[first : last + 1] = [self._node_at_locked(server)] * (last - first + 1)
            self._slots = slots
            serving = {server for _, _, server in ranges}
            idle = [self._nodes.pop(server) for server in [*self._nodes] if server not in serving]
            self._retired.update(idle)
        for node in idle:
            logger.info("pool %r: %r has no slots any more", self._config.name, node.name)
            node.retire()


def _ask(conn: PooledConnection, work: Callable[[PooledConnection], ResultT]) -> ResultT:
    """Do *work* where a slot is moving to, this time only."""
    conn.command(("ASKING",), ASKING)
    return work(conn)


def slot_of(key: Argument) -> int:
    """Return the slot of *key*: of the part in braces, if it has one."""
    raw = key if isinstance(key, bytes) else str(key).encode()
    return key_slot(bytes(key) if isinstance(key, (bytearray, memoryview)) else raw)


def _server_of(error: AskError, node: RedisNode) -> Server:
    """Return where the redirection leads; without a host, to that of the node that sent it."""
    host = error.host
    if not host and node.server is not None:
        host = node.server.host
    return Server(host, error.port)


def _parse(reply: Any, asked: Server) -> SlotMap:
    """Return what ``CLUSTER SLOTS`` answered: ``[first, last, [host, port, …master], …replicas]`` each."""
    ranges = []
    for first, last, master, *_ in reply:
        host, port = master[0], master[1]
        host = host.decode() if isinstance(host, bytes) else host
        ranges.append((int(first), int(last), Server(host or asked.host, int(port))))
    return ranges
