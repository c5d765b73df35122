"""Where the connections to one server lie between two leases, and which of them may still be used."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from time import monotonic
from typing import Generic, Protocol, TypeVar

from .deadline import Deadline
from .events import Connected, Events, Removed
from .gate import Waited
from .lending import Lendable
from .stats import Tally

FRESH = 0.5
"""Seconds after its last use during which a connection is lent unchecked."""

PING_TIMEOUT = 0.5
"""Seconds in which a connection under suspicion has to answer."""


class Shelved(Lendable, Protocol):
    """A connection, as a shelf needs to know it. It can be referred to weakly.

    Times are on the monotonic clock. Who opens it sets ``born``, and ``last_used`` to the same.
    """

    born: float
    """When it was opened."""
    dies: float
    """When it has reached its lifetime."""
    last_used: float
    """When it was last put back."""
    idle_timeout: float
    """Seconds after its last use during which it may be lent again."""
    counted: bool
    """Whether the pool has counted that it was opened."""
    retired: bool
    """Whether the pool has closed it, and counted that."""

    @property
    def settled(self) -> bool:
        """Whether it is like a new one: connected, nothing owed, nothing left to read, nothing changed."""

    @property
    def is_connected(self) -> bool:
        """Whether this side has not closed it."""

    def is_quiet(self) -> bool:
        """Whether nothing came while nothing was asked for: neither data nor the end. No round trip."""

    def hung_up(self) -> bool:
        """Whether it has ended, even if it is lent: other threads ask. No round trip."""

    def answers(self, until: Deadline, timeout: float, /) -> bool:
        """Whether the server answers within *timeout* seconds, *until* then at the latest. Never raises."""

    def disconnect(self) -> None:
        """Close it. Idempotent; never raises."""

    def disown(self) -> None:
        """In a forked child: let go of the parent's socket without a word to the server."""


ConnT = TypeVar("ConnT", bound=Shelved)


class Shelf(Generic[ConnT]):
    """The connections to one server. Taking and keeping one are single atomic operations, without a lock.

    At most *max_idle* stay on it, if that is given; of more, those used longest ago are closed.
    """

    def __init__(self, *, tally: Tally, events: Events, max_idle: int | None = None) -> None:
        self._max_idle = max_idle
        self._tally = tally
        self._events = events
        self._idle: deque[ConnT] = deque()  # the last one used is at the right end
        # By id, since a WeakSet can't be read while others write to it.
        self._connections: weakref.WeakValueDictionary[int, ConnT] = weakref.WeakValueDictionary()
        # Filled by finalizers, which run at any point of any thread and so may take no lock.
        self._collected: deque[ConnT] = deque()
        self._lock = threading.RLock()  # a collection in here may come back
        # Written by anybody, read without a lock:
        self._suspect_since = 0.0  # those last used before are checked before they are lent
        self._condemned = 0.0  # those born before are closed
        self._closed = False

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, conn: ConnT, seconds: float) -> None:
        """Count a connection that took *seconds* to open."""
        self._connections[id(conn)] = conn
        shard = self._tally.mine()
        shard.created += 1  # an interruption does not come between these two
        conn.counted = True
        shard.create.add(seconds)
        self._events.tell(Connected, seconds=seconds)

    def take(self, deadline: Deadline) -> ConnT | None:
        """Return a connection that can be used, closing those on the way that can't; None if there is none.

        Raises :class:`~poolkit.core.gate.Waited` when there was no time to find out.
        """
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

    def keep(self, conn: ConnT) -> None:
        """Keep a connection that comes back, if it is like a new one; else close it."""
        now = monotonic()
        if conn.settled and conn.born >= self._condemned and now < conn.dies:
            conn.last_used = now
            self._idle.append(conn)
            if self._closed:
                self.clear("closed")
            elif self._max_idle is not None and len(self._idle) > self._max_idle:
                self._close_surplus(self._max_idle)
            return
        if not conn.is_connected:
            self._suspect_since = now  # the others of its age may have gone the same way
        self.close(conn, "not clean, or too old")

    def close(self, conn: ConnT, reason: str) -> None:
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

    def dropped(self, conn: ConnT) -> None:
        """Take note of a connection that was collected and not closed. Called by a finalizer: no locks."""
        self._collected.append(conn)
        if self._closed:  # nobody sweeps any more
            conn.disconnect()

    def end(self, reason: str) -> None:
        """Keep nothing any more."""
        self._closed = True
        self.clear(reason)
        self._close_collected()

    def sweep(self) -> None:
        """Close what is dead, too old, or was not needed for long; count what was dropped."""
        self._close_collected()
        now = monotonic()
        for conn in list(self._idle):
            old = now >= conn.dies or now - conn.last_used >= conn.idle_timeout
            # They stay where they are meanwhile, or more than max_size would be opened; so any may be lent, and
            # what comes then is somebody's answer: is_quiet() must not be asked.
            if old or conn.born < self._condemned or conn.hung_up():
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

    def _all(self) -> list[ConnT]:
        """Return the connections, lent ones too, at one moment."""
        return [conn for ref in self._connections.valuerefs() if (conn := ref()) is not None]

    def _fault_of(self, conn: ConnT, deadline: Deadline) -> str | None:
        """Return why *conn* must not be lent, or None. Costs nothing for one that was used lately."""
        now = monotonic()
        if conn.born < self._condemned or now >= conn.dies:
            return "too old"
        used = conn.last_used
        if now - used >= conn.idle_timeout:
            return "idle for long"
        if used > self._suspect_since and now - used < FRESH:
            return None
        if not conn.is_quiet():
            return "found dead when it was to be lent"
        if used <= self._suspect_since and not conn.answers(deadline, PING_TIMEOUT):
            if deadline.expired:
                raise Waited(
                    deadline.budget
                )  # it may have had no time: that says nothing of the others
            self._give_up_suspects()  # or who takes one after the other waits for each of them
            return "found dead when it was to be lent"
        return None

    def _close_surplus(self, most: int) -> None:
        """Close the idle connections above *most*. Whoever adds one looks after it, so that none are left."""
        surplus = []
        with self._lock:  # or two might close the same one too many
            while len(self._idle) > most:
                try:
                    surplus.append(self._idle.popleft())
                except IndexError:
                    break  # all were lent meanwhile
        for conn in surplus:
            self.close(conn, "more are idle than max_idle")

    def _close_collected(self) -> None:
        self._close_all(self._collected, "dropped and not closed")

    def _close_all(self, conns: deque[ConnT], reason: str) -> None:
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
