"""One server: its connections, whose turn it is to use them, and whether it can be reached."""

from __future__ import annotations

import logging
import random
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic, perf_counter
from typing import Any, TypeVar

import redis

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

logger = logging.getLogger("poolkit.redis")

ResultT = TypeVar("ResultT")

FRESH = 0.5
"""Seconds after its last use during which a connection is lent unchecked."""

PROBE_TIMEOUT = 2.0
"""Seconds that a probe may take to connect."""

PING_TIMEOUT = 0.5
"""Seconds in which a connection under suspicion has to answer."""


class Node:
    """One server, or the master that sentinels name.

    *locate* says where it is, each time a connection is opened. *lost* is called, with no lock held, when
    it can't be reached.
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
    ) -> None:
        self.name = name
        self._config = config
        self._tally = tally
        self._events = events
        self._locate = locate
        self._lost = lost
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
        self._idle: deque[PooledConnection] = deque()  # the last one used is at the right end
        self._connections: weakref.WeakSet[PooledConnection] = weakref.WeakSet()
        self._lock = threading.RLock()  # a collection in here may come back
        # Guarded by _lock:
        self._server: Server | None = None
        self._prober: threading.Thread | None = None
        # Written by anybody, read without a lock:
        self._suspect_since = 0.0  # those last used before are checked before they are lent
        self._condemned = 0.0  # those born before are closed
        self._stopped = False

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else "down" if self.outage.cause else "up"
        return f"<Node {self.name!r} {state}, {len(self._connections)} connections>"

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
        lease, conn = self.lender.lend(deadline)
        try:
            state.phase = Phase.RUNNING
            return conn.command(args, traits, decode=decode)
        except redis.RedisError as error:
            self.heed(error)
            raise
        finally:
            self.lender.take_back(lease, conn)

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

    def condemn(self) -> None:
        """Close all connections that there are: idle ones now, lent ones when they come back."""
        self._condemned = monotonic()
        self._close_idle("replaced")

    # -- keep connections, as the lender's store -------------------------------------------------------

    def take(self, deadline: Deadline, patience: float) -> PooledConnection:  # noqa: ARG002
        """Return a live connection; see :class:`poolkit.core.lending.Store`.

        Opening one is bounded by ``connect_timeout``, not by *patience*.
        """
        while True:
            try:
                conn = self._idle.pop()
            except IndexError:
                return self._open(deadline)
            try:
                fault = self._fault_of(conn, deadline)
            except BaseException:
                self._close(conn, "discarded")
                raise
            if fault is None:
                return conn
            self._close(conn, fault)

    def put(self, conn: PooledConnection) -> None:
        """Take a connection back, and keep it if it is like a new one."""
        now = monotonic()
        if conn.settled and conn.born >= self._condemned and now < conn.dies:
            conn.last_used = now
            self._idle.append(conn)
            if self._stopped:
                self._close_idle("closed")
        else:
            if not conn.is_connected:
                self._suspect_since = now  # the others of its age may have gone the same way
            self._close(conn, "not clean, or too old")

    def discard(self, conn: PooledConnection) -> None:
        """Take back a connection that nobody must use again, and close it."""
        self._close(conn, "discarded")

    def forgotten(self, lease: Lease[Any], conn: PooledConnection) -> None:
        """Take note of a connection that was collected while lent. Called by a finalizer: no locks."""
        self._book.forgotten.append((lease, conn))

    # -- look after it ---------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Take back what nobody can return, and close what is dead, too old, or was not needed for long."""
        self.lender.reclaim()
        now = monotonic()
        for conn in list(self._idle):
            old = now >= conn.dies or now - conn.last_used >= self._config.idle_timeout
            if old or conn.born < self._condemned or not conn.is_quiet():
                try:
                    self._idle.remove(conn)
                except (ValueError, IndexError):
                    continue  # it was lent meanwhile, and will be looked at when it comes back
                self._close(conn, "idle for long, or too old" if old else "found dead while idle")

    def holders(self) -> list[Holder]:
        """Return who holds its connections now, the longest first."""
        return self.lender.holders()

    def retire(self) -> None:
        """Lend nothing more, since commands go elsewhere now; who waits is told to look there."""
        self._stopped = True
        self.outage.end()
        self.lender.turn_away(self._retired)
        self._close_idle("its server has no more slots")

    def stop(self, deadline: Deadline) -> Sequence[Holder]:
        """Lend nothing more, wait for what is lent until *deadline*, and return who still holds."""
        held = self.lender.stop(deadline)
        self._stopped = True
        self._close_idle("closed")
        with self._lock:
            prober = self._prober
        if prober is not None and prober is not threading.current_thread():
            prober.join(PROBE_TIMEOUT + 1.0)
        return held

    def abandon(self) -> None:
        """In a forked child: touch nothing of the parent's."""
        self.lender.abandon()
        for conn in list(self._connections):
            conn.disown()

    # -- private ---------------------------------------------------------------------------------------

    def _fault_of(self, conn: PooledConnection, deadline: Deadline) -> str | None:
        """Return why *conn* must not be lent, or None. Costs nothing for one that was used lately."""
        now = monotonic()
        if conn.born < self._condemned or now >= conn.dies:
            return "too old"
        used = conn.last_used
        if used > self._suspect_since and now - used < FRESH:
            return None
        if now - used >= self._config.idle_timeout:
            return "idle for long"
        if not conn.is_quiet():
            return "found dead when it was to be lent"
        if used <= self._suspect_since and not conn.answers(deadline, PING_TIMEOUT):
            return "found dead when it was to be lent"
        return None

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
            if any(self._is_alive(other) for other in list(self._connections)):
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
        self._suspect_since = monotonic()
        self.lender.turn_away(self.outage.error)
        self._events.tell(Failed, error=error)
        tell()
        self._lost()
        return self.outage.error()

    def _is_alive(self, conn: PooledConnection) -> bool:
        return conn.born >= self._condemned and not conn.hung_up()

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
        self._connections.add(conn)
        shard = self._tally.mine()
        shard.created += 1
        shard.create.add(seconds)
        self._events.tell(Connected, seconds=seconds)
        return conn

    def _close(self, conn: PooledConnection, reason: str) -> None:
        with self._lock:
            if conn.retired:
                return
            conn.retired = True
        self._connections.discard(conn)
        conn.disconnect()
        self._tally.mine().closed += 1
        self._events.tell(Removed, reason=reason)

    def _close_idle(self, reason: str) -> None:
        while self._idle:
            try:
                conn = self._idle.popleft()
            except IndexError:
                return
            self._close(conn, reason)

    def _probe(self) -> None:
        """Look whether the server is back, in a thread of its own: connecting may take its time."""
        thread = threading.Thread(target=self._look, name=f"poolkit-probe-{self.name}", daemon=True)
        with self._lock:
            self._prober = thread
        try:
            thread.start()
        except RuntimeError as error:  # no more threads to be had
            self.outage.down(error)()

    def _look(self) -> None:
        self._close_idle("found dead while idle")
        try:
            conn = self._connect(Deadline.after(PROBE_TIMEOUT), PROBE_TIMEOUT)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not back
            tell = self.outage.down(error, hopeless=_is_hopeless(error))
            self._lost()
        else:
            self.put(conn)
            tell = self.outage.up()
        tell()


def _is_hopeless(error: Exception) -> bool:
    return classify(error, Phase.CONNECTING).hopeless
