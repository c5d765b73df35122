"""Where the connections to one server lie between two leases, and which of them may still be used."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from time import monotonic

from ..core.deadline import Deadline
from ..core.events import Connected, Events, Removed
from ..core.stats import Tally
from .connection import PooledConnection

FRESH = 0.5
"""Seconds after its last use during which a connection is lent unchecked."""

PING_TIMEOUT = 0.5
"""Seconds in which a connection under suspicion has to answer."""


class Shelf:
    """The connections to one server. Taking and keeping one are single atomic operations, without a lock."""

    def __init__(self, *, idle_timeout: float, tally: Tally, events: Events) -> None:
        self._idle_timeout = idle_timeout
        self._tally = tally
        self._events = events
        self._idle: deque[PooledConnection] = deque()  # the last one used is at the right end
        # By id, since a WeakSet can't be read while others write to it.
        self._connections: weakref.WeakValueDictionary[int, PooledConnection] = (
            weakref.WeakValueDictionary()
        )
        # Filled by finalizers, which run at any point of any thread and so may take no lock.
        self.collected: deque[PooledConnection] = deque()
        self._lock = threading.RLock()  # a collection in here may come back
        # Written by anybody, read without a lock:
        self._suspect_since = 0.0  # those last used before are checked before they are lent
        self._condemned = 0.0  # those born before are closed
        self._closed = False

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, conn: PooledConnection, seconds: float) -> None:
        """Count a connection that took *seconds* to open."""
        self._connections[id(conn)] = conn
        shard = self._tally.mine()
        shard.created += 1  # an interruption does not come between these two
        conn.counted = True
        shard.create.add(seconds)
        self._events.tell(Connected, seconds=seconds)

    def take(self, deadline: Deadline) -> PooledConnection | None:
        """Return a connection that can be used, closing those on the way that can't; None if there is none."""
        while True:
            try:
                conn = self._idle.pop()
            except IndexError:
                return None
            try:
                fault = self._fault_of(conn, deadline)
            except BaseException:
                self.close(conn, "discarded")
                raise
            if fault is None:
                return conn
            self.close(conn, fault)

    def keep(self, conn: PooledConnection) -> None:
        """Keep a connection that comes back, if it is like a new one; else close it."""
        now = monotonic()
        if conn.settled and conn.born >= self._condemned and now < conn.dies:
            conn.last_used = now
            self._idle.append(conn)
            if self._closed:
                self.clear("closed")
            return
        if not conn.is_connected:
            self._suspect_since = now  # the others of its age may have gone the same way
        self.close(conn, "not clean, or too old")

    def close(self, conn: PooledConnection, reason: str) -> None:
        """Close a connection, and count that once."""
        shard = self._tally.mine()
        with self._lock:
            if conn.retired:
                return
            conn.retired = True
            shard.closed += 1  # nor between these
        self._connections.pop(id(conn), None)
        conn.disconnect()
        self._events.tell(Removed, reason=reason)

    def clear(self, reason: str) -> None:
        """Close all that are idle."""
        self._close_all(self._idle, reason)

    def suspect(self) -> None:
        """From now on, check each connection that was last used before now."""
        self._suspect_since = monotonic()

    def condemn(self) -> None:
        """Close all connections that there are: idle ones now, lent ones when they come back."""
        self._condemned = monotonic()
        self.clear("replaced")

    def end(self, reason: str) -> None:
        """Keep nothing any more."""
        self._closed = True
        self.clear(reason)

    def sweep(self) -> None:
        """Close what is dead, too old, or was not needed for long; count what was dropped."""
        self._close_all(self.collected, "dropped and not closed")
        now = monotonic()
        for conn in list(self._idle):
            old = now >= conn.dies or now - conn.last_used >= self._idle_timeout
            if old or conn.born < self._condemned or not conn.is_quiet():
                try:
                    self._idle.remove(conn)
                except (ValueError, IndexError):
                    continue  # it was lent meanwhile, and will be looked at when it comes back
                self.close(conn, "idle for long, or too old" if old else "found dead while idle")

    def reaches_server(self) -> bool:
        """Whether one of the connections, lent ones too, has not ended. No round trip."""
        return any(conn.born >= self._condemned and not conn.hung_up() for conn in self._all())

    def disown(self) -> None:
        """In a forked child: never touch the parent's sockets."""
        for conn in self._all():
            conn.disown()

    def _all(self) -> list[PooledConnection]:
        """Return the connections, lent ones too, at one moment."""
        return [conn for ref in self._connections.valuerefs() if (conn := ref()) is not None]

    def _fault_of(self, conn: PooledConnection, deadline: Deadline) -> str | None:
        """Return why *conn* must not be lent, or None. Costs nothing for one that was used lately."""
        now = monotonic()
        if conn.born < self._condemned or now >= conn.dies:
            return "too old"
        used = conn.last_used
        if used > self._suspect_since and now - used < FRESH:
            return None
        if now - used >= self._idle_timeout:
            return "idle for long"
        if not conn.is_quiet():
            return "found dead when it was to be lent"
        if used <= self._suspect_since and not conn.answers(deadline, PING_TIMEOUT):
            self._give_up_suspects()  # or who takes one after the other waits for each of them
            return "found dead when it was to be lent"
        return None

    def _close_all(self, conns: deque[PooledConnection], reason: str) -> None:
        while conns:
            try:
                conn = conns.popleft()
            except IndexError:
                return  # others do the same
            self.close(conn, reason)

    def _give_up_suspects(self) -> None:
        """Close the idle connections that were last used before the suspicion arose."""
        for conn in self._idle.copy():
            if conn.last_used <= self._suspect_since:
                try:
                    self._idle.remove(conn)
                except (ValueError, IndexError):
                    continue  # it was lent meanwhile
                self.close(conn, "found dead when another one was")
