"""Who serves which slot of a cluster, as its nodes tell it; asked in the background when there is a doubt."""

from __future__ import annotations

import logging
import random
import threading
import weakref
from contextlib import suppress
from time import monotonic

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError

from ..core.deadline import Deadline, ambient
from ..core.errors import PoolClosed
from ..core.events import Events
from ..core.housekeeper import housekeeper
from ..core.outage import Outage
from ..core.stats import Tally
from ..core.verdict import Phase
from .address import Server
from .commands import Argument
from .config import RedisConfig
from .failures import classify
from .node import RedisNode
from .survey import ASK_TIMEOUT, SlotMap, survey

logger = logging.getLogger("poolkit.redis")

SLOTS = 16384
"""How many there are, by the specification of Redis clusters."""

DOUBT_PAUSE = 0.2
"""Seconds between two looks at most that are due to commands without an answer."""


class Slots:
    """The masters of a cluster, and which of them serves which slot."""

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
        self.ended = False
        """Whether nobody is looked for any more. Read without the lock."""

    def __repr__(self) -> str:
        return f"<Slots of {self._config.name!r}, on {len(self._nodes)} masters>"

    # -- find ----------------------------------------------------------------------------------------

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
            if self.ended:
                raise PoolClosed(f"pool {self._config.name!r} is closed; make a new one")
            return self._node_at_locked(server)

    def target(self, error: AskError, node: RedisNode) -> RedisNode:
        """Return where the redirection leads; without a host, to that of the node that sent it."""
        host = error.host
        if not host and node.server is not None:
            host = node.server.host
        return self.node_at(Server(host, error.port))

    # -- learn ---------------------------------------------------------------------------------------

    def moved(self, error: MovedError, node: RedisNode) -> None:
        """Believe the node that a slot is elsewhere, and have all of them asked."""
        there = self.target(error, node)
        with self._lock:
            if self._slots[error.slot_id] is there:
                return  # known by now
            slots = list(self._slots)
            slots[error.slot_id] = there
            self._slots = slots
        self.look_soon()

    def doubt(self, node: RedisNode) -> None:
        """Have others asked whether *node*, which did not answer, still serves."""
        now = monotonic()
        if now - self._doubted_at >= DOUBT_PAUSE:
            self._doubted, self._doubted_at = node.server, now
            self.look_soon()

    def down(self, error: ClusterDownError) -> None:
        """Believe a node that the cluster does not serve, until another one says that it does."""
        self._outage.down(error)()

    def look_soon(self) -> None:
        """Ask the nodes anew where the slots are, in the background; once for many who want that."""
        with self._lock:
            self._look_again = True
            if self._looking is not None or self.ended:
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
            self.ended = True
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
            self.moved(error, node)

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
            if self.ended:
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

    def _look(self) -> None:
        while True:
            with self._lock:
                self._look_again = False
            tell = None
            try:
                self._apply(self._survey())
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
                if not self._look_again or self.ended:
                    self._looking = None
                    return

    def _survey(self) -> SlotMap:
        with self._lock:
            silent = [
                server
                for server, node in self._nodes.items()
                if node.outage.cause is not None or server == self._doubted
            ]
            known = [server for server in self._nodes if server not in silent]
        random.shuffle(known)
        configured = [server for server in self._config.servers if server not in silent]
        return survey((*known, *configured), silent, self._config, lambda: self.ended)

    def _apply(self, ranges: SlotMap) -> None:
        """Use what was learnt; masters that have no slots any more are let go."""
        with self._lock:
            if self.ended:
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


def slot_of(key: Argument) -> int:
    """Return the slot of *key*: of the part in braces, if it has one."""
    raw = bytes(key) if isinstance(key, (bytes, bytearray, memoryview)) else str(key).encode()
    return key_slot(raw)
