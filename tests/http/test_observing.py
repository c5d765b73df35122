"""What a pool tells of itself: counters, of each host too, holders, events, health."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from urllib3.exceptions import ProtocolError

from poolkit import (
    BackendUnavailable,
    HttpPool,
    Listener,
    OutcomeUnknown,
    PoolTimeout,
    RetryPolicy,
)
from poolkit.core.events import Ended
from poolkit.http import hosts as hosts_module
from tests.core.support import LONG, Task, eventually, together
from tests.http.scripted import Conversation, answers, in_turn, response

from .support import HttpRecorder, echo_path, host_of, sweep, turns_left

ONCE = RetryPolicy(attempts=1)
LARGE = response(b"x" * 1_000_000)


# -- counters ------------------------------------------------------------------------------------------


def test_counters_are_exact_whatever_threads_do(scripted):
    def script(talk: Conversation) -> None:
        while True:
            heard = talk.request()
            if heard.target.startswith("/large"):
                talk.send(LARGE)
            elif heard.target.startswith("/cut"):
                return
            else:
                talk.send(response(b"ok"))

    one, two = scripted(script), scripted(script)
    with HttpPool(max_size=5, max_idle=5, retry=ONCE, acquire_timeout=LONG) as http:
        session = http.session()

        def work(number: int) -> None:
            for count in range(10):
                url = (one, two)[(number + count) % 2].url
                http.get(f"{url}/a")
                http.post(f"{url}/b", json=[number])
                session.get(f"{url}/c")
                with http.stream("GET", f"{url}/d") as answer:
                    answer.read()
                with http.stream("GET", f"{url}/large") as answer:
                    answer.read(10)
                with pytest.raises(OutcomeUnknown):
                    http.post(f"{url}/cut")

        together(20, work)
        stats = http.stats()
        by_host = http.stats_by_host()
        asked = 20 * 10
        assert stats.operations == stats.leases == asked * 6
        assert stats.use.count == stats.wait.count == stats.leases
        assert stats.errors == asked
        assert stats.error_rate == pytest.approx(100 / 6)
        assert (stats.timeouts, stats.refused, stats.retries, stats.leaked) == (0, 0, 0, 0)
        assert (stats.in_use, stats.waiting) == (0, 0)
        assert stats.closed >= asked * 2  # those cut and those not read
        assert stats.created - stats.closed == stats.size == stats.idle <= 10
        assert stats.create.count == stats.created
        for name in ("operations", "leases", "errors", "created", "closed", "size"):
            assert sum(getattr(each, name) for each in by_host.values()) == getattr(stats, name)
        assert by_host[one.url].operations == by_host[two.url].operations == asked * 3
    assert len(one.requests) + len(two.requests) == asked * 6


def test_operations_count_exchanges_and_so_each_redirect(scripted):
    server = scripted(
        answers(response(status=302, headers=[("Location", "/b")]), response(b"there"))
    )
    with HttpPool() as http:
        assert http.get(server.url).data == b"there"
        assert (http.stats().operations, http.stats().leases) == (2, 2)


def test_a_pool_that_was_not_used_has_nothing_to_tell(scripted):
    http = HttpPool(name="new")
    assert (http.stats().size, http.stats().operations, http.leases()) == (0, 0, [])
    assert http.stats_by_host() == {}
    assert repr(http) == "<HttpPool 'new' new>"
    http.close()
    assert http.stats().operations == 0


def test_now_is_told_while_it_is(scripted):
    server = scripted(answers(LARGE))
    with HttpPool(max_size=2, acquire_timeout=LONG) as http:
        with http.stream("GET", server.url), http.stream("GET", server.url):
            waiting = Task(http.get, server.url)
            eventually(lambda: http.stats().waiting == 1)
            stats = http.stats_by_host()[server.url]
            assert (stats.size, stats.in_use, stats.idle, stats.waiting) == (2, 2, 0, 1)
            assert "2 of at most 2 connections open, 2 in use, 0 idle, 1 waiting" in repr(http)
            time.sleep(0.01)  # that is what is measured
        waiting.result()
        assert http.stats().wait.max >= 0.01


# -- hosts that are not used ---------------------------------------------------------------------------


@pytest.fixture
def named(scripted: Any, dns: Any) -> Any:
    """Give a server, and names without end that lead to it."""
    server = scripted(echo_path)

    def url(number: int) -> str:
        dns.answers(f"h{number}.example", "127.0.0.1")
        return f"http://h{number}.example:{server.port}"

    return server, url


def test_a_host_not_used_for_long_is_dropped_and_its_counts_are_kept(named, monkeypatch):
    _, url = named
    monkeypatch.setattr(hosts_module, "UNUSED", 0.0)
    with HttpPool(max_idle=0) as http:
        for number in range(3):
            http.get(url(number))
        before = http.stats()
        assert len(http.stats_by_host()) == 3
        sweep(http)
        assert http.stats_by_host() == {}
        after = http.stats()
        for name in ("operations", "leases", "created", "closed", "size", "errors"):
            assert getattr(after, name) == getattr(before, name), name
        assert after.use.count == 3
        http.get(url(1))
        assert (http.stats().operations, len(http.stats_by_host())) == (4, 1)


def test_a_host_with_a_connection_or_a_waiter_is_not_dropped(named, monkeypatch):
    _, url = named
    monkeypatch.setattr(hosts_module, "UNUSED", 0.0)
    with HttpPool() as http:
        http.get(url(1))
        sweep(http)
        assert len(http.stats_by_host()) == 1  # it has a connection that is kept


def test_a_host_that_is_being_connected_to_is_not_dropped(scripted, dns, monkeypatch):
    monkeypatch.setattr(hosts_module, "UNUSED", 0.0)
    server = scripted(echo_path)
    hang = dns.hangs("slow.example", "127.0.0.1")
    with HttpPool(max_idle=0, retry=ONCE) as http:
        asking = Task(http.get, f"http://slow.example:{server.port}/a")
        assert hang.asked.wait(LONG)
        sweep(http)
        hang.release()
        assert asking.result().data == b"/a"
        assert http.stats().operations == http.stats().leases == 1


def test_a_host_that_is_left_alone_before_a_retry_is_not_dropped(scripted, monkeypatch):
    monkeypatch.setattr(hosts_module, "UNUSED", 0.0)
    close = [("Connection", "close")]
    server = scripted(
        in_turn(answers(response(status=503, headers=[("Retry-After", "1"), *close])), echo_path)
    )
    with HttpPool() as http:
        asking = Task(http.get, f"{server.url}/a")
        eventually(lambda: http.stats().retries == 1)
        eventually(lambda: http.stats().size == 0)
        sweep(http)
        assert asking.result().data == b"/a"
        stats = http.stats()
        assert (stats.operations, stats.retries, stats.errors) == (1, 1, 0)


def test_hosts_without_number_come_and_go_and_no_call_is_harmed(named, monkeypatch):
    _, url = named
    monkeypatch.setattr(hosts_module, "UNUSED", 0.0)
    monkeypatch.setattr(hosts_module, "MOST", 2)
    urls = [url(number) for number in range(6)]
    over = threading.Event()
    with HttpPool(max_idle=0, retry=ONCE, acquire_timeout=LONG) as http:

        def work(number: int) -> None:
            for count in range(30):
                path = f"/{number}/{count}"
                assert http.get(urls[(number + count) % 6] + path).data == path.encode()

        def drop() -> list[int]:
            seen = []
            while not over.is_set():
                sweep(http)
                seen.append(http.stats().operations)
            return seen

        dropping = Task(drop)
        together(8, work)
        over.set()
        seen = dropping.result()
        assert seen == sorted(seen)  # nothing is left out while a host is being dropped
        sweep(http)
        stats = http.stats()
        assert (stats.operations, stats.leases, stats.errors) == (240, 240, 0)
        assert http.stats_by_host() == {}


# -- events --------------------------------------------------------------------------------------------


def test_events_of_a_request_come_in_order(scripted):
    server = scripted(echo_path)
    recorder = HttpRecorder()
    with HttpPool(listeners=[recorder], name="heard") as http:
        http.get(f"{server.url}/path", params={"secret": "s3cr3t"})
        http.post(f"{server.url}/other")
    assert recorder.kinds() == [
        "opened",
        "requested",
        "connected",
        "ready",
        "acquired",
        "released",
        "answered",
        "requested",
        "acquired",
        "released",
        "answered",
        "removed",
        "closed",
    ]
    assert {event.pool for _, event in recorder.events} == {"heard"}
    first, second = recorder.of("requested")
    assert (first.method, first.url) == ("GET", f"{server.url}/path")
    assert (second.method, second.url) == ("POST", f"{server.url}/other")
    answered = recorder.of("answered")[0]
    assert (answered.method, answered.url, answered.status) == ("GET", f"{server.url}/path", 200)
    assert 0 < answered.seconds < LONG
    assert "s3cr3t" not in repr(recorder.events)
    assert "test_observing.py" in recorder.of("acquired")[0].holder.call_site
    assert recorder.of("removed")[0].reason == "closed"


def test_events_are_as_many_as_counters_say(scripted):
    def script(talk: Conversation) -> None:
        while True:
            heard = talk.request()
            if heard.target.startswith("/cut"):
                return
            talk.send(response(b"ok", status=500 if heard.target.startswith("/bad") else 200))

    server = scripted(script)
    recorder = HttpRecorder()
    policy = RetryPolicy(attempts=2, base=0.0, cap=0.0)
    with HttpPool(listeners=[recorder], max_size=4, retry=policy, acquire_timeout=LONG) as http:

        def work(number: int) -> None:
            for _ in range(10):
                http.get(f"{server.url}/fine")
                if number < 1:
                    http.post(f"{server.url}/bad")
                    http.get(f"{server.url}/bad")
                    with pytest.raises(ProtocolError):
                        http.get(f"{server.url}/cut")

        together(8, work)
        stats = http.stats()
    assert len(recorder.of("acquired")) == len(recorder.of("released")) == stats.leases
    assert len(recorder.of("connected")) == stats.created == len(recorder.of("removed"))
    assert len(recorder.of("retried")) == stats.retries == 20
    assert len(recorder.of("failed")) == stats.errors == 30
    assert len(recorder.of("requested")) == stats.operations == 110
    assert len(recorder.of("answered")) == 100  # that a request failed, failed tells
    assert (len(recorder.of("opened")), len(recorder.of("closed"))) == (1, 1)


def test_a_listener_hears_of_who_gets_none(scripted):
    server = scripted(answers(LARGE))
    recorder = HttpRecorder()
    with HttpPool(listeners=[recorder], max_size=1, acquire_timeout=0.05) as http:
        with http.stream("GET", server.url), pytest.raises(PoolTimeout):
            http.get(server.url)
    (event,) = recorder.of("timed_out")
    assert isinstance(event.error, PoolTimeout)
    assert event.waited >= 0.05
    assert [type(event.error) for event in recorder.of("failed")] == [PoolTimeout]


def test_a_listener_hears_of_an_outage_and_its_end(dns, scripted):
    server = scripted(echo_path)
    dns.fails("gone.example")
    url = f"http://gone.example:{server.port}"
    recorder = HttpRecorder()
    with HttpPool(listeners=[recorder], retry=ONCE) as http:
        with pytest.raises(BackendUnavailable):
            http.get(url)
        eventually(lambda: recorder.of("reconnecting"))
        dns.answers("gone.example", "127.0.0.1")
        eventually(lambda: recorder.of("ready"))
        assert http.get(f"{url}/a").data == b"/a"


def test_a_listener_hears_the_end_of_what_is_turned_away_in_an_outage(dns):
    class Ends(Listener):
        def __init__(self) -> None:
            self.heard: list[tuple[str, object]] = []

        def ended(self, event: Ended) -> None:
            self.heard.append((event.operation, event.error))

    dns.fails("gone.example")
    ends, errors = Ends(), []
    with HttpPool(listeners=[ends], retry=ONCE) as http:
        for ask in (http.get, http.put):  # who finds it out, and who is told at once
            with pytest.raises(BackendUnavailable) as caught:
                ask("http://gone.example")
            errors.append(caught.value)
        assert http.stats().operations == http.stats().errors == 2
    assert ends.heard == [("GET", errors[0]), ("PUT", errors[1])]


# -- health --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "healthy"), [(200, True), (204, True), (404, True), (500, False), (503, False)]
)
def test_health_check_says_whether_a_url_is_answered(scripted, status, healthy):
    server = scripted(answers(response(status=status)))
    with HttpPool() as http:
        assert http.health_check(f"{server.url}/health") is healthy
    assert len(server.requests) == 1


def test_health_check_never_raises(scripted, blackhole, dns):
    cut = scripted(lambda talk: talk.request() and None)
    dns.fails("gone.example")
    with HttpPool(connect_timeout=0.1) as http:
        for url in (
            cut.url,
            blackhole.url,
            "http://gone.example/",
            "http://127.0.0.1:1/",
            "nonsense",
            "ftp://x",
        ):
            assert http.health_check(url) is False


def test_health_check_asks_the_base_url(scripted):
    server = scripted(answers(response(), response(status=500)))
    with HttpPool(f"{server.url}/api") as http:
        assert http.health_check() is True
        assert http.health_check() is False
    assert [heard.target for heard in server.requests] == ["/api", "/api"]


def test_health_check_without_a_url_says_whether_hosts_can_be_reached(scripted, dns):
    server = scripted(echo_path)
    dns.fails("gone.example")
    with HttpPool(retry=ONCE) as http:
        assert http.health_check() is True
        http.get(server.url)
        assert http.health_check() is True
        with pytest.raises(BackendUnavailable):
            http.get("http://gone.example/")
        assert http.health_check() is False
        assert turns_left(http, server.url) == http.config.max_size
        assert host_of(http, server.url).node.outage.cause is None
