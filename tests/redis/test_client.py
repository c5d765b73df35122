"""redis-py's API over the pool, and over the one connection that a block holds."""

from __future__ import annotations

import contextlib
import queue
import threading

import pytest
import redis
from redis._parsers import _RESP3Parser
from redis.connection import DefaultParser

from poolkit import DeadlineExceeded, OutcomeUnknown, PoolTimeout, RedisPool, deadline
from poolkit.redis import dial
from tests.core.support import LONG, Stopwatch, Task, eventually, together
from tests.faults.proxy import FaultProxy
from tests.forks import Child

from .scripted import ScriptedRedis
from .support import SCHEDULING, node_of, through


@pytest.fixture
def cache(redis_url):
    """Give a pool on the empty shared server."""
    with RedisPool(redis_url) as cache:
        yield cache


# -- client --------------------------------------------------------------------------------------------


def test_the_client_is_one_and_the_same(cache):
    assert cache.client is cache.client
    assert isinstance(cache.client, redis.Redis)


def test_the_client_is_one_and_the_same_for_threads_that_ask_at_once(redis_url):
    for _ in range(20):
        cache = RedisPool(redis_url)
        first, *others = together(4, lambda _, cache=cache: cache.client)
        assert all(client is first for client in others)


@pytest.fixture
def waiting_for_a_cluster():
    """Have a thread wait for a cluster that does not answer, to get its client."""
    over = threading.Event()
    asked = threading.Event()

    def answer(words):
        asked.set()
        over.wait(LONG)
        return b""

    with ScriptedRedis(answer) as server:
        address = server.url.removeprefix("redis://").removesuffix("/0")
        silent = RedisPool(nodes=[address], acquire_timeout=LONG)
        task = Task(lambda: silent.client)
        assert asked.wait(LONG)
        yield task
        silent.close(timeout=0)
        over.set()
        task.end()


def test_the_client_of_one_pool_does_not_wait_for_that_of_another(cache, waiting_for_a_cluster):
    assert cache.client.get("k") is None
    with cache.connection() as conn:
        assert conn.get("k") is None

    assert waiting_for_a_cluster.is_alive()


@pytest.mark.usefixtures("waiting_for_a_cluster")
def test_a_fork_while_a_client_is_made_does_not_hang_the_child(cache):
    def work():
        with cache.connection() as conn:
            return cache.client.get("k"), conn.get("k")

    assert Child(work).outcome() == (None, None)


def test_sorted_sets_scans_and_scripts(cache):
    cache.client.mset({f"key {number}": number for number in range(500)})

    assert len(set(cache.client.scan_iter(match="key *", count=50))) == 500
    assert cache.client.zadd("z", {"a": 1, "b": 2}) == 2
    assert cache.client.zrangebyscore("z", 2, "+inf") == ["b"]
    assert cache.client.register_script("return KEYS[1] .. ARGV[1]")(["k"], ["v"]) == "kv"
    assert cache.stats().created == 1
    assert cache.stats().in_use == 0


def test_a_transaction_is_one_and_its_errors_are_told(cache):
    assert cache.client.pipeline().set("k", 1).incr("k").get("k").execute() == [True, 2, "2"]
    assert cache.client.pipeline(transaction=False).incr("k").incr("k").execute() == [3, 4]

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        cache.client.pipeline().set("l", 1).lpush("l", 2).set("after", 1).execute()

    assert cache.get("after") == "1"
    assert (cache.stats().in_use, cache.stats().closed) == (0, 0)


def test_a_transaction_with_watch_loses_no_update(cache):
    cache.set("n", 0)

    def add_one(pipe):
        value = int(pipe.get("n"))
        pipe.multi()
        pipe.set("n", value + 1)

    together(5, lambda _: [cache.client.transaction(add_one, "n") for _ in range(20)])

    assert cache.get("n") == "100"
    assert (cache.stats().in_use, cache.stats().errors) == (0, 0)


@pytest.mark.parametrize("transaction", [True, False])
def test_a_pipeline_of_redis_py_whose_connection_is_cut_runs_once(
    redis_server, redis_url, transaction
):
    with (
        FaultProxy("127.0.0.1", redis_server.port) as proxy,
        RedisPool(through(proxy, redis_server)) as cache,
    ):
        cache.get("n")
        hit = proxy.cut_after_request(1)
        pipe = cache.client.pipeline(transaction=transaction).incr("n").incr("n")

        with pytest.raises(OutcomeUnknown):
            pipe.execute()

        assert hit.wait(LONG)
        eventually(lambda: redis_server.ask("GET", "n") == "2")
        assert cache.incr("n") == 3
        assert cache.stats().in_use == 0


def test_a_lock_admits_one_at_a_time(cache):
    inside, most = [], []

    def work(number):
        for _ in range(5):
            with cache.client.lock("lock", timeout=LONG, sleep=0.001):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)

    together(4, work)

    assert len(most) == 20
    assert max(most) == 1
    assert cache.exists("lock") == 0


def test_a_subscriber_keeps_its_connection_and_what_it_leaves_is_not_lent(cache):
    pubsub = cache.client.pubsub()
    pubsub.subscribe("channel")
    assert pubsub.get_message(timeout=LONG)["type"] == "subscribe"
    assert cache.stats().in_use == 1

    assert cache.execute("PUBLISH", "channel", "grün") == 1
    assert pubsub.get_message(timeout=LONG)["data"] == "grün"
    with Stopwatch() as watch:
        assert pubsub.get_message(timeout=0.1) is None
    assert 0.09 < watch.seconds < 0.1 + SCHEDULING

    pubsub.close()
    assert cache.stats().in_use == 0
    assert together(5, lambda n: cache.execute("ECHO", str(n))) == ["0", "1", "2", "3", "4"]


def test_what_a_client_changes_is_not_lent_to_others(cache):
    assert cache.client.execute_command("SELECT", 3)
    assert cache.set("k", "in database 0")
    assert cache.client.execute_command("MULTI") == "OK"
    assert cache.get("k") == "in database 0"

    assert cache.stats().closed == 2


def test_closing_the_client_leaves_the_pool_open(cache):
    with cache.client as client:
        assert client.ping()
    client.close()

    assert cache.set("k", "v")
    assert cache.client.get("k") == "v"


def test_a_client_keeps_to_the_deadline(cache):
    with Stopwatch() as watch, pytest.raises(DeadlineExceeded), deadline(0.2):
        cache.client.blpop(["nothing"], timeout=0)

    assert watch.seconds < 0.2 + 0.05 + SCHEDULING
    assert cache.client.ping()


def test_no_repr_of_a_client_has_the_password(redis_server, cache):
    with cache.connection() as conn:
        shown = repr(conn) + repr(conn.connection_pool) + repr(conn.connection_pool.conn)
    shown += repr(cache.client) + repr(cache.client.connection_pool) + repr(cache.client.pipeline())

    assert redis_server.password not in shown


# -- connection ----------------------------------------------------------------------------------------


def test_blocks_within_one_another_have_connections_of_their_own(cache):
    with cache.connection() as outer, cache.connection() as inner:
        assert outer.client_id() != inner.client_id()
        assert cache.stats().in_use == 2

    assert cache.stats().in_use == 0
    assert cache.stats().idle == 2


def test_a_block_can_not_be_entered_twice_at_a_time(cache):
    block = cache.connection()
    with block as conn:
        with pytest.raises(RuntimeError, match="already entered"):
            block.__enter__()
        assert conn.ping()

    with block as conn:
        assert conn.ping()
    assert cache.stats().in_use == 0


def test_watch_and_multi_on_a_held_connection(cache):
    cache.set("k", "1")
    with cache.connection() as conn:
        with conn.pipeline() as pipe:
            pipe.watch("k")
            value = int(pipe.get("k"))
            pipe.multi()
            pipe.set("k", value + 1)
            assert pipe.execute() == [True]
        with conn.pipeline() as pipe:
            pipe.watch("k")
            assert cache.set("k", "theirs")
            pipe.multi()
            pipe.set("k", "mine")
            with pytest.raises(redis.WatchError):
                pipe.execute()

    assert cache.get("k") == "theirs"
    assert cache.stats().closed == 0


def test_a_pop_blocks_for_its_own_time_and_ends_when_there_is_something(redis_url):
    with RedisPool(redis_url, command_timeout=0.1) as cache, cache.connection() as conn:
        with Stopwatch() as watch:
            assert conn.blpop(["list"], timeout=0.3) is None
        assert 0.29 < watch.seconds < 0.3 + 0.2 + SCHEDULING

        waiting = Task(conn.blpop, ["list"], 0)
        eventually(lambda: cache.client.info("clients")["blocked_clients"] == 1)
        cache.execute("RPUSH", "list", "item")
        assert list(waiting.result()) == ["list", "item"]

    assert cache.stats().in_use == 0


def test_a_subscriber_on_a_held_connection(cache):
    with cache.connection() as conn, conn.pubsub() as pubsub:
        pubsub.psubscribe("news.*")
        assert pubsub.get_message(timeout=LONG)["type"] == "psubscribe"
        together(3, lambda n: cache.execute("PUBLISH", f"news.{n}", n))
        assert {pubsub.get_message(timeout=LONG)["data"] for _ in range(3)} == {"0", "1", "2"}

    assert cache.stats().in_use == 0
    assert cache.execute("PUBLISH", "news.x", "late") == 0


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt, GeneratorExit])
def test_an_exception_in_a_block_gives_the_connection_back(redis_url, error):
    with RedisPool(redis_url, max_size=1, acquire_timeout=0.5) as cache:
        for _ in range(3):
            with pytest.raises(error), cache.connection() as conn:
                conn.set("k", "v")
                raise error

        assert cache.get("k") == "v"
        assert (cache.stats().created, cache.stats().leaked) == (1, 0)


def test_blocks_in_many_threads_never_exceed_the_size(redis_url):
    with RedisPool(redis_url, max_size=3, acquire_timeout=LONG) as cache:
        now, most, lock = set(), [], threading.Lock()

        def work(number):
            for _ in range(20):
                with cache.connection() as conn:
                    me = conn.client_id()
                    with lock:
                        assert me not in now
                        now.add(me)
                        most.append(len(now))
                    assert conn.echo(str(number)) == str(number)
                    with lock:
                        now.remove(me)

        together(12, work)

        assert max(most) <= 3
        assert cache.stats().created <= 3
        assert cache.stats().leases == 240


def test_a_block_that_gets_no_connection_holds_none(redis_url):
    with RedisPool(redis_url, max_size=1, acquire_timeout=0.05) as cache:
        with cache.connection():
            for _ in range(3):
                with pytest.raises(PoolTimeout), cache.connection():
                    pytest.fail("there was none to be had")

        assert cache.set("k", "v")
        assert cache.leases() == []


def _take_a_client(conn):
    return conn.client().get


def _take_a_pipeline(conn):
    pipe = conn.pipeline()
    pipe.watch("k")
    pipe.unwatch()
    return lambda key: pipe.get(key).execute()


def _take_the_connection(conn):
    raw = conn.connection_pool.get_connection()
    return lambda key: raw.send_command("GET", key)


def _take_a_subscriber(conn):
    pubsub = conn.pubsub()
    pubsub.subscribe("channel")
    return lambda _: pubsub.get_message(timeout=LONG)


@pytest.mark.parametrize(
    "take", [_take_a_client, _take_a_pipeline, _take_the_connection, _take_a_subscriber]
)
def test_what_was_made_in_a_block_can_not_use_its_connection_afterwards(redis_url, take):
    with RedisPool(redis_url, max_size=1) as cache:
        with cache.connection() as conn:
            use = take(conn)

        with pytest.raises(redis.ConnectionError, match=r"given back|has ended"):
            use("k")
        with cache.connection() as conn:
            with pytest.raises(redis.ConnectionError, match=r"given back|has ended"):
                use("k")
            assert conn.echo("mine") == "mine"
        assert cache.execute("ECHO", "mine") == "mine"
        assert cache.stats().size == 1


def test_what_was_made_in_a_block_and_closed_there_leaves_the_connection_to_others(redis_url):
    with RedisPool(redis_url, max_size=1) as cache:
        for _ in range(2):
            with cache.connection() as conn:
                with conn.client() as single, conn.pipeline() as pipe:
                    single.set("k", "v")
                    pipe.watch("k")
                with conn.lock("lock", timeout=LONG):
                    pass

        assert cache.stats().created == 1


def test_a_callback_set_in_a_block_is_gone_with_it(cache):
    cache.set("k", "v")
    with cache.connection() as conn:
        conn.set_response_callback("get", lambda reply, **_: f"{reply}!")
        assert conn.get("k") == "v!"
    with cache.connection() as conn:
        assert conn.get("k") == "v"
        assert conn.execute_command("info", "server")["redis_version"]


# -- pub/sub -------------------------------------------------------------------------------------------


def test_a_subscription_goes_on_when_the_thread_that_made_it_has_ended(cache):
    heard, problems = queue.Queue(), []

    def subscribe():
        pubsub = cache.client.pubsub()
        pubsub.subscribe(channel=heard.put)
        return pubsub.run_in_thread(
            sleep_time=0.05, exception_handler=lambda error, *_: problems.append(error)
        )

    maker = Task(subscribe)
    reader = maker.result()
    maker.join()
    (lease,) = node_of(cache).lender.book.open
    eventually(lambda: lease.user is reader)

    node_of(cache).sweep()

    assert cache.execute("PUBLISH", "channel", "still here") == 1
    assert heard.get(timeout=LONG)["data"] == "still here"
    assert [holder.thread for holder in cache.leases()] == [reader]
    assert (cache.stats().in_use, cache.stats().leaked, problems) == (1, 0, [])
    reader.stop()
    reader.join(LONG)
    assert (cache.stats().in_use, cache.stats().leaked) == (0, 0)


def test_a_subscription_whose_threads_have_both_ended_is_taken_back(cache):
    pubsub = cache.client.pubsub()

    def subscribe():
        pubsub.subscribe("channel")
        reader = Task(pubsub.get_message, False, LONG)
        assert reader.result()["type"] == "subscribe"
        reader.join()

    maker = Task(subscribe)
    maker.result()
    maker.join()

    node_of(cache).sweep()

    assert (cache.stats().in_use, cache.stats().leaked) == (0, 1)
    with pytest.raises(redis.ConnectionError, match=r"given back|has ended"):
        pubsub.get_message(timeout=LONG)


def test_a_reader_that_ends_leaves_the_block_its_connection(cache):
    with cache.connection() as conn, conn.pubsub() as pubsub:
        pubsub.subscribe("channel")
        reader = Task(pubsub.get_message, False, LONG)
        reader.result()
        reader.join()

        node_of(cache).sweep()

        assert cache.execute("PUBLISH", "channel", "x") == 1
        assert pubsub.get_message(timeout=LONG)["data"] == "x"


@pytest.fixture
def cut_subscriber(redis_server, redis_url):
    """Give a pool, and a subscriber whose connection was cut."""
    with (
        FaultProxy("127.0.0.1", redis_server.port) as proxy,
        RedisPool(through(proxy, redis_server)) as cache,
    ):
        pubsub = cache.client.pubsub()
        pubsub.subscribe("channel")
        assert pubsub.get_message(timeout=LONG)["type"] == "subscribe"
        proxy.cut()
        yield cache, pubsub
        pubsub.close()


def test_a_subscription_that_was_cut_is_made_anew_and_counted(cut_subscriber):
    cache, pubsub = cut_subscriber
    with contextlib.suppress(redis.ConnectionError):
        pubsub.get_message(timeout=LONG)
    eventually(lambda: cache.execute("PUBLISH", "channel", "again") == 1)

    found = iter(lambda: pubsub.get_message(timeout=LONG), None)
    assert next(message["data"] for message in found if message["type"] == "message") == "again"
    stats = cache.stats()
    assert (stats.created, stats.closed, stats.size) == (3, 1, 2)
    pubsub.close()
    assert (cache.stats().size, cache.stats().in_use) == (1, 0)


def test_a_subscription_is_not_made_anew_when_the_pool_is_closed(cut_subscriber):
    cache, pubsub = cut_subscriber
    cache.close(timeout=0)

    for _ in range(2):
        with pytest.raises(redis.ConnectionError, match="its pool is closed"):
            pubsub.get_message(timeout=LONG)


@pytest.mark.parametrize(
    "wait", [lambda p: p.get_message(timeout=LONG), lambda p: next(p.listen())]
)
def test_waiting_for_a_message_keeps_to_the_deadline_and_the_subscription(cache, wait):
    with cache.client.pubsub() as pubsub:
        pubsub.subscribe("channel")
        pubsub.get_message(timeout=LONG)

        with Stopwatch() as watch, pytest.raises(DeadlineExceeded), deadline(0.2):
            wait(pubsub)

        assert watch.seconds < 0.2 + 0.05 + SCHEDULING
        assert cache.execute("PUBLISH", "channel", "x") == 1
        assert pubsub.get_message(timeout=LONG)["data"] == "x"


@pytest.mark.parametrize("parser", [DefaultParser, _RESP3Parser])
def test_a_message_is_waited_for_though_no_command_was_sent_for_long(
    redis_url, monkeypatch, parser
):
    options = dial.connection_options
    monkeypatch.setattr(
        dial, "connection_options", lambda config: {**options(config), "parser_class": parser}
    )
    with RedisPool(redis_url, command_timeout=0.1) as cache, cache.client.pubsub() as pubsub:
        pubsub.subscribe("channel")
        pubsub.get_message(timeout=LONG)

        for _ in range(2):
            with Stopwatch() as watch:
                assert pubsub.get_message(timeout=0.2) is None
            assert watch.seconds > 0.19

        cache.execute("PUBLISH", "channel", "x")
        assert pubsub.get_message(timeout=LONG)["data"] == "x"


# -- what the pool learns ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["pipeline", "transaction", "connection", "client"])
def test_a_server_that_became_a_replica_is_left_however_that_was_found_out(way):
    def answer(words):
        if words[0] == b"EXEC":
            return b"-EXECABORT Transaction discarded because of previous errors.\r\n"
        return b"+OK\r\n" if words[0] == b"MULTI" else b"-READONLY You can't write.\r\n"

    def block(cache):
        with cache.connection() as conn:
            conn.set("k", "v")

    def single(cache):
        with cache.client.client() as client:
            client.set("k", "v")

    calls = {
        "pipeline": lambda cache: cache.client.pipeline(transaction=False).set("k", "v").execute(),
        "transaction": lambda cache: cache.client.pipeline().set("k", "v").execute(),
        "connection": block,
        "client": single,
    }
    with ScriptedRedis(answer) as server, RedisPool(server.url) as cache:
        for number in range(3):
            with pytest.raises(redis.ReadOnlyError):
                calls[way](cache)
            assert server.connections == number + 1
        assert cache.stats().size == 0
