"""What is sent again, when and how often; and what never is."""

from __future__ import annotations

import datetime
import io
import threading
import time
from collections.abc import Callable
from email.utils import format_datetime
from typing import Any

import pytest
from urllib3.exceptions import HTTPError, ProtocolError, SSLError

from poolkit import (
    BackendUnavailable,
    DeadlineExceeded,
    HttpPool,
    OutcomeUnknown,
    PoolClosed,
    RetryPolicy,
    deadline,
)
from poolkit.core.budget import RetryBudget
from poolkit.http.failures import RETRIED, retry_after
from poolkit.http.request import IDEMPOTENT
from tests.core.support import Task, eventually, together
from tests.http.scripted import Conversation, Heard, answers, in_turn, response

from .support import HttpRecorder, echo_path, host_of, turns_left

QUICK = RetryPolicy(attempts=3, base=0.001, cap=0.002)
ONCE = RetryPolicy(attempts=1)
METHODS = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "POST", "PATCH", "PROPFIND"]


def failing(times: int, script: Callable[[Conversation, Heard], object]) -> Any:
    """Return a script: so many requests, over all connections, get that; the others an answer."""
    lock = threading.Lock()
    left = [times]

    def run(talk: Conversation) -> None:
        while True:
            heard = talk.request()
            with lock:
                fails = left[0] > 0
                left[0] -= 1
            if fails:
                script(talk, heard)
            else:
                talk.send(response(b"" if heard.method == "HEAD" else b"ok"))

    return run


def status(number: int, *headers: tuple[str, str]) -> Callable[[Conversation, Heard], object]:
    return lambda talk, heard: talk.send(response(b"", status=number, headers=headers))


# -- statuses ------------------------------------------------------------------------------------------

STATUSES = [200, 201, 204, 206, 300, 304, *range(400, 432), 451, *range(500, 512), 599]


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "POST with a key"])
def test_a_status_is_retried_if_the_method_allows_it(scripted, method):
    key = "k" if method.endswith("key") else None
    method = method.partition(" ")[0]
    recorder = HttpRecorder()
    refused: set[str] = set()

    def script(talk: Conversation) -> None:
        while True:
            path = talk.request().target
            talk.send(response(status=200 if path in refused else int(path[1:])))
            refused.add(path)

    server = scripted(script)
    with HttpPool(retry=QUICK, listeners=[recorder]) as http:
        for number in STATUSES:
            before = http.stats()
            answer = http.request(method, f"{server.url}/{number}", idempotency_key=key)
            after = http.stats()
            again = number == 429 or (number in RETRIED and (method != "POST" or key is not None))
            assert answer.status == (200 if again else number)
            assert after.retries - before.retries == again
            assert after.operations - before.operations == 1
            assert after.errors - before.errors == (number in RETRIED and not again)
        assert (http.stats().in_use, http.stats().created) == (0, 1)


def test_what_is_retried_is_what_the_documents_say():
    assert {408, 429, 500, 502, 503, 504} == RETRIED
    assert {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"} == IDEMPOTENT


def test_the_last_answer_is_returned_when_all_were_refusals(scripted):
    server = scripted(in_turn(answers(*(response(b"%d" % n, status=502) for n in range(5)))))
    with HttpPool(retry=QUICK) as http:
        answer = http.get(server.url)
        assert (answer.status, answer.data) == (502, b"2")
        with http.stream("GET", server.url) as streamed:
            assert streamed.status == 502
            assert streamed.read() == b"4"
        assert server.connections == 1
        stats = http.stats()
        assert (stats.operations, stats.retries, stats.errors) == (2, 4, 2)
        assert stats.in_use == 0


def test_answers_that_are_not_kept_cost_no_slot(scripted):
    server = scripted(failing(2, status(503)))
    with HttpPool(retry=QUICK, max_size=1) as http:
        with http.stream("GET", server.url) as answer:
            assert answer.read() == b"ok"
        assert turns_left(http, server.url) == 1
    assert len(server.requests) == 3


def test_large_refusals_while_streaming_cost_no_slot(scripted):
    large = response(b"x" * 1_000_000, status=503)
    server = scripted(failing(2, lambda talk, heard: talk.send(large)))
    with HttpPool(retry=QUICK, max_size=1) as http:
        with http.stream("GET", server.url) as answer:
            assert answer.read() == b"ok"
        assert turns_left(http, server.url) == 1
        assert http.leases() == []


# -- failures ------------------------------------------------------------------------------------------


def _reset(talk: Conversation, heard: Heard) -> None:
    talk.reset()


def _hang_up(talk: Conversation, heard: Heard) -> None:
    talk.close()


def _half_a_head(talk: Conversation, heard: Heard) -> None:
    talk.send(b"HTTP/1.1 200 OK\r\nContent-")
    talk.close()


def _half_a_body(talk: Conversation, heard: Heard) -> None:
    talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe")
    talk.close()


def _nonsense(talk: Conversation, heard: Heard) -> None:
    talk.send(b"what?\r\n\r\n")
    talk.close()


FAILURES = {
    "reset": _reset,
    "hung up": _hang_up,
    "half a head": _half_a_head,
    "half a body": _half_a_body,
    "nonsense": _nonsense,
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("method", METHODS)
def test_a_lost_answer_is_asked_for_again_if_the_method_allows_it(scripted, method, name):
    if (method, name) == ("HEAD", "half a body"):
        return  # it has none
    server = scripted(failing(1, FAILURES[name]))
    with HttpPool(retry=QUICK) as http:
        if method in IDEMPOTENT:
            assert http.request(method, server.url).status == 200
        else:
            with pytest.raises(OutcomeUnknown) as caught:
                http.request(method, server.url)
            assert isinstance(caught.value.__cause__, ProtocolError)
        stats = http.stats()
        assert (stats.retries, stats.errors) == ((1, 0) if method in IDEMPOTENT else (0, 1))
        assert (stats.operations, stats.in_use) == (1, 0)
    assert len(server.requests) == (2 if method in IDEMPOTENT else 1)


@pytest.mark.parametrize("name", FAILURES)
def test_with_a_key_a_post_is_asked_again(scripted, name):
    server = scripted(failing(1, FAILURES[name]))
    with HttpPool(retry=QUICK) as http:
        answer = http.post(server.url, json={"a": 1}, idempotency_key="once")
        assert answer.data == b"ok"
    assert [heard.header("idempotency-key") for heard in server.requests] == ["once"] * 2
    assert [heard.body for heard in server.requests] == [b'{"a": 1}'] * 2


@pytest.mark.parametrize("name", FAILURES)
def test_what_was_in_vain_ends_with_the_last_error_after_three_attempts(scripted, name):
    server = scripted(failing(99, FAILURES[name]))
    with HttpPool(retry=QUICK) as http:
        with pytest.raises(ProtocolError):
            http.get(server.url)
        stats = http.stats()
        assert (stats.retries, stats.errors, stats.operations) == (2, 1, 1)
    assert len(server.requests) == 3


def test_a_post_answered_by_a_reset_is_never_sent_twice_by_many_threads(scripted):
    server = scripted(failing(10_000, _reset))
    with HttpPool() as http:
        session = http.session()

        def work(number: int) -> int:
            unknown = 0
            for count in range(10):
                ask = session.post if count % 2 else http.post
                try:
                    ask(f"{server.url}/{number}/{count}", data=b"x")
                except OutcomeUnknown:
                    unknown += 1
            return unknown

        assert together(20, work) == [10] * 20
    targets = [heard.target for heard in server.requests]
    assert len(targets) == len(set(targets)) == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_host_that_can_not_be_reached_is_tried_again_even_for_a_post(dns, scripted, method):
    server = scripted(echo_path)
    dns._names["flaky.example"] = [OSError("not now"), ("127.0.0.1",)]
    policy = RetryPolicy(attempts=8, base=0.05, cap=0.2)
    with HttpPool(retry=policy) as http:
        answer = http.request(method, f"http://flaky.example:{server.port}/a")
        assert answer.data == b"/a"
        assert http.stats().retries >= 1
    assert len(server.requests) == 1


def test_a_wrong_certificate_is_tried_once(scripted, certificates):
    server = scripted(echo_path, tls=certificates.unknown_authority())
    with HttpPool(retry=QUICK) as http:
        with pytest.raises(BackendUnavailable) as caught:
            http.get(server.url)
        assert isinstance(caught.value.__cause__, SSLError)
        assert http.stats().retries == 0
    assert server.connections == 1


def test_a_deadline_is_never_retried(scripted):
    server = scripted(failing(9, lambda talk, heard: talk.stall()))
    with HttpPool(retry=QUICK) as http:
        with pytest.raises(DeadlineExceeded):
            http.get(server.url, timeout=0.05)
        assert http.stats().retries == 0
    assert len(server.requests) == 1


def test_a_body_that_is_not_what_it_says_is_not_asked_for_again(scripted):
    bad = response(b"not gzip", headers=[("Content-Encoding", "gzip")])
    server = scripted(answers(bad))
    with HttpPool(retry=QUICK) as http:
        with pytest.raises(HTTPError, match="decode"):
            http.get(server.url)
        assert http.stats().retries == 0


# -- policies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 2, 5])
@pytest.mark.parametrize("whose", ["pool", "call"])
def test_so_many_attempts_are_made(scripted, attempts, whose):
    server = scripted(answers(response(status=500)))
    policy = RetryPolicy(attempts=attempts, base=0.001, cap=0.001)
    pools = {"retry": policy} if whose == "pool" else {}
    calls = {"retry": policy} if whose == "call" else {}
    with HttpPool(**pools) as http:
        assert http.get(server.url, **calls).status == 500
        assert http.stats().retries == attempts - 1
        assert http.stats().errors == 1
    assert len(server.requests) == attempts


def test_the_budget_for_retries_is_shared_by_all_threads(scripted):
    server = scripted(answers(response(status=500)))
    with HttpPool(retry=RetryPolicy(attempts=10, base=0, cap=0)) as http:
        together(10, lambda number: [http.get(server.url) for _ in range(5)])
        most = RetryBudget.CAPACITY // RetryBudget.TRANSIENT
        assert http.stats().retries == most
        assert len(server.requests) == 50 + most


def test_each_host_has_a_budget_of_its_own(scripted):
    bad, good = scripted(answers(response(status=500))), scripted(failing(1, _reset))
    with HttpPool(retry=RetryPolicy(attempts=10, base=0, cap=0)) as http:
        for _ in range(20):
            http.get(bad.url)
        assert host_of(http, bad.url)._retrier.budget.tokens < RetryBudget.TRANSIENT
        assert http.get(good.url).data == b"ok"


def test_successes_refill_the_budget(scripted):
    server = scripted(failing(2, _reset))
    with HttpPool(retry=QUICK) as http:
        http.get(server.url)
        budget = host_of(http, server.url)._retrier.budget
        assert budget.tokens == RetryBudget.CAPACITY - RetryBudget.TRANSIENT
        for _ in range(20):
            http.get(server.url)
        assert budget.tokens == RetryBudget.CAPACITY


def test_listeners_hear_of_each_retry(scripted):
    server = scripted(failing(2, _reset))
    recorder = HttpRecorder()
    with HttpPool(retry=QUICK, listeners=[recorder]) as http:
        http.get(server.url)
    assert [event.attempt for event in recorder.of("retried")] == [1, 2]
    assert all(isinstance(event.error, ProtocolError) for event in recorder.of("retried"))
    assert len(recorder.of("requested")) == len(recorder.of("answered")) == 1


def test_close_ends_a_pause(scripted):
    server = scripted(answers(response(status=503, headers=[("Retry-After", "20")])))
    with HttpPool(request_timeout=60) as http:
        asking = Task(http.get, server.url)
        eventually(lambda: http.stats().retries == 1)
        began = time.monotonic()
        http.close()
        with pytest.raises(PoolClosed):
            asking.result()
        assert time.monotonic() - began < 2.0


# -- Retry-After ---------------------------------------------------------------------------------------


def stamp(seconds: float) -> str:
    """Return the time in so many seconds, as HTTP says it."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return format_datetime(now + datetime.timedelta(seconds=seconds), usegmt=True)


def other_stamps(seconds: float) -> list[str]:
    """Return the same in the two forms that are obsolete, and must be understood (RFC 9110, 5.6.7)."""
    then = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return [then.strftime("%A, %d-%b-%y %H:%M:%S GMT"), then.strftime("%a %b %e %H:%M:%S %Y")]


@pytest.fixture
def elsewhere(monkeypatch):
    """Be in another time zone."""
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("elsewhere")
def test_retry_after_is_understood_in_all_forms_in_any_time_zone():
    assert retry_after("120") == 120.0
    assert retry_after(" 0 ") == 0.0
    for text in (stamp(100), *other_stamps(100), stamp(100).replace("GMT", "-0000")):
        assert retry_after(text) == pytest.approx(100, abs=2), text
    assert retry_after(stamp(-100)) == 0.0
    for text in (None, "", "soon", "-5", "1.5", "+5", "٣", "0x10", "Wed, 99 Foo 2026 00:00:00 GMT"):
        assert retry_after(text) is None, text
    assert retry_after("9" * 400) == pytest.approx(1e12)


class Pauses:
    """Remembers the pauses between attempts, and makes none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: list[float] = []
        from poolkit.core.lending import Lender

        monkeypatch.setattr(Lender, "sleep", lambda lender, seconds: self.seconds.append(seconds))


@pytest.fixture
def pauses(monkeypatch):
    """Give what remembers pauses instead of making them."""
    return Pauses(monkeypatch)


@pytest.mark.parametrize("number", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_retry_after_is_obeyed_even_for_a_post(scripted, pauses, number, form, method):
    text = "7" if form == "seconds" else stamp(7)
    server = scripted(failing(1, status(number, ("Retry-After", text))))
    with HttpPool(retry=QUICK) as http:
        assert http.request(method, server.url, data=b"x").data == b"ok"
    (pause,) = pauses.seconds
    assert pause == pytest.approx(7, abs=1.5)


def test_a_503_without_retry_after_is_no_reason_to_post_again(scripted):
    server = scripted(failing(1, status(503)))
    with HttpPool(retry=QUICK) as http:
        assert http.post(server.url).status == 503
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("text", "longest", "again"),
    [("30", 30, True), ("31", 30, False), ("5", 4, False), ("0", 0, True)],
)
def test_retry_after_is_obeyed_up_to_max_retry_after(scripted, pauses, text, longest, again):
    server = scripted(failing(1, status(503, ("Retry-After", text))))
    with HttpPool(retry=QUICK, max_retry_after=longest, request_timeout=100) as http:
        assert http.get(server.url).status == (200 if again else 503)
    assert len(server.requests) == 1 + again


def test_a_date_in_the_past_is_no_pause(scripted, pauses):
    server = scripted(failing(1, status(503, ("Retry-After", stamp(-1000)))))
    with HttpPool(retry=QUICK) as http:
        assert http.get(server.url).status == 200
    assert max(pauses.seconds) <= QUICK.cap


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_retry_after_that_does_not_fit_the_deadline_is_returned_at_once(scripted, method):
    refusal = response(b"later", status=429, headers=[("Retry-After", "3")])
    server = scripted(answers(refusal))
    with HttpPool() as http, deadline(2):
        began = time.monotonic()
        answer = http.request(method, server.url)
        assert (answer.status, answer.data) == (429, b"later")
        assert time.monotonic() - began < 1
    assert len(server.requests) == 1


def test_a_throttled_retry_costs_less_of_the_budget(scripted, pauses):
    server = scripted(failing(1, status(429)))
    with HttpPool(retry=QUICK) as http:
        http.get(server.url)
        assert http.stats().retries == 1
        assert host_of(http, server.url)._retrier.budget.tokens == RetryBudget.CAPACITY


# -- bodies --------------------------------------------------------------------------------------------


def pieces(*items: bytes) -> Any:
    yield from items


ONE_WAY: dict[str, Callable[[], Any]] = {
    "a generator": lambda: pieces(b"ab", b"cd"),
    "an iterator": lambda: iter([b"ab", b"cd"]),
    "a file that can't seek": lambda: OneWay(b"abcd"),
}
AGAIN: dict[str, Callable[[], Any]] = {
    "bytes": lambda: b"abcd",
    "a list": lambda: [b"ab", b"cd"],
    "a file": lambda: io.BytesIO(b"abcd"),
    "a file from its middle": lambda: _from_the_middle(b"head", b"abcd"),
    "text": lambda: "abcd",
    "a text file": lambda: io.StringIO("abcd"),
}


class OneWay(io.RawIOBase):
    """A pipe, say."""

    def __init__(self, data: bytes) -> None:
        self._left = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._left.read(size)


def _from_the_middle(before: bytes, rest: bytes) -> io.BytesIO:
    file = io.BytesIO(before + rest)
    file.seek(len(before))
    return file


@pytest.mark.parametrize("name", AGAIN)
@pytest.mark.parametrize("how", ["lost", "refused"])
def test_a_body_that_can_be_is_sent_again_from_its_beginning(scripted, name, how):
    fails = _reset if how == "lost" else status(500)
    server = scripted(failing(2, fails))
    with HttpPool(retry=QUICK) as http:
        assert http.put(server.url, data=AGAIN[name]()).data == b"ok"
    assert [heard.body for heard in server.requests] == [b"abcd"] * 3


@pytest.mark.parametrize("name", ONE_WAY)
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_body_that_can_not_be_sent_twice_is_not(scripted, name, method):
    server = scripted(failing(1, _reset))
    with HttpPool(retry=QUICK) as http:
        with pytest.raises((ProtocolError, OutcomeUnknown)):
            http.request(method, server.url, data=ONE_WAY[name]())
        assert http.stats().retries == 0
    assert [heard.body for heard in server.requests] == [b"abcd"]


@pytest.mark.parametrize("name", ONE_WAY)
@pytest.mark.parametrize("number", [429, 500, 503])
def test_a_refused_body_that_can_not_be_sent_twice_gets_its_refusal(scripted, name, number):
    server = scripted(failing(1, status(number, ("Retry-After", "0"))))
    with HttpPool(retry=QUICK) as http:
        assert http.put(server.url, data=ONE_WAY[name]()).status == number
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", ONE_WAY)
def test_a_body_that_was_not_begun_is_sent_after_all(dns, scripted, name):
    server = scripted(failing(0, _reset))
    dns._names["flaky.example"] = [OSError("not now"), ("127.0.0.1",)]
    policy = RetryPolicy(attempts=8, base=0.05, cap=0.2)
    with HttpPool(retry=policy) as http:
        url = f"http://flaky.example:{server.port}/"
        assert http.post(url, data=ONE_WAY[name]()).data == b"ok"
    assert [heard.body for heard in server.requests] == [b"abcd"]


@pytest.mark.parametrize("name", ONE_WAY)
def test_a_body_in_a_session_is_not_sent_twice_either(scripted, name):
    server = scripted(failing(1, _reset))
    with HttpPool(retry=QUICK) as http:
        with pytest.raises((ProtocolError, OutcomeUnknown)):
            http.session().put(server.url, data=ONE_WAY[name]())
    assert [heard.body for heard in server.requests] == [b"abcd"]


# -- numbers -------------------------------------------------------------------------------------------


def test_operations_errors_and_retries_are_exact_over_many_threads(scripted):
    def script(talk: Conversation) -> None:
        seen: dict[str, int] = seen_by
        while True:
            heard = talk.request()
            kind = heard.target.split("/")[1]
            with lock:
                seen[heard.target] = seen.get(heard.target, 0) + 1
                first = seen[heard.target] == 1
            if (kind == "once" and first) or kind == "always":
                talk.send(response(status=500))
            elif kind == "reset":
                talk.reset()
                return
            else:
                talk.send(response(b"ok"))

    seen_by: dict[str, int] = {}
    lock = threading.Lock()
    server = scripted(script)
    policy = RetryPolicy(attempts=2, base=0, cap=0)
    with HttpPool(retry=policy, max_size=8) as http:

        def work(number: int) -> None:
            for count in range(5):
                tag = f"{number}/{count}"
                assert http.get(f"{server.url}/fine/{tag}").status == 200
                assert http.post(f"{server.url}/always/{tag}").status == 500
                with pytest.raises(OutcomeUnknown):
                    http.post(f"{server.url}/reset/{tag}")
                if count == 0:
                    assert http.get(f"{server.url}/once/{tag}").status == 200

        together(20, work)
        stats = http.stats()
        assert stats.operations == 20 * (5 * 3 + 1)
        assert stats.errors == 20 * 5 * 2
        assert stats.retries == 20
        assert (stats.in_use, stats.timeouts, stats.refused, stats.leaked) == (0, 0, 0, 0)
    assert len(server.requests) == 20 * (5 * 3 + 2)


def test_a_refusal_in_stream_holds_no_connection_during_the_pause(scripted):
    busy = response(b"busy", status=503, headers=[("Retry-After", "1")])
    server = scripted(failing(1, lambda talk, heard: talk.send(busy)))
    with HttpPool(max_size=1) as http:

        def read() -> bytes:
            with http.stream("GET", server.url) as answer:
                return answer.read()

        task = Task(read)
        eventually(lambda: http.stats().retries == 1)
        assert http.stats().in_use == 0
        task.result()
