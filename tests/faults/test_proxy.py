"""The proxy shows the faults that it is told to, and counts as the wire does."""

from __future__ import annotations

import random
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from poolkit.embedded import PostgresServer
from poolkit.embedded.guardian import wait_for
from tests.faults.proxy import FaultProxy, Reset
from tests.faults.proxy_apart import ProxyApart
from tests.faults.tampering import Tampering, break_off_midway

SOON = 0.2  # seconds in which something that must not come would have come


class Answers(socketserver.BaseRequestHandler):
    """Answers each line with the same line."""

    def handle(self) -> None:
        try:
            with self.request.makefile("rb") as lines:
                for line in lines:
                    self.server.seen.append(line)  # type: ignore[attr-defined]
                    self.request.sendall(line)
        except ConnectionError:
            return


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.seen: list[bytes] = []


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", server.server_address[1]) as proxy:
        yield proxy


def dial(proxy: FaultProxy | ProxyApart) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def ask(client: socket.socket, line: bytes) -> bytes:
    client.sendall(line)
    answer = b""
    while len(answer) < len(line):
        data = client.recv(1 << 20)
        if not data:
            raise EOFError(f"the end after {len(answer)} bytes")
        answer += data
    return answer


def assert_silent(client: socket.socket) -> None:
    client.settimeout(SOON)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(5)


def test_bytes_pass_unchanged_whatever_their_number(proxy: FaultProxy) -> None:
    line = b"x" * 5_000_000 + b"\n"
    with dial(proxy) as client:
        sender = threading.Thread(target=client.sendall, args=(line,))
        sender.start()
        answer = b""
        while len(answer) < len(line):
            answer += client.recv(1 << 20)
        sender.join()
    assert answer == line


def test_connections_are_counted_and_their_end_is_seen(proxy: FaultProxy) -> None:
    with dial(proxy), dial(proxy):
        assert (proxy.connections_total, proxy.live) == (2, 2)
    assert wait_for(lambda: proxy.live == 0, 5)
    assert proxy.connections_total == 2


def test_a_black_hole_keeps_even_new_connections_and_gives_back_what_it_held(
    proxy: FaultProxy, server: Server
) -> None:
    with dial(proxy) as before:
        assert ask(before, b"one\n") == b"one\n"
        proxy.blackhole()
        with dial(proxy) as after:
            before.sendall(b"two\n")
            after.sendall(b"three\n")
            assert_silent(before)
            assert_silent(after)
            assert server.seen == [b"one\n"]
            proxy.pass_through()
            assert before.recv(100) == b"two\n"
            assert after.recv(100) == b"three\n"


def test_a_cut_is_a_reset_and_not_an_end(proxy: FaultProxy) -> None:
    with dial(proxy) as first, dial(proxy) as second:
        ask(first, b"x\n")
        assert proxy.cut() == 2
        for client in (first, second):
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    assert proxy.live == 0
    with dial(proxy) as third:
        assert ask(third, b"x\n") == b"x\n"


def test_refusing_spares_live_connections_and_keeps_the_port(proxy: FaultProxy) -> None:
    with dial(proxy) as client:
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            dial(proxy)
        assert ask(client, b"x\n") == b"x\n"
        proxy.accept()
        with dial(proxy) as other:
            assert ask(other, b"y\n") == b"y\n"


def test_stalled_replies_leave_the_server_its_requests(proxy: FaultProxy, server: Server) -> None:
    with dial(proxy) as client:
        ask(client, b"one\n")
        proxy.stall_replies()
        client.sendall(b"two\n")
        assert wait_for(lambda: server.seen == [b"one\n", b"two\n"], 5)
        assert_silent(client)
        proxy.pass_through()
        assert client.recv(100) == b"two\n"


@pytest.mark.parametrize("request_", [4, lambda sent: b"two" in sent], ids=["bytes", "predicate"])
def test_a_cut_after_the_request_lets_the_server_act_and_the_client_never_know(
    proxy: FaultProxy, server: Server, request_: object
) -> None:
    with dial(proxy) as client:
        ask(client, b"one\n")
        done = proxy.cut_after_request(request_)  # type: ignore[arg-type]
        client.sendall(b"two\n")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert done.wait(5)
    assert server.seen == [b"one\n", b"two\n"]
    with dial(proxy) as other:  # once only
        assert ask(other, b"three\n") == b"three\n"


def test_a_delay_is_added_to_each_round_trip(proxy: FaultProxy) -> None:
    with dial(proxy) as client:
        proxy.delay(0.3)
        started = time.monotonic()
        ask(client, b"x\n")
        assert 0.3 <= time.monotonic() - started < 1
        proxy.pass_through()
        started = time.monotonic()
        ask(client, b"x\n")
        assert time.monotonic() - started < 0.2


def test_jitter_keeps_the_order(proxy: FaultProxy) -> None:
    lines = b"".join(b"%d\n" % number for number in range(200))
    with dial(proxy) as client:
        proxy.delay(0.01, jitter=0.02)
        answer = b""
        for line in lines.splitlines(keepends=True):
            client.sendall(line)
        while len(answer) < len(lines):
            answer += client.recv(1 << 20)
    assert answer == lines


def test_a_limited_rate_lets_bytes_through_a_few_at_a_time(proxy: FaultProxy) -> None:
    with dial(proxy) as client:
        proxy.limit(500)
        started = time.monotonic()
        assert ask(client, b"x" * 99 + b"\n") == b"x" * 99 + b"\n"
        # 0.2 s there and 0.2 s back, but for the first few bytes.
        assert 0.3 <= time.monotonic() - started < 1


def test_what_is_tampered_with_arrives_as_it_was_made(proxy: FaultProxy, server: Server) -> None:
    ways = []

    def shout(way: str, data: bytes) -> bytes:
        ways.append(way)
        return data.upper() if way == "reply" else data

    with dial(proxy) as client:
        proxy.tamper(shout)
        assert ask(client, b"one\n") == b"ONE\n"
        assert ways == ["request", "reply"]
        proxy.pass_through()
        assert ask(client, b"two\n") == b"two\n"
    assert server.seen == [b"one\n", b"two\n"]


@pytest.mark.parametrize("way", ["request", "reply"])
def test_a_reset_while_tampering_comes_after_what_was_to_arrive(
    proxy: FaultProxy, server: Server, way: str
) -> None:
    def break_off(now: str, data: bytes) -> bytes:
        if now == way:
            raise Reset(data[:2])
        return data

    with dial(proxy) as client:
        proxy.tamper(break_off)
        client.sendall(b"one\n")
        if way == "reply":
            assert client.recv(100) == b"on"
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert server.seen == ([b"one\n"] if way == "reply" else [])


def test_a_half_closed_connection_still_takes_requests(proxy: FaultProxy, server: Server) -> None:
    with dial(proxy) as client:
        ask(client, b"one\n")
        assert proxy.half_close() == 1
        assert client.recv(1) == b""
        client.sendall(b"two\n")
        assert wait_for(lambda: server.seen == [b"one\n", b"two\n"], 5)
    assert wait_for(lambda: proxy.live == 0, 5)


def test_round_trips_are_turns_from_request_to_answer(proxy: FaultProxy) -> None:
    with dial(proxy) as first, dial(proxy) as second:
        for client in (first, second, first):
            ask(client, b"x\n")
        assert proxy.round_trips == 3
        proxy.reset_round_trips()
        ask(first, b"a\nb\nc\n")
        assert proxy.round_trips == 1


def test_round_trips_of_postgres(postgres_server: PostgresServer) -> None:
    with FaultProxy("127.0.0.1", postgres_server.port) as proxy:
        address = postgres_server.conninfo.replace(str(postgres_server.port), str(proxy.port))
        with psycopg.connect(address, autocommit=True) as conn:
            proxy.reset_round_trips()
            conn.execute("select 1")
            assert proxy.round_trips == 1
            with conn.transaction():
                conn.execute("select 1")
            assert proxy.round_trips == 4


def test_the_end_of_the_server_reaches_the_client(proxy: FaultProxy, server: Server) -> None:
    with dial(proxy) as client:
        ask(client, b"x\n")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert wait_for(lambda: proxy.live == 0, 5)


def test_close_ends_its_thread_and_its_connections(server: Server) -> None:
    threads = threading.active_count()
    proxy = FaultProxy("127.0.0.1", server.server_address[1])
    with dial(proxy) as client:
        ask(client, b"x\n")
        proxy.close()
        proxy.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert wait_for(lambda: threading.active_count() == threads, 5)
    with pytest.raises(ConnectionRefusedError):
        dial(proxy)


# -- in a process of its own ---------------------------------------------------------------------------


@pytest.fixture
def apart(server: Server) -> Iterator[ProxyApart]:
    with ProxyApart("127.0.0.1", server.server_address[1]) as proxy:
        yield proxy


def test_a_proxy_apart_does_what_it_is_told(apart: ProxyApart) -> None:
    with dial(apart) as client, dial(apart) as other:
        assert ask(client, b"one\n") == b"one\n"
        assert apart.live == 2
        apart.blackhole()
        client.sendall(b"two\n")
        assert_silent(client)
        apart.pass_through()
        assert client.recv(100) == b"two\n"
        assert apart.half_close() == 2
        assert other.recv(1) == b""
        assert apart.cut() == 2
        with pytest.raises(ConnectionError):
            ask(client, b"three\n")
    apart.refuse()
    with pytest.raises(ConnectionRefusedError):
        dial(apart)
    apart.accept()
    with dial(apart) as client:
        assert ask(client, b"four\n") == b"four\n"


def test_a_proxy_apart_tampers_with_a_share_of_what_goes_one_way(apart: ProxyApart) -> None:
    apart.tamper(Tampering("reply", break_off_midway, random.Random(1)))
    broken, lines = 0, 60
    for number in range(lines):
        line = b"number %d\n" % number
        with dial(apart) as client:
            try:
                assert ask(client, line) == line
            except (ConnectionResetError, EOFError):
                broken += 1
    assert 0 < broken < lines / 2


def test_a_proxy_apart_that_has_died_is_told_at_once_and_one_that_is_closed_is_gone(
    server: Server,
) -> None:
    with ProxyApart("127.0.0.1", server.server_address[1]) as proxy:
        proxy._process.kill()
        with pytest.raises(RuntimeError, match="has ended"):
            proxy.cut()
    with ProxyApart("127.0.0.1", server.server_address[1]) as proxy:
        pass
    assert proxy._process.returncode == 0
