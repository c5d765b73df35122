"""For any WSGI app: one deadline a request, errors as answers, and nothing held beyond the request's end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..core import checks
from ..core.errors import ConfigError
from ..kit.kit import PoolKit
from .answering import Answering
from .budget import DEADLINE, Budget
from .scope import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class PoolsMiddleware:
    """Serves *app*, whose requests use the pools of *kit*.

    Each request has *deadline* seconds from its arrival, its body included, None for no limit. A proxy that is
    trusted may ask for less by the header *deadline_header*: in seconds, or in milliseconds if its name ends in
    ``-ms``. Errors of poolkit that the app lets through become 503, with Retry-After, or 504. What the
    request's thread still holds at its end is taken back, and logged as a leak.
    """

    def __init__(
        self,
        app: WSGIApplication,
        kit: PoolKit,
        *,
        deadline: float | None = DEADLINE,
        deadline_header: str | None = None,
    ) -> None:
        if not callable(app):
            raise ConfigError(f"app must be a WSGI application, not {checks.kind(app)}")
        if not isinstance(kit, PoolKit):
            raise ConfigError(f"kit must be a PoolKit, not {checks.kind(kit)}")
        self._app = app
        self._kit = kit
        self._budget = Budget(deadline, deadline_header)
        self._answering = Answering()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        budget = self._budget
        scope = Scope(self._kit, _named(environ), budget.deadline, budget.asked(environ))
        return _Exchange(scope, self._answering, environ, start_response).begin(self._app)


_END = object()


class _Exchange:
    """One request and its response, which is this iterator.

    The server is told of a status and headers once, with the first piece of the body: so they may be those of an
    answer as long as there is none. What it was told already can't be relied on to be replaced; gunicorn adds to it.
    """

    __slots__ = (
        "_answering",
        "_body",
        "_closed",
        "_environ",
        "_failure",
        "_head",
        "_scope",
        "_start_response",
        "_steps",
        "_write",
    )

    def __init__(
        self,
        scope: Scope,
        answering: Answering,
        environ: WSGIEnvironment,
        start_response: StartResponse,
    ) -> None:
        self._scope = scope
        self._answering = answering
        self._environ = environ
        self._start_response = start_response
        self._head: tuple[str, list[tuple[str, str]]] | None = None
        self._write: Callable[[bytes], object] | None = None
        self._closed = False
        self._failure: BaseException | None = None
        self._body: Any = ()
        self._steps: Iterator[bytes | object] = iter(())

    def begin(self, app: WSGIApplication) -> Iterable[bytes]:
        """Call *app*, and return the body of the response."""
        try:
            self._steps = self._scope.call(self._open, app)
            whole = type(self._body) in (list, tuple) or self._is_file()
            if whole:
                self._tell()
        except BaseException as error:
            self.close()
            if (answer := self._answer(error)) is None:
                raise
            return [answer]
        if whole:
            self._scope.end()
            return self._body  # type: ignore[no-any-return]
        return self

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            with self._scope:
                piece = next(self._steps, _END)
                if piece is _END:  # all is sent: what is left to do needs no step of its own
                    self._close_body()
        except Exception as error:
            if (answer := self._answer(error)) is None:
                raise
            self._steps = iter(())
            return answer
        if self._write is None:
            self._tell()
        if piece is _END:
            raise StopIteration
        return piece  # type: ignore[return-value]

    def close(self) -> None:
        """Close the app's body, and end the request."""
        if self._closed:
            return
        self._closed = True
        if hasattr(self._body, "close"):
            with self._scope:
                self._close_body()
        self._scope.end()
        if self._failure is not None:
            raise self._failure

    def _close_body(self) -> None:
        body, self._body = self._body, ()
        close = getattr(body, "close", None)
        if close is not None:
            try:
                close()
            except BaseException as error:  # noqa: BLE001 - raised when the server has sent all
                self._failure = error

    def _open(self, app: WSGIApplication) -> Iterator[bytes | object]:
        self._body = app(self._environ, self._start)
        return iter(self._body)

    def _is_file(self) -> bool:
        """Whether the server is to send a file, which it may be able to do without Python."""
        wrapper = self._environ.get("wsgi.file_wrapper")
        return (
            isinstance(wrapper, type)
            and isinstance(self._body, wrapper)
            and not self._scope.holds_anything()  # or the file might read from that
        )

    def _start(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        """Note what the app begins its response with, for the server to be told with the first piece."""
        if self._write is not None:
            return self._start_response(status, headers, exc_info)  # it knows what it sent
        if self._head is not None and exc_info is None:
            raise AssertionError("start_response was called again without exc_info")
        self._head = status, headers
        return self._write_early

    def _write_early(self, piece: bytes) -> object:
        """Send *piece*, for an app that writes instead of returning what it has."""
        self._tell()
        return self._write(piece) if self._write is not None else None

    def _tell(self) -> None:
        """Begin the response, unless it was begun or the app has not said with what."""
        if self._write is None and self._head is not None:
            self._write = self._start_response(*self._head)

    def _answer(self, error: BaseException) -> bytes | None:
        """Begin the answer that *error* means, and return its body; None if it means none, or comes too late."""
        if self._write is not None:
            return None
        answer = self._answering.answer(error, self._scope.name)
        if answer is None:
            return None
        headers, body = answer.render(self._environ.get("HTTP_ACCEPT", ""))
        self._head = answer.status_line, headers
        self._tell()
        return b"" if self._environ.get("REQUEST_METHOD") == "HEAD" else body


def _named(environ: WSGIEnvironment) -> str:
    """Return what the request is called in logs. The query may hold secrets."""
    method, mount, path = map(environ.get, ("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO"))
    asked = f"{method or ''} {mount or ''}{path or ''}"
    if not asked.isprintable():
        asked = repr(asked)  # or a client could write lines of its own into the log
    return f"the request {asked}"
