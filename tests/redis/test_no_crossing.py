"""No answer ever reaches another caller, whatever goes wrong between sending and reading."""

from __future__ import annotations

import contextlib
import random
import sys
import threading

import pytest
import redis

from poolkit import ConfigError, PoolKitError, RedisPool, deadline
from poolkit.embedded import RedisServer
from poolkit.redis.connection import PooledConnection
from poolkit.redis.wire import PlainWire
from tests.core.support import LONG, Interrupted, Task, eventually
from tests.faults.proxy import FaultProxy

from .support import through, turns_left

THREADS = 50
COMMANDS = 2_000  # of each thread


@pytest.mark.slow
@pytest.mark.timeout(180)
# An interruption may hit a finalizer, where it can't be raised.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_hundred_thousand_tagged_commands_under_fire_all_get_their_own_answers(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
):
    # Nor may the next one hit what pytest does about that, which would fail as pytest's own error.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    crossed: list[tuple[str, object]] = []
    answered = [0] * THREADS
    failed = [0] * THREADS
    done = threading.Event()

    with (
        FaultProxy("127.0.0.1", redis_server.port) as proxy,
        RedisPool(through(proxy, redis_server), max_size=10, acquire_timeout=LONG) as cache,
    ):

        def work(number: int) -> None:
            dice = random.Random(number)
            sent = 0
            while sent < COMMANDS:
                try:
                    while sent < COMMANDS:
                        sent += 1
                        tag = f"{number}:{sent}"
                        if dice.random() < 0.02:
                            with deadline(dice.uniform(0.000_05, 0.003)):
                                answer = cache.execute("ECHO", tag)
                        elif dice.random() < 0.1:
                            answer, *rest = cache.pipeline([("ECHO", tag), ("ECHO", tag + "+")])
                            if rest != [tag + "+"]:
                                crossed.append((tag, rest))
                        else:
                            answer = cache.execute("ECHO", tag)
                        if answer != tag:
                            crossed.append((tag, answer))
                        answered[number] += 1
                except (PoolKitError, redis.RedisError, Interrupted):
                    failed[number] += 1

        tasks = [Task(work, number) for number in range(THREADS)]

        def torment() -> None:
            dice = random.Random(7)
            while not done.wait(dice.uniform(0.001, 0.02)):
                if dice.random() < 0.1:
                    proxy.cut()
                else:
                    victim = dice.choice(tasks)
                    if victim.is_alive():
                        victim.interrupt()

        tormentor = Task(torment)
        errors = [task.end(150) for task in tasks]
        done.set()
        tormentor.end()

        # An interruption that comes last in a thread may hit it outside of the loop.
        assert [error for error in errors if not isinstance(error, (Interrupted, type(None)))] == []
        assert crossed == []
        assert sum(answered) > THREADS * COMMANDS * 0.5
        assert sum(failed) > 100
        eventually(lambda: cache.stats().in_use == 0)
        assert cache.execute("ECHO", "after all that") == "after all that"
        assert turns_left(cache, 10) == 10


class _Fault(Exception):
    """What is raised at one point of an exchange."""


POINTS = {
    "before anything is sent": (PlainWire, "sendall", "before"),
    "after sending": (PlainWire, "sendall", "after"),
    "before reading": (PlainWire, "recv_into", "before"),
    "after reading from the socket": (PlainWire, "recv_into", "after"),
    "before the answer is parsed": (PooledConnection, "read_response", "before"),
    "after the answer was parsed": (PooledConnection, "read_response", "after"),
}


@pytest.mark.parametrize("error", [_Fault, KeyboardInterrupt, OSError, MemoryError])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("way", ["execute", "pipeline", "client", "connection"])
def test_after_an_error_at_any_point_the_next_caller_gets_its_own_answer(
    monkeypatch, redis_url, point, error, way
):
    kind, name, when = POINTS[point]
    original = getattr(kind, name)
    armed = threading.Event()

    def trap(self, *args, **kwargs):
        if not armed.is_set():
            return original(self, *args, **kwargs)
        armed.clear()
        if when == "after":
            original(self, *args, **kwargs)
        raise error

    def call(cache, tag):
        if way == "execute":
            return cache.execute("ECHO", tag)
        if way == "pipeline":
            return cache.pipeline([("ECHO", tag)])[0]
        if way == "client":
            return cache.client.echo(tag)
        with cache.connection() as conn:
            return conn.echo(tag)

    with RedisPool(redis_url, max_size=1, max_retries=0) as cache:
        assert call(cache, "first") == "first"
        monkeypatch.setattr(kind, name, trap)
        armed.set()

        try:
            answer = call(cache, "interrupted")
        except (error, redis.RedisError, PoolKitError):
            pass
        else:
            assert answer == "interrupted"

        assert not armed.is_set()
        assert [call(cache, f"next {number}") for number in range(3)] == [
            f"next {number}" for number in range(3)
        ]
        assert turns_left(cache, 1) == 1
        assert cache.stats().in_use == 0


def test_a_connection_with_an_unread_answer_is_closed_not_lent_again(redis_url):
    with RedisPool(redis_url, max_size=1) as cache:
        with cache.connection() as conn:
            conn.connection_pool.conn.send_command("ECHO", "somebody else's")

        assert cache.execute("ECHO", "mine") == "mine"
        assert cache.stats().closed == 1


@pytest.mark.parametrize(
    "leave",
    [
        ("MULTI",),
        ("WATCH", "k"),
        ("SELECT", "3"),
        ("CLIENT", "REPLY", "OFF"),
        ("CLIENT REPLY", "SKIP"),
        ("CLIENT", "TRACKING", "ON"),
        ("CLIENT", "SETNAME", "x"),
        ("SUBSCRIBE", "channel"),
        ("MONITOR",),
        ("READONLY",),
        ("RESET",),
        ("HELLO", "2"),
    ],
    ids=" ".join,
)
def test_a_connection_that_is_not_like_a_new_one_is_closed_not_lent_again(redis_url, leave):
    with RedisPool(redis_url, max_size=1, command_timeout=0.2) as cache:
        cache.set("k", "v")
        with cache.connection() as conn:
            raw = conn.connection_pool.conn
            raw.send_command(*leave)
            if leave[0] not in ("CLIENT", "CLIENT REPLY") or leave[1] not in ("REPLY", "SKIP"):
                with contextlib.suppress(redis.ResponseError):  # READONLY, outside of a cluster
                    raw.read_response(push_request=True)
            born = raw.born

        with cache.connection() as conn:
            assert conn.connection_pool.conn.born != born
            assert conn.get("k") == "v"
        assert cache.stats().closed == 1


@pytest.mark.parametrize(
    "leave",
    [
        [("MULTI",), ("UNWATCH",)],
        [("MULTI",), ("DISCARD", "x")],
        [("MULTI",), ("MULTI",)],
        [("WATCH", "k"), ("UNWATCH", "x")],
        [("WATCH", "k"), ("EXEC",)],
        [("WATCH", "k"), ("MULTI",), ("UNWATCH",)],
        [("WATCH k",)],
        [("SELECT 3",)],
        [("multi",), ("unwatch",)],
    ],
    ids=lambda commands: ", ".join(" ".join(command) for command in commands),
)
@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "at once"])
def test_a_connection_is_in_a_transaction_until_the_server_has_ended_it(redis_url, leave, at_once):
    with RedisPool(redis_url, max_size=1) as cache:
        cache.set("k", "v")
        with cache.connection() as conn:
            raw = conn.connection_pool.conn
            for command in leave:
                raw.send_command(*command)
                if not at_once:
                    with contextlib.suppress(redis.ResponseError):
                        raw.read_response()
            for _ in leave if at_once else ():
                with contextlib.suppress(redis.ResponseError):
                    raw.read_response()

        assert cache.get("k") == "v"
        assert cache.set("k", "kept")
        assert cache.client.pipeline().get("k").execute() == ["kept"]
        assert cache.stats().closed == 1


def test_a_transaction_that_the_server_gave_up_leaves_the_connection_clean(redis_url):
    with RedisPool(redis_url, max_size=1) as cache:
        with cache.connection() as conn:
            conn.execute_command("WATCH", "k")
            conn.execute_command("MULTI")
            with pytest.raises(redis.ResponseError, match="unknown command"):
                conn.execute_command("NOSUCH")
            with pytest.raises(redis.ResponseError, match="discarded"):
                conn.execute_command("EXEC")

        assert cache.set("k", "v")
        assert cache.client.pipeline().get("k").execute() == ["v"]
        assert cache.stats().closed == 0


def test_a_single_command_can_not_hide_that_it_changes_the_connection(redis_url):
    with RedisPool(redis_url, max_size=1) as cache:
        for words in ("SELECT 3", "MULTI", "WATCH k"):
            with pytest.raises(ConfigError, match="changes the connection"):
                cache.execute(words)
        assert cache.stats().created == 0


@pytest.mark.parametrize(
    "commands",
    [
        [("MULTI",), ("SET", "k", "w"), ("EXEC",)],
        [("MULTI",), ("DISCARD",)],
        [("WATCH", "k"), ("UNWATCH",)],
        [("WATCH", "k"), ("MULTI",), ("UNWATCH",), ("EXEC",)],
        [("UNWATCH",)],
        [("CLIENT", "ID")],
    ],
    ids=lambda commands: " ".join(command[0] for command in commands),
)
def test_a_connection_that_was_left_clean_is_lent_again(redis_url, commands):
    with RedisPool(redis_url, max_size=1) as cache:
        with cache.connection() as conn:
            for command in commands:
                conn.execute_command(*command)

        cache.get("k")
        assert cache.stats().closed == 0
        assert cache.stats().created == 1
