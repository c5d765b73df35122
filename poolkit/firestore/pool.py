"""FirestorePool: google-cloud-firestore over several channels, with deadlines, safe retries, and exact figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from google.cloud import firestore
from google.cloud.firestore_v1 import types
from google.cloud.firestore_v1.base_query import BaseQuery
from google.cloud.firestore_v1.types import WriteResult

from ..core import checks
from ..core.config import config_from
from ..core.errors import ConfigError
from ..core.pool import Pool
from . import channels, reading
from .bulk import BulkResult
from .config import FirestoreConfig
from .operations import Document, Operation, encode, encode_all, reference_to
from .pacing import RATE
from .paths import collection_parts
from .running import Running
from .spreading import Route, SpreadingChannel
from .transactions import Transaction

ResultT = TypeVar("ResultT")

Query = str | BaseQuery | firestore.CollectionReference

BATCH_GET_WORKERS = 4
"""Calls that one ``batch_get`` makes at a time."""


class FirestorePool(Pool[FirestoreConfig, Running]):
    """A thread-safe pool of channels to Firestore.

    Takes a project, or a :class:`~poolkit.FirestoreConfig`, or the config's fields as keywords. Opens itself
    on first use, in each process; ``with`` opens and closes it.

    Documents are named by their paths, ``"users/1"``, or by the library's references. Methods that make calls raise
    :class:`~poolkit.PoolTimeout`, :class:`~poolkit.PoolOverloaded`, :class:`~poolkit.BackendUnavailable`,
    :class:`~poolkit.PoolClosed` and :class:`~poolkit.DeadlineExceeded`; what the server refuses is raised as the
    library does, from ``google.api_core.exceptions``.
    """

    def __init__(self, project: str | FirestoreConfig | None = None, /, **settings: Any) -> None:
        super().__init__(
            config_from(FirestoreConfig, "project", project, settings),
            start=self._start,
            ping=self._ask_for_a_sign,
        )
        self._client: firestore.Client | None = None

    # -- one document --------------------------------------------------------------------------------

    def get(
        self, document: Document, *, fields: Sequence[str] | None = None
    ) -> firestore.DocumentSnapshot:
        """Return the snapshot of a document; ``exists`` is False if there is none. *fields* alone, if given.

        Its ``read_time`` is None; :meth:`batch_get` has it.
        """
        reference = reference_to(document, self.client)
        paths = reading.field_mask(fields)
        mask = None if paths is None else types.DocumentMask.pb()(field_paths=paths)
        return channels.snapshot_of(reference, self._running.get(channels.name_of(reference), mask))

    def set(
        self,
        document: Document,
        data: dict[str, Any],
        *,
        merge: bool | Sequence[str] = False,
        idempotent: bool = False,
    ) -> WriteResult:
        """Write a whole document, or with *merge* the fields that are given, or of these the named ones.

        *idempotent* says, here and in other methods that write, that it may be sent again when its answer was
        lost; else that raises :class:`~poolkit.OutcomeUnknown`.
        """
        options = {"merge": merge if isinstance(merge, bool) else list(merge)}
        return self._write(("set", document, data, options), idempotent)

    def create(
        self, document: Document, data: dict[str, Any], *, idempotent: bool = False
    ) -> WriteResult:
        """Create a document. Raises ``AlreadyExists`` if there is one."""
        return self._write(("create", document, data), idempotent)

    def update(
        self,
        document: Document,
        data: dict[str, Any],
        *,
        last_update_time: Any = None,
        idempotent: bool = False,
    ) -> WriteResult:
        """Change fields of a document, named by their paths. Raises ``NotFound`` if there is none.

        With *last_update_time*, a snapshot's ``update_time``: only if it was not changed since; else that raises
        ``FailedPrecondition``.
        """
        options = {"last_update_time": last_update_time}
        return self._write(("update", document, data, options), idempotent)

    def delete(
        self, document: Document, *, last_update_time: Any = None, idempotent: bool = False
    ) -> WriteResult:
        """Delete a document, if there is one; with *last_update_time* only if it was not changed since."""
        options = {"last_update_time": last_update_time}
        return self._write(("delete", document, options), idempotent)

    # -- many documents ------------------------------------------------------------------------------

    def batch_get(
        self, documents: Iterable[Document], *, fields: Sequence[str] | None = None
    ) -> list[firestore.DocumentSnapshot]:
        """Return the snapshots of any number of documents, in the order asked.

        Those that there are not are present, with ``exists`` False, and those asked for twice are there twice. Up
        to 500 are one call, more are several at a time, and so not at one instant.
        """
        if isinstance(documents, (str, bytes)) or not isinstance(documents, Iterable):
            raise ConfigError(f"documents must be a list of paths, not {checks.kind(documents)}")
        client = self.client
        references = [reference_to(document, client) for document in documents]
        return reading.batch_get(
            references,
            reading.field_mask(fields),
            self._running.fetch,
            workers=BATCH_GET_WORKERS,
        )

    def batch_write(
        self, operations: Iterable[Operation], *, idempotent: bool = False
    ) -> list[WriteResult]:
        """Do up to 500 writes, all or none, in one call; return a result for each.

        Each is ``("set", path, data)``, ``("create", path, data)``, ``("update", path, data)`` or
        ``("delete", path)``, and perhaps a dict of options: ``merge`` of ``set``; ``last_update_time`` of ``update``
        and ``delete``; ``exists`` of ``delete``. Raises :class:`~poolkit.ConfigError`, before anything is sent, for
        one that can't be run, and as :meth:`create` and :meth:`update` do.
        """
        writes = encode_all(operations, self.client)
        if not writes:
            return []
        answer = self._running.commit(
            [protobuf for each in writes for protobuf in each.protobufs], idempotent=idempotent
        )
        return [channels.result_of(result) for result in answer.write_results]

    def bulk_write(
        self,
        operations: Iterable[Operation],
        *,
        rate: float | None = RATE,
        idempotent: bool = False,
    ) -> list[BulkResult]:
        """Do any number of writes, each by itself; return a :class:`~poolkit.BulkResult` for each, in order.

        They are those of :meth:`batch_write`. Writes to one document are done in their order, others in none. It
        begins with *rate* writes a second, and half as many more every five minutes; None is as fast as it goes. A
        write that fails is in its result, and raises nothing; nor do a deadline and an outage.
        """
        pace = math.inf if rate is None else checks.seconds("rate", rate, zero=False)
        writes = encode_all(operations, self.client)
        return self._running.bulk(writes, rate=pace, idempotent=idempotent) if writes else []

    # -- transactions --------------------------------------------------------------------------------

    def run(
        self,
        work: Callable[[Transaction], ResultT],
        *,
        read_only: bool = False,
        idempotent: bool = False,
    ) -> ResultT:
        """Return ``work(transaction)``, done in a transaction that is done over as a whole when it is aborted.

        So *work* may be called several times: it should do nothing but read and write documents. The transaction is
        the library's, and also takes paths: ``transaction.get("users/1")``. Raises :class:`~poolkit.OutcomeUnknown`
        when the answer to the commit was lost, unless *idempotent* or *read_only*.
        """
        checks.flag("read_only", read_only)
        running = self._running
        return running.transactions.run(
            self.client, work, read_only=read_only, idempotent=idempotent
        )

    # -- queries -------------------------------------------------------------------------------------

    def stream(self, query: Query) -> Iterator[firestore.DocumentSnapshot]:
        """Iterate over the documents that a query finds: one of :attr:`client`'s, or a collection's path.

        A channel is lent from the first document until the iterator ends or is closed.
        """
        found = self._query(query)
        yield from found.stream(retry=None)

    def count(self, query: Query) -> int:
        """Return how many documents a query finds: one of :attr:`client`'s, or a collection's path."""
        answers = self._query(query).count(alias="all").get(retry=None)
        return int(answers[0][0].value)

    @property
    def client(self) -> firestore.Client:
        """The whole of the library's API over this pool's channels, with the pool's retries instead of its own."""
        if self._client is None:
            self._lifecycle.open()
        client = self._client
        assert client is not None
        return client

    # -- private -------------------------------------------------------------------------------------

    def _start(self) -> Running:
        running = Running(self.config)
        if self._client is None:  # a fork keeps its parent's: it leads to what runs in each process
            channel = SpreadingChannel(self._route)
            self._client = channels.make_client(self.config, running.identity, channel)
        return running

    @property
    def _running(self) -> Running:
        return self._lifecycle.running or self._lifecycle.open()

    def _ask_for_a_sign(self) -> None:
        self._running.ping()

    def _route(self) -> Route:
        return self._running.route

    def _write(self, operation: Operation, idempotent: bool) -> WriteResult:
        writes = encode(operation, self.client)
        answer = self._running.commit(writes.protobufs, idempotent=idempotent)
        return channels.result_of(answer.write_results[0])

    def _query(self, query: Query) -> Any:
        if isinstance(query, str):
            return self.client.collection(*collection_parts(query))
        if not isinstance(query, (BaseQuery, firestore.CollectionReference)):
            raise ConfigError(
                f"query must be a collection's path, or a query of pool.client, not {checks.kind(query)}"
            )
        if not channels.belongs_to(query, self.client):
            raise ConfigError("the query was made by another client; make it with pool.client")
        return query
