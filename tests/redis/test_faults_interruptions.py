"""Ctrl-C and its like: at any point no answer crosses; wherever a call waits, nothing is lost."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest
import redis

from poolkit import RedisPool, RetryPolicy
from tests.core.support import Task, eventually
from tests.interruptions import Interruption, Struck, ctrl_c_when

from .support import node_of, turns_left


def _held(cache, tag):
    with cache.connection() as conn:
        return conn.echo(tag)


WAYS: dict[str, Callable[[RedisPool, str], object]] = {
    "execute": lambda cache, tag: cache.execute("ECHO", tag),
    "pipeline": lambda cache, tag: cache.pipeline([("ECHO", "x"), ("ECHO", tag)])[1],
    "client": lambda cache, tag: cache.client.echo(tag),
    "client pipeline": lambda cache, tag: cache.client.pipeline().echo(tag).execute()[0],
    "connection": _held,
}


def interrupted(call: Callable[[], object], at: int) -> str | None:
    """Interrupt *call* at its point number *at*; return which that was, None if it has not so many."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a socket, closed by the collector
        with (
            Interruption(at) as interruption,
            suppress(Struck, redis.RedisError, RuntimeError),  # it may be the cause of another
        ):
            call()
        gc.collect()
    return interruption.where


# -- at every point ------------------------------------------------------------------------------------

# A connection that is dropped while lent comes back by its finalizer, and a warning says so.


# What strikes a finalizer goes to sys.unraisablehook, and nowhere else.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("way", WAYS)
def test_an_interruption_at_any_point_crosses_no_answer_and_miscounts_none(
    redis_server, redis_url, way
):
    call = WAYS[way]
    wrong = []
    points = 0
    while True:
        # Two turns, so that the next caller has one whatever became of the first.
        name = f"{way.replace(' ', '-')}-{points}"
        cache = RedisPool(redis_url, max_size=2, max_retries=0, client_name=name)
        assert call(cache, "first") == "first"
        where = interrupted(partial(call, cache, "interrupted"), points + 1)
        answers = [call(cache, tag) for tag in ("next", "but one")]
        node_of(cache).sweep()
        stats = cache.stats()
        seen = _settled_clients(redis_server, name, stats.size)
        if answers != ["next", "but one"] or stats.in_use:
            wrong.append((where, answers, stats.in_use))
        elif seen != stats.size:
            wrong.append((where, "size", stats.size, seen))
        cache.close(timeout=0)
        if where is None:
            break
        points += 1

    assert wrong == []
    assert points > 50


def _settled_clients(server, name, most):
    """Return how many connections of that name the server sees, once it has seen those that were closed go."""

    def seen():
        return server.ask("CLIENT", "LIST").count(f" name={name} ")

    eventually(lambda: seen() <= most)
    return seen()


# -- Ctrl-C --------------------------------------------------------------------------------------------


def healthy(cache: RedisPool, size: int) -> bool:
    """Whether the pool works, nothing is held, and all turns are there."""
    assert cache.execute("ECHO", "mine") == "mine"
    stats = cache.stats()
    assert (stats.in_use, stats.waiting, stats.leaked) == (0, 0, 0)
    return turns_left(cache, size) == size


def test_ctrl_c_while_waiting_for_a_turn(redis_url):
    over = threading.Event()
    with RedisPool(redis_url, max_size=1) as cache:

        def hold():
            with cache.connection():
                over.wait()

        holder = Task(hold)
        eventually(lambda: cache.stats().in_use == 1)
        with ctrl_c_when(lambda: cache.stats().waiting == 1):
            cache.get("k")
        over.set()
        holder.result()

        assert healthy(cache, 1)
        assert cache.stats().closed == 0


@pytest.mark.parametrize("way", ["incr", "pipeline", "client", "connection"])
def test_ctrl_c_while_reading_sends_nothing_again(proxied, redis_server, way):
    proxy, url = proxied
    calls = {
        "incr": lambda cache: cache.incr("n"),
        "pipeline": lambda cache: cache.pipeline([("INCR", "n"), ("GET", "x")]),
        "client": lambda cache: cache.client.incr("n"),
        "connection": lambda cache: cache.connection().__enter__().incr("n"),
    }
    with RedisPool(url, max_size=2) as cache:
        cache.get("k")
        proxy.stall_replies()
        with ctrl_c_when(lambda: redis_server.ask("GET", "n") == "1"):
            calls[way](cache)
        proxy.pass_through()
        gc.collect()
        node_of(cache).lender.reclaim()  # a block that was entered by hand is nobody's now

        assert cache.execute("ECHO", "mine") == "mine"
        assert turns_left(cache, 2) == 2
        assert cache.stats().in_use == 0
    assert redis_server.ask("GET", "n") == "1"


# A socket that redis-py has made and not kept yet is closed by the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_ctrl_c_while_connecting(proxied):
    proxy, url = proxied
    proxy.blackhole()
    with RedisPool(url, max_size=1) as cache:
        with ctrl_c_when(lambda: proxy.connections_total == 1):
            cache.get("k")
        proxy.pass_through()

        assert healthy(cache, 1)
        eventually(lambda: proxy.live == cache.stats().size == 1)


def test_ctrl_c_while_the_server_is_away(proxied):
    proxy, url = proxied
    proxy.refuse()
    with RedisPool(url, max_size=1) as cache:
        cache.open()
        with ctrl_c_when(lambda: cache.stats().waiting == 1):
            cache.get("k")
        proxy.accept()

        assert healthy(cache, 1)


def test_ctrl_c_between_two_attempts(proxied):
    proxy, url = proxied
    policy = RetryPolicy(attempts=2, base=1000.0, cap=1000.0)
    with RedisPool(url, max_size=1, retry=policy) as cache:
        cache.get("k")
        proxy.cut_after_request(1)
        with ctrl_c_when(lambda: cache.stats().retries == 1):
            cache.get("k")

        assert healthy(cache, 1)
