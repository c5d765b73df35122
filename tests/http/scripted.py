"""An HTTP server that does as scripted, byte by byte: for what no well-behaved server does."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER, on, 0 s
PATIENCE = 10.0
HUNG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR  # the first on Linux

Fields = Sequence[tuple[str, str]]


class ClientGone(ConnectionError):
    """The client closed its connection, or the server is closed, while more was to come."""


@dataclass(frozen=True)
class Heard:
    """One request as it came over the connection with the number *connection*, from 0."""

    connection: int
    method: str
    target: str
    version: str
    headers: Fields
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the first field of that name, in any case."""
        return next((value for field, value in self.headers if field.lower() == name.lower()), None)


def response(
    body: bytes = b"",
    *,
    status: int = 200,
    reason: str = "Scripted",
    headers: Fields = (),
    length: int | None = None,
) -> bytes:
    """Return a whole response; *length* is what it says of its body, when that is to be wrong."""
    stated = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    lines += [f"Content-Length: {stated}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def chunked(*chunks: bytes, end: bool = True, headers: Fields = ()) -> bytes:
    """Return a response in chunks, without the last, empty one unless *end*."""
    lines = ["HTTP/1.1 200 Scripted", *(f"{name}: {value}" for name, value in headers)]
    head = "\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode("latin-1")
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + body + (b"0\r\n\r\n" if end else b"")


class Conversation:
    """One connection, from the server's side. Its end, by either side, ends the script without an error."""

    def __init__(self, index: int, sock: socket.socket, server: ScriptedServer) -> None:
        self.index = index
        self.sock = sock
        self._server = server
        self._buffer = b""

    def request(self) -> Heard:
        """Read one whole request. Raises :class:`ClientGone` at the connection's end."""
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        method, target, version = lines[0].split(" ")
        pairs = (line.partition(":") for line in lines[1:] if line)
        headers = [(name, value.strip()) for name, _, value in pairs]
        known = {name.lower(): value for name, value in headers}
        if "chunked" in known.get("transfer-encoding", ""):
            body = self._chunks()
        else:
            body = self._exactly(int(known.get("content-length", "0")))
        heard = Heard(self.index, method, target, version, headers, body)
        self._server._hear(heard)
        return heard

    def head(self) -> bytes:
        """Read as far as the empty line, and no body: it isn't heard."""
        return self._until(b"\r\n\r\n")

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.sock.sendall(data)

    def drip(self, data: bytes, interval: float) -> None:
        """Send a byte each *interval* seconds."""
        for number in range(len(data)):
            if self._server._closing.wait(interval):
                raise ClientGone
            self.sock.sendall(data[number : number + 1])

    def stall(self) -> None:
        """Neither read nor send, until the server is closed, or the client has hung up."""
        poll = select.poll()
        poll.register(self.sock, HUNG_UP)
        poll.register(self._server._woken, select.POLLIN)
        poll.poll()
        raise ClientGone

    def rest(self) -> bytes:
        """Read until the client sends no more, and return that."""
        pieces = [self._buffer]
        self._buffer = b""
        with contextlib.suppress(OSError):
            while piece := self.sock.recv(65536):
                pieces.append(piece)
        return b"".join(pieces)

    def half_close(self) -> None:
        """Send nothing more, but go on reading."""
        socket.socket.shutdown(self.sock, socket.SHUT_WR)  # of an SSLSocket too: no farewell

    def close(self) -> None:
        """Close it, as the end of the script does."""
        self.sock.close()

    def reset(self) -> None:
        """Close it with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.sock.close()

    def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._read()
        found, _, self._buffer = self._buffer.partition(end)
        return found

    def _exactly(self, length: int) -> bytes:
        pieces = [self._buffer]
        missing = length - len(self._buffer)
        while missing > 0:
            pieces.append(self._piece())
            missing -= len(pieces[-1])
        data = b"".join(pieces)
        self._buffer = data[length:]
        return data[:length]

    def _chunks(self) -> bytes:
        chunks = []
        while size := int(self._until(b"\r\n").partition(b";")[0], 16):
            chunks.append(self._exactly(size))
            self._exactly(2)
        while self._until(b"\r\n"):
            pass  # trailers
        return b"".join(chunks)

    def _read(self) -> None:
        self._buffer += self._piece()

    def _piece(self) -> bytes:
        if not (piece := self.sock.recv(65536)):
            raise ClientGone
        return piece


Script = Callable[[Conversation], object]


def answers(*responses: bytes) -> Script:
    """Return a script: one after the other on each connection, the last one again and again."""

    def script(talk: Conversation) -> None:
        left = list(responses)
        while True:
            talk.request()
            talk.send(left[0])
            if len(left) > 1:
                del left[0]

    return script


def in_turn(*scripts: Script) -> Script:
    """Return a script: the first connection has the first one, and so on, the last one all others."""

    def script(talk: Conversation) -> None:
        scripts[min(talk.index, len(scripts) - 1)](talk)

    return script


class ScriptedServer:
    """Runs a script for each connection, in a thread of its own. A context manager.

    What the script raises, but for an :class:`OSError`, is raised by :meth:`close`. *tls* is a server's
    context; *scheme* is for a URL that says something else than the server speaks. *host* may be
    ``::1``; *path* is a Unix socket's. *port* 0 is a free one.
    """

    def __init__(
        self,
        script: Script,
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        path: Path | None = None,
        scheme: str | None = None,
    ) -> None:
        self.requests: list[Heard] = []
        self.connections = 0
        self.tls_failures: list[OSError] = []  # of handshakes
        self._script = script
        self._tls = tls
        self._host = host
        self._scheme = scheme or ("http" if tls is None else "https")
        self._path = path
        self._errors: list[BaseException] = []
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._wake, self._woken = socket.socketpair()
        self._listener = self._listen(host, port, path)
        self.port = 0 if path else int(self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._threads = [
            threading.Thread(target=self._accept, name=f"scripted-{self.port}", daemon=True)
        ]
        self._threads[0].start()
        _servers.add(self)

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except BaseException:
            if error is None:
                raise

    @property
    def url(self) -> str:
        """Its address, without a slash at the end. With TLS it is localhost, as certificates are."""
        if self._host == "127.0.0.1" and self._scheme == "https":
            return f"https://localhost:{self.port}"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{self._scheme}://{host}:{self.port}"

    def wait_for_requests(self, number: int) -> None:
        """Wait until so many have been heard."""
        self._wait(lambda: len(self.requests) >= number, f"{number} requests")

    def wait_for_connections(self, number: int) -> None:
        """Wait until so many have been accepted."""
        self._wait(lambda: self.connections >= number, f"{number} connections")

    def close(self) -> None:
        """Close all connections, wait for all threads, and raise what a script did, if any."""
        if not self._closing.is_set():
            self._closing.set()
            self._wake.send(b"\0")
            self._threads[0].join(PATIENCE)
            with self._changed:
                doomed = list(self._open)
            for sock in doomed:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)  # wakes who reads
            for thread in self._threads:
                thread.join(PATIENCE)
                if thread.is_alive():
                    raise RuntimeError(f"{thread.name} doesn't end")
            self._wake.close()
            self._woken.close()
            _servers.discard(self)
        if self._errors:
            raise self._errors.pop(0)

    @staticmethod
    def _listen(host: str, port: int, path: Path | None) -> socket.socket:
        if path is None:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, port), family=family, backlog=1024)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(1024)
        return listener

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, PATIENCE):
                raise TimeoutError(f"not yet {what}: {self.connections=}, {len(self.requests)=}")

    def _hear(self, heard: Heard) -> None:
        with self._changed:
            self.requests.append(heard)
            self._changed.notify_all()

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        with self._listener:
            while not self._closing.is_set():
                poll.poll()
                if not self._closing.is_set():
                    self._take(*self._listener.accept())

    def _take(self, sock: socket.socket, _address: object) -> None:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._changed:
            index = self.connections
            self.connections += 1
            self._open.add(sock)
            self._changed.notify_all()
        thread = threading.Thread(
            target=self._serve,
            args=(index, sock),
            name=f"scripted-{self.port}-{index}",
            daemon=True,
        )
        self._threads.append(thread)
        thread.start()

    def _serve(self, index: int, sock: socket.socket) -> None:
        try:
            if self._tls is not None:
                sock = self._secured(sock)
            self._script(Conversation(index, sock, self))
        except OSError:
            pass  # the connection's end
        except BaseException as error:
            self._errors.append(error)
        finally:
            sock.close()
            with self._changed:
                self._open.discard(sock)

    def _secured(self, sock: socket.socket) -> socket.socket:
        assert self._tls is not None
        secured = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        with self._changed:
            self._open.discard(sock)
            self._open.add(secured)
        try:
            if self._closing.is_set():  # it may not have been among those that were shut down
                raise ClientGone
            secured.do_handshake()
        except OSError as error:
            if not isinstance(error, ClientGone):
                self.tls_failures.append(error)
            secured.close()
            raise
        return secured

    def _let_go(self) -> None:
        """Close our copies, in a fork: with one open anywhere, no end would reach the client."""
        self._closing.set()
        for sock in (self._listener, self._wake, self._woken, *self._open):
            socket.socket.close(sock)


class Blackhole:
    """A port on which connections are never accepted, nor refused: its queue is full. Linux only."""

    def __init__(self) -> None:
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port = int(self._listener.getsockname()[1])
        self._queued: list[socket.socket] = []
        in_vain = 0
        while in_vain < 2:
            in_vain = 0 if self._connects() else in_vain + 1

    def __enter__(self) -> Blackhole:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Refuse, from now on."""
        for sock in (*self._queued, self._listener):
            sock.close()

    def _connects(self) -> bool:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.settimeout(0.1)
        self._queued.append(sock)
        try:
            sock.connect(("127.0.0.1", self.port))
        except TimeoutError:
            return False
        return True


_servers: weakref.WeakSet[ScriptedServer] = weakref.WeakSet()


def _let_go_in_fork() -> None:
    for server in list(_servers):
        server._let_go()


os.register_at_fork(after_in_child=_let_go_in_fork)
