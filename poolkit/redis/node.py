"""One server: its connections, whose turn it is to use them, and whether it can be reached."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, TypeVar

import redis
from redis.exceptions import AskError, MovedError

from ..core.combining import Combiner
from ..core.deadline import Deadline
from ..core.errors import BackendUnavailable, PoolClosed, PoolKitError
from ..core.events import Connected, Events, Failed, Removed
from ..core.housekeeper import housekeeper
from ..core.lease import Holder, Lease, LeaseBook
from ..core.lending import Lender
from ..core.outage import Outage
from ..core.retry import Phase, Try
from ..core.stats import Tally
from .address import Server
from .commands import Argument, Command, Traits
from .config import RedisConfig
from .connection import PooledConnection
from .dial import make_connection
from .failures import classify
from .lanes import Asked, RedisFlight
from .shelf import Shelf

logger = logging.getLogger("poolkit.redis")

ResultT = TypeVar("ResultT")

PROBE_TIMEOUT = 2.0
"""Seconds that a probe may take to connect."""


class Node:
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
        moved: Callable[[MovedError, Node], None] = lambda error, node: None,  # noqa: ARG005
    ) -> None:
        self.name = name
        self._config = config
        self._tally = tally
        self._events = events
        self._locate = locate
        self._lost = lost
        self._moved = moved
        self.outage = Outage(name, housekeeper(), events=events, probe=self._probe)
        self._book: LeaseBook[PooledConnection] = LeaseBook()
        self.lender: Lender[PooledConnection] = Lender(
            name,
            max_size=config.max_size,
            max_waiting=config.max_waiting,
            acquire_timeout=config.acquire_timeout,
            book=self._book,
            store=self,
            outage=self.outage,
            tally=tally,
            events=events,
            waits_out=config.offline_queue,
        )
        self._combiner: Combiner[PooledConnection, Asked, Any] | None = None
        if config.combine:
            self._combiner = Combiner(
                self.lender,
                lanes=min(config.lanes, config.max_size),
                launch=RedisFlight,
                tally=tally,
            )
        self._shelf = Shelf(idle_timeout=config.idle_timeout, tally=tally, events=events)
        self._lock = threading.RLock()  # a collection in here may come back
        # Guarded by _lock:
        self._server: Server | None = None
        self._prober: threading.Thread | None = None
        self._probing = False
        self._stopped = False

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else "down" if self.outage.cause else "up"
        return f"<Node {self.name!r} {state}, {len(self._shelf)} connections>"

    @property
    def server(self) -> Server | None:
        """Where it was when a connection was last opened."""
        return self._server

    @property
    def retired(self) -> bool:
        """Whether its commands go elsewhere now."""
        return self._stopped

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
        self._shelf.condemn()

    # -- keep connections, as the lender's store -------------------------------------------------------

    def take(self, deadline: Deadline, patience: float) -> PooledConnection:  # noqa: ARG002
        """Return a live connection; see :class:`poolkit.core.lending.Store`.

        Opening one is bounded by ``connect_timeout``, not by *patience*.
        """
        return self._shelf.take(deadline) or self._open(deadline)

    def put(self, conn: PooledConnection) -> None:
        """Take a connection back, and keep it if it is like a new one."""
        news = conn.news
        if news is not None:
            conn.news = None
            if isinstance(news, MovedError):
                self._moved(news, self)
            else:
                self.heed(news)
        self._shelf.keep(conn)

    def discard(self, conn: PooledConnection) -> None:
        """Take back a connection that nobody must use again, and close it."""
        self._shelf.close(conn, "discarded")

    def renewed(self, seconds: float) -> None:
        """Count a connection that was lost while lent, and opened anew in *seconds* by its holder."""
        shard = self._tally.mine()
        shard.closed += 1
        shard.created += 1
        shard.create.add(seconds)
        self._events.tell(Removed, reason="lost while lent")
        self._events.tell(Connected, seconds=seconds)

    def forgotten(self, lease: Lease[Any], conn: PooledConnection) -> None:
        """Take note of a connection that was collected while lent. Called by a finalizer: no locks."""
        self._book.forgotten.append((lease, conn))
        self.dropped(conn)  # in case that its lease has ended, so that it won't be reclaimed

    def dropped(self, conn: PooledConnection) -> None:
        """Take note of a connection that was collected and not closed. Called by a finalizer: no locks."""
        self._shelf.collected.append(conn)

    # -- look after it ---------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Take back what nobody can return, and close what is dead, too old, or was not needed for long."""
        self.lender.reclaim()
        self._shelf.sweep()

    def holders(self) -> list[Holder]:
        """Return who holds its connections now, the longest first."""
        return self.lender.holders()

    def retire(self) -> None:
        """Lend nothing more, since commands go elsewhere now; who waits is told to look there."""
        self._stopped = True
        self.outage.end()
        self.lender.turn_away(self._retired)
        self._shelf.end("its server has no more slots")

    def stop(self, deadline: Deadline) -> Sequence[Holder]:
        """Lend nothing more, wait for what is lent until *deadline*, and return who still holds."""
        held = self.lender.stop(deadline)
        self._stopped = True
        self._shelf.end("closed")
        return held

    def join(self, deadline: Deadline) -> None:
        """Wait until *deadline* for a probe that is under way."""
        with self._lock:
            prober = self._prober
        if prober is not None and prober is not threading.current_thread():
            prober.join(max(0.0, min(PROBE_TIMEOUT + 1.0, deadline.remaining())))

    def abandon(self) -> None:
        """In a forked child: touch nothing of the parent's."""
        self.lender.abandon()
        self._shelf.disown()

    # -- private ---------------------------------------------------------------------------------------

    def _open(self, deadline: Deadline) -> PooledConnection:
        """Open a connection, or say that none can be had."""
        if self._stopped:
            raise self._retired()
        if self.outage.cause is not None:
            raise self.outage.error()
        try:
            conn = self._connect(deadline, self._config.connect_timeout)
        except Exception as error:
            if deadline.expired:
                raise deadline.exceeded(f"pool {self.name!r}", stage="connecting") from error
            if self._stopped:
                raise self._retired() from None
            if self._shelf.reaches_server():
                raise  # the server is there; only this connection could not be had
            raise self._unreachable(error) from error
        self.outage.up()()
        return conn

    def _retired(self) -> PoolKitError:
        if self.lender.stopping:
            return PoolClosed(f"pool {self.name!r} is closed; make a new one")
        return BackendUnavailable(f"pool {self.name!r}: {self._server} has no slots any more")

    def _unreachable(self, error: Exception) -> BackendUnavailable:
        tell = self.outage.down(error, hopeless=_is_hopeless(error))
        self._shelf.suspect()
        self.lender.turn_away(self.outage.error)
        self._events.tell(Failed, error=error)
        tell()
        self._lost()
        return self.outage.error()

    def _connect(self, deadline: Deadline, timeout: float) -> PooledConnection:
        began = perf_counter()
        until = Deadline.after(timeout).earlier(deadline)
        server = self._locate(until)
        with self._lock:
            moved = self._server not in (None, server)
            self._server = server
        if moved:
            self.condemn()
        conn = make_connection(server, self._config)
        conn.wants_master = self._config.has_sentinels
        conn.node = self
        try:
            conn.open(until, timeout)
        except BaseException:
            conn.disconnect()
            raise
        seconds = perf_counter() - began
        conn.dies = conn.born + self._config.max_lifetime * random.uniform(0.95, 1.0)
        self._shelf.add(conn, seconds)
        return conn

    def _probe(self) -> None:
        """Look whether the server is back, in a thread of its own: connecting may take its time."""
        thread = threading.Thread(target=self._look, name=f"poolkit-probe-{self.name}", daemon=True)
        with self._lock:
            if self._probing:
                return  # who failed meanwhile planned this one; the one under way plans the next
            try:
                self._probing = True
                thread.start()  # in here, so that who sees it can join it
            except RuntimeError as error:  # no more threads to be had
                self._probing = False
                tell = self.outage.down(error)
            else:
                self._prober = thread
                return
        tell()

    def _look(self) -> None:
        try:
            self._shelf.clear("found dead while idle")
            self.put(self._connect(Deadline.after(PROBE_TIMEOUT), PROBE_TIMEOUT))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not back
            self._end_probing()  # first, so that the next one can be planned
            tell = self.outage.down(error, hopeless=_is_hopeless(error))
            self._lost()
        else:
            self._end_probing()
            tell = self.outage.up()
        tell()

    def _end_probing(self) -> None:
        with self._lock:
            self._probing = False


def _is_hopeless(error: Exception) -> bool:
    return classify(error, Phase.CONNECTING).hopeless
