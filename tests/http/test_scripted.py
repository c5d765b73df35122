"""The scripted server does to the byte what its script says, and is gone in the end."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.http.certificates import Certificates
from tests.http.scripted import (
    PATIENCE,
    Blackhole,
    Conversation,
    ScriptedServer,
    answers,
    chunked,
    in_turn,
    response,
)

Maker = Callable[..., ScriptedServer]

ASKS = b"GET / HTTP/1.1\r\n\r\n"


def connect(server: ScriptedServer | Blackhole) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def until_end(sock: socket.socket) -> bytes:
    with sock.makefile("rb") as file:
        return file.read()


class TestRequests:
    def test_are_read_whole_and_kept_in_order(self, scripted: Maker) -> None:
        server = scripted(answers(response(b"one"), response(b"two")))
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            bodies = []
            for body in (b"x" * 100_000, iter([b"ab", b"c"]), None):
                connection.request("POST", "/a?b", body=body, headers={"X-Y": "z"})
                bodies.append(connection.getresponse().read())
        assert bodies == [b"one", b"two", b"two"]
        assert [heard.body for heard in server.requests] == [b"x" * 100_000, b"abc", b""]
        assert {heard.target for heard in server.requests} == {"/a?b"}
        assert server.requests[0].header("x-y") == "z"
        assert (server.connections, server.requests[2].connection) == (1, 0)

    def test_can_be_waited_for(self, scripted: Maker) -> None:
        server = scripted(answers(response()))
        with connect(server) as sock:
            sock.sendall(ASKS + ASKS)
            server.wait_for_connections(1)
            server.wait_for_requests(2)
        assert len(server.requests) == 2

    def test_each_connection_has_its_script(self, scripted: Maker) -> None:
        server = scripted(in_turn(answers(response(b"1")), answers(response(b"2"))))
        for expected in (b"1", b"2", b"2"):
            with connect(server) as sock:
                sock.sendall(ASKS)
                assert sock.recv(1000).endswith(expected)


class TestAnswers:
    def test_may_lie_about_their_length(self) -> None:
        assert b"Content-Length: 9\r\n\r\nabc" in response(b"abc", length=9)

    def test_in_chunks_may_have_no_end(self) -> None:
        assert chunked(b"abc", b"d").endswith(b"\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n")
        assert chunked(b"abc", end=False).endswith(b"3\r\nabc\r\n")

    def test_dripping_a_byte_at_a_time(self, scripted: Maker) -> None:
        server = scripted(lambda talk: talk.drip(b"abcdef", 0.001))
        with connect(server) as sock:
            assert until_end(sock) == b"abcdef"


class TestEnds:
    def test_with_a_reset(self, scripted: Maker) -> None:
        def script(talk: Conversation) -> None:
            talk.request()
            talk.send(b"HTTP/1.1")
            talk.reset()

        with connect(scripted(script)) as sock:
            sock.sendall(ASKS)
            with pytest.raises(ConnectionResetError):
                while sock.recv(100):
                    pass

    def test_with_half_of_it(self, scripted: Maker) -> None:
        heard = []

        def script(talk: Conversation) -> None:
            talk.half_close()
            heard.append(talk.rest())

        server = scripted(script)
        with connect(server) as sock:
            assert sock.recv(1) == b""
            sock.sendall(b"still there")
        server.close()
        assert heard == [b"still there"]

    def test_a_stall_ends_with_the_client(self, scripted: Maker) -> None:
        ended = threading.Event()

        def script(talk: Conversation) -> None:
            try:
                talk.stall()
            finally:
                ended.set()

        server = scripted(script)
        with connect(server) as sock:
            sock.sendall(b"x" * 100)  # which nobody reads
            server.wait_for_connections(1)
            assert not ended.wait(0.05)
        assert ended.wait(PATIENCE)

    def test_whatever_goes_on_ends_with_the_server(self, scripted: Maker) -> None:
        server = scripted(
            in_turn(
                Conversation.stall,
                Conversation.rest,
                Conversation.request,
                lambda talk: talk.drip(b"x" * 1000, 100.0),
                lambda talk: talk.send(b"x" * 100_000_000),
            )
        )
        with contextlib.ExitStack() as clients:
            for _ in range(5):
                clients.enter_context(connect(server))
            server.wait_for_connections(5)
            server.close()
        assert not [each for each in threading.enumerate() if each.name.startswith("scripted-")]
        with pytest.raises(ConnectionRefusedError):
            connect(server)

    def test_what_a_script_raises_is_raised(self) -> None:
        def script(talk: Conversation) -> None:
            raise AssertionError("not as expected")

        with pytest.raises(AssertionError, match="not as expected"):
            with ScriptedServer(script) as server, connect(server) as sock:
                sock.recv(1)

    def test_a_fork_does_not_keep_connections_open(self, scripted: Maker) -> None:
        forked = threading.Event()

        def script(talk: Conversation) -> None:
            forked.wait(PATIENCE)

        server = scripted(script)
        with connect(server) as sock:
            server.wait_for_connections(1)
            read, write = os.pipe()
            if (child := os.fork()) == 0:
                os.close(write)
                os.read(read, 1)  # until the parent is through
                os._exit(0)
            os.close(read)
            forked.set()
            try:
                assert sock.recv(1) == b""
            finally:
                os.close(write)
                os.waitpid(child, 0)


class TestListening:
    def test_on_ipv6(self, scripted: Maker) -> None:
        try:
            server = scripted(answers(response(b"six")), host="::1")
        except OSError:
            pytest.skip("no IPv6 here")
        assert server.url == f"http://[::1]:{server.port}"
        with socket.create_connection(("::1", server.port), timeout=PATIENCE) as sock:
            sock.sendall(ASKS)
            assert sock.recv(1000).endswith(b"six")

    def test_on_a_unix_socket(self, scripted: Maker, tmp_path: Path) -> None:
        scripted(answers(response(b"unix")), path=tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(tmp_path / "s"))
            sock.sendall(ASKS)
            assert sock.recv(1000).endswith(b"unix")

    def test_on_the_port_that_another_one_had(self, scripted: Maker) -> None:
        first = scripted(answers(response()))
        with connect(first) as sock:
            sock.sendall(ASKS)
            sock.recv(1000)
            first.close()
            second = scripted(answers(response(b"second")), port=first.port)
        with connect(second) as sock:
            sock.sendall(ASKS)
            assert sock.recv(1000).endswith(b"second")

    def test_with_tls(self, scripted: Maker, certificates: Certificates) -> None:
        server = scripted(answers(response(b"safe")), tls=certificates.good)
        assert server.url == f"https://localhost:{server.port}"
        context = ssl.create_default_context(cafile=str(certificates.ca_file))
        with context.wrap_socket(connect(server), server_hostname="localhost") as sock:
            sock.sendall(ASKS)
            assert sock.recv(1000).endswith(b"safe")
        assert server.tls_failures == []

    def test_a_failed_handshake_is_kept(self, scripted: Maker, certificates: Certificates) -> None:
        server = scripted(answers(response()), tls=certificates.good)
        with connect(server) as sock:
            sock.sendall(ASKS)
            with contextlib.suppress(ConnectionResetError):
                until_end(sock)
        server.close()
        assert [type(error) for error in server.tls_failures] == [ssl.SSLError]

    def test_one_in_a_handshake_is_let_go(
        self, scripted: Maker, certificates: Certificates
    ) -> None:
        server = scripted(answers(response()), tls=certificates.good)
        with connect(server):
            server.wait_for_connections(1)
            server.close()

    def test_a_blackhole_neither_accepts_nor_refuses(self, blackhole: Blackhole) -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                socket.create_connection(("127.0.0.1", blackhole.port), timeout=0.2)
        blackhole.close()
        with pytest.raises(ConnectionRefusedError):
            connect(blackhole)
