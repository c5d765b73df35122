"""What ends a call to Redis from another thread: where it blocks, gathers, connects, or waits for the server."""

from __future__ import annotations

import math
import socket
import threading
from time import monotonic

import pytest

from poolkit import Cancellation, Cancelled, OutcomeUnknown, RedisPool, deadline
from poolkit.core.deadline import PULSE
from poolkit.redis import cluster
from tests.core.support import LONG, Task, eventually
from tests.http.scripted import Blackhole

from .support import SCHEDULING

PROMPT = PULSE + 0.05 + SCHEDULING
"""Seconds from the cancellation to the end of the call."""


@pytest.fixture
def cancellation():
    """Give what ends the calls of a test."""
    return Cancellation()


def under(cancellation, work, *args):
    with deadline(math.inf, cancellation=cancellation):
        return work(*args)


def cancelled(task, cancellation):
    """Cancel, and return what *task* raised, which has to be at once."""
    began = monotonic()
    cancellation.cancel()
    error = task.end()
    assert isinstance(error, Cancelled), error
    assert monotonic() - began <= PROMPT
    return error


@pytest.fixture
def mute():
    """Give the port of a listener that accepts connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]


def blocked(redis_server):
    return "blocked_clients:1" in redis_server.ask("INFO", "clients")


@pytest.mark.parametrize("way", ["execute", "connection", "client"])
def test_a_command_that_blocks(redis_url, redis_server, cancellation, way):
    with RedisPool(redis_url, max_size=1) as cache:

        def pop():
            if way == "execute":
                return cache.execute("BLPOP", "nothing", 0)
            if way == "client":
                return cache.client.blpop("nothing", 0)
            with cache.connection() as conn:
                return conn.blpop("nothing", 0)

        task = Task(under, cancellation, pop)
        eventually(lambda: blocked(redis_server))

        error = cancelled(task, cancellation)

        assert error.stage == "running"
        assert isinstance(error, OutcomeUnknown), "it may have popped something"
        assert cache.get("nothing") is None
        assert cache.stats().in_use == 0


def test_a_command_that_waits_behind_others_in_a_batch(own_redis):
    server = own_redis()
    with RedisPool(server.url, max_size=1, lanes=1, command_timeout=LONG) as cache:
        cache.get("k")
        server.pause()
        doomed = [Cancellation(), Cancellation(), Cancellation()]
        first = Task(cache.get, "k")
        eventually(lambda: cache.stats().in_use == 1)
        read = Task(under, doomed[0], cache.get, "k")
        write = Task(under, doomed[1], cache.execute, "INCR", "k")
        eventually(lambda: cache.stats().waiting == 2)
        for task, cancellation in zip((read, write), doomed, strict=False):
            error = cancelled(task, cancellation)
            assert error.stage == "waiting"
            assert not isinstance(error, OutcomeUnknown)
        assert cache.stats().waiting == 0
        server.resume()
        assert first.result() is None
        assert cache.stats().in_use == 0


WAITS = {
    "get_message": lambda pubsub: pubsub.get_message(timeout=LONG),
    "listen": lambda pubsub: next(pubsub.listen()),
}


@pytest.mark.parametrize("way", WAITS)
def test_a_wait_for_messages(redis_url, cancellation, way):
    with RedisPool(redis_url, max_size=1) as cache, cache.client.pubsub() as pubsub:
        pubsub.subscribe("channel")
        assert pubsub.get_message(timeout=LONG)["type"] == "subscribe"
        begun = threading.Event()
        task = Task(under, cancellation, lambda: (begun.set(), WAITS[way](pubsub)))
        assert begun.wait(LONG)
        cancelled(task, cancellation)


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_server_that_says_nothing_when_it_is_connected_to(mute, cancellation, scheme):
    with RedisPool(f"{scheme}://127.0.0.1:{mute}", connect_timeout=LONG) as cache:
        task = Task(under, cancellation, cache.get, "k")
        eventually(lambda: cache._lifecycle.running)
        error = cancelled(task, cancellation)
        assert error.stage == "connecting"
        assert not isinstance(error, OutcomeUnknown)


def test_a_server_that_neither_accepts_nor_refuses(cancellation):
    with Blackhole() as hole:
        with RedisPool(f"redis://127.0.0.1:{hole.port}", connect_timeout=LONG) as cache:
            task = Task(under, cancellation, cache.get, "k")
            eventually(lambda: cache._lifecycle.running)
            assert cancelled(task, cancellation).stage == "connecting"


def test_a_wait_for_the_end_of_an_outage(own_redis, cancellation):
    server = own_redis()
    with RedisPool(server.url, max_size=1, acquire_timeout=LONG) as cache:
        cache.set("k", "v")
        server.stop()
        task = Task(under, cancellation, cache.get, "k")
        eventually(lambda: cache.stats().waiting == 1)
        cancelled(task, cancellation)
        assert cache.stats().waiting == 0


def test_a_cluster_that_can_not_be_asked_where_its_slots_are(mute, cancellation, monkeypatch):
    monkeypatch.setattr(cluster, "ASK_TIMEOUT", 0.5)  # closing waits for who asks
    with RedisPool(nodes=[f"127.0.0.1:{mute}"], acquire_timeout=LONG) as cache:
        task = Task(under, cancellation, cache.get, "k")
        eventually(lambda: cache._lifecycle.running)
        error = cancelled(task, cancellation)
        assert error.stage == "connecting"
        assert cache.stats().in_use == 0
