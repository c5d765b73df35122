"""Statements of many threads on one connection: how PostgreSQL carries what is combined.

See :mod:`poolkit.core.combining`. libpq's pipeline mode sends several statements without waiting for answers; a Sync
after each keeps it a transaction of its own, so that one that fails fails alone. psycopg adapts the values,
and its prepared statements are used, but the exchange itself is done on libpq's connection: psycopg's own
pipeline costs ten times as much a statement.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Sequence
from math import ceil
from time import monotonic
from typing import Any

import psycopg
from psycopg import errors, pq
from psycopg._preparing import Prepare
from psycopg.adapt import Transformer

from ..core.deadline import NEVER, Deadline
from ..core.errors import DeadlineExceeded
from .cancelling import cancel
from .cleaning import tidy
from .connection import PooledConnection
from .failures import NotRun, is_stale
from .replication import astray, not_replicated
from .statement import ALL, Answer, Statement

TEXT = pq.Format.TEXT
# Plain numbers, which compare faster.
TUPLES_OK = int(pq.ExecStatus.TUPLES_OK)
COMMAND_OK = int(pq.ExecStatus.COMMAND_OK)
FATAL_ERROR = int(pq.ExecStatus.FATAL_ERROR)
PIPELINE_SYNC = int(pq.ExecStatus.PIPELINE_SYNC)
OK = int(pq.ConnStatus.OK)


class Stale(Exception):
    """A prepared statement is gone, or its plan is out of date: the statement was not run."""


class PostgresFlight:
    """Several statements under way on one connection; see :class:`poolkit.core.combining.Flight`."""

    __slots__ = (
        "_answered",
        "_conn",
        "_ended",
        "_fatal",
        "_heard",
        "_lock",
        "_partial",
        "_pending",
        "_pgconn",
        "_pipelined",
        "_poll",
        "_prepared",
        "_sent",
        "_statements",
        "_stops",
        "_tx",
        "_unsent",
        "patience",
    )

    def __init__(self, conn: PooledConnection, statements: list[Statement]) -> None:
        self.patience = conn.patience
        self._conn = conn
        self._pgconn = conn.pgconn
        self._statements = statements
        self._tx = Transformer(conn)
        self._prepared: list[tuple[Prepare, bytes, Any]] = []
        self._sent = 0
        self._unsent = False  # libpq has still something to write
        self._answered = 0
        self._partial: list[pq.abc.PGresult] = []  # of the statement whose results are coming in
        self._heard = 0.0
        self._fatal = False  # the server has ended the session
        self._pipelined = len(statements) > 1
        self._poll = select.poll()
        self._poll.register(conn.pgconn.socket, select.POLLIN)
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._stops = 0  # how often the server was told to stop
        self._pending = 0  # of these, those that may still arrive
        self._ended = False

    def send(self) -> None:
        """Send all of them, each with a Sync behind it."""
        pgconn, known = self._pgconn, self._conn._prepared
        pipelined = self._pipelined
        if pipelined:
            pgconn.enter_pipeline_mode()
        for statement in self._statements:
            prepare, name = known.get(statement)  # type: ignore[arg-type]
            if prepare is Prepare.NO:
                pgconn.send_query_params(
                    statement.query,
                    statement.params,
                    param_types=statement.types,
                    param_formats=statement.formats,
                    result_format=TEXT,
                )
            else:
                if prepare is Prepare.SHOULD:
                    if not pipelined:
                        self._pipelined = pipelined = True
                        pgconn.enter_pipeline_mode()
                    pgconn.send_prepare(name, statement.query, param_types=statement.types)
                pgconn.send_query_prepared(
                    name, statement.params, param_formats=statement.formats, result_format=TEXT
                )
            key = known.maybe_add_to_cache(statement, prepare, name)  # type: ignore[arg-type]
            if prepare is Prepare.SHOULD:
                known._rotate()  # psycopg looks only when it meets a new statement: many may be prepared till then
            self._prepared.append((prepare, name, key))
            if pipelined:
                pgconn.pipeline_sync()
            self._sent += 1
        self._unsent = bool(pgconn.flush())
        self._heard = monotonic()

    def receive(self, until: float) -> Sequence[Answer | Exception]:
        """Return the answers that are there; see :class:`poolkit.core.combining.Flight`."""
        pgconn = self._pgconn
        while self._is_ready(until):
            pgconn.consume_input()
            if self._unsent:
                self._unsent = bool(pgconn.flush())
            answers = self._collect()
            if answers:
                return answers
        return ()

    def stop(self, until: Deadline) -> bool:
        """Cancel what the server runs now; return whether it was told so before *until*."""
        with self._lock:
            if self._ended:
                return False
            self._stops += 1
            self._pending += 1
        told = cancel(self._conn, until)
        if told:
            with self._lock:
                self._pending -= 1
        return told

    def not_run(self, answer: Exception) -> bool:
        """Whether the statement was cancelled in place of another one, or met a plan that is out of date."""
        return isinstance(answer, Stale) or (
            self._stops > 0 and isinstance(answer, errors.QueryCanceled)
        )

    def end(self) -> bool:
        """Leave pipeline mode; return whether the connection is as good as new."""
        with self._lock:
            self._ended = True
            pending = self._pending
        if pending or self._conn.strayed:
            # A cancel that is still on its way would hit what is run next; one that strayed is of no use to it.
            self._conn.retire()
            return False
        if self._pipelined:
            self._pgconn.exit_pipeline_mode()
        return not self._conn._prepared._to_flush or tidy(self._conn)

    def silent(self) -> Exception:
        """Return the error for an answer that did not come within the statement timeout."""
        text = f"{self._conn.label}: no answer within {self.patience:g} s (statement_timeout)"
        return DeadlineExceeded(text, stage="running").in_doubt(", and it may have taken effect")

    def lost(self, at: int, error: Exception) -> Exception:
        """Return the error for statement *at* of a connection that *error* has broken."""
        if at == self._answered and isinstance(error, DeadlineExceeded):
            return error
        text = f"the connection was lost: {error}"
        # What was not sent with its Sync, or came after a fatal error, was not run. A thread that was interrupted may
        # have sent one more than it could count.
        sent = self._sent if isinstance(error, psycopg.Error) else self._sent + 1
        if at >= sent or self._fatal:
            told: Exception = NotRun(text)
        else:
            told = psycopg.OperationalError(text)
        told.__cause__ = error
        return told

    def overdue(self, at: int, deadline: Deadline, *, stopped: bool) -> Exception:  # noqa: ARG002
        """Return the error for statement *at*, whose deadline has passed."""
        told = deadline.exceeded(self._conn.label, stage="running")
        if stopped:
            return told
        return told.in_doubt(", and it may have taken effect")

    # -- private -------------------------------------------------------------------------------------

    def _is_ready(self, until: float) -> bool:
        """Wait until there is something to read, or to write that had no room before; False *until* then."""
        poll = self._poll
        if self._unsent:
            poll = select.poll()
            poll.register(self._pgconn.socket, select.POLLIN | select.POLLOUT)
        left = until - monotonic()
        return bool(poll.poll(ceil(min(left, 3600.0) * 1000) if left > 0 else 0))

    def _collect(self) -> list[Answer | Exception]:
        """Return the answers that libpq has taken in as a whole."""
        pgconn, partial = self._pgconn, self._partial
        answers: list[Answer | Exception] = []
        left = len(self._statements) - self._answered
        seconds = 0.0
        ended = False  # the results of a statement; if nothing follows, nothing is under way
        while left and not pgconn.is_busy():
            result = pgconn.get_result()
            if result is not None:
                ended = False
                status = result.status
                if status != PIPELINE_SYNC:
                    partial.append(result)
                    if status != FATAL_ERROR or (severity := _severity(result)) not in _ENDS:
                        continue
                    # If libpq says so, who lost the connection, the server may have come further.
                    self._fatal = severity is not None
            elif self._pipelined:
                if not ended:
                    ended = True
                    continue
                if pgconn.status != OK and not answers:
                    raise psycopg.OperationalError("the connection was lost")
                break
            if not seconds:
                now = monotonic()
                seconds, self._heard = now - self._heard, now
            answers.append(self._answer(partial, 0.0 if answers else seconds))
            self._answered += 1
            left -= 1
            partial.clear()
        return answers

    def _answer(self, results: list[pq.abc.PGresult], seconds: float) -> Answer | Exception:
        """Return what the *results* of the next statement say; it may be that of preparing it, and its own."""
        statement = self._statements[self._answered]
        prepare, name, key = self._prepared[self._answered]
        known = self._conn._prepared
        result = results[0] if results else None
        there = prepare is Prepare.YES  # on the server, by that name
        if len(results) > 1:
            there = there or (prepare is Prepare.SHOULD and results[0].status == COMMAND_OK)
            result = _decisive(results)
        if key is not None and result is not None and key not in known._names:
            # Not if one behind it has prepared it meanwhile: that would be forgotten, but stay on the server.
            known.validate(key, prepare, name, [result])
        try:
            if result is None:
                raise errors.InternalError("the server answered without a result")
            status = result.status
            if self._conn.unreplicated and status != FATAL_ERROR:
                return not_replicated(self._conn, NEVER)  # the deadline here may be another one's
            if status == TUPLES_OK:
                self._tx.set_pgresult(result)
                wanted = statement.wanted.rows
                count = result.ntuples
                rows = self._tx.load_rows(0, count if wanted == ALL else min(wanted, count), tuple)
                return Answer(self._conn, result, rows, seconds)
            if status == COMMAND_OK:
                return Answer(self._conn, result, None, seconds)
            error = errors.error_from_result(result, encoding="utf-8")
        except Exception as failure:  # noqa: BLE001 - a loader's, or what is no answer to a statement
            return failure
        if prepare is not Prepare.NO:
            kept = statement.query, statement.types
            if known._names.get(kept) == name and (not there or is_stale(error)):
                del known._names[kept]
                if there:
                    known._to_flush.append(name)
            if is_stale(error):
                return Stale(str(error))
        strayed = astray(self._conn, error)
        if strayed is None:
            return error
        strayed.__cause__ = error
        return strayed


def _decisive(results: Sequence[pq.abc.PGresult]) -> pq.abc.PGresult:
    """Return the one that says what became of a statement: the first error, else the last one.

    One that has run may still fail when it is committed, at its Sync, or lose the connection before that.
    """
    for result in results:
        if result.status == FATAL_ERROR:
            return result
    return results[-1]


_ENDS = (b"FATAL", b"PANIC", None)
"""Severities of errors after which nothing follows."""


def _severity(result: pq.abc.PGresult) -> bytes | None:
    """Return how severe an error is; None for one that is not the server's but libpq's."""
    return result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED)
