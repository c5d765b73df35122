"""Servers that say what is not HTTP, too much of it or too little, to the wrong one, or nothing."""

from __future__ import annotations

import errno
import os
import random
import socket
import ssl
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest
from urllib3.exceptions import HTTPError, ProtocolError

from poolkit import (
    BackendUnavailable,
    HttpPool,
    OutcomeUnknown,
    PoolKitError,
    RetryPolicy,
    deadline,
)
from poolkit.http.sockets import BoundedSocket, BoundedTlsSocket
from tests.core.support import LONG, Task, eventually, named, together
from tests.http.scripted import (
    ClientGone,
    Conversation,
    ScriptedServer,
    answers,
    chunked,
    in_turn,
    response,
)

from .support import HttpRecorder, echo_path, host_of, sweep, turns_left

ONCE = RetryPolicy(attempts=1)
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def says_and_waits(what: bytes) -> Callable[[Conversation], None]:
    """Return a script: ask for one request, say that, and say no more."""

    def script(talk: Conversation) -> None:
        talk.request()
        talk.send(what)
        talk.stall()

    return script


def says(what: bytes) -> Callable[[Conversation], None]:
    """Return a script: ask for one request, say that, and hang up."""

    def script(talk: Conversation) -> None:
        talk.request()
        talk.send(what)

    return script


# -- what is not HTTP ----------------------------------------------------------------------------------

BAD_HEADS = {
    "nothing": b"",
    "half a status line": b"HTTP/1.1 20",
    "half a head": HEAD + b"Content-Length: 5\r\nX-Ha",
    "a head without its blank line": HEAD + b"Content-Length: 5\r\n",
    "blank lines alone": b"\r\n\r\n\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "HTTP/0.9": b"<html>hello</html>\r\n\r\n",
    "HTTP/2": b"HTTP/2 200 OK\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a status below 100": b"HTTP/1.1 099 OK\r\n\r\n",
    "status 000": b"HTTP/1.1 000 OK\r\n\r\n",
    "letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "a minus": b"HTTP/1.1 -20 OK\r\n\r\n",
    "other digits": "HTTP/1.1 ２００ OK\r\n\r\n".encode(),
    "ICY": b"ICY 200 OK\r\n\r\n",
    "a field without a colon": HEAD + b"Nonsense\r\n\r\n",
    "a field without a name": HEAD + b": value\r\n\r\n",
    "a blank before the colon": HEAD + b"Content-Length : 5\r\n\r\nhello",
    "a blank before the first field": HEAD + b" X: y\r\n\r\n",
    "1 MB in one field": HEAD + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "1 MB of fields": HEAD + b"X: aaaaaaaaaaaaaaaaaaaa\r\n" * 40_000 + b"\r\n",
    "1,000 fields": HEAD + b"X: a\r\n" * 1_000 + b"\r\n",
    "1 MB of reason": b"HTTP/1.1 200 " + b"a" * 1_000_000 + b"\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "two lengths in one field": HEAD + b"Content-Length: 5, 6\r\n\r\nhello!",
    "a negative length": HEAD + b"Content-Length: -5\r\n\r\nhello",
    "a length with a plus": HEAD + b"Content-Length: +5\r\n\r\nhello",
    "a length in hex": HEAD + b"Content-Length: 0x5\r\n\r\nhello",
    "a length that is none": HEAD + b"Content-Length: five\r\n\r\nhello",
    "an empty length": HEAD + b"Content-Length: \r\n\r\nhello",
    "a length of 5,000 digits": HEAD + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\nhello",
    "100 interim answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 100 + response(b"hello"),
}

BAD_BODIES = {
    "shorter than its length": response(b"hell", length=5),
    "of a length and empty": response(b"", length=5),
    "no chunk": CHUNKS,
    "half a size": CHUNKS + b"f",
    "half a chunk": CHUNKS + b"5\r\nhel",
    "a chunk without an end": CHUNKS + b"5\r\nhello",
    "no last chunk": chunked(b"hello", end=False),
    "a size that is none": CHUNKS + b"xyz\r\nhello\r\n0\r\n\r\n",
    "an empty size": CHUNKS + b"\r\nhello\r\n0\r\n\r\n",
    "a negative size": CHUNKS + b"-5\r\nhello\r\n0\r\n\r\n",
    "a size in Python's hex": CHUNKS + b"0x5\r\nhello\r\n0\r\n\r\n",
    "a size with a plus": CHUNKS + b"+5\r\nhello\r\n0\r\n\r\n",
    "a size with an underscore": CHUNKS + b"0_5\r\nhello\r\n0\r\n\r\n",
    "a chunk that is longer than its size": CHUNKS + b"3\r\nhello\r\n0\r\n\r\n",
    "a chunk that is shorter than its size": CHUNKS + b"8\r\nhello\r\n0\r\n\r\n",
    "a size line of 1 MB": CHUNKS + b"0" * 1_000_000 + b"5\r\nhello\r\n0\r\n\r\n",
    "an extension of 1 MB": CHUNKS + b"5;" + b"x" * 1_000_000 + b"\r\nhello\r\n0\r\n\r\n",
    "a trailer of 1 MB": chunked(b"hello")[:-2] + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n",
}

WAYS: dict[str, Callable[[HttpPool, str, str], Any]] = {
    "request": lambda http, method, url: http.request(method, url).data,
    "session": lambda http, method, url: http.session().request(method, url).content,
}


def _streamed(http: HttpPool, method: str, url: str) -> bytes:
    with http.stream(method, url) as answer:
        return b"".join(answer.stream(3))


WAYS["stream"] = _streamed


NEEDS_THE_END = {
    "nothing",
    "half a status line",
    "half a head",
    "a head without its blank line",
    "blank lines alone",
    "shorter than its length",
    "of a length and empty",
    "no chunk",
    "half a size",
    "half a chunk",
    "a chunk without an end",
    "no last chunk",
    "a chunk that is shorter than its size",
}
"""What is an error only since nothing follows."""


@pytest.mark.parametrize("name", [*BAD_HEADS, *BAD_BODIES])
def test_what_is_not_http_is_an_error_and_costs_the_connection(scripted, name):
    says_it = says if name in NEEDS_THE_END else says_and_waits
    server = scripted(in_turn(*[says_it({**BAD_HEADS, **BAD_BODIES}[name])] * 6, echo_path))
    with HttpPool(retry=ONCE, max_size=1) as http:
        for way, ask in WAYS.items():
            with pytest.raises(HTTPError) as caught:
                ask(http, "GET", server.url)
            assert isinstance(caught.value, ProtocolError), way
            expected = ProtocolError if way == "stream" and name in BAD_BODIES else OutcomeUnknown
            with pytest.raises(expected):
                ask(http, "POST", server.url)
        assert http.get(f"{server.url}/next").data == b"/next"
        stats = http.stats()
        assert (stats.in_use, stats.size, stats.closed, stats.leaked) == (0, 1, 6, 0)


@pytest.mark.parametrize("kind", ["plain", "TLS"])
def test_a_body_is_not_whole_that_ends_since_the_system_has_given_up_the_connection(
    scripted, certificates, monkeypatch, kind
):
    base = ssl.SSLSocket if kind == "TLS" else socket.socket
    receive = base.recv
    heard: list[bytes] = []

    def recv(sock: Any, *args: Any) -> bytes:
        """Do as Linux does when a peer acknowledges no more: tell it once, and then that it has ended."""
        if not isinstance(sock, (BoundedSocket, BoundedTlsSocket)):
            return receive(sock, *args)
        heard.append(receive(sock, *args) if not heard else b"")
        if len(heard) == 2:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        return heard[-1]

    half = HEAD + b"Connection: close\r\n\r\nthe first half"
    server = scripted(says_and_waits(half), tls=certificates.good if kind == "TLS" else None)
    with HttpPool(retry=ONCE, verify=str(certificates.ca_file)) as http:
        monkeypatch.setattr(base, "recv", recv, raising=False)
        with pytest.raises(ProtocolError, match="broken"):
            http.get(server.url)
        assert heard[0] == half
        assert http.stats().size == 0


@pytest.mark.parametrize("name", ["half a head", "shorter than its length", "half a chunk"])
def test_what_broke_off_is_asked_for_again(scripted, name):
    server = scripted(in_turn(says({**BAD_HEADS, **BAD_BODIES}[name]), echo_path))
    with HttpPool() as http:
        assert http.get(f"{server.url}/a").data == b"/a"
        assert http.stats().retries == 1


GOOD = {
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", True),
    "an empty reason": (b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello", True),
    "line feeds alone": (b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", True),
    "the same length twice": (HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", True),
    "a folded field": (HEAD + b"X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello", True),
    "an interim answer": (b"HTTP/1.1 103 Hints\r\nX: y\r\n\r\n" + response(b"hello"), True),
    "a chunk with an extension": (CHUNKS + b"5;a=b\r\nhello\r\n0\r\n\r\n", True),
    "trailers": (CHUNKS + b"5\r\nhello\r\n0\r\nX: y\r\n\r\n", True),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", False),
    "HTTP/1.0, kept": (
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\nhello",
        True,
    ),
    "close": (HEAD + b"Connection: Close\r\nContent-Length: 5\r\n\r\nhello", False),
    "no length": (HEAD + b"\r\nhello", False),
    "chunked and a length": (
        HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        False,
    ),
    "chunked and a length, the other way": (
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        False,
    ),
    "a coding that does not tell the end, and a length": (
        HEAD + b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nhello",
        False,
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_can_be_understood_is_and_the_connection_is_kept_if_that_is_safe(scripted, name):
    what, kept = GOOD[name]

    def script(talk: Conversation) -> None:
        talk.request()
        talk.send(what)
        if kept:
            echo_path(talk)

    server = scripted(in_turn(script, echo_path))
    with HttpPool(retry=ONCE) as http:
        assert http.get(server.url).data == b"hello"
        assert http.stats().idle == (1 if kept else 0)
        assert http.get(f"{server.url}/next").data == b"/next"
    assert server.connections == (1 if kept else 2)


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_answer_that_has_no_body_is_one_without(scripted, status, method):
    head = f"HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n".encode()
    server = scripted(answers(head))
    with HttpPool() as http:
        assert [http.request(method, server.url).data for _ in range(3)] == [b""] * 3
    assert server.connections == 1


# -- what is left over reaches nobody ------------------------------------------------------------------

STRAY = response(b"stray")


TOO_SLOW = b"HTTP/1.1 408 Too Slow\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("what", [STRAY, b"x", b"\r\n", HEAD, TOO_SLOW], ids=lambda what: what[:12])
@pytest.mark.parametrize("when", ["with the answer", "with its last byte", "later"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@pytest.mark.parametrize("kind", ["plain", "TLS"])
def test_bytes_after_an_answer_never_reach_the_next_caller(
    scripted, certificates, what, when, method, kind
):
    sent = threading.Event()

    def stray(talk: Conversation) -> None:
        heard = talk.request()
        body = heard.target.encode()
        answer = response(b"" if heard.method == "HEAD" else body, length=len(body))
        if when == "later":
            talk.send(answer)
            talk.send(what)
        elif when == "with its last byte":
            talk.send(answer[:-1])
            talk.send(answer[-1:] + what)
        else:
            talk.send(answer + what)
        sent.set()
        talk.stall()

    server = scripted(in_turn(stray, echo_path), tls=certificates.good if kind == "TLS" else None)
    with HttpPool(verify=str(certificates.ca_file), retry=ONCE) as http:
        assert http.request(method, f"{server.url}/first").status == 200
        assert sent.wait(LONG)
        answer = http.get(f"{server.url}/second")
        assert (answer.status, answer.data) == (200, b"/second")
    assert server.connections == 2


@pytest.mark.parametrize("status", [204, 304, 200])
def test_a_body_where_none_can_be_never_reaches_the_next_caller(scripted, status):
    def script(talk: Conversation) -> None:
        talk.request()
        talk.send(f"HTTP/1.1 {status} X\r\nContent-Length: {len(STRAY)}\r\n\r\n".encode() + STRAY)
        talk.stall()

    server = scripted(in_turn(script, echo_path))
    with HttpPool(retry=ONCE) as http:
        assert http.request("HEAD" if status == 200 else "GET", server.url).data == b""
        assert http.get(f"{server.url}/mine").data == b"/mine"


def test_a_body_that_was_not_read_never_reaches_the_next_caller(scripted):
    server = scripted(
        in_turn(lambda talk: says(response(b"a" * 10 + STRAY))(talk) or talk.stall(), echo_path)
    )
    with HttpPool() as http:
        with http.stream("GET", server.url) as answer:
            assert answer.read(10) == b"a" * 10
        assert http.get(f"{server.url}/mine").data == b"/mine"
        assert http.stats().closed == 1


THREADS = 24
REQUESTS = 60


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "TLS"])
def test_no_answer_crosses_whatever_the_server_does(scripted, certificates, kind):
    def script(talk: Conversation) -> None:
        dice = random.Random(talk.index)
        while True:
            path = talk.request().target.encode()
            answer = response(path) if dice.random() < 0.5 else chunked(path[:3], path[3:])
            fate = dice.random()
            if fate < 0.05:
                talk.reset()
                return
            if fate < 0.1:
                talk.send(answer[: dice.randrange(len(answer))])
                return
            if fate < 0.15:
                talk.send(answer + response(b"stray"))
            elif fate < 0.2:
                talk.send(answer[:-1])  # what came later could not be told from the next answer
                talk.send(answer[-1:] + response(b"stray"))
            elif fate < 0.23:
                talk.send(answer[:20])
                if talk._server._closing.wait(0.01):
                    return
                talk.send(answer[20:])
            elif fate < 0.25:
                talk.send(response(b"stray", length=100))
                talk.stall()
            else:
                talk.send(answer)

    server: ScriptedServer = scripted(script, tls=certificates.good if kind == "TLS" else None)
    crossed: list[tuple[str, bytes]] = []
    answered = [0] * THREADS
    failed = [0] * THREADS
    policy = RetryPolicy(attempts=2, base=0.001)
    with HttpPool(
        verify=str(certificates.ca_file), max_size=8, retry=policy, acquire_timeout=LONG
    ) as http:
        session = http.session()

        def work(number: int) -> None:
            dice = random.Random(number)
            for count in range(REQUESTS):
                path = f"/{number}/{count}"
                url = server.url + path
                try:
                    with deadline(dice.choice([0.005, 0.1, 0.1, 0.1])):
                        way = dice.randrange(4)
                        if way == 0:
                            got = http.post(url, data=b"x").data
                        elif way == 1:
                            got = session.get(url).content
                        elif way == 2:
                            with http.stream("GET", url) as answer:
                                got = path.encode() if dice.random() < 0.2 else answer.read()
                        else:
                            got = http.get(url).data
                    if got != path.encode():
                        crossed.append((path, got))
                    answered[number] += 1
                except (PoolKitError, HTTPError):
                    failed[number] += 1

        together(THREADS, work)

        assert crossed == []
        assert sum(answered) + sum(failed) == THREADS * REQUESTS
        assert sum(answered) > THREADS * REQUESTS * 0.3
        assert sum(failed) > 10
        stats = http.stats()
        assert (stats.in_use, stats.waiting, stats.leaked) == (0, 0, 0)
        assert turns_left(http, server.url) == 8


# -- hosts that can't be reached -----------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_refused_connection_is_told_at_once_with_its_cause():
    with HttpPool() as http:
        with pytest.raises(BackendUnavailable, match="Connection refused"):
            http.get(f"http://127.0.0.1:{free_port()}/")


def test_a_blackhole_is_told_to_others_at_once(blackhole):
    with HttpPool(connect_timeout=0.1, retry=ONCE) as http:
        with pytest.raises(BackendUnavailable, match="took too long"):
            http.get(blackhole.url)
        began = monotonic()
        with pytest.raises(BackendUnavailable, match="took too long"):
            http.get(blackhole.url)
        assert monotonic() - began < 0.05


def test_a_host_that_is_away_is_told_to_all_at_once_and_looked_for_by_one():
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    recorder = HttpRecorder()
    with HttpPool(listeners=[recorder]) as http:
        with pytest.raises(BackendUnavailable):
            http.get(url)
        retries = http.stats().retries
        node = host_of(http, url).node
        attempts: list[str] = []
        dial = node._dial

        def counted(until):
            attempts.append(threading.current_thread().name)
            return dial(until)

        node._dial = counted

        def work(number: int) -> float:
            worst = 0.0
            for _ in range(50):
                began = monotonic()
                with pytest.raises(BackendUnavailable) as caught:
                    http.get(url)
                worst = max(worst, monotonic() - began)
                assert caught.value.retry_after is not None
                assert caught.value.__cause__ is not None
            return worst

        assert max(together(20, work)) < 0.5
        eventually(lambda: attempts)
        assert all(name.startswith("poolkit-probe-") for name in attempts)
        eventually(lambda: len(recorder.of("reconnecting")) >= 3)
        stats = http.stats()
        assert (stats.operations, stats.errors, stats.retries) == (1001, 1001, retries)

        with ScriptedServer(echo_path, port=port):
            back = monotonic()
            eventually(lambda: node.outage.cause is None)
            assert monotonic() - back < 1.0 + 0.5  # on a busy machine
            assert http.get(f"{url}here").data == b"/here"
            assert recorder.kinds().count("ready") == 1


def test_a_host_that_is_away_takes_nothing_from_others(scripted):
    server = scripted(echo_path)
    with HttpPool(max_size=2, retry=ONCE) as http:
        with pytest.raises(BackendUnavailable):
            http.get(f"http://127.0.0.1:{free_port()}/")
        assert http.get(f"{server.url}/here").data == b"/here"


def test_a_server_that_restarts_is_not_the_callers_problem(own_http):
    server = own_http()
    with HttpPool() as http:
        for _ in range(3):
            together(8, lambda number: http.get(f"{server.url}/json"))
            server.restart()
            answers_got = together(
                8, lambda number: http.post(f"{server.url}/echo", data=b"x").status
            )
            assert answers_got == [200] * 8
        assert http.stats().errors == 0


def test_a_server_that_was_killed_under_load_answers_again(own_http):
    server = own_http()
    with HttpPool(max_size=4) as http:
        over = threading.Event()

        def work() -> list[BaseException]:
            unexpected: list[BaseException] = []
            while not over.is_set():
                try:
                    http.get(f"{server.url}/json")
                except (BackendUnavailable, ProtocolError):
                    over.wait(0.001)
                except BaseException as error:
                    unexpected.append(error)
            return unexpected

        tasks = [Task(work) for _ in range(8)]
        for _ in range(3):
            done = http.stats().operations
            eventually(lambda done=done: http.stats().operations > done + 50)
            server.kill()
            server.start()
        eventually(lambda: http.health_check(f"{server.url}/json"))
        over.set()
        assert [task.result() for task in tasks] == [[]] * 8
        assert http.stats().in_use == 0
        assert turns_left(http, server.url) == 4


def test_a_name_that_does_not_resolve_is_an_outage_and_ends_when_it_does(dns, scripted):
    server = scripted(echo_path)
    dns.fails("gone.example")
    url = f"http://gone.example:{server.port}"
    with HttpPool(retry=ONCE) as http:
        with pytest.raises(BackendUnavailable, match="Name or service not known"):
            http.get(url)
        dns.answers("gone.example", "127.0.0.1")
        eventually(lambda: host_of(http, url).node.outage.cause is None)
        assert http.get(f"{url}/a").data == b"/a"


# -- what goes wrong while sending ---------------------------------------------------------------------


class Mine(Exception):
    """Raised by a body."""


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_a_body_that_raises_is_the_callers_error_and_costs_the_connection(scripted, after, way):
    server = scripted(echo_path)

    def body():
        for _ in range(after):
            yield b"x" * 1000
        raise Mine

    with HttpPool(max_size=1) as http:
        http.get(server.url)
        with pytest.raises(Mine):
            if way == "request":
                http.post(server.url, data=body())
            elif way == "session":
                http.session().post(server.url, data=body())
            else:
                with http.stream("POST", server.url, data=body()):
                    pass
        assert http.get(f"{server.url}/next").data == b"/next"
        stats = http.stats()
        assert (stats.closed, stats.in_use, stats.retries) == (1, 0, 0)
    assert [heard.method for heard in server.requests] == ["GET", "GET"]


class _Broken:
    """A file that can't be read to its end."""

    def __init__(self) -> None:
        self.left = 2

    def read(self, size: int) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise OSError("the disk is broken")
        return b"x" * size


def test_a_file_that_can_not_be_read_is_the_callers_error(scripted):
    server = scripted(echo_path)
    with HttpPool() as http:
        with pytest.raises(OSError, match="the disk is broken") as caught:
            http.post(server.url, data=_Broken())
        assert not isinstance(caught.value, PoolKitError)
        assert http.get(f"{server.url}/next").data == b"/next"
    assert [heard.method for heard in server.requests] == ["GET"]


@pytest.mark.parametrize("body", [b"not bytes", [1, 2], [None], [0], iter([3.5])], ids=named)
def test_a_piece_that_is_no_bytes_is_the_callers_error(scripted, body):
    server = scripted(echo_path)
    with HttpPool() as http:
        if body == b"not bytes":
            assert http.post(f"{server.url}/b", data=body).data == b"/b"
            return
        with pytest.raises((TypeError, ValueError)):
            http.post(server.url, data=body)
        assert http.get(f"{server.url}/next").data == b"/next"
        assert http.stats().in_use == 0


EARLY = response(b"too large", status=413, headers=[("Connection", "close")])


@pytest.mark.parametrize("how", ["bytes", "pieces", "file"])
@pytest.mark.parametrize("end", ["close", "reset", "linger"])
@pytest.mark.parametrize("kind", ["plain", "TLS"])
def test_an_early_refusal_is_read_while_the_body_is_being_sent(
    scripted, certificates, tmp_path, how, end, kind
):
    def script(talk: Conversation) -> None:
        talk.head()
        talk.send(EARLY)
        if end == "close":
            talk.half_close()
            talk.rest()
        elif end == "linger":  # it reads on, as servers should
            talk.rest()

    large = b"x" * 1_000_000
    path = tmp_path / "large"
    path.write_bytes(large)
    server = scripted(script, tls=certificates.good if kind == "TLS" else None)
    with HttpPool(verify=str(certificates.ca_file)) as http, path.open("rb") as file:
        body = {"bytes": large, "pieces": iter([large[:1000]] * 1000), "file": file}[how]
        answer = http.post(server.url, data=body, timeout=LONG)
        assert (answer.status, answer.data) == (413, b"too large")
        assert http.stats().in_use == 0
        assert http.stats().idle == 0
    assert server.connections == 1


def test_a_client_that_is_gone_is_noticed_by_a_script(scripted):
    left = threading.Event()

    def script(talk: Conversation) -> None:
        talk.request()
        talk.send(response(length=10))
        try:
            talk.stall()
        except ClientGone:
            left.set()
            raise

    server = scripted(script)
    with HttpPool() as http:
        with http.stream("GET", server.url):
            pass
        assert left.wait(LONG)
        sweep(http)
        assert http.stats().size == 0
