"""The end of a pool, and its beginning anew in forked processes."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import requests
from urllib3.exceptions import HTTPError

from poolkit import DeadlineExceeded, HttpPool, OutcomeUnknown, PoolClosed
from tests.core.support import LONG, Task, eventually, together
from tests.forks import Child
from tests.http.scripted import Conversation, answers, response

from .support import SCHEDULING, HttpRecorder, echo_path, host_of, silent

BODY = b"x" * 1_000_000
LARGE = response(BODY)


@pytest.fixture(params=["plain", "TLS"])
def start(request: pytest.FixtureRequest, scripted: Any, certificates: Any) -> Callable[..., Any]:
    """Give a maker of servers, with and without TLS, and of an open pool for them."""
    tls = certificates.good if request.param == "TLS" else None

    def make(script: Any, **settings: Any) -> Any:
        return scripted(script, tls=tls), HttpPool(verify=str(certificates.ca_file), **settings)

    return make


# -- close ---------------------------------------------------------------------------------------------


def test_close_ends_idle_connections_and_lets_nobody_in(start):
    server, http = start(echo_path)
    session = http.session()
    together(3, lambda number: http.get(f"{server.url}/{number}"))
    http.close()
    eventually(lambda: not server._open)
    for ask in (
        lambda: http.get(server.url),
        lambda: http.stream("GET", server.url).__enter__(),
        lambda: session.get(server.url),
        http.open,
    ):
        with pytest.raises(PoolClosed, match="is closed; make a new one"):
            ask()
    with pytest.raises(requests.ConnectionError):
        session.get(server.url)
    assert http.health_check(server.url) is False
    assert (http.leases(), http.stats_by_host()) == ([], {})
    http.close()


def test_close_waits_for_a_stream(start):
    server, http = start(answers(LARGE))
    with ExitStack() as block:
        answer = block.enter_context(http.stream("GET", server.url))
        closing = Task(http.close, LONG)
        eventually(lambda: http._lifecycle.state == "closed")
        with pytest.raises(PoolClosed):
            http.get(server.url)
        assert closing.is_alive()
        assert answer.read() == BODY
        closing.result()
    eventually(lambda: not server._open)


def test_close_does_not_wait_for_a_stream_longer_than_allowed_and_names_who_has_it(start, caplog):
    caplog.set_level(logging.WARNING, "poolkit.http")
    recorder = HttpRecorder()
    server, http = start(answers(LARGE), listeners=[recorder])
    with http.stream("GET", server.url) as answer:
        began = time.monotonic()
        http.close(timeout=0.1)
        assert 0.1 <= time.monotonic() - began < 0.1 + SCHEDULING
        assert "was closed while held by thread 'MainThread'" in caplog.text
        assert "test_close_and_fork.py" in caplog.text
        assert answer.read() == BODY  # it is not cut off
        eventually(lambda: not server._open)  # but not kept either
    (event,) = recorder.of("closed")
    assert event.held == 1


def test_close_tells_those_who_wait_at_once(start):
    server, http = start(answers(LARGE), max_size=1, acquire_timeout=LONG)
    with http.stream("GET", server.url):
        waiting = [Task(http.get, server.url) for _ in range(3)]
        eventually(lambda: http.stats().waiting == 3)
        began = time.monotonic()
        closing = Task(http.close, LONG)
        for task in waiting:
            assert isinstance(task.end(), PoolClosed)
        assert time.monotonic() - began < 1.0
    closing.result()


def test_close_is_bounded_while_a_request_hangs(start):
    server, http = start(silent)
    asking = Task(lambda: http.get(server.url, timeout=0.5))
    server.wait_for_requests(1)
    began = time.monotonic()
    http.close(timeout=0.1)
    assert time.monotonic() - began < 0.1 + SCHEDULING
    assert isinstance(asking.end(), DeadlineExceeded)
    eventually(lambda: not server._open)


def test_close_is_bounded_while_connecting(blackhole):
    http = HttpPool()
    asking = Task(lambda: http.get(blackhole.url, timeout=0.5))
    eventually(
        lambda: http.stats_by_host() and host_of(http, blackhole.url).node.lender.gate.in_use
    )
    began = time.monotonic()
    http.close(timeout=0.1)
    assert time.monotonic() - began < 0.1 + SCHEDULING
    assert isinstance(asking.end(), (PoolClosed, DeadlineExceeded))


def test_close_is_bounded_while_a_host_is_probed(blackhole):
    http = HttpPool(connect_timeout=0.05)
    with pytest.raises(ConnectionError):
        http.get(blackhole.url)
    node = host_of(http, blackhole.url).node
    eventually(lambda: node._prober.is_looking)
    began = time.monotonic()
    http.close(timeout=0.1)
    assert time.monotonic() - began < 0.1 + SCHEDULING
    eventually(lambda: not node._prober.is_looking)


def test_a_redirect_to_a_new_host_while_closing_is_told_that_it_is_closed(scripted):
    other = scripted(echo_path)
    go_on = threading.Event()

    def script(talk: Conversation) -> None:
        talk.request()
        assert go_on.wait(LONG)
        talk.send(response(status=302, headers=[("Location", other.url)]))

    server = scripted(script)
    http = HttpPool()
    asking = Task(http.get, server.url)
    server.wait_for_requests(1)
    running = http._lifecycle.running
    closing = Task(http.close, LONG)
    eventually(lambda: running.hosts._closed)
    go_on.set()
    assert isinstance(asking.end(), PoolClosed)
    closing.result()
    assert other.connections == 0


def test_close_tells_all_hosts_before_it_waits_for_one(scripted):
    streaming = scripted(answers(LARGE))
    busy = scripted(answers(response(status=503, headers=[("Retry-After", "20")])))
    http = HttpPool(request_timeout=60)
    with http.stream("GET", streaming.url):
        retrying = Task(http.get, busy.url)
        eventually(lambda: http.stats().retries == 1)
        closing = Task(http.close, LONG)
        assert isinstance(retrying.end(5.0), PoolClosed)
        assert closing.is_alive()
    closing.result()


def test_under_load_each_call_ends_with_its_answer_or_is_told(start):
    server, http = start(echo_path, max_size=4, acquire_timeout=LONG)
    wrong: list[Any] = []

    def work(number: int) -> None:
        count = 0
        try:
            while True:
                count += 1
                path = f"/{number}/{count}"
                ask = http.post if count % 3 == 0 else http.get
                if (got := ask(server.url + path).data) != path.encode():
                    wrong.append((path, got))
        except PoolClosed:
            pass

    tasks = [Task(work, number) for number in range(16)]
    eventually(lambda: http.stats().operations > 200)
    together(3, lambda number: http.close())
    for task in tasks:
        task.result()
    assert wrong == []
    eventually(lambda: not server._open)


def test_what_is_closed_twice_at_once_is_closed_once(start):
    recorder = HttpRecorder()
    server, http = start(echo_path, listeners=[recorder])
    http.get(server.url)
    together(8, lambda number: http.close())
    assert (len(recorder.of("closed")), len(recorder.of("removed"))) == (1, 1)


# -- fork ----------------------------------------------------------------------------------------------

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def tagged(http: HttpPool, url: str, who: str, turns: int = 20) -> int:
    """Ask for the own path from four threads, in three ways, and make sure that each gets its own."""
    session = http.session()

    def work(number: int) -> None:
        for turn in range(turns):
            path = f"/{who}/{number}/{turn}"
            assert http.get(url + path).data == path.encode()
            assert session.post(url + path, data=b"x").content == path.encode()
            with http.stream("GET", url + path) as answer:
                assert answer.read() == path.encode()

    together(4, work)
    return turns * 4


@forks
def test_a_pool_made_before_a_fork_works_in_parent_and_children(start):
    server, http = start(echo_path)
    children = [Child(lambda n=n: tagged(http, server.url, f"child-{n}")) for n in range(2)]
    assert tagged(http, server.url, "parent") == 80
    assert [child.outcome() for child in children] == [80, 80]
    http.close()


@forks
@pytest.mark.parametrize("end", ["exits", "closes", "drops", "leaves the block"])
def test_neither_touches_the_others_sockets(start, end):
    server, http = start(echo_path)
    with http:
        http.get(f"{server.url}/before")

        def child() -> Any:
            assert http.stats().created == 0
            got = tagged(http, server.url, "child", 3)
            if end == "closes":
                http.close()
            elif end == "drops":
                gc.collect()
            elif end == "leaves the block":
                http.__exit__(None, None, None)
            return got

        assert Child(child).outcome() == 12
        assert http.get(f"{server.url}/after").data == b"/after"
        assert server.requests[-1].connection == server.requests[0].connection == 0
        stats = http.stats()
        assert (stats.created, stats.closed, stats.operations) == (1, 0, 2)


@forks
def test_a_fork_while_another_thread_streams_cuts_nothing(start):
    half = threading.Event()
    forked = threading.Event()

    def script(talk: Conversation) -> None:
        if talk.request().target != "/stream":
            talk.send(response(b"ok"))
            return
        talk.send(response(BODY[:1000], length=len(BODY)))
        assert forked.wait(LONG)
        talk.send(BODY[1000:])

    server, http = start(script)

    def stream() -> int:
        with http.stream("GET", f"{server.url}/stream") as answer:
            got = len(answer.read(1000))
            half.set()
            return got + sum(map(len, answer.stream(10_000)))

    streaming = Task(stream)
    assert half.wait(LONG)
    child = Child(lambda: (http.leases(), http.get(server.url).data, http.close()))
    assert child.outcome() == ([], b"ok", None)
    forked.set()
    assert streaming.result() == len(BODY)
    http.close()


@forks
@pytest.mark.parametrize("how", ["reads", "leaves the block", "closes it", "drops it"])
def test_a_fork_inside_a_block_leaves_the_stream_to_the_parent(start, how):
    server, http = start(answers(LARGE))
    with ExitStack() as block:
        answer = block.enter_context(http.stream("GET", server.url))
        first = answer.read(10)

        def child() -> bool:
            if how == "reads":
                with pytest.raises((HTTPError, OSError, ValueError)):
                    answer.read()
            elif how == "leaves the block":
                block.close()
            elif how == "closes it":
                answer.close()
            else:
                gc.collect()
            return http.get(server.url).data == BODY

        assert Child(child).outcome()
        assert len(first + answer.read()) == len(BODY)
        assert http.stats().idle == 1
    assert http.get(server.url).data == BODY
    assert server.requests[-1].connection == 0
    http.close()


@forks
def test_a_fork_while_others_hold_every_lock_does_not_hang_the_child(start):
    server, http = start(echo_path)
    http.get(server.url)
    running = http._lifecycle.running
    host = host_of(http, server.url)
    node = host.node
    locks = [
        http._lifecycle._lock,
        running.hosts._lock,
        running.hosts._gone._lock,
        running.hosts._supply._manager.pools.lock,
        host.tally._lock,
        host._retrier.budget._lock,
        node._prober._lock,
        node.outage._lock,
        node.lender.gate._lock,
        node.shelf._lock,
    ]
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            assert over.wait(LONG)

    holder = Task(hold)
    assert held.wait(LONG)
    child = Child(lambda: (tagged(http, server.url, "child", 2), http.close()))
    try:
        assert child.outcome() == (8, None)
    finally:
        over.set()
    holder.result()
    assert http.get(f"{server.url}/a").data == b"/a"
    http.close()


@forks
def test_a_fork_while_a_name_is_looked_up_does_not_hang_the_child(scripted, dns):
    server = scripted(echo_path)
    hang = dns.hangs("slow.example", "127.0.0.1")
    url = f"http://slow.example:{server.port}"
    with HttpPool() as http:
        asking = Task(http.get, f"{url}/parent")
        assert hang.asked.wait(LONG)

        def child() -> bytes:
            dns.answers("slow.example", "127.0.0.1")
            return http.get(f"{url}/child").data

        assert Child(child).outcome() == b"/child"
        hang.release()
        assert asking.result().data == b"/parent"


@forks
def test_forks_while_threads_hammer(start):
    server, http = start(echo_path, max_size=4, acquire_timeout=LONG)
    over = threading.Event()
    wrong: list[Any] = []

    def work(number: int) -> None:
        count = 0
        while not over.is_set():
            count += 1
            path = f"/{number}/{count}"
            if (got := http.get(server.url + path).data) != path.encode():
                wrong.append((path, got))

    tasks = [Task(work, number) for number in range(8)]
    for number in range(4):
        done = http.stats().operations
        eventually(lambda done=done: http.stats().operations > done + 20)
        assert Child(lambda n=number: tagged(http, server.url, f"c{n}", 2)).outcome() == 8
    over.set()
    for task in tasks:
        task.result()
    assert wrong == []
    assert (http.stats().errors, http.stats().created) == (0, 4)
    http.close()


@forks
def test_workers_of_a_preloaded_app_each_have_their_own_connections(start):
    server, http = start(echo_path, max_size=4)
    session = http.session()
    http.get(f"{server.url}/preload")  # while the application is loaded

    def worker(number: int) -> tuple[int, set[str]]:
        def handle(request: int) -> str:
            path = f"/{number}/{request}"
            assert session.get(server.url + path).text == path
            return path

        seen = {path for _ in range(5) for path in together(4, handle)}
        stats = http.stats()
        assert (stats.operations, stats.errors) == (20, 0)
        http.close()
        return stats.created, seen

    workers = [Child(lambda n=n: worker(n)) for n in range(4)]
    created = [worker.outcome()[0] for worker in workers]
    assert all(1 <= number <= 4 for number in created)
    assert server.connections == 1 + sum(created)
    assert http.get(f"{server.url}/after").data == b"/after"
    assert server.requests[-1].connection == 0
    http.close()


@forks
def test_a_grandchild_works_too(start):
    server, http = start(echo_path)
    http.get(server.url)

    def child() -> Any:
        http.get(server.url)
        return Child(lambda: http.get(f"{server.url}/grandchild").data).outcome()

    assert Child(child).outcome() == b"/grandchild"
    http.close()


@forks
def test_a_pool_closed_before_a_fork_stays_closed(start):
    server, http = start(echo_path)
    http.get(server.url)
    http.close()

    def child() -> str:
        with pytest.raises(PoolClosed) as caught:
            http.get(server.url)
        return str(caught.value)

    assert "is closed" in Child(child).outcome()


@forks
def test_the_childs_deadlines_and_sweeps_are_its_own(start):
    server, http = start(lambda talk: silent(talk) if talk.index == 1 else echo_path(talk))
    http.get(server.url)

    def child() -> bool:
        with pytest.raises(OutcomeUnknown):
            http.post(server.url, timeout=0.1)
        http.get(server.url)
        for conn in host_of(http, server.url).node.shelf._idle:
            conn.last_used -= 1000
        eventually(lambda: http.stats().size == 0, timeout=5)
        return True

    assert Child(child).outcome()
    assert http.get(f"{server.url}/a").data == b"/a"
    assert server.requests[-1].connection == 0
    http.close()
