"""Lending: how a thread gets a connection and how it comes back, whatever happens in between.

The parts meet here: the outage is asked, the gate gives the turn, the store gives the connection, the book
notes the lease, and on the way back the same in reverse. A backend brings only its :class:`Store`.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Generic, Protocol, TypeVar

from .deadline import NEVER, Deadline
from .errors import BackendUnavailable, PoolClosed, PoolKitError, PoolOverloaded, PoolTimeout
from .events import Acquired, Events, Leaked, Released, TimedOut
from .gate import Gate, Waited
from .housekeeper import housekeeper
from .lease import Holder, Lease, LeaseBook, caller
from .outage import Outage
from .stats import PoolStats, Tally

logger = logging.getLogger("poolkit")


AT_ONCE = 0.000_1
"""Seconds up to which a connection counts as lent without waiting."""

STOP_LOOK = 0.2
"""Seconds between looks, while closing, at leases that nobody can return."""


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """One server of a pool at one moment; most pools have one, an HttpPool has one for each host.

    Of at most ``max_size`` connections ``in_use`` are lent, and ``waiting`` threads wait for one. ``cause`` is why it
    can't be reached, None if it can.
    """

    name: str
    max_size: int
    in_use: int
    waiting: int
    cause: BaseException | None

    @property
    def exhausted(self) -> bool:
        """Whether threads wait since all of its connections are lent."""
        return self.waiting > 0 and self.in_use >= self.max_size


class Lendable(Protocol):
    """A connection that knows the lease it is on, so that its finalizer can report a leak."""

    lease: Lease[Any] | None


ResourceT = TypeVar("ResourceT", bound=Lendable)


class Store(Protocol[ResourceT]):
    """Where a backend's driver keeps its connections."""

    def take(self, deadline: Deadline, patience: float) -> ResourceT:
        """Return a live connection, waiting until *deadline*, at most *patience* seconds, for one to open.

        Raises :class:`~poolkit.core.gate.Waited` when that was not enough, and
        :class:`~poolkit.BackendUnavailable` when none can be opened.
        """

    def put(self, resource: ResourceT) -> None:
        """Take a connection back: clean it and keep it, or close it. Never raises."""

    def discard(self, resource: ResourceT) -> None:
        """Take a connection back that nobody must use again, and close it. Never raises."""


class Lender(Generic[ResourceT]):
    """Lends the connections of one pool, in one process.

    While the backend is down it turns everybody away, or, if it *waits_out* outages, lets up to
    ``max_waiting`` threads wait for the backend, each as long as it would for a connection.
    """

    def __init__(
        self,
        name: str,
        *,
        max_size: int,
        max_waiting: int,
        acquire_timeout: float,
        book: LeaseBook[ResourceT],
        store: Store[ResourceT],
        outage: Outage,
        tally: Tally,
        events: Events,
        waits_out: bool = False,
    ) -> None:
        self.name = name
        self.gate = Gate(name, max_size, max_waiting=max_waiting)
        self.book = book
        self._stopping = threading.Event()
        self._max_size = max_size
        self.max_waiting = max_waiting
        self.acquire_timeout = acquire_timeout
        self.gathered: Callable[[], int] = lambda: 0
        """How many threads wait for another one to borrow in their place; see combining.py."""
        self._store = store
        self._outage = outage
        self._tally = tally
        self._events = events
        self._tell_acquired = events.wanted(Acquired)
        self._tell_released = events.wanted(Released)
        self._waits_out = waits_out
        self._queue_lock = threading.Lock()
        # Guarded by _queue_lock: who waits for the end of an outage.
        self._queue: set[object] = set()
        self.abandoned = False
        """Whether this is a forked child, where the leases are the parent's."""

    def lend(self, deadline: Deadline, waited: float = 0.0) -> tuple[Lease[ResourceT], ResourceT]:
        """Return a connection and the lease on it; :meth:`take_back` has to follow.

        *waited* are the seconds that the caller has waited for its turn already.
        Raises :class:`~poolkit.PoolTimeout`, :class:`~poolkit.PoolOverloaded`,
        :class:`~poolkit.DeadlineExceeded`, :class:`~poolkit.BackendUnavailable` or
        :class:`~poolkit.PoolClosed`.
        """
        began = perf_counter() - waited
        if self._outage.cause is None:
            try:
                return self._lend(deadline, began, self.acquire_timeout - waited)
            except BackendUnavailable as error:
                if not self._waits_out or (self._outage.ended and not self.stopping):
                    self.refused(error)
                    raise
        elif not self._waits_out:
            raise self.refused(self._outage.error())
        until = Deadline.after(self.acquire_timeout - waited).earlier(deadline)
        while True:
            self._wait_out(until, deadline, began)
            with suppress(BackendUnavailable):  # down again: so wait again
                return self._lend(deadline, began, until.remaining())

    def _lend(
        self, deadline: Deadline, began: float, patience: float
    ) -> tuple[Lease[ResourceT], ResourceT]:
        waited = 0.0
        entered = False
        resource: ResourceT | None = None
        lease: Lease[ResourceT] | None = None
        if deadline is not NEVER and deadline.expired and not self.stopping:
            # Nothing can be done with a connection any more, not even ask whether it is alive.
            raise self.timed_out(perf_counter() - began, deadline, "waiting")
        try:
            waited = self.gate.enter(deadline, patience)
            entered = True
            resource = self._store.take(deadline, patience - waited)
            waited = perf_counter() - began
            if waited < AT_ONCE:
                waited = 0.0
            lease = Lease(resource, waited, caller())
            resource.lease = lease
            self.book.add(lease)
        except BaseException as error:
            try:
                if lease is not None:
                    self.book.strike(lease)
                if resource is not None:
                    resource.lease = None
                    self._store.discard(resource)
            finally:
                if entered:
                    self.gate.put_down(None)
                    self.gate.pass_on()
            if isinstance(error, Waited):
                stage = "connecting" if entered else "waiting"
                raise self.timed_out(perf_counter() - began, deadline, stage) from None
            if isinstance(error, PoolOverloaded):
                self.refused(error)
            raise
        shard = self._tally.mine()
        shard.leases += 1
        if waited:
            shard.wait.add(waited)
        if self._tell_acquired:
            self._events.tell(Acquired, holder=lease.holder(), waited=waited)
        return lease, resource

    def take_back(self, lease: Lease[ResourceT], resource: ResourceT) -> None:
        """End *lease*. Only the first call for a lease has an effect."""
        if self.abandoned:
            return
        try:
            del self.book.open[lease]  # not strike(): an interruption after it would lose the turn
        except KeyError:
            return
        resource.lease = None
        try:
            self._store.put(resource)
        finally:
            self.gate.put_down(None)  # not leave(): an interruption on entering it would, too
            self.gate.pass_on()
            used = perf_counter() - lease.since
            self._tally.mine().use.add(used)
            if self._tell_released:
                self._events.tell(Released, holder=lease.holder(), used=used)

    def sleep(self, seconds: float) -> None:
        """Wait between two attempts; not longer than until the pool is closed."""
        self._stopping.wait(seconds)

    def resize(self, max_size: int) -> None:
        """Lend at most *max_size* connections at a time from now on."""
        self._max_size = max_size
        self.gate.resize(max_size)

    def reclaim(self) -> None:
        """Take back what its holder can't return: its thread has ended, or it dropped the connection."""
        while (forgotten := self.book.next_forgotten()) is not None:
            self._reclaim(*forgotten, "it was garbage-collected without being released")
        self._reclaim_orphans()

    def recall(
        self, thread: threading.Thread, *, since: float, until: float = math.inf, reason: str
    ) -> list[Holder]:
        """Take back what *thread* alone has used, leased from *since* to *until*; return who held it.

        For that thread itself, when it can't be using any of it.
        """
        now = perf_counter()
        held = [
            (lease, lease.holder(now=now))
            for lease in self.book.open.copy()
            if _is_recalled(lease, thread, since, until)
        ]
        for lease, _ in held:
            self._reclaim(lease, lease.resource, reason)
        return [holder for _, holder in held]

    def holds(self, thread: threading.Thread, *, since: float, until: float = math.inf) -> bool:
        """Whether there is anything that :meth:`recall` would take back. Locates nobody."""
        return any(_is_recalled(lease, thread, since, until) for lease in self.book.open.copy())

    def stats(self) -> PoolStats:
        """Return the state of the pool as a frozen snapshot."""
        return PoolStats.of(
            self._tally,
            name=self.name,
            max_size=self._max_size,
            in_use=len(self.book),
            waiting=self.waiting,
        )

    def state(self) -> ServerState:
        """Return how it is with the server now."""
        return ServerState(
            name=self.name,
            max_size=self._max_size,
            in_use=len(self.book),
            waiting=self.waiting,
            cause=self._outage.cause,
        )

    @property
    def stopping(self) -> bool:
        """Whether the pool is closed, or about to be."""
        return self._stopping.is_set()

    @property
    def waiting(self) -> int:
        """How many threads wait, for a connection or for the backend."""
        return self.gate.waiting + len(self._queue) + self.gathered()

    def holders(self) -> list[Holder]:
        """Return who holds connections now, the longest first."""
        return self.book.holders()

    def timed_out(self, waited: float, deadline: Deadline, stage: str) -> PoolKitError:
        """Count and tell a wait that was too long, and return the error that says so."""
        error: PoolKitError
        if deadline.expired:
            error = deadline.exceeded(f"pool {self.name!r}", stage=stage)
        else:
            error = PoolTimeout(
                f"pool {self.name!r}: no connection within acquire_timeout ({self.acquire_timeout:g} s)",
                stats=self.stats(),
                holders=self.holders(),
            )
        # Not before: a thread that died holding is who it was waited for. And what was collected not here, where an
        # interruption may come: that must not be dropped again.
        self._reclaim_orphans()
        if self.book.forgotten:
            housekeeper().soon(self.reclaim)
        self._tally.mine().timeouts += 1
        self._events.tell(TimedOut, waited=waited, error=error)
        return error

    def refused(self, error: PoolKitError) -> PoolKitError:
        """Count a caller that is turned away with *error*, and return that."""
        self._tally.mine().refused += 1
        return error

    def turn_away(self, error: Callable[[], BaseException]) -> None:
        """Fail everybody who waits for a connection now."""
        self.gate.turn_away(error)

    def stop(self, deadline: Deadline) -> Sequence[Holder]:
        """Lend nothing more, wait until *deadline* for what is lent, and return who still holds."""
        self.gate.close(self._closed_error)
        self._stopping.set()
        self._outage.end()  # nobody need wait for it any more
        self.reclaim()
        while not self.gate.wait_empty(Deadline.after(STOP_LOOK).earlier(deadline)):
            if deadline.expired:
                break
            self.reclaim()  # a thread may die holding meanwhile
        return self.holders()

    def abandon(self) -> None:
        """In a forked child: the leases are the parent's, so giving one back has no effect."""
        self.abandoned = True

    def _wait_out(self, until: Deadline, deadline: Deadline, began: float) -> None:
        """Wait for the backend to be back."""
        me = object()
        try:
            with self._queue_lock:
                if len(self._queue) >= self.max_waiting:
                    raise self.refused(
                        PoolOverloaded(
                            f"pool {self.name!r}: {len(self._queue)} threads wait for the backend already, "
                            f"max_waiting is {self.max_waiting}"
                        )
                    )
                self._queue.add(me)
            back = self._outage.wait(until)
        finally:
            self._queue.discard(me)
        if self._stopping.is_set():
            raise self._closed_error()
        if back and not until.expired:
            return
        error = self._outage.error()
        if deadline.expired:
            raise self.timed_out(
                perf_counter() - began, deadline, "connecting"
            ) from error.__cause__
        raise self.refused(error)

    def _closed_error(self) -> PoolClosed:
        return PoolClosed(f"pool {self.name!r} is closed; make a new one")

    def _reclaim_orphans(self) -> None:
        for lease in self.book.orphans():
            self._reclaim(lease, lease.resource, "its thread has ended without releasing it")

    def _reclaim(self, lease: Lease[ResourceT], resource: ResourceT | None, reason: str) -> None:
        holder = lease.holder(locate=True)
        if self.abandoned or not self.book.strike(lease):
            return
        try:
            if resource is not None:
                resource.lease = None
                self._store.discard(resource)
        finally:
            self.gate.put_down(None)
            self.gate.pass_on()
            self._tally.mine().leaked += 1
        logger.warning(
            "pool %r: a connection acquired at %s by thread %r %.1f s ago was reclaimed: %s",
            self.name,
            holder.call_site,
            holder.thread_name,
            holder.held_for,
            reason,
        )
        self._events.tell(Leaked, holder=holder, reason=reason)


def _is_recalled(lease: Lease[Any], thread: threading.Thread, since: float, until: float) -> bool:
    """Whether *thread* alone has used what *lease* is on, and got it from *since* to *until*."""
    return (
        lease.thread is lease.user is thread and since <= lease.since <= until and not lease.passing
    )
