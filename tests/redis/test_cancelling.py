"""What ends a call to Redis from another thread: where it blocks, gathers, connects, or waits for the server."""

from __future__ import annotations

import socket
import threading

import pytest

from poolkit import Cancellation, OutcomeUnknown, RedisPool
from poolkit.core import combining
from tests.cancelling import cancelled, under
from tests.core.support import LONG, Task, eventually
from tests.http.scripted import Blackhole


@pytest.fixture
def cancellation():
    """Give what ends the calls of a test."""
    return Cancellation()


class Mute:
    """A server that accepts connections and never says anything."""

    def __init__(self, listener):
        self.address = f"127.0.0.1:{listener.getsockname()[1]}"
        self._listener = listener
        self._asked = []

    def wait_until_asked(self):
        """Wait until somebody has connected, and said something."""
        sock, _ = self._listener.accept()
        self._asked.append(sock)
        sock.settimeout(LONG)
        assert sock.recv(1)

    def hang_up(self):
        """Hang up on those who have asked."""
        for sock in self._asked:
            sock.close()


@pytest.fixture
def mute():
    """Give such a server."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.settimeout(LONG)
        mute = Mute(listener)
        yield mute
        mute.hang_up()


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


def test_a_command_that_waits_behind_others_in_a_batch(own_redis, monkeypatch):
    monkeypatch.setattr(combining, "LOOK", LONG)  # not only because it looks for who has got lost
    server = own_redis()
    with RedisPool(server.url, max_size=1, lanes=1, command_timeout=LONG) as cache:
        cache.get("k")
        server.pause()
        first = Task(cache.get, "k")
        eventually(lambda: cache.stats().in_use == 1)
        waiting = []
        for number in range(3):
            cancellation = Cancellation()
            task = Task(under, cancellation, cache.execute, "INCR", "k")
            waiting.append((task, cancellation))
            eventually(lambda number=number: cache.stats().waiting == number + 1)
        # The first is about to lead, and waits for a connection; the others for the one who leads.
        for task, cancellation in reversed(waiting):
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
    with RedisPool(f"{scheme}://{mute.address}", connect_timeout=LONG) as cache:
        task = Task(under, cancellation, cache.get, "k")
        mute.wait_until_asked()
        error = cancelled(task, cancellation)
        assert error.stage == "connecting"
        assert not isinstance(error, OutcomeUnknown)


def test_a_server_that_neither_accepts_nor_refuses(cancellation):
    with Blackhole() as hole:
        with RedisPool(f"redis://127.0.0.1:{hole.port}", connect_timeout=LONG) as cache:
            task = Task(under, cancellation, cache.get, "k")
            eventually(lambda: task.is_in("first_to_answer"))
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


def test_a_cluster_that_can_not_be_asked_where_its_slots_are(mute, cancellation):
    with RedisPool(nodes=[mute.address], acquire_timeout=LONG) as cache:
        task = Task(under, cancellation, cache.get, "k")
        mute.wait_until_asked()
        error = cancelled(task, cancellation)
        mute.hang_up()  # closing waits for who asks
        assert error.stage == "connecting"
        assert cache.stats().in_use == 0
