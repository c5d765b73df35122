"""Ending a call from another thread: the same in all four pools."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack
from time import monotonic

import pytest
from psycopg.conninfo import make_conninfo

from poolkit import (
    Cancellation,
    Cancelled,
    CancelledOutcomeUnknown,
    FirestorePool,
    HttpPool,
    OutcomeUnknown,
    PostgresPool,
    RedisPool,
    deadline,
)
from poolkit.core.deadline import PULSE, ambient
from poolkit.embedded import HttpServer
from tests.cancelling import cancelled, under
from tests.core.support import LONG, Task, eventually
from tests.faults.proxy import FaultProxy

SCHEDULING = 0.15
"""Seconds that a busy machine may add to what is promised."""

KINDS = ["postgres", "redis", "http", "firestore"]


class Bench:
    """A pool of some connections, whichever, and a proxy that may freeze its server."""

    def __init__(self, kind, stack, request):
        self.kind = kind
        self._stack = stack
        value = request.getfixturevalue
        if kind == "postgres":
            self.server = value("postgres_server")
        elif kind == "redis":
            value("redis_url")
            self.server = value("redis_server")
        elif kind == "http":
            self.server = value("http_server")
        else:
            self.server = value("firestore_server")
        self.proxy = stack.enter_context(FaultProxy("127.0.0.1", self.server.port))

    def sees(self, text):
        """Return what is set when a request with *text* in it has come by."""
        seen = threading.Event()

        # That it is seen does not cut it: set() returns None.
        self.proxy.cut_after_request(lambda sent: text in sent and seen.set())
        return seen

    def pool(self, *, max_size=1, **options):
        """Return a pool that is closed at the end of the test, used once if it can be."""
        options = {"max_size": max_size, "acquire_timeout": LONG, **options}
        port = self.proxy.port
        if self.kind == "postgres":
            conninfo = make_conninfo(self.server.conninfo, port=port)
            made = PostgresPool(conninfo, min_size=0, statement_timeout=LONG, **options)
        elif self.kind == "redis":
            url = self.server.url.replace(f":{self.server.port}/", f":{port}/")
            made = RedisPool(url, command_timeout=LONG, **options)
        elif self.kind == "http":
            made = HttpPool(base_url=f"http://127.0.0.1:{port}", request_timeout=LONG, **options)
        else:
            made = FirestorePool(
                "cancelling",
                emulator_host=f"127.0.0.1:{port}",
                channels=1,
                rpc_timeout=LONG,
                **options,
            )
        return self._stack.enter_context(made)


@pytest.fixture(scope="module")
def http_server():
    """Give an HTTP server."""
    server = HttpServer()
    with server:
        yield server


@pytest.fixture(params=KINDS)
def bench(request):
    """Give a server of one kind after the other."""
    with ExitStack() as stack:
        bench = Bench(request.param, stack, request)
        yield bench
        bench.proxy.pass_through()


def read(pool, number=1):
    """Ask for something that says *number*, and return that."""
    if isinstance(pool, PostgresPool):
        return pool.query("select %s::int", [number])[0][0]
    if isinstance(pool, RedisPool):
        return int(pool.execute("ECHO", number))
    if isinstance(pool, HttpPool):
        return len(pool.get(f"/bytes/{number}").data)
    return int(pool.get(f"numbers/{number}").id)


def write(pool):
    """Change something in a way that must not be repeated."""
    if isinstance(pool, PostgresPool):
        return pool.execute("select pg_notify('nobody', '')")
    if isinstance(pool, RedisPool):
        return pool.execute("INCR", "cancelling")
    if isinstance(pool, HttpPool):
        return pool.post("/echo", data=b"once")
    return pool.set("things/1", {"n": 1})


ASKED = {
    "postgres": b"::int",
    "redis": b"ECHO",
    "http": b"/bytes/",
    "firestore": b"numbers/1",
}
WRITTEN = {
    "postgres": b"pg_notify",
    "redis": b"INCR",
    "http": b"once",
    "firestore": b"things/1",
}
"""What a read and a write have in them on their way to the server."""


def hold(pool):
    """Take the only connection of *pool*; return what gives it back."""
    if isinstance(pool, HttpPool):
        block = pool.stream("GET", "/bytes/1000000")
    elif isinstance(pool, FirestorePool):
        for number in range(3):
            pool.set(f"held/{number}", {"n": number})
        documents = pool.stream(pool.client.collection("held"))
        next(documents)
        return documents.close
    else:
        block = pool.connection()
    block.__enter__()
    return lambda: block.__exit__(None, None, None)


def is_whole(pool):
    """Whether nobody holds or waits, and the pool can be used."""
    eventually(lambda: pool.stats().in_use == pool.stats().waiting == 0)
    return read(pool, 7) == 7


def test_while_waiting_for_a_connection(bench):
    pool = bench.pool()
    give_back = hold(pool)
    cancellation = Cancellation()
    task = Task(under, cancellation, read, pool)
    eventually(lambda: pool.stats().waiting == 1)

    error = cancelled(task, cancellation)

    assert error.stage == "waiting"
    assert "cancelled while waiting" in str(error)
    assert not isinstance(error, OutcomeUnknown)
    assert pool.stats().waiting == 0
    give_back()
    assert is_whole(pool)


def test_it_takes_a_tenth_of_a_second_as_a_rule(bench):
    pool = bench.pool()
    assert read(pool) == 1
    took = []
    for _ in range(5):
        bench.proxy.stall_replies()
        cancellation = Cancellation()
        task = Task(under, cancellation, read, pool)
        eventually(lambda: pool.stats().in_use == 1)
        began = monotonic()
        cancellation.cancel()
        assert isinstance(task.end(), Cancelled)
        took.append(monotonic() - began)
        bench.proxy.pass_through()
        assert is_whole(pool)
    # One may be late on a busy machine; what is typical may not.
    assert sorted(took)[2] <= PULSE + 0.05 + SCHEDULING


def test_others_that_wait_wait_on(bench):
    pool = bench.pool()
    give_back = hold(pool)
    cancellation = Cancellation()
    before = Task(under, Cancellation(), read, pool, 1)
    eventually(lambda: pool.stats().waiting == 1)
    task = Task(under, cancellation, read, pool, 2)
    eventually(lambda: pool.stats().waiting == 2)
    behind = Task(read, pool, 3)
    eventually(lambda: pool.stats().waiting == 3)

    cancelled(task, cancellation)

    assert pool.stats().waiting == 2
    give_back()
    assert (before.result(), behind.result()) == (1, 3)
    assert is_whole(pool)


def test_while_the_server_is_silent(bench):
    pool = bench.pool()
    assert read(pool) == 1
    bench.proxy.stall_replies()
    cancellation = Cancellation()
    sent = bench.sees(ASKED[bench.kind])
    task = Task(under, cancellation, read, pool)
    assert sent.wait(LONG)

    error = cancelled(task, cancellation)

    assert error.stage == "running"
    # What a statement does nobody knows but the server, and that has not confirmed the cancel.
    assert isinstance(error, OutcomeUnknown) == (bench.kind == "postgres")
    bench.proxy.pass_through()
    assert is_whole(pool)


def test_what_was_to_change_something_may_have_done_so(bench):
    pool = bench.pool()
    write(pool)
    bench.proxy.stall_replies()
    cancellation = Cancellation()
    sent = bench.sees(WRITTEN[bench.kind])
    task = Task(under, cancellation, write, pool)
    assert sent.wait(LONG)

    error = cancelled(task, cancellation)

    assert isinstance(error, CancelledOutcomeUnknown)
    assert isinstance(error, OutcomeUnknown)
    bench.proxy.pass_through()
    assert is_whole(pool)


def test_while_connecting(bench):
    bench.proxy.blackhole()
    pool = bench.pool()
    cancellation = Cancellation()
    task = Task(under, cancellation, read, pool)
    eventually(lambda: bench.proxy.connections_total)

    error = cancelled(task, cancellation)

    # Whom HTTP connects to says nothing before it is asked, which may be by now.
    assert error.stage in ("connecting", "running" if bench.kind == "http" else "connecting")
    bench.proxy.pass_through()
    assert is_whole(pool)


def test_before_the_block_nothing_is_asked(bench):
    pool = bench.pool()
    assert read(pool) == 1
    bench.proxy.reset_round_trips()
    cancellation = Cancellation()
    cancellation.cancel()

    for work in (read, write):
        with pytest.raises(Cancelled) as caught:
            under(cancellation, work, pool)
        assert not isinstance(caught.value, OutcomeUnknown)

    assert bench.proxy.round_trips == 0
    assert is_whole(pool)


@pytest.mark.parametrize("which", ["outer", "inner"])
def test_either_of_two_nested_blocks_ends_it(bench, which):
    pool = bench.pool()
    assert read(pool) == 1
    bench.proxy.stall_replies()
    cancellations = {"outer": Cancellation(), "inner": Cancellation()}

    def nested():
        with deadline(LONG, cancellation=cancellations["outer"]), deadline(2 * LONG):
            under(cancellations["inner"], read, pool)

    task = Task(nested)
    eventually(lambda: pool.stats().in_use == 1)
    cancelled(task, cancellations[which])


def test_it_does_not_reach_beyond_its_block(bench):
    pool = bench.pool()
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(Cancelled):
        under(cancellation, read, pool)
    assert read(pool, 2) == 2
    assert under(Cancellation(), read, pool, 3) == 3
    assert ambient().never


def test_a_deadline_that_is_not_cancelled_ends_as_ever(bench):
    pool = bench.pool()
    assert read(pool) == 1
    bench.proxy.stall_replies()
    began = monotonic()
    error = Task(lambda: under(Cancellation(), read, pool, seconds=0.25)).end()
    assert 0.25 <= monotonic() - began <= 0.25 + 0.05 + SCHEDULING
    assert "the deadline of 0.25 s passed" in str(error)
    assert not isinstance(error, Cancelled)


def test_half_of_many_threads_cancelled_at_random(bench):
    threads, calls = 20, 8
    pool = bench.pool(max_size=3)
    read(pool)
    bench.proxy.delay(0.01)
    before = pool.stats()
    doomed = [Cancellation() for _ in range(threads // 2)]
    fine = [Cancellation() for _ in range(threads // 2)]
    ready = threading.Barrier(threads + 1)

    def work(number):
        cancellation = (doomed + fine)[number]
        ready.wait(LONG)
        done = ended = 0
        for call in range(calls):
            try:
                wanted = 1 + number * calls + call
                assert under(cancellation, read, pool, wanted) == wanted, "crossed"
                done += 1
            except Cancelled:
                ended += 1
        return done, ended

    tasks = [Task(work, number) for number in range(threads)]
    dice = random.Random(1)
    ready.wait(LONG)
    for cancellation in dice.sample(doomed, len(doomed)):
        cancellation.cancel()
        threading.Event().wait(dice.uniform(0, 0.02))
    outcomes = [task.result() for task in tasks]

    assert all(done + ended == calls for done, ended in outcomes)
    assert all(ended == 0 for _, ended in outcomes[len(doomed) :])
    ended = sum(ended for _, ended in outcomes)
    assert ended >= len(doomed)
    bench.proxy.delay(0)
    assert is_whole(pool)
    after = pool.stats()
    assert after.operations - before.operations == threads * calls + 1
    assert after.errors - before.errors == ended


def test_one_cancellation_ends_the_calls_of_many_threads(bench):
    pool = bench.pool(max_size=4)
    read(pool)
    bench.proxy.stall_replies()
    cancellation = Cancellation()

    tasks = [Task(under, cancellation, read, pool, number) for number in range(1, 9)]
    eventually(lambda: pool.stats().in_use + pool.stats().waiting >= 4)
    for task in tasks:
        cancelled(task, cancellation)
    bench.proxy.pass_through()
    assert is_whole(pool)
