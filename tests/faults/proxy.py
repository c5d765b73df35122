"""A TCP proxy on loopback that can be told to misbehave, and counts round trips."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import random
import select
import socket
import struct
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, TypeVar

from poolkit.embedded.process import free_port

T = TypeVar("T")

CHUNK = 64 * 1024
SHARE = 0.02  # seconds of a limited rate that are taken at a time
MOST_QUEUED = 16  # chunks that one direction may hold before its source is read no further
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER, on, 0 s
PATIENCE = 10.0

Predicate = Callable[[bytes], bool]

Way = Literal["request", "reply"]

Tamper = Callable[[Way, bytes], bytes]
"""Told which way some bytes go, it returns what to forward instead; or raises :class:`Reset`."""


class Reset(Exception):
    """Raised by a :data:`Tamper`: forward *first*, then reset the connection."""

    def __init__(self, first: bytes = b"") -> None:
        super().__init__()
        self.first = first


class FaultProxy:
    """Stand between a client and a server on loopback, and do to their connections as told.

    One thread serves all connections. Every switch takes effect before its method returns, and holds
    for connections there are and those to come. Bytes are forwarded, held, or lost together with their
    connection; they are altered by nobody but who is told to :meth:`tamper`.
    """

    def __init__(
        self, target_host: str, target_port: int, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.target = (target_host, target_port)
        self.host = host
        # A port that isn't given to outgoing connections: it stays ours while we refuse.
        self.port = port or free_port()
        self._links: list[_Link] = []
        self._listener: socket.socket | None = None
        self._hold_requests = False
        self._hold_replies = False
        self._delay = 0.0
        self._jitter = 0.0
        self._rate = math.inf  # bytes a second, each way of each connection
        self._tamper: Tamper | None = None
        self._trap: _Trap | None = None
        self._connections_total = 0
        self._round_trips = 0
        self._calls: deque[Callable[[], None]] = deque()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._closing = False
        self._listen()
        _proxies.add(self)
        self._thread = threading.Thread(
            target=self._serve, name=f"FaultProxy-{self.port}", daemon=True
        )
        self._thread.start()

    def __repr__(self) -> str:
        return f"<FaultProxy {self.host}:{self.port} -> {self.target[0]}:{self.target[1]}>"

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def pass_through(self) -> None:
        """Forward everything at once; what was held comes first. Undoes all but :meth:`refuse`."""

        def switch() -> None:
            self._hold_requests = self._hold_replies = False
            self._delay = self._jitter = 0.0
            self._rate = math.inf
            self._tamper = self._trap = None

        self._call(switch)

    def blackhole(self) -> None:
        """Accept connections, and forward nothing either way, not even their ends."""

        def switch() -> None:
            self._hold_requests = self._hold_replies = True

        self._call(switch)

    def stall_replies(self) -> None:
        """Forward requests, and hold what the server answers."""

        def switch() -> None:
            self._hold_requests, self._hold_replies = False, True

        self._call(switch)

    def delay(self, seconds: float, *, jitter: float = 0.0) -> None:
        """Make each round trip that much longer: half of it there, half of it back.

        By *jitter* seconds more at most: each way of each piece by a random part of its half.
        """

        def switch() -> None:
            self._delay = seconds / 2
            self._jitter = jitter / 2

        self._call(switch)

    def limit(self, rate: float) -> None:
        """Forward *rate* bytes a second at most, each way of each connection, a few at a time."""

        def switch() -> None:
            self._rate = rate

        self._call(switch)

    def tamper(self, tamper: Tamper) -> None:
        """Forward what *tamper* makes of each piece. It is called in the proxy's thread."""

        def switch() -> None:
            self._tamper = tamper

        self._call(switch)

    def half_close(self) -> int:
        """End the replies on all live connections, as a server does that says no more but listens; return how many."""

        def switch() -> int:
            for link in self._links:
                link.replies.end(time.monotonic())
            return len(self._links)

        return self._call(switch)

    def refuse(self) -> None:
        """Refuse new connections, as a port does on which nobody listens. Live ones go on."""

        def switch() -> None:
            if self._listener is not None:
                self._listener.close()
                self._listener = None

        self._call(switch)

    def accept(self) -> None:
        """Accept new connections again, on the same port."""

        def switch() -> None:
            if self._listener is None:
                self._listen()

        self._call(switch)

    def cut(self) -> int:
        """Reset all live connections, on both sides; return how many."""

        def switch() -> int:
            cut = len(self._links)
            for link in list(self._links):
                self._reset(link)
            return cut

        return self._call(switch)

    def cut_after_request(self, request: int | Predicate) -> threading.Event:
        """Let the server do one request, and reset its connection instead of giving the reply.

        Which one: the first whose connection has sent *request* bytes, counted from now, or whose bytes
        sent from now satisfy the predicate. The reset happens when the reply's first byte comes, so the
        server has acted by then. The event returned is set after the reset.
        """
        trap = _Trap(request if callable(request) else lambda sent: len(sent) >= request)

        def switch() -> None:
            self._trap = trap

        self._call(switch)
        return trap.sprung

    @property
    def connections_total(self) -> int:
        """The number of connections accepted so far."""
        return self._call(lambda: self._connections_total)

    @property
    def live(self) -> int:
        """The number of connections open now."""
        return self._call(lambda: len(self._links))

    @property
    def round_trips(self) -> int:
        """How often an answer followed a request, on all connections, since the last reset."""
        return self._call(lambda: self._round_trips)

    def reset_round_trips(self) -> None:
        """Count round trips from 0 again."""

        def switch() -> None:
            self._round_trips = 0

        self._call(switch)

    def close(self) -> None:
        """Reset all connections, stop listening, and wait for the thread's end."""
        if self._closing:
            return
        self._closing = True
        with contextlib.suppress(OSError):  # it was awake already, and is gone
            self._wake.send(b"\0")
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            raise RuntimeError(f"{self!r} doesn't end")
        self._wake.close()
        _proxies.discard(self)

    def _call(self, function: Callable[[], T]) -> T:
        """Have the thread run *function* between two of its turns, and return its result."""
        if not self._thread.is_alive():
            return function()
        done = threading.Event()
        results: list[T] = []

        def run() -> None:
            results.append(function())
            done.set()

        self._calls.append(run)
        self._wake.send(b"\0")
        if not done.wait(PATIENCE):
            raise RuntimeError(f"{self!r} doesn't answer; its thread may have died")
        return results[0]

    def _listen(self) -> None:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        listener.listen(1024)
        listener.setblocking(False)
        self._listener = listener

    # From here on everything runs in the proxy's own thread.

    def _serve(self) -> None:
        while not self._closing:
            self._turn()
        for link in list(self._links):
            self._reset(link)
        for sock in (self._listener, self._woken):
            if sock is not None:
                sock.close()

    def _turn(self) -> None:
        """Wait for something to do, and do it."""
        now = time.monotonic()
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        links: dict[int, _Link] = {}
        if self._listener is not None:
            poll.register(self._listener, select.POLLIN)
        for link in self._links:
            for sock, events in self._interests(link, now).items():
                poll.register(sock, events)
                links[sock.fileno()] = link
        wait = self._time_to_next_due(now)
        ready = {fd for fd, _ in poll.poll(None if wait is None else wait * 1000 + 1)}

        for link in {links[fd] for fd in ready if fd in links}:
            self._pump(link)
        self._take_connections()
        if self._woken.fileno() in ready:
            self._run_calls()

    def _interests(self, link: _Link, now: float) -> dict[socket.socket, int]:
        """Return what to watch the link's sockets for; one that is held is not watched at all."""
        if link.connecting:
            return {link.server: select.POLLOUT}
        events: dict[socket.socket, int] = {}
        for flow, held in self._flows(link):
            if not held and flow.wants_more:
                events[flow.source] = events.get(flow.source, 0) | select.POLLIN
            if not held and flow.has_due(now):
                events[flow.sink] = events.get(flow.sink, 0) | select.POLLOUT
        return events

    def _flows(self, link: _Link) -> Iterator[tuple[_Flow, bool]]:
        """Yield the two directions, and whether they are held."""
        unconnected = not link.connected
        yield link.requests, self._hold_requests or unconnected
        yield link.replies, self._hold_replies or unconnected

    def _time_to_next_due(self, now: float) -> float | None:
        due = [
            flow.queue[0].due
            for link in self._links
            for flow, held in self._flows(link)
            if flow.queue and not held and flow.queue[0].due > now
        ]
        return min(due) - now if due else None

    def _run_calls(self) -> None:
        self._woken.recv(4096)
        self._take_connections()  # a client that knows itself connected is one of ours
        while self._calls:
            self._calls.popleft()()
        for link in list(self._links):
            if not (link.connected or link.connecting or self._hold_requests):
                self._connect(link)

    def _take_connections(self) -> None:
        while self._listener is not None:
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            self._connections_total += 1
            link = _Link(client)
            self._links.append(link)
            if not self._hold_requests:
                self._connect(link)

    def _connect(self, link: _Link) -> None:
        problem = link.server.connect_ex(self.target)
        link.connecting = problem == errno.EINPROGRESS
        link.connected = problem == 0
        if not (link.connecting or link.connected):
            self._reset(link)

    def _pump(self, link: _Link) -> None:
        """Move what can be moved at this moment, both ways."""
        try:
            if link.connecting:
                link.finish_connecting()
            now = time.monotonic()
            for flow, held in self._flows(link):
                if held:
                    continue
                if flow.wants_more and (
                    data := flow.read(self._share(), end_due=now + self._delay)
                ):
                    self._notice(link, flow, data)
                    self._forward(link, flow, data, now)
                flow.write(now)
        except (OSError, _TrapSprung):
            self._reset(link)
        if link.finished:
            self._remove(link)

    def _notice(self, link: _Link, flow: _Flow, data: bytes) -> None:
        """Count, and see whether the trap is for this."""
        if flow is link.requests:
            link.asked = True
            if self._trap is not None and self._trap.catches(link, data):
                link.trap, self._trap = self._trap, None
            return
        if link.asked:
            self._round_trips += 1
            link.asked = False
        if link.trap is not None:
            raise _TrapSprung

    def _share(self) -> int:
        """Return how many bytes to take at a time."""
        return CHUNK if self._rate == math.inf else max(1, int(self._rate * SHARE))

    def _forward(self, link: _Link, flow: _Flow, data: bytes, now: float) -> None:
        """Put the data, or what is made of it, on its way."""
        if self._tamper is not None:
            try:
                data = self._tamper("request" if flow is link.requests else "reply", data)
            except Reset as reset:
                flow.push(reset.first, due=now)
                flow.write(now)
                raise _TrapSprung from None
        late = self._delay + self._jitter * random.random()
        flow.push(data, due=now + late, takes=len(data) / self._rate)

    def _reset(self, link: _Link) -> None:
        for sock in (link.client, link.server):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._remove(link)

    def _remove(self, link: _Link) -> None:
        if link not in self._links:
            return
        self._links.remove(link)
        link.client.close()
        link.server.close()
        if link.trap is not None:
            link.trap.sprung.set()


class _TrapSprung(Exception):
    """What was waited for is here, and the connection has to be reset."""


@dataclass
class _Parcel:
    due: float
    data: bytes


class _Flow:
    """One direction of a connection: from its source to its sink."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.queue: deque[_Parcel] = deque()
        self._last_due = 0.0
        self.ended = False  # the source has said its last
        self.finished = False  # and the sink knows

    @property
    def wants_more(self) -> bool:
        return not self.ended and len(self.queue) < MOST_QUEUED

    def has_due(self, now: float) -> bool:
        return bool(self.queue) and self.queue[0].due <= now

    def read(self, most: int, *, end_due: float) -> bytes:
        """Take what there is from the source; an empty string is its end, or nothing."""
        try:
            data = self.source.recv(most)
        except BlockingIOError:
            return b""
        if not data:
            self.end(end_due)
        return data

    def push(self, data: bytes, due: float, takes: float = 0.0) -> None:
        """Put *data* on its way: it is there when it is due, but never before what was sent earlier."""
        self._last_due = max(self._last_due, due) + takes
        if data:
            self.queue.append(_Parcel(self._last_due, data))

    def end(self, due: float) -> None:
        """Say no more; the end travels like anything else."""
        if not self.ended:
            self.ended = True
            self.queue.append(_Parcel(max(self._last_due, due), b""))

    def write(self, now: float) -> None:
        """Give the sink what is due."""
        while self.has_due(now):
            parcel = self.queue[0]
            if not parcel.data:
                self.sink.shutdown(socket.SHUT_WR)
                self.finished = True
            else:
                try:
                    sent = self.sink.send(parcel.data)
                except BlockingIOError:
                    return
                parcel.data = parcel.data[sent:]
                if parcel.data:
                    return
            self.queue.popleft()


class _Link:
    """A client's connection, and the one to the server that it is joined with."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.connecting = False
        self.connected = False
        self.asked = False  # the last that went through was a request
        self.trap: _Trap | None = None
        for sock in (self.client, self.server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.requests = _Flow(self.client, self.server)
        self.replies = _Flow(self.server, self.client)

    @property
    def finished(self) -> bool:
        return self.requests.finished and self.replies.finished

    def finish_connecting(self) -> None:
        self.connecting = False
        problem = self.server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            raise OSError(problem, os.strerror(problem))
        self.connected = True


class _Trap:
    """Waits for one request."""

    def __init__(self, wanted: Predicate) -> None:
        self.sprung = threading.Event()
        self._wanted = wanted
        self._sent: weakref.WeakKeyDictionary[_Link, bytes] = weakref.WeakKeyDictionary()

    def catches(self, link: _Link, data: bytes) -> bool:
        sent = self._sent[link] = self._sent.get(link, b"") + data
        return self._wanted(sent)


_proxies: weakref.WeakSet[FaultProxy] = weakref.WeakSet()


def _let_go_in_fork() -> None:
    """Close our copies: with one open anywhere, a reset by the parent would not reach the peer."""
    for proxy in list(_proxies):
        sockets = [proxy._listener, proxy._wake, proxy._woken]
        sockets += [sock for link in proxy._links for sock in (link.client, link.server)]
        for sock in sockets:
            if sock is not None:
                sock.close()


os.register_at_fork(after_in_child=_let_go_in_fork)
