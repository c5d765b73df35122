"""Bad days: servers that die, freeze, refuse or say what nobody wants to hear."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack, contextmanager
from time import monotonic

import pytest
import redis

from poolkit import (
    BackendUnavailable,
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
    OutcomeUnknown,
    PoolClosed,
    PoolOverloaded,
    PoolTimeout,
    RedisPool,
    RetryPolicy,
    deadline,
)
from poolkit.core import node as core_node
from poolkit.embedded import EmbeddedError
from poolkit.redis import node as node_module
from poolkit.redis.connection import PooledConnection
from poolkit.redis.wire import PlainWire
from tests.core.support import LONG, Stopwatch, Task, eventually
from tests.recorder import Recorder

from .scripted import ScriptedRedis, Torn
from .support import SCHEDULING, node_of


@pytest.fixture
def direct(redis_url):
    """Give a client of its own, to look behind the pool's back."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


# -- answers that get lost -----------------------------------------------------------------------------


def test_a_write_that_was_executed_and_never_answered_is_sent_once(proxied, direct):
    proxy, url = proxied
    with RedisPool(url, command_timeout=0.2) as cache:
        cache.get("n")
        proxy.stall_replies()

        with pytest.raises(OutcomeUnknown):
            cache.incr("n")

    assert direct.get("n") == "1"


def test_a_deadline_that_passes_while_a_write_runs_leaves_its_outcome_unknown(proxied, direct):
    proxy, url = proxied
    with RedisPool(url) as cache:
        cache.get("n")
        proxy.stall_replies()

        with Stopwatch() as watch, pytest.raises(DeadlineOutcomeUnknown) as caught, deadline(0.2):
            cache.incr("n")

    assert caught.value.stage == "running"
    assert watch.seconds < 0.2 + 0.05 + SCHEDULING
    assert direct.get("n") == "1"


def _held(cache):
    with cache.connection() as conn:
        conn.incr("n")


def _single(cache):
    with cache.client.client() as client:
        client.incr("n")


def _held_transaction(cache):
    with cache.connection() as conn:
        conn.execute_command("MULTI")
        conn.incr("n")
        conn.execute_command("EXEC")


def _watched(cache):
    with cache.client.pipeline() as pipe:
        pipe.watch("x")
        pipe.incr("n")


WRITES = {
    "incr": lambda cache: cache.incr("n"),
    "execute": lambda cache: cache.execute("INCR", "n"),
    "pipeline": lambda cache: cache.pipeline([("GET", "x"), ("INCR", "n")]),
    "client": lambda cache: cache.client.incr("n"),
    "client.pipeline": lambda cache: cache.client.pipeline(transaction=False).incr("n").execute(),
    "client.transaction": lambda cache: cache.client.pipeline().incr("n").execute(),
    "client.transaction(watch)": lambda cache: cache.client.transaction(
        lambda pipe: pipe.multi() or pipe.incr("n"), "x"
    ),
    "client, while watching": _watched,
    "client.client": _single,
    "connection": _held,
    "connection, EXEC": _held_transaction,
}
"""Every way of sending INCR."""
IN_ONE_GO = sorted(
    WRITES.keys() - {"client.transaction(watch)", "client, while watching", "connection, EXEC"}
)


@pytest.mark.parametrize("way", WRITES)
def test_a_write_whose_connection_is_cut_after_it_was_sent_runs_once(proxied, direct, way):
    proxy, url = proxied
    with RedisPool(url) as cache:
        cache.get("n")
        last = b"EXEC" if way == "connection, EXEC" else b"INCR"
        hit = proxy.cut_after_request(lambda sent: last in sent)

        with pytest.raises(OutcomeUnknown):
            WRITES[way](cache)

        assert hit.wait(LONG)
        eventually(lambda: direct.get("n") == "1")
        assert cache.incr("n") == 2
        assert cache.stats().in_use == 0


@pytest.mark.parametrize("way", IN_ONE_GO)
def test_a_write_whose_answer_does_not_come_runs_once(proxied, direct, way):
    proxy, url = proxied
    with RedisPool(url, command_timeout=0.2) as cache:
        cache.get("n")
        proxy.stall_replies()

        with pytest.raises(OutcomeUnknown):
            WRITES[way](cache)

        eventually(lambda: direct.get("n") == "1")
        proxy.pass_through()
        assert cache.incr("n") == 2


def test_a_deadline_in_a_transaction_is_not_taken_for_a_change_of_what_it_watches(proxied, direct):
    proxy, url = proxied
    attempts = []

    def add_one(pipe):
        attempts.append(1)
        pipe.multi()
        pipe.incr("n")
        proxy.stall_replies()

    with RedisPool(url) as cache:
        with pytest.raises(DeadlineOutcomeUnknown), deadline(0.3):
            cache.client.transaction(add_one, "x")

    assert len(attempts) == 1
    eventually(lambda: direct.get("n") == "1")


@pytest.mark.parametrize(
    "read",
    [
        lambda cache: cache.client.pipeline(transaction=False).get("k").execute(),
        lambda cache: cache.client.pipeline().get("k").set("k", 1).execute(),
        lambda cache: cache.client.pipeline().watch("k"),
    ],
    ids=["pipeline", "transaction", "watch"],
)
def test_what_can_be_repeated_without_harm_is_lost_in_redis_pys_words(proxied, read):
    proxy, url = proxied
    with RedisPool(url) as cache:
        cache.get("n")
        proxy.cut_after_request(1)

        with pytest.raises(redis.ConnectionError):
            read(cache)


@pytest.mark.parametrize(
    "call",
    [
        lambda cache: cache.get("k"),
        lambda cache: cache.set("k", "v", ttl=50) and "v",
        lambda cache: cache.pipeline([("GET", "k")])[0],
        lambda cache: cache.client.get("k"),
        lambda cache: cache.execute("GETDEL", "k", idempotent=True) or "v",
    ],
)
def test_what_may_be_repeated_is_sent_again(proxied, direct, call):
    proxy, url = proxied
    direct.set("k", "v")
    with RedisPool(url) as cache:
        cache.exists("k")
        hit = proxy.cut_after_request(1)

        assert call(cache) == "v"

        assert hit.is_set()
        assert cache.stats().retries == 1


def test_a_write_on_a_connection_that_died_while_idle_simply_runs(proxied, direct):
    proxy, url = proxied
    with RedisPool(url) as cache:
        assert cache.incr("n") == 1
        for _ in range(20):
            proxy.cut()
            cache.incr("n")

        assert cache.stats().errors == 0
    assert direct.get("n") == "21"


@pytest.fixture
def when_received(monkeypatch):
    """Give a way to have something done, once, by whoever has received so many bytes of answers."""

    def plan(size, call):
        left = [size]
        receive = PlainWire.recv_into

        def count(self, *args, **kwargs):
            got = receive(self, *args, **kwargs)
            before, left[0] = left[0], left[0] - got
            if before > 0 >= left[0]:
                call()
            return got

        monkeypatch.setattr(PlainWire, "recv_into", count)

    return plan


def test_a_reset_in_the_middle_of_a_large_answer_is_retried(proxied, direct, when_received):
    proxy, url = proxied
    direct.set("big", "x" * 50_000_000)
    with RedisPool(url) as cache:
        cache.get("k")
        when_received(1_000_000, proxy.cut)

        assert len(cache.get("big")) == 50_000_000
        assert cache.stats().retries == 1


def test_a_reset_in_the_middle_of_the_answer_to_a_write_leaves_its_outcome_unknown(
    proxied, direct, when_received
):
    proxy, url = proxied
    direct.set("big", "x" * 50_000_000)
    with RedisPool(url) as cache:
        cache.get("k")
        when_received(1_000_000, proxy.cut)

        with pytest.raises(OutcomeUnknown):
            cache.execute("GETDEL", "big")
        assert cache.stats().retries == 0
    assert direct.get("big") is None


def test_a_reset_after_a_few_bytes_of_an_answer_is_one_before_its_end(when_received):
    """The first answer to each is torn when its beginning has been read."""
    read = threading.Event()
    replies = {
        b"GET": iter([Torn(b"$5\r\nab", lambda: read.wait(LONG)), b"$5\r\nabcde\r\n"]),
        b"INCRBY": iter([Torn(b":1", lambda: read.wait(LONG))]),
    }
    with ScriptedRedis(lambda words: next(replies[words[0]])) as server:
        with RedisPool(server.url) as cache:
            cache.execute("PING")
            when_received(len(b"$5\r\nab"), read.set)
            assert cache.get("k") == "abcde"
            assert cache.stats().retries == 1

            read.clear()
            when_received(len(b":1"), read.set)
            with pytest.raises(OutcomeUnknown):
                cache.incr("n")
        assert read.is_set()
        assert server.count(b"GET") == 2
        assert server.count(b"INCRBY") == 1


@pytest.mark.parametrize(
    "nonsense", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$5\r\nab", b"*2\r\n:1\r\n"]
)
def test_nonsense_is_never_taken_for_an_answer(nonsense):
    with (
        ScriptedRedis(lambda _: nonsense) as server,
        RedisPool(server.url, max_retries=0, command_timeout=0.2) as cache,
    ):
        with pytest.raises(redis.RedisError):
            cache.get("k")

        with pytest.raises(OutcomeUnknown):
            cache.incr("n")
        assert cache.stats().size == 0


@contextmanager
def demoted_at(key):
    """Run a server that is a replica from the moment when it hears of *key*, and is gone after that."""
    gone = threading.Event()

    def answer(words):
        if words[1] != key:
            return b":1\r\n"
        gone.set()
        return b"-READONLY You can't write against a read only replica.\r\n"

    with ScriptedRedis(answer, ping=lambda: b"" if gone.is_set() else b"+PONG\r\n") as server:
        yield server


@pytest.mark.parametrize("raise_on_error", [True, False])
def test_a_pipeline_that_has_partly_run_when_the_server_goes_away_has_no_known_outcome(
    raise_on_error,
):
    with demoted_at(b"b") as server, RedisPool(server.url, acquire_timeout=0.2) as cache:
        with pytest.raises(OutcomeUnknown, match="part of the pipeline") as caught:
            cache.pipeline([("INCR", "a"), ("INCR", "b")], raise_on_error=raise_on_error)

        assert isinstance(caught.value.__cause__, BackendUnavailable)
        assert server.heard.count([b"INCR", b"a"]) == 1
        assert (cache.stats().operations, cache.stats().errors) == (1, 1)


def test_a_pipeline_that_has_partly_run_when_its_deadline_passes_has_no_known_outcome():
    with demoted_at(b"b") as server, RedisPool(server.url, acquire_timeout=LONG) as cache:
        with pytest.raises(DeadlineOutcomeUnknown), deadline(0.2):
            cache.pipeline([("INCR", "a"), ("INCR", "b")])

        assert server.heard.count([b"INCR", b"a"]) == 1


@pytest.mark.parametrize(
    "commands",
    [[("SET", "a", 1), ("SET", "b", 2)], [("INCR", "b")], [("INCR", "b"), ("INCR", "b")]],
    ids=["repeatable", "none ran", "neither ran"],
)
def test_a_pipeline_that_may_be_repeated_tells_that_the_server_is_away(commands):
    with (
        demoted_at(b"b") as server,
        RedisPool(server.url, acquire_timeout=0.2) as cache,
        pytest.raises(BackendUnavailable),
    ):
        cache.pipeline(commands)


# -- deadlines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["blackhole", "stall_replies", "refuse"])
def test_a_deadline_holds_whatever_the_server_does(proxied, fault):
    proxy, url = proxied
    with RedisPool(url) as cache:
        cache.get("k")
        getattr(proxy, fault)()
        if fault == "refuse":
            proxy.cut()

        for _ in range(3):
            with Stopwatch() as watch, pytest.raises(DeadlineExceeded), deadline(0.2):
                cache.get("k")
            assert watch.seconds < 0.2 + 0.05 + SCHEDULING
        assert cache.stats().in_use == 0


def test_a_deadline_holds_while_connecting(proxied):
    proxy, url = proxied
    proxy.blackhole()
    with RedisPool(url) as cache:
        with Stopwatch() as watch, pytest.raises(DeadlineExceeded) as caught, deadline(0.2):
            cache.get("k")

    assert caught.value.stage == "connecting"
    assert watch.seconds < 0.2 + 0.05 + SCHEDULING


def test_a_deadline_holds_while_a_name_is_looked_up(redis_server, redis_url, monkeypatch):
    answers, ask = threading.Event(), socket.getaddrinfo

    def silent(*args, **options):
        assert answers.wait(LONG)
        return ask(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    with RedisPool(redis_url.replace("127.0.0.1", "localhost")) as cache:
        with Stopwatch() as watch, pytest.raises(DeadlineExceeded) as caught, deadline(0.2):
            cache.get("k")
        answers.set()
        assert cache.set("k", "v")

    assert caught.value.stage == "connecting"
    assert watch.seconds < 0.2 + 0.05 + SCHEDULING


def test_a_deadline_holds_while_an_answer_drips():
    def drip(_):
        return b"$1000000\r\nx"

    with ScriptedRedis(drip) as server, RedisPool(server.url) as cache:
        with Stopwatch() as watch, pytest.raises(DeadlineExceeded), deadline(0.2):
            cache.get("k")

    assert watch.seconds < 0.2 + 0.05 + SCHEDULING


def test_a_deadline_holds_while_waiting_for_a_turn(redis_url):
    with RedisPool(redis_url, max_size=1) as cache, cache.connection():
        task = Task(lambda: _within(0.1, lambda: cache.get("k")))

        error = task.end()

    assert isinstance(error, DeadlineExceeded)
    assert error.stage == "waiting"


def test_blocking_commands_get_their_own_time_and_keep_to_the_deadline(redis_url):
    with RedisPool(redis_url, command_timeout=0.1) as cache:
        assert cache.execute("BLPOP", "nothing", 0.3) is None

        with Stopwatch() as watch, pytest.raises(DeadlineExceeded), deadline(0.2):
            cache.execute("BLPOP", "nothing", 0)
    assert watch.seconds < 0.2 + 0.05 + SCHEDULING


def test_a_frozen_server_holds_nobody_longer_than_the_deadline(own_redis):
    server = own_redis()
    with RedisPool(server.url) as cache:
        cache.set("k", "v")
        server.pause()
        with Stopwatch() as watch, pytest.raises(DeadlineExceeded), deadline(0.2):
            cache.get("k")
        server.resume()

        assert cache.get("k") == "v"
    assert watch.seconds < 0.2 + 0.05 + SCHEDULING


def test_a_frozen_server_is_not_asked_once_for_each_connection(own_redis):
    server = own_redis()
    settings = {"ready_check": False, "max_retries": 0, "command_timeout": 1, "connect_timeout": 1}
    with RedisPool(server.url, acquire_timeout=1, **settings) as cache:
        with ExitStack() as blocks:
            for _ in range(15):
                blocks.enter_context(cache.connection())
        assert cache.stats().idle == 15
        server.ask("CONFIG", "RESETSTAT")
        server.pause()
        with Stopwatch() as watch:
            with pytest.raises(redis.TimeoutError):
                cache.get("k")
            with pytest.raises(BackendUnavailable):
                cache.get("k")
        assert cache.stats().size == 0
        server.resume()

        eventually(cache.health_check)
    # It reads now what was sent to it while it was frozen.
    pings = server.info("INFO", "commandstats")["cmdstat_ping"]
    assert (
        int(pings.removeprefix("calls=").partition(",")[0]) <= 5
    )  # the health checks are among them
    assert watch.seconds < 6  # far from the 15 x 0.5 s of asking each


def _within(seconds, call):
    with deadline(seconds):
        return call()


# -- a server that is away -----------------------------------------------------------------------------


def test_commands_wait_for_a_server_that_comes_back(own_redis):
    server = own_redis()
    recorder = Recorder()
    with RedisPool(server.url, acquire_timeout=LONG, listeners=[recorder]) as cache:
        cache.get("k")
        server.kill()
        eventually(lambda: cache.stats().size == 0)  # or the first INCR's fate would be unknown
        tasks = [Task(_in_order, cache, number) for number in range(20)]
        eventually(lambda: cache.stats().waiting == 20)
        server.start()
        back = monotonic()

        assert [task.result() for task in tasks] == [[1, 2, 3]] * 20
        assert monotonic() - back < 1.0 + SCHEDULING
        assert cache.stats().refused == 0
    kinds = recorder.kinds()
    assert kinds.count("ready") == 2
    assert kinds.index("reconnecting") < kinds.index("ready", kinds.index("reconnecting"))
    assert kinds[0] == "opened"
    assert kinds[-1] == "closed"


def _in_order(cache, number):
    return [cache.incr(f"order {number}") for _ in range(3)]


def test_without_the_offline_queue_commands_fail_at_once(own_redis):
    server = own_redis()
    with RedisPool(server.url, offline_queue=False) as cache:
        cache.get("k")
        server.kill()

        for _ in range(3):
            with Stopwatch() as watch, pytest.raises(BackendUnavailable) as caught:
                cache.get("k")
            assert watch.seconds < 0.5
        assert "Connection refused" in str(caught.value)
        assert caught.value.retry_after is not None

        server.start()
        eventually(cache.health_check, timeout=1.0 + SCHEDULING)


def test_the_offline_queue_is_bounded_in_number_and_time(own_redis):
    server = own_redis()
    with RedisPool(server.url, max_waiting=2, acquire_timeout=0.5) as cache:
        cache.get("k")
        server.kill()
        tasks = [Task(cache.get, "k") for _ in range(2)]
        eventually(lambda: cache.stats().waiting == 2)

        with pytest.raises(PoolOverloaded, match="2 threads wait"):
            cache.get("k")

        for task in tasks:
            assert isinstance(task.end(), BackendUnavailable)


def test_one_probe_at_a_time_looks_for_the_server(proxied, monkeypatch):
    proxy, url = proxied
    opening, seen = [], []
    connect = PooledConnection.open

    def counted(self, until):
        opening.append(self)
        seen.append(len(opening))
        try:
            connect(self, until)
        finally:
            opening.remove(self)

    monkeypatch.setattr(PooledConnection, "open", counted)
    monkeypatch.setattr(core_node, "PROBE_TIMEOUT", 0.05)
    with RedisPool(url, acquire_timeout=LONG, connect_timeout=0.5) as cache:
        cache.get("k")
        proxy.blackhole()
        proxy.cut()
        tasks = [Task(cache.get, "k") for _ in range(30)]
        eventually(lambda: cache.stats().waiting == 30)
        before = len(seen)
        tasks += [Task(cache.get, "k") for _ in range(30)]
        eventually(lambda: len(seen) >= before + 3)

        assert cache.stats().waiting == 60
        assert set(seen[before:]) == {1}
        proxy.pass_through()
        proxy.cut()
        for task in tasks:
            task.result()


def test_who_fails_while_a_probe_looks_has_no_second_one_look(redis_url, monkeypatch):
    """The first caller's failure has the server probed; the second one's comes while that is under way."""
    fail = {"first": threading.Event(), "second": threading.Event(), "probe": threading.Event()}
    opening = []
    connect = PooledConnection.open

    def controlled(self, until):
        name = threading.current_thread().name.partition("-")[0].replace("poolkit", "probe")
        opening.append(name)
        assert fail[name].wait(LONG)
        if name == "probe":
            connect(self, until)
        else:
            raise redis.ConnectionError("Connection refused")

    monkeypatch.setattr(PooledConnection, "open", controlled)
    with RedisPool(redis_url, acquire_timeout=LONG) as cache:
        cache.open()
        outage = node_of(cache).outage
        probe, probed = outage._probe, []
        outage._probe = lambda: probed.append(probe())
        tasks = [Task(cache.get, "k", name=name) for name in ("first", "second")]
        eventually(lambda: len(opening) == 2)
        fail["first"].set()
        eventually(lambda: opening.count("probe") == 1)
        fail["second"].set()
        eventually(lambda: len(probed) == 2)

        looking = [t for t in threading.enumerate() if t.name.startswith("poolkit-probe")]
        assert len(looking) == 1
        monkeypatch.undo()
        fail["probe"].set()
        assert [task.result() for task in tasks] == [None, None]


def test_a_wrong_password_is_told_at_once_and_never_shown(own_redis):
    server = own_redis()
    url = server.url.replace(server.password, "s3cret")
    with RedisPool(url, acquire_timeout=LONG) as cache:
        with Stopwatch() as watch, pytest.raises(BackendUnavailable) as caught:
            cache.get("k")

    assert watch.seconds < 2.0
    assert "invalid username-password pair" in str(caught.value)
    assert "s3cret" not in str(caught.value) + repr(caught.value.__cause__)
    assert caught.value.retry_after is None


def test_closing_ends_the_wait_for_a_server_that_is_away(own_redis):
    server = own_redis()
    cache = RedisPool(server.url, acquire_timeout=LONG)
    cache.get("k")
    server.kill()
    task = Task(cache.get, "k")
    eventually(lambda: cache.stats().waiting == 1)

    cache.close(timeout=1)

    assert isinstance(task.end(), PoolClosed)
    assert not any(thread.name.startswith("poolkit") for thread in threading.enumerate())


def test_closing_waits_for_no_probe_longer_than_it_is_told(proxied):
    proxy, url = proxied
    recorder = Recorder()
    cache = RedisPool(url, connect_timeout=0.2, acquire_timeout=LONG, listeners=[recorder])
    cache.get("k")
    proxy.blackhole()
    proxy.cut()
    task = Task(cache.get, "k")
    # A look at the server takes up to 2 s.
    eventually(lambda: any(t.name.startswith("poolkit-probe") for t in threading.enumerate()))

    with Stopwatch() as watch:
        cache.close(timeout=0.1)

    assert watch.seconds < 1.0
    assert isinstance(task.end(), PoolClosed)
    proxy.pass_through()
    eventually(lambda: not any(t.name.startswith("poolkit") for t in threading.enumerate()))
    kinds = recorder.kinds()
    assert "ready" not in kinds[kinds.index("closed") :]


# -- what a server says --------------------------------------------------------------------------------


def test_a_server_that_is_loading_is_waited_for():
    loading = iter([b"-LOADING Redis is loading the dataset in memory\r\n"] * 3)

    with (
        ScriptedRedis(
            lambda words: b"$1\r\nv\r\n", ping=lambda: next(loading, b"+PONG\r\n")
        ) as server,
        RedisPool(server.url) as cache,
    ):
        assert cache.get("k") == "v"
        assert server.connections == 4
        assert server.count(b"GET") == 1


def test_a_real_server_that_is_loading_is_waited_for(own_redis):
    server = own_redis(
        settings={"enable-debug-command": "yes", "loading-process-events-interval-bytes": "1024"}
    )
    new, used = Recorder(), Recorder()
    with (
        RedisPool(server.url, acquire_timeout=LONG, listeners=[new]) as first,
        RedisPool(server.url, acquire_timeout=LONG, listeners=[used]) as second,
    ):
        second.pipeline([("SET", f"k{number}", "v" * 100) for number in range(2000)])
        server.ask("CONFIG", "SET", "key-load-delay", 300)  # microseconds each
        reload = Task(server.ask, "DEBUG", "RELOAD")
        eventually(lambda: _says(server, "LOADING"))

        tasks = [Task(cache.get, "k7") for cache in (first, second)]

        assert [task.result() for task in tasks] == ["v" * 100] * 2
        reload.result()
    for recorder in (new, used):
        causes = [event.error for kind, event in recorder.events if kind == "reconnecting"]
        assert isinstance(causes[0], redis.BusyLoadingError)


def _says(server, word):
    try:
        server.ask("GET", "k")
    except EmbeddedError as error:
        return word in str(error)
    return False


def test_without_the_queue_a_server_that_is_loading_is_told_at_once():
    with (
        ScriptedRedis(lambda words: b"$1\r\nv\r\n", ping=lambda: b"-LOADING busy\r\n") as server,
        RedisPool(server.url, offline_queue=False) as cache,
        pytest.raises(BackendUnavailable, match="busy"),
    ):
        cache.get("k")


@pytest.mark.parametrize(
    "reply",
    [
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-CLUSTERDOWN The cluster is down\r\n",
        b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
        b"-MASTERDOWN Link with MASTER is down\r\n",
        b"-READONLY You can't write against a read only replica.\r\n",
        b"-BUSY Redis is busy running a script.\r\n",
    ],
    ids=lambda reply: reply.split()[0].decode(),
)
def test_what_was_not_run_is_sent_again_even_if_it_is_a_write(reply):
    said = iter([reply])

    with (
        ScriptedRedis(lambda _: next(said, b":1\r\n")) as server,
        RedisPool(server.url, retry=RetryPolicy(attempts=2, base=0.01)) as cache,
    ):
        assert cache.incr("n") == 1
        assert server.count(b"INCRBY") == 2


@pytest.mark.parametrize(
    "reply",
    [
        b"-NOAUTH Authentication required.\r\n",
        b"-NOPERM this user has no permissions\r\n",
        b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
        b"-WRONGTYPE Operation against a key\r\n",
        b"-ERR unknown command\r\n",
    ],
    ids=lambda reply: reply.split()[0].decode(),
)
def test_what_the_server_refuses_is_raised_as_it_is_and_not_repeated(reply):
    with ScriptedRedis(lambda _: reply) as server, RedisPool(server.url) as cache:
        with pytest.raises(redis.RedisError) as caught:
            cache.get("k")

        assert type(caught.value).__module__ == "redis.exceptions"
        assert server.count(b"GET") == 1
        assert cache.stats().retries == 0


@pytest.mark.parametrize("said", [b"-MOVED 7 10.0.0.2:6379\r\n", b"-ASK 7 10.0.0.2:6379\r\n"])
def test_one_node_of_a_cluster_says_that_all_of_it_is_needed(said):
    calls = [
        lambda cache: cache.get("k"),
        lambda cache: cache.client.get("k"),
        lambda cache: cache.pipeline([("GET", "k")]),
    ]
    with ScriptedRedis(lambda _: said) as server, RedisPool(server.url) as cache:
        for call in calls:
            with pytest.raises(redis.ResponseError, match=r"slot 7 is at .*10\.0\.0\.2.* nodes="):
                call(cache)
        (reply,) = cache.pipeline([("GET", "k")], raise_on_error=False)

        assert "nodes=" in str(reply)
        assert server.count(b"GET") == 4  # once each
        assert cache.stats().retries == 0


def test_a_real_server_that_is_out_of_memory_says_so(own_redis):
    server = own_redis(settings={"maxmemory": "1mb", "maxmemory-policy": "noeviction"})
    with RedisPool(server.url) as cache:
        with pytest.raises(redis.OutOfMemoryError):
            for number in range(100):
                cache.set(f"k{number}", "x" * 50_000)

        assert cache.get("no such key") is None
        assert cache.stats().closed == 0


def test_a_server_that_takes_no_more_connections_is_waited_for(own_redis):
    server = own_redis(settings={"maxclients": "3"})
    others = [redis.Redis.from_url(server.url) for _ in range(3)]
    with RedisPool(server.url, acquire_timeout=LONG) as cache:
        for other in others:
            other.ping()
        task = Task(cache.get, "k")
        eventually(lambda: cache.stats().waiting == 1)
        for other in others:
            other.close()

        assert task.result() is None


def test_a_pool_larger_than_the_server_allows_goes_on_with_what_it_gets(own_redis):
    server = own_redis(settings={"maxclients": "5"})
    with RedisPool(server.url, max_retries=30, retry=RetryPolicy(base=0.02, cap=0.1)) as cache:
        tasks = [Task(lambda: [cache.execute("ECHO", "x") for _ in range(50)]) for _ in range(15)]

        assert [task.result() for task in tasks] == [["x"] * 50] * 15


# -- turns ---------------------------------------------------------------------------------------------


def test_a_constructor_that_raises_loses_no_turn(redis_url, monkeypatch):
    class Refused(Exception):
        pass

    def refuse(*args, **kwargs):
        raise Refused

    with RedisPool(redis_url, max_size=1, acquire_timeout=0.5, offline_queue=False) as cache:
        with monkeypatch.context() as patch:
            patch.setattr(node_module, "make_connection", refuse)
            for _ in range(3):
                with pytest.raises((Refused, BackendUnavailable)):
                    cache.get("k")
        eventually(cache.health_check)
        with cache.connection() as conn:
            assert conn.ping()


def test_who_waits_in_vain_is_told_who_holds(redis_url):
    with RedisPool(redis_url, max_size=1, acquire_timeout=0.05, name="cache") as cache:
        with cache.connection():
            task = Task(cache.get, "k")
            error = task.end()

        assert isinstance(error, PoolTimeout)
        assert "MainThread" in str(error)
        assert "test_faults.py" in str(error)
        assert cache.leases() == []


def test_a_thread_that_dies_holding_loses_nothing(redis_url):
    with RedisPool(redis_url, max_size=1, acquire_timeout=LONG) as cache:
        Task(lambda: cache.connection().__enter__()).end()

        assert cache.get("k") is None
        eventually(lambda: cache.stats().leaked == 1)


# -- forks ---------------------------------------------------------------------------------------------


def _in_child(work):
    """Return what *work* returns in a forked child, as bytes."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, str(work()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(pid, 0)
    return said


def test_a_pool_opened_before_a_fork_works_in_parent_and_child(redis_url):
    with RedisPool(redis_url) as cache:
        cache.set("k", "v")
        mine = cache.execute("CLIENT", "ID")

        assert _in_child(lambda: (cache.get("k"), cache.execute("CLIENT", "ID") != mine)) == str(
            ("v", True)
        )

        assert cache.execute("CLIENT", "ID") == mine
        assert cache.client.get("k") == "v"
        assert _in_child(lambda: cache.client.get("k")) == "v"


def test_a_fork_while_others_hold_every_lock_does_not_hang_the_child(redis_url):
    with RedisPool(redis_url) as cache:
        cache.get("k")
        running = cache._lifecycle.running
        node = running.topology.node_for(None, None)
        held, go = threading.Event(), threading.Event()

        def hold():
            locks = (
                node._lock,
                node._node._prober._lock,
                node._node.shelf._lock,
                node.lender.gate._lock,
                node.outage._lock,
            )
            for lock in locks:
                lock.acquire()
            held.set()
            go.wait(LONG)
            for lock in locks:
                lock.release()

        task = Task(hold)
        held.wait(LONG)
        try:
            assert _in_child(lambda: cache.set("k", "from the child")) == "True"
        finally:
            go.set()
        task.result()

        assert cache.get("k") == "from the child"


def test_in_a_forked_child_a_connection_held_by_the_parent_can_not_be_used(redis_url):
    with RedisPool(redis_url) as cache, cache.connection() as conn:
        mine = conn.client_id()

        def use():
            try:
                conn.ping()
            except redis.ConnectionError as error:
                return error

        assert "belongs to the process that forked" in _in_child(use)
        assert conn.client_id() == mine
