"""A connection: urllib3's, which opens, asks and is answered within a deadline, and says whether it can be kept."""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    SSLError,
)
from urllib3.util.ssltransport import SSLTransport

from ..core.deadline import Deadline
from ..core.errors import BackendUnavailable, PoolKitError
from ..core.lease import Lease
from ..core.node import Node
from ..core.sockets import hung_up
from .dial import Dial
from .failures import HungUp, NotSent, TooLate
from .request import Request
from .sockets import BoundedSocket, BoundedTlsSocket
from .wire import Answer, Reader

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection as _Base
else:
    _Base = object

MARGIN = 1.0
"""Seconds by which a connection is given up before the server would: what is sent then may meet its end."""

SMALL = 16 * 1024
"""Bytes of a body that go out in one piece with the head."""


class PooledConnection(_Base):
    """What the pool's connections can do beside what urllib3's can."""

    lease: Lease[Any] | None = None
    born = 0.0
    dies = 0.0
    last_used = 0.0
    idle_timeout = 0.0
    counted = False
    retired = False
    lost = False
    """Whether the other side ended it, or did not keep to the protocol."""
    served = 0
    """How many requests it has answered."""
    node: Node[Any]
    dial: Dial
    extra: tuple[tuple[str, str], ...] = ()
    """Header fields that every request on it has: those for a proxy that forwards."""
    _foreign = False
    _owed = False  # whether an answer is to come
    _until: Deadline
    _bounded: BoundedSocket | BoundedTlsSocket
    _reader: Reader
    _poller: select.poll
    _answer: Answer | None = None

    # -- open ----------------------------------------------------------------------------------------

    def open(self, until: Deadline, connect: Callable[[], object]) -> None:
        """Connect, *until* then. Raises urllib3's errors, or :class:`~poolkit.AddressBlocked`."""
        self._until = until
        try:
            with self._connecting():
                connect()
        except BaseException:
            self.disconnect()
            raise
        sock: Any = self.sock
        inner: Any = sock.socket if isinstance(sock, SSLTransport) else sock
        # Of a pool that is dropped, the collector may come to the socket before it comes to this connection.
        weakref.finalize(self, inner.close).atexit = False
        self._bounded = inner
        self._reader = Reader(sock)
        self._poller = select.poll()
        self._poller.register(inner.fileno(), select.POLLIN)
        self.born = self.last_used = monotonic()

    def _new_conn(self) -> socket.socket:
        sock = self.dial(self._until)
        sock.deadline = self._until
        return sock

    @contextmanager
    def _connecting(self) -> Iterator[None]:
        """Raise what goes wrong while connecting as urllib3 does."""
        try:
            yield
        except (HTTPError, PoolKitError):
            raise
        except socket.gaierror as error:
            text = f"failed to resolve {self.host!r}: {error}"
            raise _saying(text, NameResolutionError(self.host, self, error)) from error
        except TimeoutError as error:
            text = f"connecting to {self.host} took too long"
            raise _saying(text, ConnectTimeoutError(self, text)) from error
        except ssl.SSLError as error:
            raise SSLError(error) from error
        except (OSError, http.client.HTTPException) as error:
            if self.proxy is not None and "unnel" in str(error):
                raise _saying(str(error), ProxyError(str(error), error)) from error
            text = f"connecting failed: {error}"
            raise _saying(text, NewConnectionError(self, text)) from error

    # -- use -----------------------------------------------------------------------------------------

    def ask(self, request: Request, deadline: Deadline) -> Answer:
        """Send *request*, and return the answer once its head has come.

        Raises :class:`~poolkit.http.failures.TooLate`, :class:`~poolkit.http.failures.NotSent`,
        :class:`~poolkit.http.failures.HungUp`, :class:`urllib3.exceptions.ProtocolError`, and what the body
        raises when it is an iterator.
        """
        self._bounded.deadline = deadline
        pieces, length = request.content.pieces(request.method)
        streams = request.content.given is not None
        head = self._head(request, length, streams=streams)
        self._answer = None
        self._owed = True
        unsent = self._send_all(head, pieces, chunked=streams and length is None)
        try:
            answer = self._receive(
                request.method
            )  # if it was not all sent, it may have been refused
        except (HTTPError, TooLate):
            if unsent is not None:
                raise unsent from None
            raise
        if unsent is not None:
            answer.will_close = True
        self._answer = answer
        self._owed = False
        self.served += 1
        self._heed(answer)
        return answer

    def _head(self, request: Request, length: int | None, *, streams: bool) -> bytes:
        if not self.proxy_is_forwarding:
            return request.head(request.target.path, length, streams=streams)
        fields = request.headers
        request.headers = fields.copy()
        for name, value in self.extra:
            request.headers[name] = value
        try:
            return request.head(request.target.absolute, length, streams=streams)
        finally:
            request.headers = fields

    def _send_all(self, head: bytes, pieces: Any, *, chunked: bool) -> ProtocolError | None:
        """Send it all, or return what came between when the head had been sent already."""
        following = iter(pieces)
        if (
            pieces
            and type(pieces) is tuple
            and type(pieces[0]) is bytes
            and len(pieces[0]) <= SMALL
        ):
            head += pieces[0]
            following = iter(())
        if (lost := self._send_head(head)) is not None:
            return lost
        for piece in following:
            octets = _octets(piece)
            if not octets:
                continue
            if chunked:
                octets = b"%x\r\n%b\r\n" % (len(octets), octets)
            if (lost := self._send_more(octets)) is not None:
                return lost
        return self._send_more(b"0\r\n\r\n") if chunked else None

    def _send_head(self, head: bytes) -> ProtocolError | None:
        sock: Any = self.sock
        try:
            sent = sock.send(head)
        except TimeoutError as error:
            raise TooLate(sent=False) from error
        except OSError as error:
            self.lost = True
            if not self.served:
                with suppress(HTTPError, TooLate), self._talking():
                    self._reader.peek()  # it may have said why
            raise NotSent(f"the connection was lost: {error}") from error
        return self._send_more(head[sent:]) if sent < len(head) else None

    def _send_more(self, octets: Any) -> ProtocolError | None:
        sock: Any = self.sock
        try:
            with self._talking():
                sock.sendall(octets)
        except ProtocolError as error:
            return error
        return None

    def _receive(self, method: str) -> Answer:
        with self._talking():
            return Answer(self._reader, method)

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Raise what goes wrong on the wire as urllib3 does."""
        try:
            yield
        except TimeoutError as error:
            raise TooLate(sent=True) from error
        except (http.client.RemoteDisconnected, ConnectionError, ssl.SSLEOFError) as error:
            self.lost = True
            raise HungUp(f"the connection was lost before an answer came: {error}") from error
        except ssl.SSLError as error:
            if not self.served and _refuses_client(error):
                raise BackendUnavailable(
                    f"{self.host} refuses this client's certificate, or wants one: {error}"
                ) from SSLError(error)
            raise SSLError(error) from error
        except (OSError, http.client.HTTPException) as error:
            self.lost = True
            raise ProtocolError(f"the answer is not HTTP: {error!r}") from error

    def _heed(self, answer: Answer) -> None:
        """Learn from the answer how long the server keeps the connection."""
        keep_alive = answer.said.get("keep-alive")
        if keep_alive is None:
            return
        for item in keep_alive.split(","):
            name, _, value = item.partition("=")
            seconds = value.strip()
            if name.strip().lower() == "timeout" and seconds.isascii() and seconds.isdigit():
                offered = float(seconds[:12])
                self.idle_timeout = min(self.idle_timeout, max(offered / 2, offered - MARGIN))

    # -- come back -----------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether another request may be sent on it."""
        if self.sock is None or self._owed:
            return False
        answer = self._answer
        if answer is None:
            return True
        return (
            answer.isclosed()
            and not answer.will_close
            and self._reader.is_empty
            and not _holds_back(self.sock)
        )

    @property
    def was_kept(self) -> bool:
        """Whether it lay idle before it was lent: it may have ended meanwhile, or worse."""
        return self.last_used > self.born

    @property
    def is_connected(self) -> bool:
        """Whether it was not lost: that would cast doubt on others of its age."""
        return not self.lost

    def is_quiet(self) -> bool:
        """Whether nothing came while nothing was asked for: neither data nor the end. No round trip."""
        sock: Any = self.sock
        if sock is None or not self._reader.is_empty:
            return False
        if type(sock) is BoundedSocket and sock.is_silent():
            return True
        try:
            if not self._poller.poll(0):
                return True
            return isinstance(sock, ssl.SSLSocket) and _has_no_data(sock)
        except (OSError, ValueError):
            return False

    def hung_up(self) -> bool:
        """Whether it has ended, even if it is lent. No round trip."""
        sock = self.sock
        return sock is None or hung_up(sock.fileno())

    def answers(self, until: Deadline, timeout: float) -> bool:  # noqa: ARG002
        """Return False: HTTP has no way to ask, and a new connection costs little."""
        return False

    def disconnect(self) -> None:
        """Close it."""
        with suppress(OSError):
            self.close()

    def disown(self) -> None:
        """In a forked child: let go of the parent's socket without a word to the server."""
        self._foreign = True
        self.lease = None
        sock, self.sock = self.sock, None
        if sock is not None:
            sock.close()

    def __del__(self) -> None:
        if self._foreign:
            return
        if self.lease is not None:
            self.node.forgotten(self.lease, self)  # it lives on there until it is reclaimed
        elif self.counted and not self.retired:
            self.node.dropped(self)


class PlainConnection(PooledConnection, HTTPConnection):
    """A connection over TCP, or over a Unix-domain socket."""


class TlsConnection(PooledConnection, HTTPSConnection):
    """A connection over TLS."""


def _refuses_client(error: ssl.SSLError) -> bool:
    """Whether the server ended the handshake, which of TLS 1.3 is over before it looks who we are."""
    reason = error.reason or ""
    return "ALERT" in reason and any(
        word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")
    )


def _saying(text: str, error: HTTPError) -> HTTPError:
    """Return *error* with this text: urllib3 puts the repr of its arguments there."""
    error.args = (text,)
    return error


def _octets(piece: Any) -> Any:
    """Return a piece of a body as bytes, or as what has as many of them as its length says."""
    if isinstance(piece, bytes):
        return piece
    return piece.encode() if isinstance(piece, str) else memoryview(piece).cast("B")


def _holds_back(sock: Any) -> bool:
    """Whether TLS has received more than was asked of it: no poll shows that."""
    if isinstance(sock, ssl.SSLSocket):
        return sock.pending() > 0
    if isinstance(sock, SSLTransport):
        return sock.sslobj.pending() > 0 or sock.incoming.pending > 0
    return False


def _has_no_data(sock: ssl.SSLSocket) -> bool:
    """Whether what came is TLS' own, a session ticket say."""
    sock.settimeout(0.0)
    try:
        ssl.SSLSocket.recv(sock, 1)
    except ssl.SSLWantReadError:
        return True
    except OSError:
        return False
    return False
