"""Connections that are kept: for how long, and that their end is never the caller's problem."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest
from urllib3.exceptions import ProtocolError

from poolkit import HttpPool, OutcomeUnknown, RetryPolicy
from poolkit.core import shelf, sockets
from tests.core.support import LONG, eventually, together
from tests.http.scripted import Conversation, Script, answers, in_turn, response

from .support import echo_path, host_of, sweep

ONCE = RetryPolicy(attempts=1)


def idle(http: HttpPool, url: str) -> list[Any]:
    """Return the connections that are kept."""
    return list(host_of(http, url).node.shelf._idle)


@pytest.fixture(params=["plain", "TLS"])
def make(request: pytest.FixtureRequest, scripted: Any, certificates: Any) -> Callable[..., Any]:
    """Give a maker of servers and pools for them, with and without TLS."""
    tls = certificates.good if request.param == "TLS" else None

    def start(script: Script, **settings: Any) -> Any:
        server = scripted(script, tls=tls)
        return server, HttpPool(verify=str(certificates.ca_file), **settings)

    return start


SENDS: dict[str, Callable[[HttpPool, str], Any]] = {
    "GET": lambda http, url: http.get(url),
    "PUT": lambda http, url: http.put(url, data=b"body"),
    "POST": lambda http, url: http.post(url, data=b"body"),
    "POST without a body": lambda http, url: http.post(url),
    "POST of a large body": lambda http, url: http.post(url, data=b"x" * 1_000_000),
    "POST of pieces": lambda http, url: http.post(url, data=iter([b"bo", b"dy"])),
    "PATCH": lambda http, url: http.patch(url, json=[1]),
    "session.post": lambda http, url: http.session().post(url, data=b"body"),
}


# -- the server ends one before, while and after a request is sent -------------------------------------


@pytest.mark.parametrize("name", SENDS)
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_connection_that_ended_before_the_send_is_replaced_unnoticed(make, name, how):
    ended = threading.Event()

    def ends(talk: Conversation) -> None:
        talk.request()
        talk.send(response(b"first"))
        if how == "reset":
            talk.reset()
        else:
            talk.close()
        ended.set()

    server, pool = make(in_turn(ends, answers(response(b"second"))), retry=ONCE)
    with pool as http:
        assert http.get(server.url).data == b"first"
        assert ended.wait(LONG)
        answer = SENDS[name](http, server.url)
        assert (getattr(answer, "data", None) or answer.content) == b"second"
        stats = http.stats()
        assert (stats.errors, stats.retries, stats.created, stats.closed) == (0, 0, 2, 1)
    assert len(server.requests) == 2


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_what_may_be_sent_twice_is_when_a_kept_connection_ends_without_an_answer(make, method, how):
    def ends(talk: Conversation) -> None:
        talk.request()
        talk.send(response(b""))
        talk.request()
        if how == "reset":
            talk.reset()

    server, pool = make(in_turn(ends, answers(response(b""))), retry=ONCE)
    with pool as http:
        http.get(server.url)
        assert http.request(method, server.url).status == 200
        assert (http.stats().errors, http.stats().retries) == (0, 0)
    assert [heard.method for heard in server.requests] == ["GET", method, method]


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("name", [name for name in SENDS if "P" in name and name != "PUT"])
def test_what_may_not_be_sent_twice_is_sent_once(make, name, how):
    def ends(talk: Conversation) -> None:
        talk.request()
        talk.send(response(b""))
        talk.request()
        if how == "reset":
            talk.reset()

    server, pool = make(in_turn(ends, answers(response(b""))))
    with pool as http:
        http.get(server.url)
        with pytest.raises(OutcomeUnknown):
            SENDS[name](http, server.url)
        assert http.stats().errors == 1
    assert len(server.requests) == 2


def test_a_key_makes_a_post_one_that_may_be_sent_twice(make):
    def ends(talk: Conversation) -> None:
        talk.request()
        talk.send(response(b""))
        talk.request()

    server, pool = make(in_turn(ends, answers(response(b""))), retry=ONCE)
    with pool as http:
        http.get(server.url)
        assert http.post(server.url, data=b"x", idempotency_key="k").status == 200
    assert [heard.header("Idempotency-Key") for heard in server.requests] == [None, "k", "k"]


def test_a_new_connection_that_ends_is_an_error_of_the_attempt(make):
    server, pool = make(lambda talk: talk.request(), retry=ONCE)
    with pool as http, pytest.raises(ProtocolError):
        http.get(server.url)
    assert len(server.requests) == 1


def test_all_that_ended_together_cost_one_request_one_new_connection(make):
    line = threading.Barrier(5)
    ended: list[int] = []

    def ends(talk: Conversation) -> None:
        talk.request()
        line.wait(LONG)
        talk.send(response(b"first"))
        talk.request()
        ended.append(talk.index)

    server, pool = make(lambda talk: ends(talk) if talk.index < 5 else echo_path(talk), retry=ONCE)
    with pool as http:
        together(5, lambda number: http.get(server.url))
        assert http.stats().idle == 5
        answer = http.get(f"{server.url}/x")
        assert answer.data == b"/x"
        assert http.stats().errors == 0
        assert len(ended) == 1  # the others were under suspicion, and not even tried
        assert (http.stats().created, http.stats().size) == (6, 1)


def test_one_that_ended_while_it_was_kept_is_noticed_without_being_asked_for(make):
    def ends(talk: Conversation) -> None:
        talk.request()
        talk.send(response(b"first"))

    server, pool = make(ends)
    with pool as http:
        http.get(server.url)
        eventually(lambda: http.stats().size == 0, timeout=3.0)
        assert http.stats().closed == 1


# -- how long one is kept ------------------------------------------------------------------------------


def keep_alive(value: str) -> Script:
    return answers(response(b"a", headers=[("Keep-Alive", value)]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("timeout=5", 4.0),
        ("timeout=5, max=100", 4.0),
        ("max=100, timeout=5", 4.0),
        ("max=100,Timeout = 5", 4.0),
        ("timeout=1", 0.5),
        ("timeout=2", 1.0),
        ("timeout=0", 0.0),
        ("timeout=3600", 30.0),
        ("timeout=-5", 30.0),
        ("timeout=five", 30.0),
        ("timeout", 30.0),
        ("timeout=999999999999999999999999", 30.0),
        ("5", 30.0),
        ("", 30.0),
    ],
)
def test_keep_alive_is_obeyed_less_a_margin(scripted, value, expected):
    server = scripted(keep_alive(value))
    with HttpPool(idle_timeout=30.0) as http:
        http.get(server.url)
        (conn,) = idle(http, server.url)
        assert conn.idle_timeout == pytest.approx(expected)


def test_a_later_answer_can_make_it_shorter_and_not_longer(scripted):
    texts = ["timeout=10", "timeout=5", "timeout=20"]
    server = scripted(answers(*(response(b"a", headers=[("Keep-Alive", text)]) for text in texts)))
    with HttpPool() as http:
        seen = []
        for _ in texts:
            http.get(server.url)
            seen.append(idle(http, server.url)[0].idle_timeout)
    assert seen == [9.0, 4.0, 4.0]


def test_a_server_that_keeps_for_no_time_gets_a_new_connection_each_time(scripted):
    server = scripted(keep_alive("timeout=0"))
    with HttpPool() as http:
        for _ in range(3):
            http.get(server.url)
    assert server.connections == 3


def aged(http: HttpPool, url: str, seconds: float) -> None:
    """Have those that are kept look as if they had been idle for so many seconds."""
    for conn in idle(http, url):
        conn.last_used -= seconds
        conn.born -= seconds
        conn.dies -= seconds


def test_one_is_not_lent_after_what_keep_alive_allows(scripted):
    server = scripted(keep_alive("timeout=5"))
    with HttpPool() as http:
        http.get(server.url)
        aged(http, server.url, 3.9)
        http.get(server.url)
        assert server.connections == 1
        aged(http, server.url, 4.1)
        http.get(server.url)
        assert server.connections == 2


def test_one_is_closed_after_idle_timeout(scripted):
    server = scripted(echo_path)
    with HttpPool(idle_timeout=10.0) as http:
        http.get(server.url)
        aged(http, server.url, 9.5)
        sweep(http)
        assert http.stats().size == 1
        aged(http, server.url, 1.0)
        sweep(http)
        assert (http.stats().size, http.stats().closed) == (0, 1)


def test_a_short_idle_timeout_is_kept_to_the_moment(scripted):
    server = scripted(echo_path)
    with HttpPool(idle_timeout=0.2) as http:
        http.get(server.url)
        aged(http, server.url, 0.3)
        assert idle(http, server.url)[0].last_used > monotonic() - shelf.FRESH
        http.get(server.url)
    assert server.connections == 2


def test_one_is_replaced_after_max_lifetime_which_is_jittered(scripted):
    server = scripted(echo_path)
    with HttpPool(max_lifetime=100.0, max_idle=20) as http:
        line = threading.Barrier(20)
        together(20, lambda number: _held_together(http, server.url, line))
        lifetimes = [conn.dies - conn.born for conn in idle(http, server.url)]
        assert len(lifetimes) == 20
        assert all(95.0 <= lifetime <= 100.0 for lifetime in lifetimes)
        assert max(lifetimes) - min(lifetimes) > 0.5
        for conn in idle(http, server.url):
            conn.dies = monotonic() - 0.001
        before = server.connections
        http.get(server.url)
        assert server.connections == before + 1


def _held_together(http: HttpPool, url: str, line: threading.Barrier) -> None:
    with http.stream("GET", url) as answer:
        line.wait(LONG)
        answer.read()


def test_one_that_is_too_old_when_it_comes_back_is_closed(scripted):
    server = scripted(answers(response(b"a" * 10)))
    with HttpPool() as http:
        with http.stream("GET", server.url) as answer:
            conn: Any = answer._connection
            conn.dies = monotonic() - 0.001
            answer.read()
        assert http.stats().size == 0


def test_at_most_max_idle_are_kept_those_used_last(scripted):
    server = scripted(answers(response(b"a" * 10)))
    with HttpPool(max_idle=3) as http:
        line = threading.Barrier(8)
        together(8, lambda number: _held_together(http, server.url, line))
        stats = http.stats()
        assert (stats.created, stats.idle, stats.closed) == (8, 3, 5)
        together(3, lambda number: http.get(server.url))
        assert http.stats().created == 8


def test_with_max_idle_0_none_is_kept(scripted):
    server = scripted(echo_path)
    with HttpPool(max_idle=0) as http:
        for _ in range(3):
            http.get(server.url)
        assert http.stats().size == 0
    assert server.connections == 3


def test_the_one_used_last_is_used_next(scripted):
    server = scripted(answers(response(b"a" * 10)))
    with HttpPool() as http:
        line = threading.Barrier(4)
        together(4, lambda number: _held_together(http, server.url, line))
        for _ in range(10):
            http.get(server.url)
    assert len({heard.connection for heard in server.requests[4:]}) == 1


def test_the_system_watches_over_connections(make):
    server, pool = make(echo_path)
    with pool as http:
        http.get(server.url)
        (conn,) = idle(http, server.url)
        sock = conn.sock
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 10
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3


def test_a_connection_is_used_again_for_each_way_of_asking(make):
    server, pool = make(echo_path)
    with pool as http:
        session = http.session()
        http.get(f"{server.url}/1")
        http.post(f"{server.url}/2", json={})
        session.get(f"{server.url}/3")
        session.get(f"{server.url}/4", stream=True).close()
        with http.stream("GET", f"{server.url}/5") as answer:
            answer.read()
        http.head(f"{server.url}/6")
    # The fourth was not read, so it may have cost one.
    assert server.connections <= 2


def test_session_tickets_are_no_reason_to_leave_a_connection(scripted, certificates):
    server = scripted(echo_path, tls=certificates.good)
    with HttpPool(verify=str(certificates.ca_file)) as http:
        for number in range(5):
            http.post(f"{server.url}/{number}")
    assert server.connections == 1


def test_where_the_kernel_does_not_count_what_comes_a_connection_is_kept_all_the_same(
    http_server, monkeypatch
):
    monkeypatch.setattr(sockets, "_TCP_INFO", -1)  # as on macOS
    with HttpPool(base_url=http_server.url) as http:
        for _ in range(3):
            assert http.get("/bytes/10").status == 200
        assert http.stats().created == 1
