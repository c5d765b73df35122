"""A local gRPC server that lets few streams run on a connection, and is slow: what Google's does at another scale.

The emulator limits nothing, so what several channels are good for can't be seen there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from google.cloud.firestore_v1 import types

STREAMS = 5
SECONDS = 0.3
WORKERS = 100

_Request = types.GetDocumentRequest.pb()
_Document = types.Document.pb()


class StreamLimited:
    """Answers ``GetDocument`` after a while, at most so many at a time on each connection; counts by connection."""

    def __init__(self, streams: int, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self.calls = 0
        self.by_connection: dict[str, int] = {}
        handler = grpc.method_handlers_generic_handler(
            "google.firestore.v1.Firestore",
            {
                "GetDocument": grpc.unary_unary_rpc_method_handler(
                    self._get,
                    request_deserializer=_Request.FromString,
                    response_serializer=_Document.SerializeToString,
                )
            },
        )
        self._server = grpc.server(
            futures.ThreadPoolExecutor(WORKERS, "stream-limited"),
            handlers=[handler],
            options=[("grpc.max_concurrent_streams", streams)],
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    @property
    def host(self) -> str:
        """Its address, as an emulator's."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def _get(self, request: Any, context: Any) -> Any:
        with self._lock:
            self.calls += 1
            peer = context.peer()
            self.by_connection[peer] = self.by_connection.get(peer, 0) + 1
        time.sleep(self._seconds)  # this is the server's work
        return _Document(name=request.name)


@contextmanager
def stream_limited(streams: int = STREAMS, seconds: float = SECONDS) -> Iterator[StreamLimited]:
    """Run such a server for the length of a block."""
    server = StreamLimited(streams, seconds)
    server.start()
    try:
        yield server
    finally:
        server.stop()
