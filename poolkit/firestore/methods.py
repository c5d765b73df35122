"""The methods of the service that a pool calls by itself, without the library's layers between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.cloud.firestore_v1 import types


@dataclass(frozen=True, eq=False)  # so that it is found by what it is, which is quick
class Method:
    """A method of the service: its path, and how requests and answers are put on the wire."""

    path: str
    serialize: Callable[[Any], bytes]
    deserialize: Callable[[bytes], Any]
    writes: bool = False
    """Whether it may have taken effect when its answer was lost."""

    @property
    def name(self) -> str:
        """Its name without the service's."""
        return self.path.rpartition("/")[2]


def _method(name: str, request: Any, response: Any, *, writes: bool = False) -> Method:
    path = f"/google.firestore.v1.Firestore/{name}"
    return Method(path, request.pb().SerializeToString, response.pb().FromString, writes)


GET = _method("GetDocument", types.GetDocumentRequest, types.Document)
BATCH_GET = _method(
    "BatchGetDocuments", types.BatchGetDocumentsRequest, types.BatchGetDocumentsResponse
)
COMMIT = _method("Commit", types.CommitRequest, types.CommitResponse, writes=True)
BATCH_WRITE = _method("BatchWrite", types.BatchWriteRequest, types.BatchWriteResponse, writes=True)
BEGIN = _method("BeginTransaction", types.BeginTransactionRequest, types.BeginTransactionResponse)
LIST_COLLECTIONS = _method(
    "ListCollectionIds", types.ListCollectionIdsRequest, types.ListCollectionIdsResponse
)
ROLLBACK = Method(
    "/google.firestore.v1.Firestore/Rollback",
    types.RollbackRequest.pb().SerializeToString,
    lambda answer: answer,  # it is empty
)
