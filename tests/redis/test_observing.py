"""What a pool tells of itself: counters, holders, events."""

from __future__ import annotations

import threading
from time import monotonic

import pytest
import redis

from poolkit import Listener, PoolTimeout, RedisPool, RetryPolicy, testing
from poolkit.core.events import Ended
from tests.core.support import LONG, Task, eventually, together
from tests.recorder import Recorder


@pytest.fixture
def cache(redis_url):
    """Give a pool on the empty shared server."""
    with RedisPool(redis_url) as cache:
        yield cache


def test_counters_are_exact_whatever_threads_do(cache):
    cache.set("text", "x")

    def work(number):
        for _ in range(40):
            cache.incr("n")
            cache.pipeline([("INCR", "n"), ("INCR", "n")])
            cache.client.incr("n")
            with cache.connection() as conn:
                conn.incr("n")
            with pytest.raises(redis.ResponseError):
                cache.execute("INCR", "text")

    before = cache.stats()
    together(50, work)
    stats = cache.stats()

    assert cache.get("n") == str(50 * 40 * 5)
    leases, shared = stats.leases - before.leases, stats.shared - before.shared
    assert leases + shared == 50 * 40 * 5
    assert stats.operations - before.operations == 50 * 40 * 4  # a block's are its own
    assert stats.errors == 50 * 40
    assert stats.use.count - before.use.count == leases
    assert (stats.timeouts, stats.refused, stats.retries, stats.leaked) == (0, 0, 0, 0)
    assert (stats.in_use, stats.waiting) == (0, 0)
    assert stats.created - stats.closed == stats.size == stats.idle
    assert stats.create.count == stats.created <= 20


def test_fifty_threads_with_two_hundred_commands_are_ten_thousand(cache):
    together(50, lambda number: [cache.incr("n") for _ in range(200)])

    stats = cache.stats()
    assert cache.get("n") == "10000"
    assert (stats.operations, stats.leases + stats.shared) == (10000, 10000)
    assert (stats.errors, stats.error_rate) == (0, 0)


def test_the_pool_can_not_be_resized(cache):
    assert not hasattr(cache, "resize")


def test_leases_name_who_holds_the_longest_first(cache):
    assert cache.leases() == []
    over = threading.Event()

    def hold():
        with cache.connection():
            over.wait(LONG)

    tasks = []
    for number in range(3):
        tasks.append(Task(hold, name=f"holder {number}"))
        eventually(lambda: cache.stats().in_use == len(tasks))
    try:
        leases = cache.leases()
        assert [lease.thread_name for lease in leases] == ["holder 0", "holder 1", "holder 2"]
        assert all("test_observing.py" in lease.call_site for lease in leases)
        assert all("hold" in lease.call_site for lease in leases)
        assert all("over.wait" in lease.stack() for lease in leases)
        assert leases[0].held_for >= leases[1].held_for >= leases[2].held_for > 0
    finally:
        over.set()
    for task in tasks:
        task.result()
    assert cache.leases() == []


def test_who_gets_no_connection_is_told_who_has_it(redis_url):
    with RedisPool(redis_url, max_size=1, acquire_timeout=0.05, name="small") as cache:
        over = threading.Event()

        def hold():
            with cache.connection():
                over.wait(LONG)

        holder = Task(hold, name="the holder")
        eventually(lambda: cache.stats().in_use == 1)
        for call in (
            lambda: cache.get("k"),
            lambda: cache.pipeline([("GET", "k")]),
            lambda: cache.client.get("k"),
            lambda: cache.client.pipeline().get("k").execute(),
            lambda: cache.connection().__enter__(),
        ):
            with pytest.raises(PoolTimeout) as caught:
                call()
            text = str(caught.value)
            assert "pool 'small': no connection within acquire_timeout (0.05 s)" in text
            assert "thread 'the holder'" in text
            assert "test_observing.py" in text
            assert [held.thread_name for held in caught.value.holders] == ["the holder"]
            assert caught.value.stats.in_use == 1
        over.set()
        holder.result()

        assert cache.stats().timeouts == 5
        assert cache.get("k") is None


def test_listeners_hear_of_a_time_out_and_of_a_retry(own_redis):
    server = own_redis()
    recorder = Recorder()
    with RedisPool(
        server.url, max_size=1, acquire_timeout=0.05, listeners=[recorder], name="heard",
        retry=RetryPolicy(attempts=2, base=0.001),
    ) as cache:  # fmt: skip
        with cache.connection(), pytest.raises(PoolTimeout):
            cache.get("k")
        server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        assert cache.get("k") is None

    kinds = recorder.kinds()
    (event,) = [event for kind, event in recorder.events if kind == "timed_out"]
    assert isinstance(event.error, PoolTimeout)
    assert event.waited >= 0.05
    assert kinds.count("acquired") == kinds.count("released") >= 2
    assert kinds.count("connected") == kinds.count("removed") == 2
    assert (kinds[0], kinds[-1]) == ("opened", "closed")


def test_listeners_hear_of_a_pipeline_once_and_of_the_error_that_is_raised(redis_url):
    heard = testing.Recorder()
    with RedisPool(redis_url, listeners=[heard]) as cache:
        cache.set("a", 1)
        heard.clear()
        with pytest.raises(redis.ResponseError) as caught:
            cache.pipeline([("SET", "a", 1), ("LPUSH", "a", "x")])
    (ended,) = heard.of(Ended)
    assert (ended.operation, ended.error) == ("PIPELINE", caught.value)


def test_events_say_who_and_why(redis_url):
    recorder = Recorder()
    with RedisPool(redis_url, listeners=[recorder], idle_timeout=0.1, name="heard") as cache:
        with cache.connection():
            pass
        eventually(lambda: "removed" in recorder.kinds())

    events = dict(recorder.events)
    assert events["acquired"].holder.thread_name == threading.current_thread().name
    assert "test_observing.py" in events["acquired"].holder.call_site
    assert events["released"].used >= 0
    assert events["connected"].seconds > 0
    assert "idle" in events["removed"].reason
    assert events["closed"].held == 0
    assert {event.pool for _, event in recorder.events} == {"heard"}


def test_a_listener_that_raises_disturbs_nobody(redis_url):
    class Broken(Listener):
        def acquired(self, event):
            raise LookupError("a listener's own")

        released = connected = ready = opened = closed = removed = acquired

    recorder = Recorder()
    with RedisPool(redis_url, listeners=[Broken(), recorder], max_size=1) as cache:
        assert cache.set("k", "v")
        assert cache.get("k") == "v"
        assert cache.stats().in_use == 0

    assert recorder.kinds().count("acquired") == 2


def test_idle_connections_go_and_those_in_use_stay(redis_url):
    with RedisPool(redis_url, idle_timeout=0.1) as cache, cache.connection() as held:
        me = held.client_id()
        together(4, lambda _: cache.execute("ECHO", "x"))
        eventually(lambda: cache.stats().size == 1)

        assert held.client_id() == me
        assert cache.stats().idle == 0


def test_a_connection_past_its_lifetime_is_replaced_and_never_cut_off_in_use(redis_url):
    with RedisPool(redis_url, max_lifetime=0.1, max_size=1) as cache:
        with cache.connection() as held:
            first = held.client_id()
            born = held.connection_pool.conn.born
            eventually(lambda: _age(held) > 0.15)
            assert held.client_id() == first
            assert held.connection_pool.conn.born == born
        assert cache.stats().size == 0  # closed when it came back

        assert cache.execute("CLIENT", "ID") != first
        assert (cache.stats().created, cache.stats().closed) == (2, 1)


def _age(client):
    return monotonic() - client.connection_pool.conn.born
