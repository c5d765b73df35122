"""redis-py's connections, that keep to the deadline, know what they are still owed, and never come back dirty.

Everything redis-py does goes through here too: its client's commands, pipelines, transactions and pub/sub.
"""

from __future__ import annotations

import select
import socket
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic
from typing import Any

import redis
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.connection import AbstractConnection
from redis.exceptions import MovedError, ReadOnlyError
from redis.utils import SENTINEL

from ..core.deadline import NEVER, Deadline, ambient
from ..core.lease import Lease
from ..core.node import Node
from ..core.sockets import hung_up
from .account import Account
from .commands import Argument, Command, Traits, traits_of
from .failures import NotSent, raise_seen
from .handshake import greet
from .packing import pack
from .wire import PlainWire, Wire

_PLAIN = {str, bytes, int, float, bool, list, dict, set, type(None)}
"""Kinds of replies that are neither errors nor announcements."""

_NOT_GIVEN: Any = SENTINEL


class PooledConnection(AbstractConnection):
    """One connection, to be mixed with redis-py's class for its kind of socket."""

    node: Node[PooledConnection]
    """The one that lends it."""

    # What its shelf keeps of it; see core/shelf.py.
    lease: Lease[Any] | None = None
    born = 0.0
    dies = 0.0
    last_used = 0.0
    idle_timeout = 0.0
    counted = False
    retired = False

    news: MovedError | ReadOnlyError | None = None
    """What the server said last of where its work is done now; its node heeds it when the connection is back."""
    command_timeout = 5.0
    """Seconds that the answer to a command may take."""
    connect_until = 0.0
    """When an attempt to connect, with its handshake, has to be done."""
    ready_check = True
    """Whether to ask, while connecting, if the server has loaded its data."""

    wants_master = False
    """Whether to refuse a server that says it is a replica, while connecting."""

    posted = 0
    """Bytes of what was posted last that the kernel took."""

    _wire_type: type[Wire] = PlainWire
    _wire: Wire
    _sock: Any
    _packed: Sequence[Sequence[Any]] = ()  # commands that redis-py has packed, but not sent yet
    _strangers = False  # this process is a fork of the one that opened it

    def __init__(self, *args: Any, **options: Any) -> None:
        self._account = Account()
        super().__init__(*args, **options)

    # -- open ----------------------------------------------------------------------------------------

    def open(self, until: Deadline) -> None:
        """Connect, *until* then at the latest: two round trips, TLS apart."""
        self.connect_until = until.at
        self.connect()
        self.born = self.last_used = monotonic()

    @property
    def socket_connect_timeout(self) -> float:
        """Seconds left to connect; redis-py asks for each address that the host name has."""
        return max(0.001, self.connect_until - monotonic())

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, value: float | None) -> None:
        """Do nothing: redis-py's maintenance handling would relax it."""

    def connect(self) -> None:
        """Connect if that is not done yet, with no retries: these are the pool's."""
        if self._sock is not None:
            return
        self._check_usable()
        if self.born:
            self._connect_anew()
        else:
            self.connect_check_health(check_health=False, retry_socket_connect=False)

    def _connect_anew(self) -> None:
        """Open it again after it was lost: what redis-py's pub/sub does, to subscribe again."""
        if self.node.lender.stopping:
            raise redis.ConnectionError("the connection was lost, and its pool is closed")
        began = monotonic()
        limit = ambient()
        if limit.at <= began:
            raise limit.exceeded(f"Redis at {self._host_error()}", stage="connecting")
        self.connect_until = min(limit.at, began + self.command_timeout)
        self._packed = ()
        self._account.reopen()
        self.connect_check_health(check_health=False, retry_socket_connect=False)
        self.node.renewed(monotonic() - began)

    def _connect(self) -> Wire:
        sock = self._reach()
        # Of a pool that is dropped, the collector may come to the socket before it comes to this connection.
        weakref.finalize(self, sock.close).atexit = False
        self._wire = self._wire_type(sock)
        self._wire.bound(self.connect_until, ambient())
        return self._wire

    def _reach(self) -> socket.socket:
        """Return a socket that has just connected."""
        sock: socket.socket = super()._connect()  # type: ignore[safe-super]
        return sock

    def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: ARG002
        """Get ready on a socket that has just connected: one round trip."""
        self._reset_himport_state()
        self._parser.on_connect(self)
        self.handshake_metadata = greet(self, self._exchange)
        self.activate_maint_notifications_handling_if_enabled(check_health=False)
        config = self.maint_notifications_config
        if config is not None and config.enabled:
            self._parser.set_node_moving_push_handler(self._server_moves)

    def _exchange(self, commands: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """Send *commands* at once, and yield their replies; an error of the server is one too."""
        for piece in AbstractConnection.pack_commands(self, commands):
            self._wire.sendall(piece)
        for _ in commands:
            try:
                yield AbstractConnection.read_response(self, disconnect_on_error=False)
            except (redis.ConnectionError, redis.ResponseError) as error:
                yield error
                if type(error) is redis.ConnectionError:
                    return  # nothing more will come

    # -- use -----------------------------------------------------------------------------------------

    def command(
        self,
        args: Sequence[Argument],
        traits: Traits,
        *,
        decode: bool = True,
        until: Deadline = NEVER,
        silence: Callable[[], None] | None = None,
    ) -> Any:
        """Send one command and return its reply, *until* then at the latest.

        *silence* is called if nothing has come within :data:`~poolkit.core.reading.SILENCE`.
        """
        self.send(args, traits, until)
        self._wire.silence = silence
        return self.read_response(disable_decoding=not decode)

    def batch(self, commands: Sequence[Command]) -> list[Any]:
        """Send *commands* in one round trip, and return their replies; an error of the server is one too."""
        packed = AbstractConnection.pack_commands(self, [args for args, _ in commands])
        for args, traits in commands:
            self._begin(args, traits)
        self._transmit(packed)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(self.read_response())
            except redis.ResponseError as error:
                replies.append(error)
            except redis.BusyLoadingError as error:
                if any(not isinstance(reply, redis.RedisError) for reply in replies):
                    raise redis.ConnectionError(
                        f"lost in the middle of a pipeline: {error}"
                    ) from error
                raise
        return replies

    def send(self, args: Sequence[Argument], traits: Traits, until: Deadline = NEVER) -> None:
        """Send one command; its reply is owed then."""
        packed = pack(args)
        pieces = (packed,) if packed is not None else self._command_packer.pack(*args)
        self._begin(args, traits, until)
        self._transmit(pieces)

    def send_command(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Send one command, for redis-py."""
        self.send(args, traits_of(args))

    def pack_commands(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """Pack commands that :meth:`send_packed_command` is to send next."""
        self._packed = list(commands)
        packed: list[Any] = AbstractConnection.pack_commands(self, self._packed)
        return packed

    def pack_command(self, *args: Any) -> Any:
        """Pack a command that :meth:`send_packed_command` is to send next."""
        self._packed = [args]
        return self._command_packer.pack(*args)

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: ARG002
        """Send what was packed last."""
        packed, self._packed = self._packed, ()
        if not packed:
            self._account.changed = True  # nobody knows what this is
        for args in packed:
            self._begin(args, traits_of(args))
        self._transmit([command] if isinstance(command, (str, bytes)) else command)

    def read_response(
        self,
        disable_decoding: bool = False,
        *,
        timeout: Any = _NOT_GIVEN,
        disconnect_on_error: bool = True,
        push_request: bool = False,
    ) -> Any:
        """Read one reply. Raises what the server answered, :class:`~poolkit.DeadlineExceeded`, or redis-py's errors."""
        try:
            if timeout is _NOT_GIVEN:
                reply = self._parser.read_response(disable_decoding, push_request)
            else:
                self._wait_for_messages()
                reply = self._parser.read_response(disable_decoding, push_request, timeout)
        except BaseException as error:  # noqa: BLE001 - raised again
            if disconnect_on_error:
                self.disconnect()
            raise_seen(error, self._host_error(), doubtful=self._account.doubtful)
        self._account.answered(reply)
        if isinstance(reply, redis.ResponseError):
            if isinstance(reply, (MovedError, ReadOnlyError)):
                self.news = reply
            raise reply
        return reply

    def can_read(self, timeout: float = 0) -> bool:
        """Return whether a message comes within *timeout* seconds. Raises :class:`~poolkit.DeadlineExceeded`."""
        self.connect()
        self._wait_for_messages()
        limit = ambient()
        until = Deadline.after(timeout).earlier(limit)
        while not super().can_read(until.stretch()):
            if until.expired:
                break
        else:
            return True
        if timeout > 0 and limit.expired:
            raise limit.exceeded(f"Redis at {self._host_error()}", stage="running")
        return False

    def _wait_for_messages(self) -> None:
        """Have time for more than the answer to a command, and note who waits: the thread that subscribed may end."""
        limit = ambient()
        self._wire.bound(limit.at, limit)
        lease = self.lease
        if lease is not None:
            lease.used()

    # -- carry the commands of many threads: see lanes.py ------------------------------------------------

    def post(self, packed: bytes, count: int) -> None:
        """Send *count* commands, packed; ``posted`` is how many bytes of them the kernel took."""
        self.posted = 0
        if self._sock is None:
            self._check_usable()
            raise redis.ConnectionError("the connection was lost")
        self._account.owed += count
        self._wire.silence = None
        self._wire.bound(monotonic() + self.command_timeout)
        try:
            self._wire.sendall(packed)
        except OSError as error:
            self.disconnect()
            raise redis.ConnectionError(str(error)) from error
        finally:
            self.posted = self._wire.sent

    def collect(self, decode: list[bool], until: float) -> list[Any]:
        """Return the replies that are there, and take as many from the end of *decode*, which says how to read them.

        Waits *until* then for the first; returns none if it did not come.
        """
        if self._sock is None:
            raise redis.ConnectionError("the connection was lost")
        replies: list[Any] = []
        self._wire.bound(until)
        parser = self._parser
        gets = parser._reader.gets
        try:
            while decode:
                reply = gets(decode[-1])
                if type(reply) not in _PLAIN:
                    if reply is NOT_ENOUGH_DATA:
                        if replies:
                            break
                        parser.read_from_socket()
                        continue
                    if type(reply) is redis.ConnectionError:
                        raise reply
                    if isinstance(reply, parser._hiredis_PushNotificationType or ()):
                        parser.handle_push_response(reply)
                        continue
                decode.pop()
                replies.append(reply)
        except (redis.TimeoutError, TimeoutError):
            pass
        except redis.ConnectionError:
            self.disconnect()
            if not replies:  # else what has come is handed out first
                raise
        finally:
            self._account.owed -= len(replies)
        return replies

    @property
    def where(self) -> str:
        """The server's address, for messages."""
        told: str = self._host_error()
        return told

    # -- what a server announces of its maintenance -----------------------------------------------------

    def update_current_socket_timeout(self, relaxed_timeout: float | None = None) -> None:
        """Give the server *relaxed_timeout* seconds from now for the answer that is owed; the deadline holds."""
        if relaxed_timeout is not None and relaxed_timeout > 0:
            self._wire.until = min(ambient().at, monotonic() + relaxed_timeout)

    def _server_moves(self, notice: object) -> None:  # noqa: ARG002
        """Have all connections replaced, each when it is not in use, since the server goes elsewhere."""
        self.node.condemn()

    # -- come back -----------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether it is like a new one: nothing owed, nothing left to read, nothing changed."""
        return (
            self._sock is not None
            and self._account.settled
            and not self._has_unread()
            and not self.should_reconnect()
        )

    def hung_up(self) -> bool:
        """Whether the connection has ended, even if it is lent. No round trip."""
        sock = self._sock
        return sock is None or hung_up(sock.fileno())

    def is_quiet(self) -> bool:
        """Whether nothing came while nothing was asked for: neither data nor the end. No round trip."""
        if self._sock is None or self._has_unread():
            return False
        poller = select.poll()
        poller.register(self._sock.fileno(), select.POLLIN)
        return not poller.poll(0)

    def answers(self, until: Deadline, timeout: float) -> bool:
        """Whether the server answers a PING within *timeout* seconds. One round trip."""
        try:
            self.command(
                ("PING",), traits_of(("PING",)), until=Deadline.after(timeout).earlier(until)
            )
        except redis.exceptions.NoPermissionError:
            return True
        except Exception:  # noqa: BLE001 - whatever it is, it is not an answer
            return False
        return True

    def disown(self) -> None:
        """In a forked child: let go of the parent's socket without a word to the server."""
        self._strangers = True
        self.lease = None
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def __del__(self) -> None:
        if self.lease is not None and not self._strangers:
            self.node.forgotten(self.lease, self)  # it lives on there until it is reclaimed
        else:
            if self.counted and not (self.retired or self._strangers):
                self.node.dropped(self)
            super().__del__()

    # -- private -------------------------------------------------------------------------------------

    def _begin(self, args: Sequence[Any], traits: Traits, until: Deadline = NEVER) -> None:
        """Note what a command that is about to be sent asks for, and by when it has to be answered."""
        if self._sock is None:
            self._check_usable()
            raise redis.ConnectionError("the connection was lost")
        if self.lease is not None:
            self.lease.used()
        now = monotonic()
        limit = ambient()
        if limit.at <= now:
            raise limit.exceeded("Redis", stage="running")
        patience = self.command_timeout + traits.blocks(args)
        self._wire.bound(min(until.at, limit.at, now + patience), limit)
        self._account.ask(traits.session, repeatable=traits.repeatable(args))

    def _check_usable(self) -> None:
        if self._strangers:
            raise redis.ConnectionError(
                "this connection belongs to the process that forked this one; take another from the pool"
            )
        if self.retired:
            raise redis.ConnectionError(
                "this connection was given back, and the pool has closed it; take another from the pool"
            )

    def _transmit(self, packed: Iterable[Any]) -> None:
        try:
            for piece in packed:
                self._wire.sendall(piece)
        except BaseException as error:
            self.disconnect()
            if self._account.owed == 1:
                # The server can't have run a command whose end it never got.
                self._account.doubtful = False
                if isinstance(error, OSError) and not ambient().expired:
                    raise NotSent(
                        f"the connection to {self._host_error()} was lost while sending: {error}"
                    ) from error
            raise_seen(error, self._host_error(), doubtful=self._account.doubtful)

    def _has_unread(self) -> bool:
        reader = getattr(self._parser, "_reader", None)  # hiredis
        if reader is not None:
            return bool(reader.has_data())
        buffer = getattr(self._parser, "_buffer", None)  # redis-py's own
        return buffer is not None and bool(buffer.unread_bytes())
