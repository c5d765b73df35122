"""All connections are in use: who waits, for how long, in which order, and what they are told."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
import warnings
from contextlib import suppress
from statistics import mean, median
from typing import Any

import pytest
import requests

from poolkit import HttpPool, PoolOverloaded, PoolTimeout, deadline
from tests.core.support import LONG, Task, eventually, together
from tests.http.scripted import Conversation, answers, response

from .support import HttpRecorder, echo_path, host_of, silent, sweep, turns_left

LARGE = response(b"x" * 1_000_000)


@pytest.fixture
def large(scripted: Any) -> Any:
    """Give a server whose answers are large, so that a part of them stays unread."""
    return scripted(answers(LARGE))


def here() -> int:
    """Return the line that this is called from."""
    return sys._getframe(1).f_lineno


# -- told who has them ---------------------------------------------------------------------------------


def test_who_gets_none_is_told_who_left_responses_unread(large):
    with HttpPool(max_size=3, acquire_timeout=0.05, name="small") as http:
        over = threading.Event()

        def forget_to_read() -> None:
            kept = [http.stream("GET", large.url).__enter__() for _ in range(3)]
            over.wait(LONG)
            for response in kept:
                response.close()

        holder = Task(forget_to_read, name="the holder")
        eventually(lambda: http.stats().in_use == 3)
        for ask in (
            lambda: http.get(large.url),
            lambda: http.session().get(large.url),
            lambda: http.stream("GET", large.url).__enter__(),
        ):
            with pytest.raises(PoolTimeout) as caught:
                ask()
            text = str(caught.value)
            assert "no connection within acquire_timeout (0.05 s)" in text
            assert "thread 'the holder'" in text
            assert "test_exhaustion.py" in text
            assert "forget_to_read" in text
            assert [held.thread_name for held in caught.value.holders] == ["the holder"] * 3
            assert caught.value.stats.in_use == 3
            assert caught.value.stats.max_size == 3
        assert isinstance(caught.value, TimeoutError)
        assert http.stats().timeouts == 3
        over.set()
        holder.result()
        assert http.get(large.url).status == 200
        assert turns_left(http, large.url) == 3


def test_a_session_tells_it_as_a_timeout_of_requests(large):
    with HttpPool(max_size=1, acquire_timeout=0.01) as http, http.stream("GET", large.url):
        with pytest.raises(requests.Timeout) as caught:
            http.session().get(large.url)
        assert isinstance(caught.value, PoolTimeout)
        assert caught.value.holders


def test_leases_name_the_line_of_the_user_however_it_asked(large):
    with HttpPool() as http:
        session = http.session()

        def check(line: int) -> None:
            (holder,) = http.leases()
            assert f"test_exhaustion.py:{line} in" in holder.call_site
            assert holder.thread_name == threading.current_thread().name
            assert "test_exhaustion.py" in holder.stack()

        with http.stream("GET", large.url):
            check(here() - 1)
        with session.get(large.url, stream=True):
            check(here() - 1)
        with session.request("GET", large.url, stream=True):
            check(here() - 1)
        assert http.leases() == []


# -- dropped -------------------------------------------------------------------------------------------


def _drop_stream(http: HttpPool, url: str) -> int:
    http.stream("GET", url).__enter__()
    return here() - 1


def _drop_session(http: HttpPool, url: str) -> int:
    http.session().get(url, stream=True)
    return here() - 1


def _drop_partly_read(http: HttpPool, url: str) -> int:
    next(http.stream("GET", url).__enter__().stream(10))
    return here() - 1


def _drop_session_partly_read(http: HttpPool, url: str) -> int:
    next(http.session().get(url, stream=True).iter_content(10))
    return here() - 1


def _drop_in_a_cycle(http: HttpPool, url: str) -> int:
    cycle: list[Any] = [http.stream("GET", url).__enter__()]
    cycle.append(cycle)
    return here() - 2


def _drop_in_an_exception(http: HttpPool, url: str) -> int:
    def fail() -> None:
        answer = http.stream("GET", url).__enter__()
        raise ValueError(answer)

    with suppress(ValueError):
        fail()
    return fail.__code__.co_firstlineno + 1


DROPS = {
    "stream": _drop_stream,
    "session": _drop_session,
    "stream, partly read": _drop_partly_read,
    "session, partly read": _drop_session_partly_read,
    "in a cycle": _drop_in_a_cycle,
    "in an exception": _drop_in_an_exception,
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", DROPS)
@pytest.mark.parametrize("kind", ["plain", "TLS"])
def test_a_response_that_is_dropped_is_reclaimed_counted_and_logged_with_its_line(
    scripted, certificates, caplog, name, kind
):
    server = scripted(answers(LARGE), tls=certificates.good if kind == "TLS" else None)
    recorder = HttpRecorder()
    caplog.set_level(logging.WARNING, "poolkit")
    with HttpPool(verify=str(certificates.ca_file), max_size=1, listeners=[recorder]) as http:
        line = DROPS[name](http, server.url)
        gc.collect()
        sweep(http)
        stats = http.stats()
        assert (stats.leaked, stats.closed, stats.size) == (1, 1, 0)
        (record,) = [record for record in caplog.records if "reclaimed" in record.getMessage()]
        assert f"test_exhaustion.py:{line} in" in record.getMessage()
        (event,) = recorder.of("leaked")
        assert f"test_exhaustion.py:{line} in" in event.holder.call_site
        assert turns_left(http, server.url) == 1
        assert http.get(server.url).status == 200
        assert http.stats().leaked == 1


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_response_that_is_dropped_is_reclaimed_by_itself(large):
    with HttpPool(max_size=1) as http:
        _drop_stream(http, large.url)
        gc.collect()
        eventually(lambda: http.stats().leaked == 1, timeout=3.0)  # the promise is a second


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_responses_that_are_dropped_again_and_again_never_exhaust_the_pool(large):
    with HttpPool(max_size=2, acquire_timeout=LONG) as http:
        for _ in range(4):
            _drop_stream(http, large.url)
        gc.collect()
        sweep(http)
        assert http.stats().leaked == 4
        assert turns_left(http, large.url) == 2


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_who_gets_none_takes_what_was_dropped(large):
    with HttpPool(max_size=1, acquire_timeout=LONG) as http:
        _drop_stream(http, large.url)
        gc.collect()
        began = time.monotonic()
        assert http.get(large.url).status == 200
        assert time.monotonic() - began < 3.0


def test_a_dropped_pool_leaves_no_socket_to_the_collector(scripted):
    server = scripted(echo_path)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        http = HttpPool()
        http.get(server.url)
        del http
        gc.collect()

    assert [each for each in warned if each.category is ResourceWarning] == []


def test_a_response_that_was_read_and_dropped_is_no_leak(scripted):
    server = scripted(echo_path)
    with HttpPool(max_size=1) as http:
        for _ in range(3):
            assert http.stream("GET", f"{server.url}/a").__enter__().read() == b"/a"
            assert http.session().get(server.url, stream=True).content == b"/"
            http.get(server.url)
        gc.collect()
        sweep(http)
        stats = http.stats()
        assert (stats.leaked, stats.created, stats.in_use) == (0, 1, 0)


def test_an_empty_response_that_was_not_read_holds_nothing(scripted):
    server = scripted(answers(response(status=204)))
    with HttpPool(max_size=1) as http:
        kept = [http.stream("GET", server.url).__enter__() for _ in range(3)]
        assert http.stats().in_use == 0
        assert [each.status for each in kept] == [204] * 3
    assert server.connections == 1


def test_a_thread_that_dies_holding_a_stream_is_named(large, caplog):
    caplog.set_level(logging.WARNING, "poolkit")
    kept: list[Any] = []
    with HttpPool(max_size=1) as http:
        task = Task(lambda: kept.append(http.stream("GET", large.url).__enter__()), name="the late")
        task.result()
        eventually(lambda: http.stats().leaked == 1, timeout=3.0)
        eventually(lambda: caplog.records)
        (record,) = [record for record in caplog.records if "reclaimed" in record.getMessage()]
        assert "thread 'the late'" in record.getMessage()
        assert "its thread has ended" in record.getMessage()
        assert http.stats().leaked == 1
        assert turns_left(http, large.url) == 1
        assert http.get(large.url).status == 200
        kept[0].close()  # has no effect any more
        assert (http.stats().in_use, http.stats().size) == (0, 1)
        assert turns_left(http, large.url) == 1


def test_what_was_reclaimed_can_not_be_read_by_who_comes_late(large):
    kept: list[Any] = []
    with HttpPool(max_size=1) as http:
        Task(lambda: kept.append(http.stream("GET", large.url).__enter__())).result()
        sweep(http)
        assert http.stats().leaked == 1
        with pytest.raises(Exception, match=r".") as caught:
            assert len(kept[0].read()) < 1_000_000
        assert not isinstance(caught.value, AssertionError)
        assert http.get(large.url).data == b"x" * 1_000_000


def test_a_stream_may_be_read_by_another_thread_than_that_which_asked(large):
    kept: list[Any] = []
    with HttpPool(max_size=1) as http:

        def ask_and_end() -> None:
            kept.append(http.stream("GET", large.url).__enter__())
            reader.start_reading.set()
            assert reader.reading.wait(LONG)

        class Reader(threading.Thread):
            start_reading = threading.Event()
            reading = threading.Event()
            length = 0

            def run(self) -> None:
                assert self.start_reading.wait(LONG)
                for piece in kept[0].stream(1000):
                    self.length += len(piece)
                    self.reading.set()
                    if self.length == 1000:
                        asking.join(LONG)
                        sweep(http)  # the one that asked has ended

        reader = Reader()
        asking = Task(ask_and_end)
        reader.start()
        reader.join(LONG)
        assert reader.length == 1_000_000
        assert http.stats().leaked == 0
        assert http.stats().in_use == 0


# -- waiting -------------------------------------------------------------------------------------------


def test_waits_are_fair(scripted):
    server = scripted(echo_path)
    with HttpPool(max_size=5, acquire_timeout=LONG) as http:
        over = threading.Event()
        counts = [0] * 50

        def work(number: int) -> None:
            while not over.is_set():
                http.get(f"{server.url}/{number}")
                counts[number] += 1

        tasks = [Task(work, number) for number in range(50)]
        eventually(lambda: min(counts) > 0)
        before = counts.copy()  # those that began first had it for themselves
        eventually(lambda: sum(counts) - sum(before) >= 8000)
        turns = [count - earlier for count, earlier in zip(counts, before, strict=True)]
        over.set()
        for task in tasks:
            task.result()
        assert min(turns) >= median(turns) / 3, turns
        assert min(turns) >= mean(turns) / 3, turns  # or few could have it all
        assert (http.stats().errors, http.stats().created) == (0, 5)


def test_more_than_max_waiting_are_refused_at_once(large):
    with HttpPool(max_size=1, max_waiting=2, acquire_timeout=LONG) as http:
        with http.stream("GET", large.url):
            waiting = [Task(http.get, large.url) for _ in range(2)]
            eventually(lambda: http.stats().waiting == 2)
            began = time.monotonic()
            with pytest.raises(PoolOverloaded, match="2 threads wait already, max_waiting is 2"):
                http.get(large.url)
            assert time.monotonic() - began < 0.2
            assert http.stats().refused == 1
        assert [task.result().status for task in waiting] == [200, 200]


def test_a_wait_that_can_not_fit_the_deadline_is_refused_on_arrival(scripted):
    pause = threading.Event()

    def slow(talk: Conversation) -> None:
        while True:
            talk.request()
            pause.wait(0.02)
            talk.send(response(b"a"))

    server = scripted(slow)
    with HttpPool(max_size=1, acquire_timeout=LONG) as http:
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                http.get(server.url)

        tasks = [Task(work) for _ in range(12)]
        eventually(lambda: http.stats().operations > 60)
        began = time.monotonic()
        with pytest.raises(PoolOverloaded), deadline(0.06):
            http.get(server.url)
        assert time.monotonic() - began < 0.06
        over.set()
        for task in tasks:
            task.result()


def test_who_waits_goes_on_as_soon_as_one_comes_back(large):
    with HttpPool(max_size=1, acquire_timeout=LONG) as http:
        with http.stream("GET", large.url) as answer:
            task = Task(http.get, large.url)
            eventually(lambda: http.stats().waiting == 1)
            answer.read()
            assert task.result().status == 200  # read to its end: it is free before the block ends
        assert http.stats().created == 1


# -- bulkheads -----------------------------------------------------------------------------------------


def test_a_host_that_hangs_takes_no_slot_of_another(scripted):
    hanging, healthy = scripted(silent), scripted(echo_path)
    with HttpPool(max_size=3, acquire_timeout=0.05, request_timeout=LONG) as http:
        stuck = [Task(http.get, hanging.url) for _ in range(3)]
        eventually(lambda: http.stats().in_use == 3)
        with pytest.raises(PoolTimeout):
            http.get(hanging.url)

        def work(number: int) -> bytes:
            return http.get(f"{healthy.url}/{number}").data

        for _ in range(5):
            assert together(3, work) == [b"/0", b"/1", b"/2"]
        by_host = http.stats_by_host()
        assert by_host[hanging.url].timeouts == 1
        assert (by_host[healthy.url].timeouts, by_host[healthy.url].wait.max) < (1, 0.05)
        hanging.close()
        for task in stuck:
            assert task.end() is not None


def test_schemes_and_ports_are_hosts_of_their_own(scripted, certificates):
    one, two = scripted(echo_path), scripted(echo_path)
    tls = scripted(echo_path, tls=certificates.good)
    with HttpPool(verify=str(certificates.ca_file), max_size=1) as http:
        with http.stream("GET", one.url), http.stream("GET", two.url), http.stream("GET", tls.url):
            assert http.stats().max_size == 3
        assert set(http.stats_by_host()) == {one.url, two.url, tls.url}
        assert http.get(one.url.replace("http://", "HTTP://")).status == 200
        assert host_of(http, one.url).stats().leases == 2
