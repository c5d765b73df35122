"""Waits on a wire end at their instant, with TLS or without, whatever the peer does."""

from __future__ import annotations

import errno
import math
import os
import socket
import ssl
import threading
from time import monotonic, sleep

import pytest
import trustme

from poolkit.core.kernel_time import SLACK
from poolkit.redis import wire as wire_module
from poolkit.redis.wire import PlainWire, TlsWire
from tests.core.support import LONG, Stopwatch, Task

from .support import SCHEDULING

SOON = 0.2


@pytest.fixture(scope="module")
def contexts():
    """Give the TLS contexts of a server and of a client that trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


@pytest.fixture(params=["tcp", "unix", "tls"])
def ends(request, contexts):
    """Give a wire, and the socket at its other end."""
    near, far = socket.socketpair() if request.param == "unix" else tcp_pair()
    if request.param != "tls":
        wire, peer = PlainWire(near), far
    else:
        greeting = Task(lambda: contexts[0].wrap_socket(far, server_side=True))
        wire = TlsWire(contexts[1].wrap_socket(near, server_hostname="localhost"))
        peer = greeting.result()
    with peer, wire._sock:
        yield wire, peer


def read(wire, count):
    """Read *count* bytes, as a parser does: in as many turns as it takes."""
    buffer = bytearray(count)
    view = memoryview(buffer)
    while view:
        received = wire.recv_into(view)
        assert received, "the peer has hung up"
        view = view[received:]
    return bytes(buffer)


class Drip:
    """Sends *data* a byte at a time, a byte each 5 ms, for the length of a block."""

    def __init__(self, peer, data):
        self.sent = 0
        self._peer = peer
        self._data = data
        self._over = threading.Event()

    def __enter__(self):
        self._task = Task(self._send)
        return self

    def __exit__(self, *_):
        self._over.set()
        self._task.result()

    def _send(self):
        for position in range(len(self._data)):
            if self._over.wait(0.005):
                return
            self._peer.sendall(self._data[position : position + 1])
            self.sent += 1


def test_what_is_sent_arrives_whole_both_ways(ends):
    wire, peer = ends
    data = bytes(range(256)) * 20_000
    wire.until = monotonic() + LONG

    echo = Task(lambda: peer.sendall(read_exactly(peer, len(data))))
    wire.sendall(data)

    assert read(wire, len(data)) == data
    echo.result()


def read_exactly(sock, count):
    parts = []
    while count:
        parts.append(sock.recv(min(count, 65536)))
        count -= len(parts[-1])
    return b"".join(parts)


def test_a_peer_that_says_nothing_is_waited_for_until_the_instant(ends):
    wire, _ = ends
    wire.until = monotonic() + SOON

    with Stopwatch() as watch, pytest.raises(TimeoutError):
        wire.recv(1)

    assert SOON - 0.005 <= watch.seconds < SOON + SLACK + SCHEDULING


def test_a_peer_that_drips_is_not_waited_for_beyond_the_instant(ends):
    wire, peer = ends
    with Drip(peer, bytes(5_000)) as drip:
        wire.until = monotonic() + SOON
        with Stopwatch() as watch, pytest.raises(TimeoutError):
            read(wire, 5_000)

    assert drip.sent > 3
    assert watch.seconds < SOON + SLACK + SCHEDULING


def test_a_tls_record_that_drips_is_not_waited_for_beyond_the_instant(contexts):
    near, far = tcp_pair()
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = contexts[0].wrap_bio(coming, going, server_side=True)

    def greet():
        while True:
            try:
                server.do_handshake()
            except ssl.SSLWantReadError:
                far.sendall(going.read())
                coming.write(far.recv(65536))
            else:
                return far.sendall(going.read())

    with near, far:
        greeting = Task(greet)
        wire = TlsWire(contexts[1].wrap_socket(near, server_hostname="localhost"))
        with wire._sock:
            greeting.result()
            server.write(bytes(10_000))
            record = going.read()
            assert len(record) > 10_000
            with Drip(far, record) as drip:
                wire.until = monotonic() + SOON
                with Stopwatch() as watch, pytest.raises(TimeoutError):
                    wire.recv(10_000)

    assert drip.sent > 3
    assert watch.seconds < SOON + SLACK + SCHEDULING


def test_a_peer_that_does_not_read_is_not_waited_for_beyond_the_instant(ends):
    wire, _ = ends
    wire.until = monotonic() + SOON

    with Stopwatch() as watch, pytest.raises(TimeoutError):
        wire.sendall(bytes(20_000_000))

    assert SOON - 0.005 <= watch.seconds < SOON + SLACK + SCHEDULING


def test_a_peer_that_reads_too_slowly_is_not_waited_for_beyond_the_instant(ends):
    wire, peer = ends
    over = threading.Event()

    def sip():
        total = 0
        end = monotonic() + 10 * SOON  # then it stops, so that a broken wire gets its error too
        while not over.wait(0.005) and monotonic() < end:
            total += len(peer.recv(20_000))
        return total

    task = Task(sip)
    wire.until = monotonic() + SOON
    with Stopwatch() as watch, pytest.raises(TimeoutError):
        wire.sendall(bytes(50_000_000))
    over.set()

    assert task.result() > 0
    assert watch.seconds < SOON + SLACK + SCHEDULING


@pytest.mark.parametrize("late", [monotonic, lambda: -math.inf], ids=["now", "long ago"])
def test_when_the_instant_has_passed_nothing_is_sent_or_read(ends, late):
    wire, peer = ends
    peer.sendall(b"answer")
    wire.until = late()

    with pytest.raises(TimeoutError):
        wire.sendall(b"question")
    with pytest.raises(TimeoutError):
        wire.recv(1)

    wire.until = monotonic() + LONG
    wire.sendall(b"only this")
    assert peer.recv(100) == b"only this"
    assert read(wire, 6) == b"answer"


@pytest.mark.parametrize("then", [LONG, math.inf])
def test_an_instant_that_is_set_anew_is_the_one_that_holds(ends, then):
    wire, peer = ends
    wire.until = monotonic() + 0.02
    with pytest.raises(TimeoutError):
        wire.recv(1)

    wire.until = monotonic() + then
    task = Task(lambda: (sleep(0.1), peer.sendall(b"at last")))  # longer than the first wait

    assert read(wire, 7) == b"at last"
    task.result()

    wire.until = monotonic() + 0.02
    with Stopwatch() as watch, pytest.raises(TimeoutError):
        wire.recv(1)
    assert watch.seconds < 0.02 + SLACK + SCHEDULING


def test_an_instant_that_is_nearer_than_the_one_before_is_the_one_that_holds(ends):
    wire, peer = ends
    wire.until = monotonic() + 2.0
    peer.sendall(b"quick")
    assert read(wire, 5) == b"quick"

    wire.until = monotonic() + 0.05
    with Stopwatch() as watch, pytest.raises(TimeoutError):
        wire.recv(1)

    assert watch.seconds < 0.05 + SLACK + SCHEDULING


def test_a_wait_longer_than_the_longest_of_the_kernel_goes_on(ends, monkeypatch):
    monkeypatch.setattr(wire_module, "LONGEST", 0.03)
    wire, _ = ends
    wire.until = monotonic() + SOON

    with Stopwatch() as watch, pytest.raises(TimeoutError):
        wire.recv(1)

    assert watch.seconds >= SOON - 0.005


def test_a_timeout_of_nothing_still_reads_what_is_there(ends):
    wire, peer = ends
    peer.sendall(b"news")
    wire.until = monotonic() + LONG
    assert wire.recv(1) == b"n"  # so it has come

    wire.settimeout(0)

    assert wire.recv(10) == b"ews"


def test_a_timeout_of_nothing_does_not_wait(ends):
    wire, _ = ends
    wire.settimeout(0)

    with Stopwatch() as watch, pytest.raises(TimeoutError):
        wire.recv(1)

    assert watch.seconds < SLACK + SCHEDULING


@pytest.mark.parametrize("seconds", [LONG, None])
def test_a_timeout_never_puts_off_the_instant(ends, seconds):
    wire, _ = ends
    wire.until = monotonic() + 0.05

    wire.settimeout(seconds)

    with Stopwatch() as watch, pytest.raises(TimeoutError):
        wire.recv(1)
    assert watch.seconds < 0.05 + SLACK + SCHEDULING


def test_a_peer_that_hangs_up_is_not_waited_for(ends):
    wire, peer = ends
    wire.until = monotonic() + LONG
    if isinstance(peer, ssl.SSLSocket):
        task = Task(peer.unwrap)  # says goodbye, as TLS wants it
        assert wire.recv(1) == b""
        wire._sock.unwrap()
        task.result()
    else:
        peer.close()
        assert wire.recv(1) == b""


class GivenUp:
    """A socket whose peer acknowledges no more, as Linux shows it: told once, and then that it has ended."""

    def __init__(self, sock):
        self._sock = sock
        self._told = False

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def recv(self, _size):
        if self._told:
            return b""
        self._told = True
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def test_a_connection_that_the_kernel_has_given_up_is_lost_and_not_just_late(ends):
    wire, _ = ends
    sock, wire._sock = wire._sock, GivenUp(wire._sock)
    try:
        wire.until = monotonic() + LONG
        with pytest.raises(ConnectionError):
            wire.recv(1)
    finally:
        wire._sock = sock
