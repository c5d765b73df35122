"""The connection that PostgresPool lends: a psycopg.Connection that obeys deadlines and knows if it is clean."""

from __future__ import annotations

import contextlib
import logging
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
from psycopg import errors, pq, waiting
from psycopg._capabilities import capabilities
from psycopg._enums import Ready
from psycopg._preparing import PrepareManager
from psycopg.rows import RowFactory, tuple_row

from ..core.combining import SILENCE
from ..core.deadline import NEVER, Deadline, ambient
from ..core.errors import DeadlineExceeded, OutcomeUnknown
from ..core.lease import Lease
from ..core.retry import Phase
from ..core.sockets import hung_up
from .cursors import PooledCursor, PooledServerCursor
from .failures import NotRun, is_stale
from .statements import changes_session, takes_effect_in_parts

if TYPE_CHECKING:
    from psycopg.abc import PQGen

    from .generation import Generation

logger = logging.getLogger("poolkit.postgres")

ValueT = TypeVar("ValueT")

IDLE = pq.TransactionStatus.IDLE
ACTIVE = pq.TransactionStatus.ACTIVE
INERROR = pq.TransactionStatus.INERROR

CANCEL_GRACE = 0.04
"""Seconds past a deadline for the server to confirm a cancel, within the 50 ms that are promised."""

CANCEL_TIMEOUT = 5.0
"""Seconds for a cancel that goes on in the background, after the caller was let go."""

CLEAN_UP = 1.0
"""Seconds for a rollback or reset when a connection comes back; after that it is replaced."""

KEPT_ROWS = 1000
"""Rows of a result that may stay in memory until the connection is used again, or for a second."""

_NO_WRITES = (b"in_hot_standby", b"default_transaction_read_only")

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

    _watched = False
    _cancelling = False
    """Whether a cancel goes on in the background."""
    _cleaning = NEVER
    _spare: psycopg.Cursor[Any] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = PooledCursor
        self.server_cursor_factory = PooledServerCursor
        self.pgconn.notice_handler = partial(_heed, weakref.ref(self), self.pgconn.notice_handler)

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
        deadline = self._cleaning if self._cleaning is not NEVER else ambient()
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

    def statement(
        self, text: Any, params: Any, row_factory: RowFactory[Any] | None
    ) -> psycopg.Cursor[Any]:
        """Run one statement and return the cursor that has its result, until the next statement.

        A cursor used again saves a fifth of a short statement's time.
        """
        if row_factory is not None:
            return self._execute(PooledCursor(self, row_factory=row_factory), text, params)
        cursor = self._spare
        if cursor is None:
            cursor = self._spare = PooledCursor(self)
        self._execute(cursor, text, params)
        if cursor.rowcount > KEPT_ROWS:
            self._spare = None
        return cursor

    def _execute(self, cursor: psycopg.Cursor[Any], text: Any, params: Any) -> psycopg.Cursor[Any]:
        try:
            cursor.execute(text, params)
        except psycopg.Error as error:
            if self.is_astray(error):
                astray = self.astray()
                if not self.in_parts:
                    raise astray from error
            if not is_stale(error):
                raise
            self._prepared.clear()  # the tables have changed; it was not run
            cursor.execute(text, params)
        if self.unreplicated:
            raise self.not_replicated(ambient())
        return cursor

    def is_astray(self, error: BaseException) -> bool:
        """Whether *error* says that it leads to a server that takes no writes, though the conninfo wants one that does.

        That was another one's part when it was opened. A transaction that is read-only by itself says nothing of it.
        """
        return (
            isinstance(error, errors.ReadOnlySqlTransaction)
            and self.generation.wants_writes
            and not self.closed
            # Reported by the server itself, whenever that changes, since PostgreSQL 14.
            and any(self.pgconn.parameter_status(name) == b"on" for name in _NO_WRITES)
        )

    def astray(self) -> NotRun:
        """Have all connections of its age replaced; return the error for what it could not do."""
        self.strayed = True
        self.generation.leads_astray(self)
        return NotRun(
            f"{self.label}: the server takes no writes any more; the conninfo asks for one that does"
        )

    def not_replicated(self, deadline: Deadline) -> OutcomeUnknown:
        """Return the error for what was committed here, and may be nowhere else."""
        self.unreplicated = False
        why = "committed, but its wait for a standby was cut short: if that takes over, it may be lost"
        if deadline.expired:
            told = deadline.exceeded(self.label, stage="running")
            return told.in_doubt(f"; it was {why}")
        return OutcomeUnknown(f"{self.label}: {why}")

    def expose(self) -> None:
        """Get ready for the caller's own code."""
        self.exposed = True
        self.rest()

    def rest(self) -> None:
        """Keep no result, and no cursor: it would keep the connection from being collected at once."""
        self._spare = None

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
        self._cleaning = deadline
        try:
            PooledCursor(self).execute("", prepare=False)
        except (psycopg.Error, DeadlineExceeded):
            return False
        finally:
            self._cleaning = NEVER
        return True

    def clean(self) -> bool:
        """Bring it back to the state in which it was lent; False if it must be replaced instead.

        No round trip if nothing was left open or changed.
        """
        pgconn = self.pgconn
        status = pgconn.transaction_status
        if self.exposed and self.lock.locked():
            return False  # another thread or an unfinished iterator still uses it
        if status == IDLE and not self.altered and not pgconn.pipeline_status:
            if self.exposed or self._num_transactions:  # the latter after Ctrl-C on the way in
                self._set_back()
            return True
        if self.closed or status == ACTIVE or pgconn.pipeline_status:
            return False
        self._set_back()  # first, so that no handler or cursor of the borrower's takes part
        self._cleaning = _grace()
        try:
            if status != IDLE:
                self.rollback()
            if self.altered:
                self.execute("DISCARD ALL", prepare=False)
                # psycopg sees only the first DISCARD ALL of a connection, and would use what is gone.
                self._prepared.clear()
                self._prepared._to_flush.clear()
                self.altered = False
        except (psycopg.Error, DeadlineExceeded) as error:
            logger.warning(
                "pool %r: a connection could not be cleaned and is replaced: %s",
                self.generation.name,
                error,
            )
            return False
        finally:
            self._cleaning = NEVER
        return True

    def undo(self, transaction: psycopg.Transaction, error: BaseException) -> bool:
        """Roll *transaction* back because of *error*; even if the deadline has just passed.

        Returns whether *error* asked for nothing but that (:class:`psycopg.Rollback`). If rolling back
        fails, psycopg logs it, and :meth:`clean` finds out.
        """
        if self.busy:
            return False  # clean() replaces it
        self._cleaning = _grace()
        try:
            return bool(transaction.__exit__(type(error), error, error.__traceback__))
        except DeadlineExceeded:
            return isinstance(error, psycopg.Rollback) and error.transaction in (None, transaction)
        finally:
            self._cleaning = NEVER

    def retire(self) -> None:
        """Close it for good; what still runs on it is cancelled in the background."""
        self.lease = None
        self.rest()
        if not self.closed and self.pgconn.transaction_status == ACTIVE and not self._cancelling:
            self._cancel_in_background()
        self.close()

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

    def tidy(self) -> bool:
        """Drop the prepared statements that are not needed any more; return whether all is in order."""
        if not self._prepared._to_flush:
            return True
        self._cleaning = _grace()
        try:
            with self.lock:
                self.wait(self._prepared.maintain_gen(self))
        except (psycopg.Error, DeadlineExceeded):
            self.retire()
            return False
        finally:
            self._cleaning = NEVER
        return True

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return f"pool {self.generation.name!r}"

    def cancel_now(self, until: Deadline) -> bool:
        """Ask the server to stop; True if it took the request before *until*. Goes on in the background."""
        if not capabilities.has_cancel_safe():
            # Before libpq 17 nobody can tell when it has arrived; the connection is given up, so that it
            # never hits the next borrower's statement.
            self._cancel_in_background()
            return False
        gen = self._cancel_gen()
        try:
            waiting.wait_conn(gen, interval=_INTERVAL, timeout=until.remaining())
        except errors._WaitTimeout:
            self._in_background(
                lambda: waiting.wait_conn(gen, interval=_INTERVAL, timeout=CANCEL_TIMEOUT)
            )
            return False
        except psycopg.Error as error:
            logger.warning(
                "pool %r: a statement could not be cancelled: %s", self.generation.name, error
            )
            return False
        return True

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

    def _set_back(self) -> None:
        """Undo what the borrower may have set on the Python side."""
        self.exposed = False
        self.unreplicated = False
        self.patience = self.generation.patience
        self._num_transactions = 0
        self._autocommit = True
        self._isolation_level = self._read_only = self._deferrable = None
        self._begin_statement = b""
        self._adapters = None
        self._tpc = None
        self.row_factory = tuple_row
        self.cursor_factory = PooledCursor
        self.server_cursor_factory = PooledServerCursor
        self._prepared.prepare_threshold = self.generation.prepare_threshold
        self._prepared.prepared_max = PrepareManager.prepared_max
        for remembered in (self._notify_handlers, self._notice_handlers, self._notifies_backlog):
            if remembered:
                remembered.clear()

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
        if self.cancel_now(until):
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

    def _cancel_in_background(self) -> None:
        if capabilities.has_cancel_safe():
            gen = self._cancel_gen()
            self._in_background(
                lambda: waiting.wait_conn(gen, interval=_INTERVAL, timeout=CANCEL_TIMEOUT)
            )
        else:
            self._in_background(self.pgconn.get_cancel().cancel)

    def _in_background(self, cancel: Callable[[], object]) -> None:
        self._cancelling = True
        name = self.generation.name

        def run() -> None:
            try:
                cancel()
            except psycopg.Error as error:
                logger.warning("pool %r: a statement could not be cancelled: %s", name, error)

        threading.Thread(target=run, name=f"poolkit-cancel-{name}", daemon=True).start()

    def close(self) -> None:
        """Close it; the pool replaces it when it comes back."""
        if not self.retired:
            self.retired = True
            self.generation.connection_closed()
        if getattr(self, "_pool", None) is None:  # it was not lent: psycopg_pool itself gives it up
            self.let_go = True
        super().close()


def _heed(
    wself: weakref.ref[PooledConnection],
    tell: Callable[[pq.abc.PGresult], None] | None,
    notice: pq.abc.PGresult,
) -> None:
    """Take note if a commit was not waited for; its text is of any language, and its SQLSTATE that of all warnings."""
    if notice.error_field(pq.DiagnosticField.SOURCE_FUNCTION) == b"SyncRepWaitForLSN":
        conn = wself()
        if conn is not None:
            conn.unreplicated = True
    if tell is not None:
        tell(notice)


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


def _grace() -> Deadline:
    """Return until when cleaning up may take: a little longer than the deadline in force, and bounded."""
    deadline = ambient()
    return Deadline.after(CLEAN_UP).earlier(deadline.grace(CANCEL_GRACE))
