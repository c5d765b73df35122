"""FirestorePool, for the campaign."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import psutil
from google.api_core.exceptions import GoogleAPICallError
from google.cloud.firestore import Increment
from google.cloud.firestore_v1 import types

from poolkit import FirestorePool, PoolKitError
from poolkit.embedded import FirestoreServer
from tests.faults.subjects import ACQUIRE_TIMEOUT, SIZE, Midway

PROJECT = "chaos"
DATABASE = f"projects/{PROJECT}/databases/(default)"
ROOT = f"{DATABASE}/documents"
TAGS = 8
PAGE = 5000


class Firestore:
    """Documents are the effects: what each was counted up to. The emulator keeps them as long as it runs."""

    name = "firestore"
    block = "transaction"
    looks_names_up = False  # grpc does
    forgets = True
    errors = (PoolKitError, GoogleAPICallError)
    pool: FirestorePool

    def __init__(self, server: FirestoreServer | None = None) -> None:
        self.server = server or FirestoreServer()
        self._cell = ""

    @property
    def secrets(self) -> Sequence[str]:
        return []  # the emulator asks for none

    def open(self, cell: str, host: str, port: int) -> None:
        self._cell = cell
        self.seed()
        self.pool = FirestorePool(
            PROJECT,
            emulator_host=f"{host}:{port}",
            name=f"{self.name}-{cell}",
            channels=2,
            max_size=SIZE,
            acquire_timeout=ACQUIRE_TIMEOUT,
        )

    def write(self, id: str) -> str:
        self.pool.set(self._path(id), {"n": Increment(1)}, merge=True)
        return id

    def upsert(self, id: str) -> str:
        self.pool.set(self._path(id), {"n": 1}, idempotent=True)
        return id

    def read(self, id: str) -> str:
        data = self.pool.get(f"tags/{_tag(id)}").to_dict()
        # Where it was lost with the emulator there is no tag, rather than a wrong one.
        return id if data is None or data["tag"] == _tag(id) else f"tag {data['tag']} for {id}"

    def in_block(self, ids: Sequence[str], midway: Midway) -> Sequence[str] | None:
        def work(transaction: Any) -> None:
            transaction.get(f"tags/{_tag(ids[0])}")
            midway()
            for id in ids:
                transaction.set(self._path(id), {"n": Increment(1)}, merge=True)

        self.pool.run(work)
        return None

    @contextmanager
    def hold(self) -> Iterator[object]:
        documents = self.pool.stream("tags")
        try:
            yield next(documents, None)
        finally:
            documents.close()  # type: ignore[attr-defined]

    def seed(self) -> None:
        # Not over and over: transactions that were left alone still have locks on what they have read, for a minute.
        # A tag that the emulator lost, and can't be given for that, is not there: see read().
        if self._is_seeded():
            return
        for tag in range(TAGS):
            document = types.Document(name=f"{ROOT}/tags/{tag}", fields={"tag": _text(tag)})
            writes = [types.Write(update=document)]
            request = types.CommitRequest(database=DATABASE, writes=writes)
            try:
                self._call("Commit", request, types.CommitResponse)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.ABORTED:
                    raise

    def answers(self) -> None:
        # As the pool asks: what the emulator does first after its start takes it long.
        self._is_seeded()

    def effects(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        request = types.ListDocumentsRequest(parent=ROOT, collection_id=self._cell, page_size=PAGE)
        while True:
            answer = self._call("ListDocuments", request, types.ListDocumentsResponse)
            for document in answer.documents:
                found[document.name.rpartition("/")[2]] = document.fields["n"].integer_value
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    def connections(self) -> int:
        """Count those of its process, but for those to itself."""
        sockets = [
            each
            for each in psutil.Process(self.server.pid).net_connections("tcp")
            if each.status == psutil.CONN_ESTABLISHED
        ]
        own = {each.laddr.port for each in sockets}
        return sum(
            each.laddr.port == self.server.port and each.raddr.port not in own for each in sockets
        )

    def _is_seeded(self) -> bool:
        request = types.GetDocumentRequest(name=f"{ROOT}/tags/{TAGS - 1}")
        try:
            self._call("GetDocument", request, types.Document)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return False
        return True

    def _path(self, id: str) -> str:
        return f"{self._cell}/{id}"

    def _call(self, method: str, request: Any, answer: Any) -> Any:
        """Make a call of the server's, past all that the library or the pool does."""
        with grpc.insecure_channel(f"127.0.0.1:{self.server.port}") as channel:
            call = channel.unary_unary(
                f"/google.firestore.v1.Firestore/{method}",
                request_serializer=type(request).serialize,
                response_deserializer=answer.deserialize,
            )
            metadata = [("authorization", "Bearer owner")]
            return call(request, timeout=15, wait_for_ready=True, metadata=metadata)


def _text(value: object) -> types.Value:
    return types.Value(string_value=str(value))


def _tag(id: str) -> str:
    return str(sum(id.encode()) % TAGS)
