"""The connection that PostgresPool lends: a psycopg.Connection that obeys deadlines and knows if it is clean."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import weakref
from collections.abc import Callable
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import errors, pq
from psycopg._enums import Ready

from ..core.deadline import NEVER, Deadline, ambient
from ..core.errors import DeadlineExceeded
from ..core.lease import Lease
from ..core.reading import SILENCE
from ..core.sockets import hung_up
from ..core.verdict import Phase
from .cancelling import cancel, cancel_in_background
from .cursors import PooledCursor, PooledServerCursor
from .effects import changes_session, takes_effect_in_parts
from .replication import heed

if TYPE_CHECKING:
    from psycopg.abc import PQGen

    from .generation import Generation

ValueT = TypeVar("ValueT")

IDLE = pq.TransactionStatus.IDLE
ACTIVE = pq.TransactionStatus.ACTIVE
INERROR = pq.TransactionStatus.INERROR

CANCEL_GRACE = 0.04
"""Seconds past a deadline for the server to confirm a cancel, within the 50 ms that are promised."""

_INTERVAL = 0.1  # psycopg's own: how often a wait looks for Ctrl-C


class PooledConnection(psycopg.Connection[Any]):
    """A psycopg.Connection whose every wait obeys the deadline in force, and the statement timeout.

    Its owner in the pool is a :class:`~poolkit.postgres.generation.Generation`.
    """

    generation: Generation
    lease: Lease[PooledConnection] | None = None
    altered = False
    """Whether a statement may have changed the session."""
    exposed = False
    """Whether it was handed to the caller's own code, which may have set anything on it."""
    in_parts = False
    """Whether the last statement may have taken effect in parts."""
    committing = False
    """Whether a commit is under way."""
    unreplicated = False
    """Whether the server has said of a commit that no standby may have it."""
    strayed = False
    """Whether its server takes no writes any more, though that is what it was opened for."""
    born = 0.0
    """When it was opened."""
    last_used = 0.0
    taken_at = 0.0
    """When psycopg_pool gave it out."""
    retired = False
    let_go = False
    """Whether psycopg_pool counts on it no more."""

    patience = inf
    """Seconds to wait for one answer where no deadline is in force."""

    silence: Callable[[], None] | None = None
    """Called, once, if the server has not answered for a while."""

    limit = NEVER
    """Until when its waits may take in place of the deadline in force, while the pool itself uses it."""

    cancelling = False
    """Whether a cancel goes on in the background."""

    spare: psycopg.Cursor[Any] | None = None
    """One to be used again; it may keep a result in memory."""

    _watched = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = PooledCursor
        self.server_cursor_factory = PooledServerCursor
        self.pgconn.notice_handler = partial(heed, weakref.ref(self), self.pgconn.notice_handler)

    def __del__(self) -> None:  # type: ignore[override]
        lease = self.lease
        if lease is not None:
            # Forgotten while lent. Finalizers may take no locks, so the housekeeper does the rest.
            self.generation.forgotten(lease, self)
            return
        if not self.let_go and self.generation.misses(self):
            return
        super().__del__()

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return f"pool {self.generation.name!r}"

    @property
    def busy(self) -> bool:
        """Whether a COPY, an iterator over rows or another thread still uses it."""
        return self.lock.locked() or self.pgconn.transaction_status == ACTIVE

    @property
    def phase(self) -> Phase:
        """How far whatever fails now has come."""
        if self.committing:
            return Phase.COMMITTING
        if self._autocommit and not self._num_transactions:
            return Phase.IN_PARTS if self.in_parts else Phase.RUNNING
        return Phase.IN_TRANSACTION

    def cursor(self, name: str = "", *, withhold: bool = False, **options: Any) -> Any:
        if not name:
            return super().cursor(**options)
        if withhold:
            self.altered = True
        return super().cursor(name, withhold=withhold, **options)

    def watch(self, query: object) -> None:
        """Note that *query* is about to be sent, by a cursor that tells."""
        self._watched = True
        if query is None:
            return
        if changes_session(query):
            self.altered = True
        self.in_parts = takes_effect_in_parts(query)
        if isinstance(query, str) and "statement_timeout" in query:
            self.patience = inf  # the caller's own limit holds, on the server, until the block ends

    def _start_query(self) -> PQGen[None]:
        # A cursor that does not tell (one that the caller made by hand, say) might do anything.
        if not self._watched:
            self.altered = True
        self._watched = False
        return super()._start_query()

    def _exec_command(self, command: Any, *args: Any, **options: Any) -> PQGen[Any]:
        # Every COMMIT that psycopg makes passes here.
        self.committing = command == b"COMMIT"
        try:
            return (yield from super()._exec_command(command, *args, **options))
        finally:
            self.committing = False

    def wait(
        self, gen: PQGen[ValueT], interval: float = _INTERVAL, timeout: float | None = None
    ) -> ValueT:
        """Wait for *gen* within the deadline in force; every round trip of psycopg goes through here."""
        if self.exposed and self.lease is not None:
            self.lease.used()
        deadline = self.limit if self.limit is not NEVER else ambient()
        if deadline is NEVER:
            bound = self.patience
        else:
            left = deadline.remaining()
            if left <= 0:
                gen.close()
                raise deadline.exceeded(self.label, stage="running")
            bound = min(left, self.patience)
        if timeout is not None and timeout <= bound:
            return self._wait_for(gen, interval, timeout, deadline)
        silence = self.silence
        if silence is not None and bound > SILENCE:
            try:
                return super().wait(gen, interval, SILENCE)
            except errors._WaitTimeout:
                self.silence = None
                silence()
                # All that may have taken longer than it should.
                bound = max(0.0, min(bound - SILENCE, deadline.remaining()))
                gen = _going_on(gen)
        try:
            return self._wait_for(gen, interval, bound, deadline)
        except errors._WaitTimeout:
            return self._overdue(_going_on(gen), interval, timeout, deadline, bound)

    # -- for the pool ------------------------------------------------------------------------------

    def expose(self) -> None:
        """Get ready for the caller's own code."""
        self.exposed = True
        self.rest()

    def rest(self) -> None:
        """Keep no result, and no cursor: it would keep the connection from being collected at once."""
        self.spare = None

    def is_dead(self) -> bool:
        """Whether the server has hung up, or sent what nobody asked for. No round trip."""
        if self.closed:
            return True
        poll = select.poll()
        poll.register(self.pgconn.socket, select.POLLIN)
        return bool(poll.poll(0))

    def hung_up(self) -> bool:
        """Whether the server has hung up, told even while another thread uses it. No round trip."""
        try:
            return hung_up(self.pgconn.socket)
        except psycopg.OperationalError:
            return True  # it is closed

    def answers(self, deadline: Deadline) -> bool:
        """Whether the server answers before *deadline*. One round trip."""
        self.limit = deadline
        try:
            PooledCursor(self).execute("", prepare=False)
        except (psycopg.Error, DeadlineExceeded):
            return False
        finally:
            self.limit = NEVER
        return True

    def retire(self) -> None:
        """Close it for good; what still runs on it is cancelled in the background."""
        self.lease = None
        self.rest()
        if not self.closed and self.pgconn.transaction_status == ACTIVE and not self.cancelling:
            cancel_in_background(self)
        self.close()

    def close(self) -> None:
        """Close it; the pool replaces it when it comes back."""
        if not self.retired:
            self.retired = True
            self.generation.connection_closed()
        if getattr(self, "_pool", None) is None:  # it was not lent: psycopg_pool itself gives it up
            self.let_go = True
        super().close()

    def disown(self) -> None:
        """In a forked child: point the inherited socket nowhere, so that the parent's is never touched."""
        lease, self.lease = self.lease, None
        with contextlib.suppress(psycopg.Error, OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_RDWR)
            try:
                os.dup2(nowhere, self.pgconn.socket, inheritable=False)
            finally:
                os.close(nowhere)
        if lease is not None and lease.thread is threading.current_thread():
            # The block goes on here in the child: let its cursors find a closed connection, not a dumb one.
            # Only that of our own thread: libpq may be amid a call of another one, that will never return.
            self.pgconn.finish()

    # -- private -----------------------------------------------------------------------------------

    def _wait_for(
        self, gen: PQGen[ValueT], interval: float, seconds: float, deadline: Deadline
    ) -> ValueT:
        """Wait for *gen* at most so many *seconds*, looking now and then whether *deadline* was cancelled."""
        if not deadline.cancellations:
            return super().wait(gen, interval, seconds if seconds != inf else None)
        until = monotonic() + seconds
        while True:
            left = min(until, deadline.at) - monotonic()
            try:
                return super().wait(gen, interval, max(0.0, min(left, deadline.pulse)))
            except errors._WaitTimeout:
                if deadline.expired and self.pgconn.transaction_status != ACTIVE:
                    raise deadline.exceeded(self.label, stage="running") from None
                if left <= deadline.pulse:
                    raise
                gen = _going_on(gen)

    def _overdue(
        self,
        gen: PQGen[ValueT],
        interval: float,
        timeout: float | None,
        deadline: Deadline,
        bound: float,
    ) -> ValueT:
        """End a wait that took too long: cancel on the server, and make sure of what became of it."""
        if self.pgconn.transaction_status != ACTIVE:
            # Nothing runs: it waits for notifications, and may, as long as it wanted to.
            left = inf if timeout is None else timeout - bound
            more = max(0.0, min(left, deadline.remaining()))
            try:
                return self._wait_for(gen, interval, more, deadline)
            except errors._WaitTimeout:
                if left <= more:
                    raise
                raise deadline.exceeded(self.label, stage="running") from None
        # Not from now on if it has passed: we may be late already.
        expired = deadline.expired
        until = deadline.grace(CANCEL_GRACE) if expired else Deadline.after(CANCEL_GRACE)
        confirmed = False
        if cancel(self, until):
            try:
                # If the answer comes now, it was on its way: better than none.
                return super().wait(gen, _INTERVAL, max(0.0, until.remaining()))
            except errors.QueryCanceled:
                confirmed = True
            except errors._WaitTimeout:
                pass
        if deadline.expired:
            told = deadline.exceeded(self.label, stage="running")
        else:
            text = f"{self.label}: no answer within {bound:g} s (statement_timeout)"
            told = DeadlineExceeded(text, stage="running")
        phase = self.phase
        unknown = phase is Phase.IN_PARTS or not (confirmed or phase is Phase.IN_TRANSACTION)
        if not confirmed:
            self.retire()
        if unknown:
            raise told.in_doubt(", and it may have taken effect, wholly or in part")
        raise told


def _going_on(gen: PQGen[ValueT]) -> PQGen[ValueT]:
    """Go on with *gen*, in which a wait has timed out; the next may time out too.

    Each wait begins with sending None. That is psycopg's Python for "not ready", but its C can't take it for that
    while it sends what the socket has no room for.
    """
    ready: int = Ready.NONE
    while True:
        try:
            wanted = gen.send(ready)
        except StopIteration as end:
            value: ValueT = end.value
            return value
        ready = (yield wanted) or Ready.NONE
