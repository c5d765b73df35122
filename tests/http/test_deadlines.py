"""One deadline, whatever the server does instead of answering, and however it is asked.

``pytest -s`` prints by how much it was overshot in each stage.
"""

from __future__ import annotations

import gzip
import io
import itertools
import random
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import pytest
import requests

from poolkit import (
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
    HttpPool,
    RetryPolicy,
    deadline,
)
from tests.core.support import LONG, Task
from tests.http.proxies import ForwardProxy
from tests.http.scripted import Blackhole, Conversation, Script, ScriptedServer, chunked, response

from .support import PROMISED, SCHEDULING, silent

BUDGET = 0.15

HEAD = b"HTTP/1.1 200 OK\r\n"
ZIPPED = gzip.compress(random.Random(1).randbytes(20_000))
LARGE = b"x" * (32 * 1024 * 1024)

overshoots: dict[str, list[float]] = {}
"""By how many seconds the deadline was overshot, by stage, server and way of asking."""


@pytest.fixture(scope="module", autouse=True)
def _report() -> Iterator[None]:
    yield
    for name, seconds in overshoots.items():
        worst = max(seconds) * 1000
        sys.stdout.write(f"\n{name:60} {worst:7.1f} ms, worst of {len(seconds)}")


@dataclass
class Stalled:
    """Where a request is stuck: its URL, the pool's settings, what is sent."""

    url: str
    stage: str = "running"
    settings: dict[str, Any] = field(default_factory=dict)
    body: Callable[[], Any] | None = None

    @property
    def method(self) -> str:
        return "PUT" if self.body else "GET"

    def data(self) -> Any:
        return self.body() if self.body else None


@dataclass
class Place:
    """What a stall can be made of. ``tls`` is the context of a server that is to speak TLS."""

    scripted: Callable[..., ScriptedServer]
    tls: ssl.SSLContext | None
    settings: dict[str, Any]

    def running(self, script: Script, body: Callable[[], Any] | None = None) -> Stalled:
        server = self.scripted(script, tls=self.tls)
        return Stalled(server.url, settings=self.settings, body=body)


# -- how a server stalls -------------------------------------------------------------------------------


def _answering(then: Callable[[Conversation], object], before: bytes = b"") -> Script:
    def script(talk: Conversation) -> None:
        while True:
            talk.request()
            talk.send(before)
            then(talk)

    return script


def _dripping(what: bytes) -> Callable[[Conversation], None]:
    return lambda talk: talk.drip(what * (20_000 // len(what)), 0.005)


def _endless(piece: bytes, pause: float) -> Callable[[Conversation], None]:
    def script(talk: Conversation) -> None:
        while not talk._server._closing.wait(pause):
            talk.send(piece)

    return script


CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

HEADS: dict[str, Script] = {
    "head: silent": silent,
    "head: drips": _answering(_dripping(b"a"), HEAD + b"X: "),
    "head: endless fields": _answering(_endless(b"X-More: of the same\r\n", 0.005), HEAD),
    "head: endless interim answers": _answering(_endless(HEAD[:9] + b"100 Wait\r\n\r\n", 0.05)),
    "head: half of it, then silent": _answering(Conversation.stall, HEAD),
}

BODIES: dict[str, Script] = {
    "body: silent": _answering(Conversation.stall, response(b"", length=100)),
    "body: drips": _answering(_dripping(b"a"), response(b"", length=1_000_000)),
    "body: chunks drip": _answering(_dripping(b"1\r\na\r\n"), CHUNKS),
    "body: one chunk drips": _answering(_dripping(b"a"), CHUNKS + b"ffffff\r\n"),
    "body: the size of a chunk drips": _answering(_dripping(b"0"), CHUNKS),
    "body: the extension of a chunk drips": _answering(_dripping(b"x"), CHUNKS + b"5;"),
    "body: trailers drip": _answering(_dripping(b"X-T: v\r\n"), chunked(b"ab")[:-2]),
    "body: one trailer drips": _answering(_dripping(b"x"), chunked(b"ab")[:-2] + b"X-T: "),
    "body: of no length, drips": _answering(_dripping(b"a"), HEAD + b"\r\n"),
    "body: of no length, silent": _answering(Conversation.stall, HEAD + b"\r\nab"),
    "body: gzip drips": _answering(
        lambda talk: talk.drip(ZIPPED, 0.005),
        response(length=len(ZIPPED), headers=[("Content-Encoding", "gzip")]),
    ),
}

UPLOADS: dict[str, Callable[[], Any]] = {
    "sending: bytes": lambda: LARGE,
    "sending: a file": lambda: io.BytesIO(LARGE),
    "sending: pieces": lambda: itertools.repeat(LARGE[: 1024 * 1024]),
    "sending: small pieces": lambda: itertools.repeat(b"x" * 100),
}


SCRIPTS = {**HEADS, **BODIES}

HANDSHAKES: dict[str, Script] = {
    "TLS: silent": Conversation.stall,
    "TLS: drips": lambda talk: talk.drip(b"\x16\x03\x03\x40\x00" + b"\x02" * 9999, 0.005),
}

TUNNELS: dict[str, Script] = {
    "proxy: silent": silent,
    "proxy: drips a head": _answering(_dripping(b"a"), HEAD + b"X: "),
    "proxy: endless fields": _answering(_endless(b"X: y\r\n", 0.05), HEAD),
    "proxy: tunnels, and the host's TLS is silent": _answering(Conversation.stall, HEAD + b"\r\n"),
}


# -- how it is asked -----------------------------------------------------------------------------------


def _request(http: HttpPool, stalled: Stalled) -> object:
    with deadline(BUDGET):
        return http.request(stalled.method, stalled.url, data=stalled.data())


def _timeout(http: HttpPool, stalled: Stalled) -> object:
    return http.request("POST", stalled.url, data=stalled.data() or b"x", timeout=BUDGET)


def _stream(http: HttpPool, stalled: Stalled) -> object:
    method = stalled.method
    with http.stream(method, stalled.url, data=stalled.data(), timeout=BUDGET) as answer:
        return list(answer.stream(10))


def _read(http: HttpPool, stalled: Stalled) -> object:
    method = stalled.method
    with deadline(BUDGET):
        with http.stream(method, stalled.url, data=stalled.data()) as answer:
            return answer.read()


def _session(http: HttpPool, stalled: Stalled) -> object:
    return http.session().request(stalled.method, stalled.url, data=stalled.data(), timeout=BUDGET)


def _session_stream(http: HttpPool, stalled: Stalled) -> object:
    with deadline(BUDGET):
        answer = http.session().request(
            stalled.method, stalled.url, data=stalled.data(), stream=True
        )
        with answer:
            return answer.content


WAYS = {
    "request": _request,
    "POST": _timeout,
    "stream": _stream,
    "read": _read,
    "session": _session,
    "session, streamed": _session_stream,
}


def ends_in_time(name: str, stalled: Stalled, *, http: HttpPool | None = None) -> None:
    """Ask in all ways at the same time, and see that each ends at the deadline, with the right error."""
    late: dict[str, float] = {}

    def ask(pool: HttpPool, way: str) -> None:
        began = monotonic()
        try:
            with pytest.raises(DeadlineExceeded) as caught:
                WAYS[way](pool, stalled)
        finally:
            late[way] = monotonic() - began - BUDGET
        error = caught.value
        assert error.stage == stalled.stage
        assert isinstance(error, requests.Timeout) == way.startswith("session")
        unknown = way == "POST" and stalled.stage == "running"
        assert isinstance(error, DeadlineOutcomeUnknown) == unknown

    with ExitStack() as stack:
        pool = http or stack.enter_context(
            HttpPool(**{"connect_timeout": LONG, **stalled.settings})
        )
        for task in [Task(ask, pool, way) for way in WAYS]:
            task.result()
        if http is None:
            assert pool.leases() == []
            assert pool.stats().in_use == 0
    overshoots.setdefault(name, []).extend(late.values())
    assert max(late.values()) < PROMISED + SCHEDULING, late
    assert min(late.values()) > -0.001, late


@pytest.fixture(params=["plain", "TLS"])
def place(
    request: pytest.FixtureRequest, scripted: Callable[..., ScriptedServer], certificates: Any
) -> Place:
    """Give what a stall is made of, with and without TLS."""
    tls = certificates.good if request.param == "TLS" else None
    return Place(scripted, tls, {"verify": str(certificates.ca_file)} if tls else {})


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_server_that_does_not_come_to_an_end_is_cut_off_at_the_deadline(place, name):
    kind = "TLS" if place.tls else "plain"
    ends_in_time(f"{name} ({kind})", place.running(SCRIPTS[name]))


@pytest.mark.parametrize("name", UPLOADS)
def test_a_server_that_does_not_read_is_cut_off_at_the_deadline(place, name):
    kind = "TLS" if place.tls else "plain"
    stalled = place.running(lambda talk: talk.stall(), body=UPLOADS[name])
    ends_in_time(f"{name} ({kind})", stalled)


@pytest.mark.parametrize("name", HANDSHAKES)
def test_a_handshake_ends_at_the_deadline(scripted, name):
    server = scripted(HANDSHAKES[name], scheme="https")
    ends_in_time(name, Stalled(server.url, "connecting"))


@pytest.mark.parametrize("name", TUNNELS)
def test_a_tunnel_ends_at_the_deadline(place, name):
    kind = "TLS" if place.tls else "plain"
    stalled = place.running(TUNNELS[name])
    stalled.settings = {**stalled.settings, "proxy": stalled.url}
    stalled.url, stalled.stage = "https://localhost:1/", "connecting"
    ends_in_time(f"{name} ({kind} to the proxy)", stalled)


def test_what_goes_through_a_tunnel_ends_at_the_deadline(
    place, scripted, forward_proxy, certificates
):
    server = scripted(SCRIPTS["body: drips"], tls=certificates.good)
    proxy: ForwardProxy = forward_proxy(tls=place.tls)
    stalled = Stalled(server.url)
    stalled.settings = {"verify": str(certificates.ca_file), "proxy": proxy.url}
    kind = "TLS" if place.tls else "plain"
    ends_in_time(f"body: drips (through a tunnel, {kind} to the proxy)", stalled)


def test_a_forwarding_proxy_that_stalls_is_cut_off_at_the_deadline(place):
    stalled = place.running(SCRIPTS["body: drips"])
    stalled.settings = {**stalled.settings, "proxy": stalled.url}
    stalled.url = "http://somewhere.example/"
    kind = "TLS" if place.tls else "plain"
    ends_in_time(f"body: drips (a forwarding proxy, {kind})", stalled)


def test_connecting_to_a_host_that_does_not_answer_ends_at_the_deadline(blackhole: Blackhole):
    ends_in_time("connecting: a full queue", Stalled(blackhole.url, "connecting"))


def test_a_lookup_that_hangs_is_left_alone_at_the_deadline(dns):
    dns.hangs("hangs.example")
    ends_in_time("resolving: hangs", Stalled("http://hangs.example/", "connecting"))


def test_waiting_for_a_connection_ends_at_the_deadline(place):
    stalled = place.running(_answering(Conversation.stall, response(length=100)))
    stalled.stage = "waiting"
    with HttpPool(**stalled.settings, max_size=1, acquire_timeout=LONG) as http:
        with http.stream("GET", stalled.url):
            ends_in_time("waiting", stalled, http=http)
        assert http.stats().waiting == 0
        assert http.stats().timeouts == len(WAYS)


# -- without a deadline, and with several --------------------------------------------------------------


def test_request_timeout_holds_where_no_deadline_is_set(scripted):
    server = scripted(silent)
    with HttpPool(request_timeout=BUDGET) as http:
        began = monotonic()
        with pytest.raises(DeadlineExceeded, match=r"the deadline of 0\.15 s passed while running"):
            http.get(server.url)
        assert BUDGET <= monotonic() - began < BUDGET + PROMISED + SCHEDULING


@pytest.mark.parametrize("ways", ["ambient", "timeout", "both"])
def test_a_deadline_may_be_later_than_request_timeout(scripted, ways):
    answered = threading.Event()

    def script(talk: Conversation) -> None:
        talk.request()
        assert answered.wait(LONG)
        talk.send(response(b"late"))

    server = scripted(script)
    with HttpPool(request_timeout=0.01) as http:

        def ask() -> bytes:
            options = {} if ways == "ambient" else {"timeout": LONG}
            if ways == "timeout":
                return http.get(server.url, **options).data
            with deadline(LONG):
                return http.get(server.url, **options).data

        asking = Task(ask)
        server.wait_for_requests(1)
        assert asking.is_alive()
        asking.join(0.05)
        answered.set()
        assert asking.result() == b"late"


@pytest.mark.parametrize(
    ("outer", "inner", "timeout"), [(BUDGET, LONG, LONG), (LONG, BUDGET, LONG), (LONG, LONG, BUDGET)]
)  # fmt: skip
def test_the_earliest_of_nested_deadlines_holds(scripted, outer, inner, timeout):
    server = scripted(silent)
    with HttpPool() as http:
        began = monotonic()
        with pytest.raises(DeadlineExceeded), deadline(outer), deadline(inner):
            http.get(server.url, timeout=timeout)
        assert BUDGET <= monotonic() - began < BUDGET + PROMISED + SCHEDULING


def test_a_deadline_that_has_passed_sends_nothing(scripted):
    server = scripted(silent)
    with HttpPool() as http:
        with pytest.raises(DeadlineExceeded) as caught:
            http.post(server.url, timeout=0)
        assert not isinstance(caught.value, DeadlineOutcomeUnknown)
    assert server.requests == []


def test_a_deadline_that_passes_before_the_next_call_sends_nothing_on_a_kept_connection(scripted):
    server = scripted(lambda talk: [talk.send(response(b"a")) for _ in iter(talk.request, None)])
    with HttpPool() as http:
        http.get(server.url)
        with pytest.raises(DeadlineExceeded):
            http.get(server.url, timeout=0)
        http.get(server.url)
    assert len(server.requests) == 2


# -- over several exchanges ----------------------------------------------------------------------------


def _redirecting(pause: float) -> Script:
    def script(talk: Conversation) -> None:
        while True:
            talk.request()
            if talk._server._closing.wait(pause):
                return
            talk.send(response(status=302, headers=[("Location", "/again")]))

    return script


def test_redirects_are_within_one_deadline(place):
    stalled = place.running(_redirecting(0.01))
    stalled.settings = {**stalled.settings, "max_redirects": 10_000}
    with HttpPool(**stalled.settings) as http:
        for way, ask in {"request": _request, "stream": _stream, "session": _session}.items():
            began = monotonic()
            with pytest.raises(DeadlineExceeded):
                if way == "session":  # which follows them itself, so a time-out would be for each
                    with deadline(BUDGET):
                        http.session().get(stalled.url)
                else:
                    ask(http, stalled)
            late = monotonic() - began - BUDGET
            overshoots.setdefault("redirects without end", []).append(late)
            assert late < PROMISED + SCHEDULING


def test_a_body_of_a_redirect_is_within_the_deadline(scripted):
    head = response(length=50_000, status=302, headers=[("Location", "/")])
    server = scripted(_answering(_dripping(b"a"), head))
    ends_in_time("redirect: its body drips", Stalled(server.url))


def test_retries_are_within_one_deadline(scripted):
    server = scripted(lambda talk: talk.request() and talk.reset())
    policy = RetryPolicy(attempts=1000, base=0.01, cap=0.02)
    with HttpPool(retry=policy) as http:
        http_error: BaseException | None = None
        began = monotonic()
        try:
            http.get(server.url, timeout=BUDGET)
        except Exception as error:
            http_error = error
        late = monotonic() - began - BUDGET
        assert http_error is not None
        overshoots.setdefault("retries without end", []).append(late)
        assert late < PROMISED + SCHEDULING
        assert http.stats().retries >= 2


def test_a_retry_that_stalls_is_cut_off_at_the_deadline(scripted):
    def script(talk: Conversation) -> None:
        talk.request()
        talk.send(response(status=503))
        talk.request()
        talk.stall()

    server = scripted(script)
    with HttpPool(retry=RetryPolicy(attempts=2, base=0.001)) as http:
        began = monotonic()
        with pytest.raises(DeadlineExceeded):
            http.get(server.url, timeout=BUDGET)
        late = monotonic() - began - BUDGET
        overshoots.setdefault("the second attempt: silent", []).append(late)
        assert late < PROMISED + SCHEDULING
    assert len(server.requests) == 2


def test_a_pause_that_would_end_after_the_deadline_is_not_made(scripted):
    server = scripted(
        lambda talk: (
            talk.request()
            and talk.send(response(b"busy", status=503, headers=[("Retry-After", "1")]))
        )
    )
    with HttpPool() as http:
        began = monotonic()
        answer = http.get(server.url, timeout=0.9)
        assert (answer.status, answer.data) == (503, b"busy")
        assert monotonic() - began < 0.9
    assert len(server.requests) == 1


def test_connect_timeout_holds_within_a_later_deadline(blackhole):
    with HttpPool(connect_timeout=0.1, retry=RetryPolicy(attempts=1)) as http:
        began = monotonic()
        with pytest.raises(ConnectionError, match="took too long"):
            http.get(blackhole.url)
        assert 0.1 <= monotonic() - began < 0.1 + PROMISED + SCHEDULING


def test_a_connection_cut_at_the_deadline_is_closed_for_the_server_too(scripted):
    gone = threading.Event()

    def script(talk: Conversation) -> None:
        talk.request()
        try:
            talk.stall()
        finally:
            gone.set()

    server = scripted(script)
    with HttpPool() as http:
        with pytest.raises(DeadlineExceeded):
            http.get(server.url, timeout=0.05)
        assert gone.wait(LONG)
        assert http.stats().closed == 1
