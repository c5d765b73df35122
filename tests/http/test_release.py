"""However a block or a call ends, the connection comes back clean or is closed, and the turn is there for the next."""

from __future__ import annotations

import gc
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import requests
from urllib3.exceptions import HTTPError

from poolkit import HttpPool, PoolKitError, RetryPolicy
from poolkit.core.deadline import NEVER, ambient
from poolkit.core.lease import _frames
from poolkit.http import connection as connection_module
from poolkit.http.wire import Answer, Reader
from tests.core.support import eventually
from tests.http.scripted import Conversation, answers, response
from tests.interruptions import Interruption, Struck, ctrl_c_when

from .support import HttpRecorder, echo_path, host_of, silent, sweep, turns_left

ONCE = RetryPolicy(attempts=1)
LARGE = response(b"x" * 1_000_000)


class Mine(Exception):
    """The caller's own."""


@pytest.fixture(params=["plain", "TLS"])
def large(request: pytest.FixtureRequest, scripted: Any, certificates: Any) -> Any:
    """Give a server whose answers are large, with and without TLS."""
    return scripted(answers(LARGE), tls=certificates.good if request.param == "TLS" else None)


@pytest.fixture
def http(certificates: Any) -> Iterator[HttpPool]:
    """Give a pool of two connections a host, which has lost none in the end."""
    with HttpPool(verify=str(certificates.ca_file), max_size=2) as pool:
        yield pool
        assert pool.leases() == []
        stats = pool.stats()
        assert (stats.in_use, stats.waiting, stats.leaked) == (0, 0, 0)
        for host in pool._lifecycle.running.hosts.all():  # type: ignore[union-attr]
            assert turns_left(pool, str(host.origin)) == 2


# -- blocks --------------------------------------------------------------------------------------------


def _raise(http: HttpPool, url: str) -> None:
    with pytest.raises(Mine), http.stream("GET", url) as answer:
        answer.read(10)
        raise Mine


def _return(http: HttpPool, url: str) -> None:
    def first_bytes() -> bytes:
        with http.stream("GET", url) as answer:
            return answer.read(10)

    assert first_bytes() == b"x" * 10


def _break(http: HttpPool, url: str) -> None:
    with http.stream("GET", url) as answer:
        for _ in answer.stream(10):
            break


def _generator(http: HttpPool, url: str) -> Iterator[bytes]:
    with http.stream("GET", url) as answer:
        yield from answer.stream(10)


def _generator_closed(http: HttpPool, url: str) -> None:
    generator = _generator(http, url)
    next(generator)
    generator.close()


def _generator_dropped(http: HttpPool, url: str) -> None:
    next(_generator(http, url))
    gc.collect()


def _keyboard_interrupt(http: HttpPool, url: str) -> None:
    with pytest.raises(KeyboardInterrupt), http.stream("GET", url):
        raise KeyboardInterrupt


def _system_exit(http: HttpPool, url: str) -> None:
    with pytest.raises(SystemExit), http.stream("GET", url):
        sys.exit(1)


def _not_read(http: HttpPool, url: str) -> None:
    with http.stream("GET", url) as answer:
        assert answer.status == 200


def _closed_in_the_block(http: HttpPool, url: str) -> None:
    with http.stream("GET", url) as answer:
        answer.close()
        answer.close()
        answer.release_conn()


def _session_block(http: HttpPool, url: str) -> None:
    with pytest.raises(Mine), http.session().get(url, stream=True) as answer:
        next(answer.iter_content(10))
        raise Mine


def _session_closed(http: HttpPool, url: str) -> None:
    http.session().get(url, stream=True).close()


def _session_raw(http: HttpPool, url: str) -> None:
    with http.session().get(url, stream=True) as answer:
        assert answer.raw.read(10) == b"x" * 10


ENDS = {
    "an exception": _raise,
    "return": _return,
    "break": _break,
    "a generator is closed": _generator_closed,
    "a generator is dropped": _generator_dropped,
    "Ctrl-C": _keyboard_interrupt,
    "exit": _system_exit,
    "not read": _not_read,
    "closed in the block": _closed_in_the_block,
    "a session's block": _session_block,
    "a session's response is closed": _session_closed,
    "a session's raw response": _session_raw,
}


@pytest.mark.parametrize("name", ENDS)
def test_however_a_block_ends_its_connection_is_closed_if_not_all_was_read(http, large, name):
    ENDS[name](http, large.url)
    stats = http.stats()
    assert (stats.leases, stats.in_use, stats.closed, stats.size) == (1, 0, 1, 0)
    assert http.get(large.url).data == b"x" * 1_000_000


@pytest.mark.parametrize("how", ["read", "stream", "pieces", "session", "to the last byte"])
def test_one_that_was_read_to_its_end_comes_back_at_once_and_is_kept(http, large, how):
    if how == "session":
        with http.session().get(large.url, stream=True) as answer:
            assert len(answer.content) == 1_000_000
            assert http.stats().in_use == 0
    else:
        with http.stream("GET", large.url) as answer:
            if how == "read":
                assert len(answer.read()) == 1_000_000
            elif how == "stream":
                assert sum(map(len, answer.stream(1000))) == 1_000_000
            elif how == "pieces":
                while answer.read(4096):
                    pass
            else:
                assert len(answer.read(1_000_000)) == 1_000_000
                assert answer.read() == b""
            assert http.stats().in_use == 0
    assert (http.stats().size, http.stats().closed) == (1, 0)


def test_a_block_can_be_entered_once(http, large):
    block = http.stream("GET", large.url)
    with block:
        with pytest.raises(RuntimeError, match="read already"):
            block.__enter__()
    assert http.stats().leases == 1


def test_a_block_that_was_never_entered_asks_for_nothing(http, large):
    http.stream("GET", large.url)
    assert large.requests == []
    http.get(large.url)


def test_a_hook_that_raises_costs_nothing(scripted):
    server = scripted(echo_path)

    def fail(*given: object) -> None:
        raise Mine

    for name in ("before_request", "after_response"):
        with HttpPool(max_size=1, **{name: [fail]}) as pool:
            for stream in (False, True):
                with pytest.raises(Mine):
                    if stream:
                        pool.stream("GET", server.url).__enter__()
                    else:
                        pool.get(server.url)
            with pytest.raises(Mine):
                pool.session().get(server.url)
            assert pool.stats().in_use == 0
            assert turns_left(pool, server.url) == 1


def test_an_auth_that_raises_costs_nothing(http, scripted):
    server = scripted(echo_path)

    def fail(request: object) -> None:
        raise Mine

    with pytest.raises(Mine):
        http.get(server.url, auth=fail)
    assert http.get(f"{server.url}/a").data == b"/a"
    assert len(server.requests) == 1


def test_a_listener_that_raises_costs_nothing(scripted):
    server = scripted(echo_path)

    class Failing(HttpRecorder):
        pass

    def fail(self: object, event: object) -> None:
        raise Mine

    for name in ("acquired", "released", "connected", "requested", "answered", "removed"):
        setattr(Failing, name, fail)
    with HttpPool(max_size=1, listeners=[Failing()]) as pool:
        for number in range(3):
            assert pool.get(f"{server.url}/{number}").status == 200
        assert turns_left(pool, server.url) == 1


# -- at every point ------------------------------------------------------------------------------------

WITHIN = ("/poolkit/", "/site-packages/urllib3/", "/http/client.py")

WAYS: dict[str, Callable[[HttpPool, str], bytes]] = {
    "get": lambda http, url: http.get(url).data,
    "post": lambda http, url: http.post(url, data=b"x").data,
    "session": lambda http, url: http.session().get(url).content,
}


def _streamed(http: HttpPool, url: str) -> bytes:
    with http.stream("GET", url) as answer:
        return b"".join(answer.stream())


WAYS["stream"] = _streamed


def interrupted(call: Callable[[], object], at: int) -> str | None:
    """Interrupt *call* at its point number *at*; return which that was, None if it has not so many."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a socket, closed by the collector
        with (
            Interruption(at, within=WITHIN) as interruption,
            suppress(Struck, HTTPError, PoolKitError, requests.RequestException, RuntimeError),
        ):
            call()
        gc.collect()
    return interruption.where


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_after_an_interruption_at_any_point_a_closed_pool_has_no_connection(own_http):
    server = own_http()
    kept = []  # or the collector would close what they have
    at, where = 1, ""
    while where is not None:
        with HttpPool(retry=ONCE) as http:
            http.get(f"{server.url}/json")
            where = interrupted(lambda: http.get(f"{server.url}/json"), at)
        kept.append(http)
        at += 1

    assert len(kept) > 100
    eventually(lambda: server.counts().open == 0, timeout=5)


# What strikes a finalizer goes to sys.unraisablehook, and nowhere else.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("way", "state"),
    [("get", "new"), ("get", "kept"), ("post", "kept"), ("session", "kept"), ("stream", "kept")],
)
def test_an_interruption_at_any_point_crosses_no_answer_and_miscounts_none(scripted, way, state):
    server = scripted(echo_path)
    call = WAYS[way]
    wrong: list[Any] = []
    lost: list[str] = []
    points = 0
    with HttpPool(max_size=2, retry=ONCE) as http:
        call(http, server.url)  # what is imported on first use
        node = host_of(http, server.url).node
        while True:
            if state == "new":
                node.condemn()
            else:
                http.get(server.url)
            where = interrupted(partial(call, http, f"{server.url}/struck"), points + 1)
            if where is None:
                break
            points += 1
            sweep(http)
            if turns_left(http, server.url) != 2:
                lost.append(where)
                node.lender.gate.leave()
            answer = call(http, f"{server.url}/next")
            stats = http.stats()
            if (answer, stats.in_use, stats.size) != (b"/next", 0, len(node.shelf)):
                wrong.append((where, answer, stats.in_use, stats.size, len(node.shelf)))
    assert wrong == []
    assert lost == []
    assert ambient() is NEVER
    assert points > 40
    eventually(lambda: not server._open)  # nor is a socket left over


# -- Ctrl-C --------------------------------------------------------------------------------------------


def test_ctrl_c_while_waiting_for_the_head(http, scripted):
    server = scripted(lambda talk: silent(talk) if talk.index == 0 else echo_path(talk))
    with ctrl_c_when(lambda: server.requests):
        http.post(server.url, data=b"x")
    assert http.stats().size == 0
    assert http.get(f"{server.url}/next").data == b"/next"
    assert len(server.requests) == 2


def test_ctrl_c_while_reading_the_body(http, scripted):
    begun = threading.Event()

    def script(talk: Conversation) -> None:
        talk.request()
        talk.send(response(b"abc", length=10))
        begun.set()
        talk.stall()

    server = scripted(lambda talk: script(talk) if talk.index == 0 else echo_path(talk))
    with ctrl_c_when(begun.is_set):
        http.get(server.url)
    assert http.get(f"{server.url}/next").data == b"/next"


def test_ctrl_c_while_sending(http, scripted):
    server = scripted(lambda talk: talk.stall() if talk.index == 0 else echo_path(talk))
    with ctrl_c_when(lambda: server.connections):
        http.post(server.url, data=b"x" * 50_000_000)
    assert http.get(f"{server.url}/next").data == b"/next"


def test_ctrl_c_while_connecting(http, blackhole):
    with ctrl_c_when(lambda: _main_is_in("first_to_answer")):
        http.get(blackhole.url)


def _main_is_in(function: str) -> bool:
    frame = _frames()[threading.main_thread().ident or 0]
    return frame.f_code.co_name == function


def test_ctrl_c_during_the_handshake(http, scripted):
    server = scripted(lambda talk: talk.stall(), scheme="https")
    with ctrl_c_when(lambda: _main_is_in("do_handshake")):
        http.get(server.url)


def test_ctrl_c_while_waiting_for_a_turn(http, large):
    with http.stream("GET", large.url), http.stream("GET", large.url):
        with ctrl_c_when(lambda: http.stats().waiting == 1):
            http.get(large.url)


def test_ctrl_c_while_a_name_is_looked_up(http, dns):
    hang = dns.hangs("hangs.example")
    with ctrl_c_when(hang.asked.is_set):
        http.get("http://hangs.example/")


def test_ctrl_c_between_two_attempts(scripted):
    server = scripted(answers(response(status=503)))
    policy = RetryPolicy(attempts=2, base=1000.0, cap=1000.0)
    with HttpPool(max_size=1, retry=policy, request_timeout=float("inf")) as http:
        for stream in (False, True):
            seen = http.stats().retries
            with ctrl_c_when(lambda seen=seen: http.stats().retries == seen + 1):
                http.stream("GET", server.url).__enter__() if stream else http.get(server.url)
            gc.collect()
            sweep(http)
            assert http.stats().in_use == 0
            assert turns_left(http, server.url) == 1


# -- at some points that matter ------------------------------------------------------------------------

POINTS = {
    "before anything is sent": (connection_module.PooledConnection, "_send_all", "before"),
    "after sending": (connection_module.PooledConnection, "_send_all", "after"),
    "before the head is read": (Reader, "head", "before"),
    "after the head was read": (Reader, "head", "after"),
    "before the body is read": (Answer, "read", "before"),
    "after the body was read": (Answer, "read", "after"),
}


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("way", WAYS)
def test_after_an_error_at_any_point_the_next_caller_gets_its_own_answer(
    monkeypatch, scripted, point, way
):
    server = scripted(echo_path)
    kind, name, when = POINTS[point]
    original = getattr(kind, name)
    armed = threading.Event()

    def trap(self: Any, *args: Any, **options: Any) -> Any:
        if not armed.is_set():
            return original(self, *args, **options)
        armed.clear()
        if when == "after":
            original(self, *args, **options)
        raise error

    error: type[BaseException] = Mine
    with HttpPool(max_size=1, retry=ONCE) as http:
        call = WAYS[way]
        monkeypatch.setattr(kind, name, trap)
        for error in (Mine, KeyboardInterrupt, OSError, MemoryError, TimeoutError):
            assert call(http, f"{server.url}/first") == b"/first"
            armed.set()
            with suppress(error, HTTPError, PoolKitError, requests.RequestException):
                assert call(http, f"{server.url}/struck") == b"/struck"  # it was sent again
            assert not armed.is_set()
            for number in range(3):
                assert call(http, f"{server.url}/{number}") == f"/{number}".encode()
            assert turns_left(http, server.url) == 1
            assert http.stats().in_use == 0
