"""What ends a request from another thread, wherever it is stuck."""

from __future__ import annotations

import threading

import pytest

from poolkit import Cancellation, HttpPool, OutcomeUnknown, RetryPolicy
from tests.cancelling import cancel, under
from tests.core.support import LONG, Task, eventually

from .scripted import Conversation, response
from .support import silent
from .test_deadlines import HANDSHAKES, LARGE, SCRIPTS


@pytest.mark.parametrize("way", ["request", "session"])
def test_an_answer_that_comes_late(http_server, way):
    cancellation = Cancellation()
    before = http_server.counts().requests
    with HttpPool(base_url=http_server.url, request_timeout=LONG, max_size=1) as http:
        ask = http.get if way == "request" else http.session().get
        task = Task(under, cancellation, ask, f"{http_server.url}/delay/30")
        eventually(lambda: http_server.counts().requests > before)

        (error,) = cancel(cancellation, task)

        assert error.stage == "running"
        assert not isinstance(error, OutcomeUnknown), "a GET changes nothing"
        assert http.stats().in_use == 0
        assert http.get("/bytes/3").data == b"\0\1\2"


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_a_server_that_does_not_come_to_an_end(scripted, certificates, secure):
    cancellation = Cancellation()
    options = {"tls": certificates.good} if secure else {}
    servers = [scripted(script, **options) for script in SCRIPTS.values()]
    with HttpPool(verify=str(certificates.ca_file), request_timeout=LONG) as http:
        tasks = [Task(under, cancellation, http.get, server.url) for server in servers]
        for server in servers:
            server.wait_for_requests(1)

        errors = cancel(cancellation, *tasks)

        assert {error.stage for error in errors} == {"running"}
        assert http.stats().in_use == 0


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_a_server_that_does_not_read(scripted, certificates, secure):
    begun = threading.Event()

    def script(talk):
        talk.head()
        begun.set()
        talk.stall()

    cancellation = Cancellation()
    server = scripted(script, **({"tls": certificates.good} if secure else {}))
    with HttpPool(verify=str(certificates.ca_file), request_timeout=LONG) as http:
        task = Task(lambda: under(cancellation, http.post, server.url, data=LARGE))
        assert begun.wait(LONG)
        (error,) = cancel(cancellation, task)
        assert error.stage == "running"
        assert http.stats().in_use == 0


def test_an_upload_that_can_be_cancelled_arrives_whole(http_server):
    with HttpPool(base_url=http_server.url) as http:
        body = bytes(range(250)) * 40_000
        answer = under(Cancellation(), http.post, "/echo", data=body)
        assert len(answer.json()["body"]) >= len(body)


@pytest.mark.parametrize("name", HANDSHAKES)
def test_a_handshake(scripted, name):
    cancellation = Cancellation()
    server = scripted(HANDSHAKES[name], scheme="https")
    with HttpPool(connect_timeout=LONG, request_timeout=LONG) as http:
        task = Task(under, cancellation, http.get, server.url)
        eventually(lambda: server.connections)
        (error,) = cancel(cancellation, task)
        assert error.stage == "connecting"


def test_a_host_that_does_not_answer(blackhole):
    cancellation = Cancellation()
    with HttpPool(connect_timeout=LONG, request_timeout=LONG) as http:
        task = Task(under, cancellation, http.get, blackhole.url)
        eventually(lambda: task.is_in("first_to_answer"))
        (error,) = cancel(cancellation, task)
        assert error.stage == "connecting"


def test_a_name_that_is_not_found(dns):
    dns.hangs("hangs.example")
    cancellation = Cancellation()
    with HttpPool(connect_timeout=LONG, request_timeout=LONG) as http:
        task = Task(under, cancellation, http.get, "http://hangs.example/")
        eventually(lambda: task.is_in("result"))
        (error,) = cancel(cancellation, task)
        assert error.stage == "connecting"


def test_the_pause_that_a_server_asked_for(scripted):
    answered = threading.Event()

    def script(talk: Conversation) -> None:
        talk.request()
        talk.send(response(b"", status=503, headers=[("Retry-After", "20")]))
        answered.set()
        silent(talk)

    cancellation = Cancellation()
    server = scripted(script)
    policy = RetryPolicy(base=1.0, cap=30.0)
    with HttpPool(request_timeout=LONG, retry=policy) as http:
        task = Task(under, cancellation, http.get, server.url)
        eventually(lambda: http.stats().retries)

        (error,) = cancel(cancellation, task)

        assert error.stage == "waiting"
        assert http.stats().in_use == 0
        assert len(server.requests) == 1


def test_a_body_that_is_read_later_ends_too(scripted):
    cancellation = Cancellation()
    server = scripted(SCRIPTS["body: silent"])
    begun = threading.Event()
    with HttpPool(request_timeout=LONG) as http:

        def read():
            with http.stream("GET", server.url) as answer:
                begun.set()
                return answer.read()

        task = Task(under, cancellation, read)
        assert begun.wait(LONG)
        (error,) = cancel(cancellation, task)
        assert error.stage == "running"
        assert http.stats().in_use == 0


def test_a_time_out_of_the_call_may_be_cancelled_as_well(scripted):
    cancellation = Cancellation()
    server = scripted(silent)
    with HttpPool() as http:
        task = Task(lambda: under(cancellation, http.get, server.url, timeout=LONG))
        server.wait_for_requests(1)
        cancel(cancellation, task)
