"""Taking back, at the end of a unit of work, what its thread still holds: the same in all four pools."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from time import perf_counter

import pytest

from poolkit import FirestorePool, HttpPool, Listener, PostgresPool, RedisPool
from poolkit.embedded import HttpServer
from tests.core.support import LONG, Task, eventually


class Leaks(Listener):
    """Remembers what was told as leaked."""

    def __init__(self):
        self.reasons = []

    def leaked(self, event):
        self.reasons.append(event.reason)


@pytest.fixture
def leaks():
    """Give a listener."""
    return Leaks()


@pytest.fixture(params=["postgres", "redis", "http", "firestore"])
def pool(request, leaks):
    """Give a pool of one connection, whichever."""
    kind = request.param
    with ExitStack() as stack:
        if kind == "postgres":
            conninfo = request.getfixturevalue("conninfo")
            made = PostgresPool(conninfo, min_size=0, max_size=1, listeners=[leaks])
        elif kind == "redis":
            url = request.getfixturevalue("redis_url")
            made = RedisPool(url, max_size=1, listeners=[leaks])
        elif kind == "http":
            url = stack.enter_context(HttpServer())
            made = HttpPool(base_url=url, max_size=1, listeners=[leaks])
        else:
            server = request.getfixturevalue("firestore_server")
            made = FirestorePool(
                project="recall",
                emulator_host=server.emulator_host,
                channels=1,
                max_size=1,
                listeners=[leaks],
            )
            made.batch_write([("set", f"things/{n}", {"n": n}) for n in range(3)])
        yield stack.enter_context(made)


def hold(pool):
    """Take a connection of *pool* and return what has to stay alive for it to be held."""
    if isinstance(pool, HttpPool):
        block = pool.stream("GET", "/bytes/1000000")
    elif isinstance(pool, FirestorePool):
        documents = pool.stream(pool.client.collection("things"))
        next(documents)
        return documents
    else:
        block = pool.connection()
    block.__enter__()
    return block


def begin(pool):
    """Take a connection of *pool*; return what has to stay alive, and what uses the connection."""
    if isinstance(pool, FirestorePool):
        documents = hold(pool)
        return documents, lambda: next(documents)
    block = (
        pool.stream("GET", "/bytes/1000000") if isinstance(pool, HttpPool) else pool.connection()
    )
    opened = block.__enter__()
    if isinstance(pool, PostgresPool):
        return block, lambda: opened.execute("select 1")
    if isinstance(pool, RedisPool):
        return block, opened.ping
    return block, lambda: opened.read(10)


def use(pool):
    """Use *pool*, which takes a connection."""
    if isinstance(pool, PostgresPool):
        assert pool.query("select 1") == [(1,)]
    elif isinstance(pool, RedisPool):
        assert pool.execute("PING") == "PONG"
    elif isinstance(pool, HttpPool):
        assert pool.get("/bytes/10").data
    else:
        assert pool.batch_get(["things/1"])[0].exists


def test_what_the_thread_holds_is_taken_back_and_told_with_the_reason(pool, leaks):
    began = perf_counter()
    held = hold(pool)
    (holder,) = pool.leases()
    assert pool.holds(since=began)

    (recalled,) = pool.recall(since=began, reason="the view 'orders' ended")

    assert recalled.call_site == holder.call_site
    assert recalled.thread is threading.current_thread()
    assert pool.leases() == []
    assert pool.stats().leaked == 1
    assert leaks.reasons == ["the view 'orders' ended"]
    use(pool)  # the only connection may be had again
    assert pool.recall(since=began) == []
    assert not pool.holds(since=began)
    del held


def test_what_was_held_before_stays(pool):
    held = hold(pool)
    assert not pool.holds(since=perf_counter())
    assert pool.recall(since=perf_counter()) == []
    assert len(pool.leases()) == 1
    assert len(pool.recall()) == 1
    del held


def test_what_was_taken_afterwards_stays(pool):
    before = perf_counter()
    held = hold(pool)
    assert not pool.holds(until=before)
    assert pool.recall(until=before) == []
    assert len(pool.recall(until=perf_counter())) == 1
    del held


def test_what_another_thread_holds_stays(pool):
    over = threading.Event()

    def work():
        held = hold(pool)
        over.wait()
        return held

    task = Task(work)
    try:
        eventually(lambda: len(pool.leases()) == 1)
        assert not pool.holds()
        assert pool.recall() == []
        assert len(pool.leases()) == 1
    finally:
        over.set()
    task.result()


def test_what_another_thread_has_used_stays(pool):
    held, use_it = begin(pool)
    used, over = threading.Event(), threading.Event()

    def work():
        use_it()
        used.set()
        over.wait()

    task = Task(work)
    try:
        assert used.wait(LONG)
        assert pool.recall() == []
        use_it()  # it is the other one's all the same
        assert pool.recall() == []
        assert len(pool.leases()) == 1
    finally:
        over.set()
    task.result()
    if hasattr(held, "close"):
        held.close()
    else:
        held.__exit__(None, None, None)
    assert pool.stats().leaked == 0
    use(pool)


def test_a_block_that_ends_after_the_recall_does_no_harm(pool):
    held = hold(pool)
    pool.recall()
    use(pool)
    if hasattr(held, "close"):
        held.close()
    else:
        held.__exit__(None, None, None)
    assert pool.stats().in_use == 0
    use(pool)
    assert pool.stats().leaked == 1
