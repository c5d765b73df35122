"""A grpc channel that is none: each call goes to the least busy of a pool's.

It is what the library's client is given, so that whatever is asked of the client is a call of the pool: it waits its
turn, keeps to the deadline, is sent again where that is safe, and is seen in the pool's figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from ..core.deadline import ambient
from ..core.retry import Retrier, Try
from . import commits
from .calls import Caller
from .fleet import Fleet
from .methods import Method
from .operations import all_guarded
from .transactions import Transactions

STREAM_TIMEOUT = 300.0
"""Seconds for all answers to a query where no deadline is in force; the library's own default."""

_WRITES = {"Commit", "BatchWrite", "CreateDocument", "UpdateDocument", "DeleteDocument"}
_END = object()


@dataclass(frozen=True)
class Route:
    """The parts of a pool that a call goes through, in this process."""

    caller: Caller
    fleet: Fleet
    retrier: Retrier
    parts: Retrier
    """For calls of a transaction, which are not sent again when it was aborted."""
    transactions: Transactions
    rpc_timeout: float


class SpreadingChannel(grpc.Channel):
    """Makes each call on the least busy channel of the pool that *route* leads to."""

    def __init__(self, route: Callable[[], Route]) -> None:
        self._route = route

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> grpc.UnaryUnaryMultiCallable:
        """Return what makes calls of *method*."""
        return _UnaryUnary(self._route, _named(method, request_serializer, response_deserializer))

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> grpc.UnaryStreamMultiCallable:
        """Return what makes calls of *method*."""
        return _UnaryStream(self._route, _named(method, request_serializer, response_deserializer))

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> grpc.StreamStreamMultiCallable:
        """Return what makes calls of *method*: they are no leases, since they may last for days."""
        return _StreamStream(self._route, _named(method, request_serializer, response_deserializer))

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> grpc.StreamUnaryMultiCallable:
        """Raise: Firestore has no such methods."""
        raise NotImplementedError(f"{method}: Firestore has no methods of this kind")

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        """Do nothing: there is not one connection whose state could be told."""

    def unsubscribe(self, callback: Any) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing: the pool closes its channels."""

    def __enter__(self) -> SpreadingChannel:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self.close()


class _UnaryUnary(grpc.UnaryUnaryMultiCallable):
    def __init__(self, route: Callable[[], Route], method: Method) -> None:
        self._route = route
        self._method = method

    def __call__(
        self, request: Any, timeout: float | None = None, metadata: Any = None, **_: Any
    ) -> Any:
        route, deadline = self._route(), ambient()

        def attempt(state: Try) -> Any:
            return route.caller.unary(
                self._method,
                request,
                metadata=tuple(metadata or ()),
                timeout=route.rpc_timeout if timeout is None else timeout,
                state=state,
                deadline=deadline,
            )

        if not self._method.writes:
            return route.retrier.call(
                attempt, idempotent=True, deadline=deadline, operation=self._method.name
            )
        request = getattr(request, "_pb", request)
        within = bool(getattr(request, "transaction", b""))
        return commits.write(
            route.parts if within else route.retrier,
            attempt,
            guarded=not within
            and self._method.path.endswith("/Commit")
            and all_guarded(request.writes),
            idempotent=False,
            deadline=deadline,
            operation=self._method.name,
        )

    def with_call(
        self, request: Any, timeout: float | None = None, metadata: Any = None, **_: Any
    ) -> tuple[Any, Any]:
        return self(request, timeout, metadata), _Ended()

    def future(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("the synchronous client makes no futures")


class _UnaryStream(grpc.UnaryStreamMultiCallable):
    def __init__(self, route: Callable[[], Route], method: Method) -> None:
        self._route = route
        self._method = method

    def __call__(
        self, request: Any, timeout: float | None = None, metadata: Any = None, **_: Any
    ) -> Any:
        route, deadline = self._route(), ambient()
        # Nobody stops half-way here, but the library's own transactions, which would keep the channel lent.
        whole = self._method.path.endswith("/BatchGetDocuments")
        limit = timeout
        if limit is None:
            limit = route.rpc_timeout if whole else STREAM_TIMEOUT

        def attempt(state: Try) -> tuple[Iterator[Any], Any]:
            """Begin, up to the first answer: until then it can be done again. Documents asked for are read whole."""
            answers = route.caller.stream(
                self._method,
                request,
                metadata=tuple(metadata or ()),
                timeout=limit,
                state=state,
                deadline=deadline,
                first_within=None if whole or timeout is not None else route.rpc_timeout,
            )
            if whole:
                answers = iter(list(answers))
            return answers, next(answers, _END)

        inner = getattr(request, "_pb", request)
        within = getattr(inner, "transaction", b"")
        if within:
            route.transactions.before_reading(within, getattr(inner, "documents", ()))
        retrier = route.parts if within else route.retrier
        return _Answers(
            *retrier.call(attempt, idempotent=True, deadline=deadline, operation=self._method.name)
        )


class _StreamStream(grpc.StreamStreamMultiCallable):
    def __init__(self, route: Callable[[], Route], method: Method) -> None:
        self._route = route
        self._method = method

    def __call__(self, request_iterator: Any, timeout: float | None = None, **options: Any) -> Any:
        fleet = self._route().fleet
        link = fleet.hold()
        try:
            make = link.channel.stream_stream(
                self._method.path, self._method.serialize, self._method.deserialize
            )
            call = make(request_iterator, timeout=timeout, **options)
        except BaseException:
            fleet.let_go(link)
            raise
        if not call.add_callback(lambda: fleet.let_go(link)):
            fleet.let_go(link)
        return call


@dataclass
class _Ended(grpc.Call):
    """A call that is over, and went well."""

    metadata: tuple[Any, ...] = field(default=())

    def initial_metadata(self) -> Any:
        return self.metadata

    def trailing_metadata(self) -> Any:
        return self.metadata

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    def details(self) -> str:
        return ""

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float | None:
        return None

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: Any) -> bool:  # noqa: ARG002
        return False


class _Answers(_Ended):
    """The answers to a call, of which the first is there already."""

    def __init__(self, answers: Iterator[Any], first: Any) -> None:
        super().__init__()
        self._answers = answers
        self._first = first

    def __iter__(self) -> _Answers:
        return self

    def __next__(self) -> Any:
        first, self._first = self._first, None
        if first is _END:
            raise StopIteration
        return next(self._answers) if first is None else first

    def cancel(self) -> bool:
        close = getattr(self._answers, "close", None)
        if close is not None:
            close()
        return True


def _named(path: str, serialize: Any, deserialize: Any) -> Method:
    return Method(path, serialize, deserialize, path.rpartition("/")[2] in _WRITES)
