"""The embedded HTTP server keeps connections, answers as told, and is gone in the end."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import poolkit.embedded
from poolkit.core.errors import ConfigError
from poolkit.embedded import EmbeddedError, HttpServer, guardian
from poolkit.embedded.http_server.pages import PATTERN
from poolkit.embedded.http_server.process import listening
from tests.embedded.owners import SOON, gone, owner, remains, told

Maker = Callable[..., HttpServer]

STARTS_HTTP = """
    from poolkit.embedded import HttpServer
    server = HttpServer()
    server.start()
    tell(server.pid, server._home.path, server.port)
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[HttpServer]:
    server = HttpServer()
    with server:
        yield server


@contextlib.contextmanager
def connected(server: HttpServer) -> Iterator[http.client.HTTPConnection]:
    connection: http.client.HTTPConnection
    if server.url.startswith("https"):
        context = ssl.create_default_context(cafile=str(server.ca_file))
        connection = http.client.HTTPSConnection(
            "localhost", server.port, timeout=SOON, context=context
        )
    else:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SOON)
    with contextlib.closing(connection):
        yield connection


def ask(
    connection: http.client.HTTPConnection, target: str, method: str = "GET", **options: Any
) -> tuple[http.client.HTTPResponse, bytes]:
    connection.request(method, target, **options)
    response = connection.getresponse()
    return response, response.read()


def get(server: HttpServer, target: str) -> tuple[http.client.HTTPResponse, bytes]:
    with connected(server) as connection:
        return ask(connection, target)


def raw(server: HttpServer, sent: bytes) -> bytes:
    """Send bytes, and return all that comes until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=SOON) as connection:
        connection.sendall(sent)
        with connection.makefile("rb") as answer:
            return answer.read()


class TestBytes:
    @pytest.mark.parametrize("length", [0, 1, 200, 100_000, 1 << 20, (1 << 20) + 1, 3_000_000])
    def test_are_as_many_as_asked_for_and_always_the_same(
        self, shared: HttpServer, length: int
    ) -> None:
        response, body = get(shared, f"/bytes/{length}")
        assert response.status == 200
        assert response.getheader("Content-Length") == str(length)
        assert body == (bytes(range(251)) * (length // 251 + 1))[:length]

    def test_a_gigabyte_is_streamed_in_little_memory(self, own_http: Maker) -> None:
        server = own_http()
        get(server, "/bytes/10000000")
        before = _resident(server.pid)
        left = 1 << 30
        digest = hashlib.sha1()
        with connected(server) as connection:
            connection.request("GET", f"/bytes/{left}")
            response = connection.getresponse()
            while piece := response.read(1 << 20):
                left -= len(piece)
                if left > (1 << 30) - (10 << 20):
                    digest.update(piece)
        assert left == 0
        assert _resident(server.pid) - before < 10e6

    def test_one_who_reads_nothing_holds_up_nobody(self, shared: HttpServer) -> None:
        with connected(shared) as idle:
            idle.request("GET", "/bytes/1000000000")
            assert get(shared, "/bytes/5000000")[1][:251] == PATTERN[:251]

    def test_gzip_is_the_same_compressed(self, shared: HttpServer) -> None:
        response, body = get(shared, "/gzip/2000000")
        assert response.getheader("Content-Encoding") == "gzip"
        assert response.getheader("Transfer-Encoding") == "chunked"
        assert len(body) < 100_000
        assert gzip.decompress(body) == (bytes(range(251)) * 8000)[:2_000_000]

    @pytest.mark.parametrize("length", ["", "-1", "x", "1.5", "1073741825", "9" * 30])
    def test_of_no_such_number_are_refused(self, shared: HttpServer, length: str) -> None:
        assert get(shared, f"/bytes/{length}")[0].status == 400


class TestEcho:
    def test_tells_what_was_asked(self, shared: HttpServer) -> None:
        with connected(shared) as connection:
            connection.putrequest("PATCH", "/echo/a%20b?x=1&x=2&y=", skip_accept_encoding=True)
            connection.putheader("X-Twice", "1")
            connection.putheader("x-tWICE", "2")
            connection.putheader("Content-Length", "5")
            connection.endheaders("grün".encode())
            echo = json.loads(connection.getresponse().read())
        assert echo == {
            "method": "PATCH",
            "path": "/echo/a%20b",
            "query": [["x", "1"], ["x", "2"], ["y", ""]],
            "version": "HTTP/1.1",
            "headers": [
                ["Host", f"127.0.0.1:{shared.port}"],
                ["X-Twice", "1"],
                ["x-tWICE", "2"],
                ["Content-Length", "5"],
            ],
            "body": "grün",
            "base64": False,
        }

    def test_what_is_no_text_is_base64(self, shared: HttpServer) -> None:
        with connected(shared) as connection:
            _, body = ask(connection, "/echo", "POST", body=b"\xff\x00")
        echo = json.loads(body)
        assert (base64.b64decode(echo["body"]), echo["base64"]) == (b"\xff\x00", True)

    def test_a_body_in_chunks_is_put_together(self, shared: HttpServer) -> None:
        with connected(shared) as connection:
            pieces = (b"%d," % number for number in range(1000))
            _, body = ask(connection, "/echo", "PUT", body=pieces, encode_chunked=True)
            assert json.loads(body)["body"] == "".join(f"{number}," for number in range(1000))
            assert ask(connection, "/bytes/3")[1] == b"\x00\x01\x02"

    def test_chunks_may_have_extensions_and_trailers(self, shared: HttpServer) -> None:
        answer = raw(
            shared,
            b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            b"3;a=b\r\nabc\r\n0\r\nTrailer: x\r\n\r\n",
        )
        assert b'"body": "abc"' in answer

    def test_a_body_that_is_asked_for_first_comes_after_100(self, shared: HttpServer) -> None:
        with socket.create_connection(("127.0.0.1", shared.port), timeout=SOON) as connection:
            connection.sendall(
                b"POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
                b"Connection: close\r\n\r\n"
            )
            with connection.makefile("rb") as answer:
                assert answer.readline() == b"HTTP/1.1 100 Continue\r\n"
                connection.sendall(b"ab")
                assert b'"body": "ab"' in answer.read()


class TestOtherPages:
    def test_json(self, shared: HttpServer) -> None:
        response, body = get(shared, "/json")
        assert response.getheader("Content-Type") == "application/json"
        assert json.loads(body)["text"] == "grün"

    def test_status_with_header_fields(self, shared: HttpServer) -> None:
        response, body = get(shared, "/status/503?Retry-After=2&X-A=b%20c")
        assert (response.status, response.reason) == (503, "Service Unavailable")
        assert (response.getheader("Retry-After"), response.getheader("X-A")) == ("2", "b c")
        assert body == b"Service Unavailable\n"

    @pytest.mark.parametrize("status", ["204", "304"])
    def test_status_without_a_body(self, shared: HttpServer, status: str) -> None:
        with connected(shared) as connection:
            response, body = ask(connection, f"/status/{status}")
            assert (response.status, body) == (int(status), b"")
            assert ask(connection, "/json")[0].status == 200

    def test_headers_as_in_the_query(self, shared: HttpServer) -> None:
        response, _ = get(shared, "/headers?Set-Cookie=a%3D1&Set-Cookie=b%3D2")
        assert response.headers.get_all("Set-Cookie") == ["a=1", "b=2"]

    @pytest.mark.parametrize(
        "target", ["/headers?X=a%0D%0AY:b", "/headers?X%0D%0A=a", "/status/101", "/status/600"]
    )
    def test_what_would_not_be_http_is_refused(self, shared: HttpServer, target: str) -> None:
        assert get(shared, target)[0].status == 400

    def test_redirects_lead_on(self, shared: HttpServer) -> None:
        with connected(shared) as connection:
            target, seen = "/redirect/3?status=307&to=/json%3Fa", []
            for _ in range(3):
                response, _ = ask(connection, target)
                target = response.getheader("Location") or ""
                seen.append((response.status, target))
        assert [status for status, _ in seen] == [307, 307, 307]
        assert [target.partition("?")[0] for _, target in seen] == [
            "/redirect/2",
            "/redirect/1",
            "/json",
        ]
        assert json.loads(get(shared, "/redirect/0")[1])["method"] == "GET"

    def test_head_has_the_same_head_and_no_body(self, shared: HttpServer) -> None:
        with connected(shared) as connection:
            response, body = ask(connection, "/bytes/5000000", "HEAD")
            assert (response.getheader("Content-Length"), body) == ("5000000", b"")
            assert ask(connection, "/bytes/1")[1] == b"\x00"

    def test_there_is_nothing_else(self, shared: HttpServer) -> None:
        assert get(shared, "/nothing")[0].status == 404


class TestDelay:
    def test_holds_up_nobody_else(self, shared: HttpServer) -> None:
        with connected(shared) as slow, connected(shared) as quick:
            slow.request("GET", "/delay/3600")
            assert ask(quick, "/json")[0].status == 200
            assert ask(quick, "/delay/0.01")[1] == b"after 0.01 s\n"

    def test_answers_come_in_the_order_of_the_requests(self, shared: HttpServer) -> None:
        answer = raw(
            shared,
            b"GET /delay/0.1 HTTP/1.1\r\n\r\nGET /status/201 HTTP/1.1\r\nConnection: close\r\n\r\n",
        )
        assert answer.index(b"after 0.1 s") < answer.index(b"201 Created")

    @pytest.mark.parametrize("seconds", ["", "x", "-1", "nan", "inf", "3601"])
    def test_of_no_such_time_is_refused(self, shared: HttpServer, seconds: str) -> None:
        assert get(shared, f"/delay/{seconds}")[0].status == 400


class TestConnections:
    def test_are_kept_and_counted(self, own_http: Maker) -> None:
        server = own_http()
        with connected(server) as first, connected(server) as second:
            for _ in range(10):
                ask(first, "/json")
            told = json.loads(ask(second, "/count")[1])
            counts = server.counts()
        assert told == {"connections": 2, "requests": 11, "open": 2}
        assert (counts.connections, counts.requests, counts.open) == (2, 11, 2)
        assert guardian.wait_for(lambda: server.counts().open == 0, SOON)

    def test_that_do_nothing_are_closed_if_told_to(self, own_http: Maker) -> None:
        server = own_http(keep_alive=0.05)
        with connected(server) as connection:
            assert ask(connection, "/json")[0].getheader("Keep-Alive") == "timeout=0.05"
            assert connection.sock.recv(1) == b""
        with socket.create_connection(("127.0.0.1", server.port), timeout=SOON) as silent:
            assert silent.recv(1) == b""

    def test_with_a_request_under_way_are_not_idle(self, own_http: Maker) -> None:
        server = own_http(keep_alive=0.05)
        assert get(server, "/delay/0.3")[1] == b"after 0.3 s\n"

    @pytest.mark.parametrize(
        "line", [b"GET /json HTTP/1.0\r\n", b"GET /json HTTP/1.1\r\nconnection: Close\r\n"]
    )
    def test_are_closed_by_who_asks_for_it(self, shared: HttpServer, line: bytes) -> None:
        answer = raw(shared, line + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Connection: close\r\n" in answer

    @pytest.mark.parametrize(
        "nonsense",
        [
            b"\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET / HTTP/2.0\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        ],
    )
    def test_that_speak_no_http_are_told_and_closed(
        self, shared: HttpServer, nonsense: bytes
    ) -> None:
        with socket.create_connection(("127.0.0.1", shared.port), timeout=SOON) as connection:
            connection.sendall(nonsense)
            assert connection.recv(1000).startswith(b"HTTP/1.1 400 Bad Request\r\n")

    def test_over_the_unix_socket(self, shared: HttpServer) -> None:
        before = shared.counts()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(shared.socket_path))
            connection.sendall(b"GET /bytes/5 HTTP/1.1\r\nConnection: close\r\n\r\n")
            with connection.makefile("rb") as answer:
                assert answer.read().endswith(b"\r\n\r\n\0\1\2\3\4")
        assert shared.counts().requests == before.requests

    def test_many_at_once(self, shared: HttpServer) -> None:
        together = threading.Barrier(100)
        found: list[bytes] = []

        def work() -> None:
            with connected(shared) as connection:
                connection.connect()
                together.wait(SOON)
                found.append(ask(connection, "/bytes/3")[1])

        workers = [threading.Thread(target=work) for _ in range(100)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert found == [b"\0\1\2"] * 100


class TestTls:
    def test_is_good_for_who_trusts_its_authority(self, own_http: Maker) -> None:
        server = own_http(tls=True)
        assert server.url == f"https://localhost:{server.port}"
        assert get(server, "/bytes/3")[1] == b"\0\1\2"
        assert len(get(server, "/bytes/5000000")[1]) == 5_000_000
        assert server.counts().connections == 2

    def test_is_refused_by_who_does_not(self, own_http: Maker) -> None:
        server = own_http(tls=True)
        connection = http.client.HTTPSConnection("localhost", server.port, timeout=SOON)
        with contextlib.closing(connection), pytest.raises(ssl.SSLCertVerificationError):
            connection.request("GET", "/")

    def test_ca_file_is_only_for_tls(self, shared: HttpServer) -> None:
        with pytest.raises(EmbeddedError, match="tls=True"):
            _ = shared.ca_file


class TestStoppingAndStarting:
    @pytest.mark.parametrize("tls", [False, True])
    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_the_address_outlives_it(self, own_http: Maker, tls: bool, end: str) -> None:
        server = own_http(tls=tls)
        before = server.url, server.pid
        get(server, "/json")
        getattr(server, end)()
        with pytest.raises(ConnectionRefusedError):
            get(server, "/json")
        with pytest.raises(EmbeddedError, match="not running"):
            _ = server.pid
        with pytest.raises(EmbeddedError, match="doesn't answer"):
            server.counts()
        server.start()
        assert server.url == before[0]
        assert server.pid != before[1]
        assert get(server, "/json")[0].status == 200
        assert server.counts().connections == 1

    def test_a_stop_lets_answers_under_way_be_given(self, own_http: Maker) -> None:
        server = own_http()
        with connected(server) as busy, connected(server) as idle:
            ask(idle, "/json")
            busy.request("GET", "/delay/0.5")
            assert guardian.wait_for(lambda: server.counts().requests == 2, SOON)
            server.stop()
            assert idle.sock.recv(1) == b""
            response = busy.getresponse()
            assert response.getheader("Connection") == "close"
            assert response.read() == b"after 0.5 s\n"

    def test_a_pause_lets_nothing_through_until_it_ends(self, own_http: Maker) -> None:
        server = own_http()
        server.pause()
        assert not server.runs
        with connected(server) as connection:
            connection.request("GET", "/json")
            connection.sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.sock.recv(1)
            server.resume()
            connection.sock.settimeout(SOON)
            assert connection.sock.recv(8) == b"HTTP/1.1"

    def test_its_log_tells_that_it_listens(self, own_http: Maker) -> None:
        server = own_http()
        get(server, "/json")
        assert server.log() == listening(server.pid)

    @pytest.mark.parametrize("option", ["keep_alive", "startup_timeout"])
    @pytest.mark.parametrize("value", [0, float("nan"), "1"])
    def test_options_that_make_no_sense_are_refused(self, option: str, value: Any) -> None:
        with pytest.raises(ConfigError, match=option):
            poolkit.embedded.http(**{option: value})


class TestItsEnd:
    def test_with_the_block(self) -> None:
        server = poolkit.embedded.http()
        with server as url:
            assert url == f"http://127.0.0.1:{server.port}"
            assert server._home is not None
            pid, folder = server.pid, server._home.path
        assert gone(pid, folder)
        with pytest.raises(EmbeddedError, match="not started"):
            _ = server.url

    def test_with_an_owner_that_is_killed(self) -> None:
        with owner(STARTS_HTTP, "time.sleep(60)") as owning:
            pid, folder, _ = told(owning).split()
            assert remains(Path(folder))
            owning.kill()
        assert guardian.wait_for(lambda: gone(int(pid), Path(folder)), SOON)

    def test_no_driver_is_loaded_by_its_owner(self) -> None:
        script = """
            tell([name for name in ("urllib3", "requests", "trustme") if name in sys.modules])
        """
        with owner(STARTS_HTTP, script) as owning:
            told(owning)
            assert told(owning) == "[]"


def _resident(pid: int) -> int:
    import psutil

    return int(psutil.Process(pid).memory_info().rss)
