"""Transactions: work that is done over as a whole until nobody was in its way."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from google.api_core import exceptions
from google.cloud import firestore
from google.cloud.firestore_v1 import types

from ..core.deadline import Deadline, ambient
from ..core.errors import PoolKitError
from ..core.retry import Retrier, Try
from ..core.verdict import Phase
from . import channels
from .calls import Caller
from .lines import Lines, Turn
from .methods import BEGIN, COMMIT, ROLLBACK
from .operations import Document, check_commit, encode, reference_to

logger = logging.getLogger("poolkit.firestore")

ResultT = TypeVar("ResultT")

ROLLBACK_TIMEOUT = 1.0
"""Seconds to wait for a rollback: it is a courtesy, the server ends what is left alone by itself."""


class Transaction(firestore.Transaction):
    """The library's transaction, that also takes documents by their paths.

    Reads come before writes; the writes are sent together when the work is done. For one attempt only.
    """

    def get(self, ref_or_query: Any, *args: Any, **options: Any) -> Any:
        """Return the snapshot of a document, given its path; a reference or a query gives the library's iterator."""
        if isinstance(ref_or_query, str):
            reference = reference_to(ref_or_query, self._client)
            return next(iter(super().get(reference, *args, **options)))
        return super().get(ref_or_query, *args, **options)

    def batch_get(self, documents: Iterable[Document]) -> list[firestore.DocumentSnapshot]:
        """Return the snapshots of documents in the order asked; those that there are not are present too."""
        references = [reference_to(document, self._client) for document in documents]
        unique = {channels.name_of(reference): reference for reference in references}
        if not unique:
            return []
        found = {
            channels.name_of(snapshot.reference): snapshot
            for snapshot in self.get_all(list(unique.values()))
        }
        return [found[channels.name_of(reference)] for reference in references]

    def create(self, reference: Document, document_data: dict[str, Any]) -> None:
        """Create a document; if there is one, the commit fails."""
        self._add(("create", reference, document_data))

    def set(
        self, reference: Document, document_data: dict[str, Any], merge: bool | list[str] = False
    ) -> None:
        """Write a whole document, or with *merge* the fields that are given."""
        self._add(("set", reference, document_data, {"merge": merge}))

    def update(
        self, reference: Document, field_updates: dict[str, Any], option: Any = None
    ) -> None:
        """Change fields of a document; if there is none, the commit fails."""
        if option is not None:
            super().update(reference_to(reference, self._client), field_updates, option)
        else:
            self._add(("update", reference, field_updates))

    def delete(self, reference: Document, option: Any = None) -> None:
        """Delete a document, if there is one."""
        if option is not None:
            super().delete(reference_to(reference, self._client), option)
        else:
            self._add(("delete", reference))

    def _add(self, operation: tuple[Any, ...]) -> None:
        writes = encode(operation, self._client)
        self._add_write_pbs([types.Write.wrap(write) for write in writes.protobufs])


class Transactions:
    """Runs the transactions of one pool, in one process."""

    def __init__(
        self,
        caller: Caller,
        retrier: Retrier,
        *,
        database: str,
        metadata: channels.Metadata,
        rpc_timeout: float,
    ) -> None:
        self.lines = Lines()
        self._caller = caller
        self._retrier = retrier
        self._database = database
        self._metadata = metadata
        self._rpc_timeout = rpc_timeout
        # Who is under way, by the server's identifier; single dict operations.
        self._turns: weakref.WeakValueDictionary[bytes, _Attempt] = weakref.WeakValueDictionary()

    def run(
        self,
        client: firestore.Client,
        work: Callable[[Transaction], ResultT],
        *,
        read_only: bool,
        idempotent: bool,
    ) -> ResultT:
        """Return ``work(transaction)``, done over as a whole when it was aborted."""
        deadline = ambient()
        last = b""
        known: dict[str, None] = {}

        def attempt(state: Try) -> ResultT:
            nonlocal last
            run = _Attempt(self, client, read_only=read_only, deadline=deadline)
            try:
                if known:
                    self.lines.wait(run.turn, known, deadline)
                last = run.begin(state, last)
                result = work(run.transaction)
                run.commit(state)
            except BaseException as error:
                known.update(run.end(error, state))
                raise
            finally:
                self.lines.leave(run.turn)
            return result

        return self._retrier.call(
            attempt,
            idempotent=idempotent or read_only,
            deadline=deadline,
            operation="TRANSACTION",
        )

    def before_reading(self, identifier: bytes, names: Iterable[str]) -> None:
        """Wait in the lines at documents that a transaction of this pool is about to read."""
        run = self._turns.get(identifier)
        if run is not None and not run.read_only:
            self.lines.wait(run.turn, names, run.deadline)


class _Attempt:
    """One attempt at a transaction."""

    def __init__(
        self,
        owner: Transactions,
        client: firestore.Client,
        *,
        read_only: bool,
        deadline: Deadline,
    ) -> None:
        self.read_only = read_only
        self.deadline = deadline
        self.turn = Turn()
        self.transaction = Transaction(client, max_attempts=1, read_only=read_only)
        self._owner = owner
        self._id = b""

    def begin(self, state: Try, last: bytes) -> bytes:
        """Have the server begin; *last* is the attempt before this one, whose place is kept. Return this one's."""
        options = types.TransactionOptions.pb()()
        if self.read_only:
            options.read_only.SetInParent()
        else:
            options.read_write.retry_transaction = last
        request = types.BeginTransactionRequest.pb()(
            database=self._owner._database, options=options
        )
        answer = self._call(BEGIN, request, state, Phase.IN_TRANSACTION)
        self._id = answer.transaction
        self._owner._turns[self._id] = self
        channels.begin(self.transaction, self._id)
        return self._id

    def commit(self, state: Try) -> None:
        """Send what was gathered."""
        protobufs = channels.writes_of(self.transaction)
        request = types.CommitRequest.pb()(
            database=self._owner._database, writes=protobufs, transaction=self._id
        )
        check_commit(protobufs, request)
        channels.end(self.transaction)  # what comes from now on would be lost
        self._call(COMMIT, request, state, Phase.COMMITTING if protobufs else Phase.IN_TRANSACTION)

    def end(self, error: BaseException, state: Try) -> dict[str, None]:
        """Clean up after *error*; return the documents to queue up for before the next attempt, if any."""
        wanted = {_written(write): None for write in channels.writes_of(self.transaction)}
        wanted = wanted or self.turn.touched
        channels.end(self.transaction)
        if isinstance(error, exceptions.Aborted):
            self._owner.lines.heat(wanted)
            return wanted
        if self._id and state.phase is not Phase.COMMITTING:
            self._roll_back()
        return {}

    def _roll_back(self) -> None:
        """Have the server let go of what the transaction holds; not longer than the deadline allows."""
        request = types.RollbackRequest.pb()(database=self._owner._database, transaction=self._id)
        try:
            self._call(ROLLBACK, request, Try(), Phase.RUNNING, timeout=ROLLBACK_TIMEOUT)
        except (exceptions.GoogleAPICallError, PoolKitError) as error:
            logger.debug("a transaction could not be rolled back: %s", error)

    def _call(
        self, method: Any, request: Any, state: Try, phase: Phase, timeout: float | None = None
    ) -> Any:
        return self._owner._caller.unary(
            method,
            request,
            metadata=self._owner._metadata,
            timeout=self._owner._rpc_timeout if timeout is None else timeout,
            state=state,
            deadline=self.deadline,
            phase=phase,
        )


def _written(write: Any) -> str:
    """Return the resource name of the document that a write's protobuf is about."""
    name: str = write.delete or write.transform.document or write.update.name
    return name
