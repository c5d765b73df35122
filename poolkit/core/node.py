"""One server of a backend: its connections, whose turn it is to use them, and whether it can be reached."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Generic

from .config import PoolConfig
from .deadline import Deadline
from .errors import BackendUnavailable, DeadlineExceeded, PoolClosed, PoolKitError
from .events import Connected, Events, Failed, Removed
from .housekeeper import housekeeper
from .lease import Holder, Lease, LeaseBook
from .lending import Lender
from .outage import Outage
from .prober import PROBE_TIMEOUT, Prober
from .shelf import ConnT, Shelf
from .stats import Tally


class Node(Generic[ConnT]):
    """Lends connections to one server, opens them, and looks whether it is back after an outage.

    *dial* opens a connection within the deadline it is given, which is ``connect_timeout`` at most. It leaves
    ``dies`` and ``idle_timeout`` at 0 where the config's are to hold. What it raises means that the server
    can't be reached, and *is_hopeless* says whether only a person can mend that; an error of poolkit's own,
    :class:`~poolkit.AddressBlocked` say, is about the call and not the server, and passes through.

    *lost* is called when the server can't be reached, and *returned* with each connection that comes back,
    both with no lock held.
    """

    def __init__(
        self,
        name: str,
        config: PoolConfig,
        *,
        dial: Callable[[Deadline], ConnT],
        connect_timeout: float,
        is_hopeless: Callable[[BaseException], bool],
        tally: Tally,
        events: Events,
        waits_out: bool = False,
        max_idle: int | None = None,
        lost: Callable[[], None] = lambda: None,
        returned: Callable[[ConnT], None] | None = None,
    ) -> None:
        self.name = name
        self._dial = dial
        self._connect_timeout = connect_timeout
        self._idle_timeout = config.idle_timeout
        self._max_lifetime = config.max_lifetime
        self._is_hopeless = is_hopeless
        self._tally = tally
        self._events = events
        self._lost = lost
        self._returned = returned
        self._prober = Prober(name, self._look, outage=lambda: self.outage)
        self.outage = Outage(name, housekeeper(), events=events, probe=self._prober.probe)
        self.lender: Lender[ConnT] = Lender(
            name,
            max_size=config.max_size,
            max_waiting=config.max_waiting,
            acquire_timeout=config.acquire_timeout,
            book=LeaseBook(),
            store=self,
            outage=self.outage,
            tally=tally,
            events=events,
            waits_out=waits_out,
        )
        self.shelf: Shelf[ConnT] = Shelf(tally=tally, events=events, max_idle=max_idle)
        self._over: str | None = None  # why nothing is opened or kept any more

    def __repr__(self) -> str:
        state = "over" if self.retired else "down" if self.outage.cause else "up"
        return f"<Node {self.name!r} {state}, {len(self.shelf)} connections>"

    @property
    def retired(self) -> bool:
        """Whether it lends nothing any more: it was retired, or stopped."""
        return self._over is not None

    # -- keep connections, as the lender's store -------------------------------------------------------

    def take(self, deadline: Deadline, patience: float) -> ConnT:  # noqa: ARG002
        """Return a live connection; see :class:`poolkit.core.lending.Store`.

        Opening one is bounded by ``connect_timeout``, not by *patience*.
        """
        return self.shelf.take(deadline) or self._open(deadline)

    def put(self, conn: ConnT) -> None:
        """Take a connection back, and keep it if it is like a new one."""
        if self._returned is not None:
            self._returned(conn)
        self.shelf.keep(conn)

    def discard(self, conn: ConnT) -> None:
        """Take back a connection that nobody must use again, and close it."""
        self.shelf.close(conn, "discarded")

    def renewed(self, seconds: float) -> None:
        """Count a connection that was lost while lent, and opened anew in *seconds* by its holder."""
        shard = self._tally.mine()
        shard.closed += 1
        shard.created += 1
        shard.create.add(seconds)
        self._events.tell(Removed, reason="lost while lent")
        self._events.tell(Connected, seconds=seconds)

    def forgotten(self, lease: Lease[Any], conn: ConnT) -> None:
        """Take note of a connection that was collected while lent. Called by a finalizer: no locks."""
        self.lender.book.forgotten.append((lease, conn))
        self.dropped(conn)  # in case that its lease has ended, so that it won't be reclaimed

    def dropped(self, conn: ConnT) -> None:
        """Take note of a connection that was collected and not closed. Called by a finalizer: no locks."""
        self.shelf.dropped(conn)

    # -- look after it ---------------------------------------------------------------------------------

    def condemn(self) -> None:
        """Close all connections that there are: idle ones now, lent ones when they come back."""
        self.shelf.condemn()

    def sweep(self) -> None:
        """Take back what nobody can return, and close what is dead, too old, or was not needed for long."""
        self.lender.reclaim()
        self.shelf.sweep()

    def retire(self, reason: str) -> None:
        """Lend nothing more, since there is no use for it: *reason* says why, also to those who wait."""
        self._over = reason
        self.outage.end()
        self.lender.turn_away(self._retired)
        self.shelf.end(reason)

    def stop(self, deadline: Deadline) -> Sequence[Holder]:
        """Lend nothing more, wait for what is lent until *deadline*, and return who still holds."""
        held = self.lender.stop(deadline)
        self._over = "closed"
        self.shelf.end("closed")
        return held

    def join(self, deadline: Deadline) -> None:
        """Wait until *deadline* for a probe that is under way."""
        self._prober.join(deadline)

    def abandon(self) -> None:
        """In a forked child: touch nothing of the parent's, and take none of its locks."""
        self.lender.abandon()
        self.shelf.disown()

    # -- private ---------------------------------------------------------------------------------------

    def _open(self, deadline: Deadline) -> ConnT:
        """Open a connection, or say that none can be had."""
        if self.retired:
            raise self._retired()
        if self.outage.cause is not None:
            raise self.outage.error()
        try:
            conn = self._connect(Deadline.after(self._connect_timeout).earlier(deadline))
        except Exception as error:
            if _is_about_the_call(error):
                raise
            if deadline.expired:
                raise deadline.exceeded(f"pool {self.name!r}", stage="connecting") from error
            if self.retired:
                raise self._retired() from None
            if self.shelf.reaches_server():
                raise  # the server is there; only this connection could not be had
            raise self._unreachable(error) from error
        self.outage.up()()
        return conn

    def _retired(self) -> PoolKitError:
        if self.lender.stopping:
            return PoolClosed(f"pool {self.name!r} is closed; make a new one")
        return BackendUnavailable(f"pool {self.name!r}: {self._over}")

    def _unreachable(self, error: Exception) -> BackendUnavailable:
        tell = self.outage.down(error, hopeless=self._is_hopeless(error))
        self.shelf.suspect()
        self.lender.turn_away(self.outage.error)
        self._events.tell(Failed, error=error)
        tell()
        self._lost()
        return self.outage.error()

    def _connect(self, until: Deadline) -> ConnT:
        began = perf_counter()
        conn = self._dial(until)
        seconds = perf_counter() - began
        conn.dies = conn.dies or conn.born + self._max_lifetime * random.uniform(0.95, 1.0)
        conn.idle_timeout = conn.idle_timeout or self._idle_timeout
        self.shelf.add(conn, seconds)
        return conn

    def _look(self) -> Callable[[], object]:
        """Look whether the server is back; return what tells that."""
        try:
            self.shelf.clear("found dead while idle")
            self.put(self._connect(Deadline.after(PROBE_TIMEOUT)))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not back
            if _is_about_the_call(error):
                return (
                    self.outage.forget
                )  # who comes next is told that, not that the server is away
            return partial(self._is_away, error)
        return self._is_back

    def _is_back(self) -> None:
        self.outage.up()()

    def _is_away(self, error: Exception) -> None:
        self.outage.down(error, hopeless=self._is_hopeless(error))()
        self._lost()


def _is_about_the_call(error: Exception) -> bool:
    """Whether *error* is poolkit's own, and says nothing of the server."""
    return isinstance(error, PoolKitError) and not isinstance(
        error, (BackendUnavailable, DeadlineExceeded)
    )
