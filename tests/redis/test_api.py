"""What RedisPool does, against a real server."""

from __future__ import annotations

import gc
import math
import threading
import warnings
from collections import Counter
from datetime import timedelta

import pytest
import redis
from redis.credentials import UsernamePasswordCredentialProvider

from poolkit import BackendUnavailable, ConfigError, PoolClosed, RedisConfig, RedisPool
from poolkit.core.shelf import FRESH
from poolkit.redis.transports import TcpConnection
from tests.core.support import LONG, Task, eventually, together
from tests.faults.proxy import FaultProxy
from tests.recorder import Recorder

from .support import through


@pytest.fixture
def cache(redis_url):
    """Give a pool on the empty shared server."""
    with RedisPool(redis_url) as cache:
        yield cache


# -- commands ------------------------------------------------------------------------------------------


def test_what_was_set_is_got(cache):
    assert cache.get("k") is None
    assert cache.set("k", "grün") is True
    assert cache.get("k") == "grün"
    assert cache.get_bytes("k") == "grün".encode()
    assert cache.delete("k", "no such key") == 1
    assert cache.get("k") is None


@pytest.mark.parametrize(
    "value", ["text", b"bytes", 7, 2.5, bytearray(b"array"), memoryview(b"view")]
)
def test_values_are_text_bytes_and_numbers(cache, value):
    cache.set("k", value)

    expected = (
        bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else str(value).encode()
    )
    assert cache.get_bytes("k") == expected


@pytest.mark.parametrize("value", [None, True, object(), ["list"], {"a": 1}])
@pytest.mark.parametrize(
    "call",
    [
        lambda cache, value: cache.set("k", value),
        lambda cache, value: cache.execute("LPUSH", "k", value),
        lambda cache, value: cache.pipeline([("GET", "k"), ("SET", "k", value)]),
        lambda cache, value: cache.mset({"k": value}),
    ],
)
def test_other_values_are_refused_before_anything_is_sent(redis_url, call, value):
    cache = RedisPool(redis_url)
    with pytest.raises(ConfigError, match=r"word 2 of \w+ must be str, bytes or a number, not"):
        call(cache, value)
    assert cache.stats().created == 0


@pytest.mark.slow
def test_a_key_of_600_mb_is_refused_before_anything_is_sent(redis_url):
    cache = RedisPool(redis_url)
    with pytest.raises(ConfigError, match="longer than the 512 MiB"):
        cache.set(bytes(600_000_000), "v")
    assert cache.stats().created == 0


@pytest.mark.parametrize("ttl", [100, 99.5, timedelta(minutes=1)])
def test_a_value_lives_as_long_as_it_is_told(cache, ttl):
    cache.set("k", "v", ttl=ttl)

    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    assert seconds - 5 < cache.execute("PTTL", "k") / 1000 <= seconds

    cache.set("k", "w", keep_ttl=True)
    assert cache.execute("PTTL", "k") > 0
    cache.set("k", "w")
    assert cache.execute("PTTL", "k") == -1
    assert cache.expire("k", ttl) is True
    assert seconds - 5 < cache.execute("PTTL", "k") / 1000 <= seconds
    assert cache.expire("no such key", ttl) is False


def test_conditions_of_set(cache):
    assert cache.set("k", "v", xx=True) is False
    assert cache.set("k", "v", nx=True) is True
    assert cache.set("k", "w", nx=True, ttl=5) is False
    assert cache.set("k", "w", xx=True) is True
    assert cache.get("k") == "w"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nx": True, "xx": True}, "nx and xx"),
        ({"ttl": 5, "keep_ttl": True}, "ttl and keep_ttl"),
        ({"ttl": 0}, "at least a millisecond"),
        ({"ttl": -1}, "ttl must be"),
        ({"ttl": "5"}, "ttl must be a number"),
        ({"ttl": math.nan}, "ttl must be"),
    ],
)
def test_contradictions_are_told(cache, options, message):
    with pytest.raises(ConfigError, match=message):
        cache.set("k", "v", **options)


def test_counters_and_several_keys(cache):
    assert cache.incr("n") == 1
    assert cache.incr("n", 41) == 42
    cache.mset({"a": 1, "b": "two"})
    assert cache.mget(["a", "no", "b"]) == ["1", None, "two"]
    assert cache.mget([]) == []
    assert cache.exists("a", "a", "no") == 2
    assert cache.delete() == cache.exists() == 0
    with pytest.raises(ConfigError, match="keys must be a list"):
        cache.mget("ab")


def test_hashes(cache):
    assert cache.hgetall("h") == {}
    assert cache.hset("h", {"a": 1, "b": 2}) == 2
    assert cache.hset("h", {"b": 3}) == 0
    assert cache.hget("h", "b") == "3"
    assert cache.hget("h", "no") is None
    assert cache.hgetall("h") == {"a": "1", "b": "3"}
    assert cache.hdel("h", "a", "no") == 1
    with pytest.raises(ConfigError, match="at least one field"):
        cache.hset("h", {})


def test_any_command(cache):
    assert cache.execute("RPUSH", "l", "a", "b") == 2
    assert cache.execute("lrange", "l", 0, -1) == ["a", "b"]
    assert cache.execute("LRANGE", "l", 0, -1, decode=False) == [b"a", b"b"]
    assert cache.execute("CONFIG GET", "maxclients") == cache.execute("CONFIG", "GET", "maxclients")
    assert cache.execute("ZADD", "z", 1.5, "m") == 1
    assert cache.execute("ZSCORE", "z", "m") == 1.5
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        cache.execute("INCR", "l")
    with pytest.raises(ConfigError, match="begins with its name"):
        cache.execute()


@pytest.mark.parametrize(
    "words",
    [("MULTI",), ("WATCH", "k"), ("SELECT", 1), ("SUBSCRIBE", "c"), ("CLIENT", "REPLY", "OFF")],
)
def test_what_changes_a_connection_is_sent_to_a_block(cache, words):
    with pytest.raises(ConfigError, match=r"with pool\.connection"):
        cache.execute(*words)
    with pytest.raises(ConfigError, match=r"with pool\.connection"):
        cache.pipeline([words])


def test_bytes_on_request(redis_url):
    with RedisPool(redis_url, decode_responses=False) as cache:
        cache.set("k", "v")
        assert cache.get("k") == b"v"
        assert cache.client.get("k") == b"v"
        assert cache.hgetall("no") == {}


# -- pipelines -----------------------------------------------------------------------------------------


def test_a_pipeline_answers_in_order_in_one_round_trip(redis_server, redis_url):
    with (
        FaultProxy("127.0.0.1", redis_server.port) as proxy,
        RedisPool(through(proxy, redis_server)) as cache,
    ):
        cache.get("k")
        proxy.reset_round_trips()

        answers = cache.pipeline(("INCR", "n") for _ in range(100))

        assert answers == list(range(1, 101))
        assert proxy.round_trips == 1
        assert cache.pipeline([]) == []


def test_an_error_in_a_pipeline_names_its_command_and_the_others_run(cache):
    commands = [("SET", "a", 1), ("LPUSH", "a", "x"), ("INCR", "a")]

    with pytest.raises(redis.ResponseError, match="command 1 of the pipeline, LPUSH: WRONGTYPE"):
        cache.pipeline(commands)
    assert cache.get("a") == "2"
    assert (cache.stats().operations, cache.stats().errors) == (2, 1)

    answers = cache.pipeline(commands, raise_on_error=False)
    assert (answers[0], answers[2]) == ("OK", 2)
    assert isinstance(answers[1], redis.ResponseError)
    assert (cache.stats().operations, cache.stats().errors) == (3, 1)


@pytest.mark.parametrize("bad", ["GET k", None, b"GET", 5, ()])
def test_a_bad_element_of_a_pipeline_is_told_before_anything_is_sent(cache, bad):
    with pytest.raises(ConfigError):
        cache.pipeline([("SET", "a", 1), bad])
    assert cache.get("a") is None


# -- redis-py's API ------------------------------------------------------------------------------------


def test_the_whole_of_redis_py_works_over_the_pool(cache):
    assert cache.client.zadd("z", {"a": 1, "b": 2}) == 2
    assert cache.client.zrange("z", 0, -1, withscores=True)[0][0] == "a"
    assert cache.client.pipeline().set("k", 1).incr("k").execute() == [True, 2]
    assert sorted(cache.client.scan_iter()) == ["k", "z"]
    with cache.client.lock("lock", timeout=LONG):
        assert cache.exists("lock") == 1
    assert cache.client.blpop(["nothing"], timeout=0.01) is None
    script = cache.client.register_script("return ARGV[1]")
    assert script(args=["x"]) == "x"

    assert cache.stats().in_use == 0
    assert cache.stats().created == 1


def test_a_transaction_notices_what_others_did_meanwhile(cache):
    with cache.connection() as conn, conn.pipeline() as pipe:
        pipe.watch("k")
        pipe.multi()
        pipe.set("k", "mine")
        cache.set("k", "theirs")
        with pytest.raises(redis.WatchError):
            pipe.execute()
    assert cache.get("k") == "theirs"


def test_messages_are_published_and_heard(cache):
    with cache.connection() as conn:
        pubsub = conn.pubsub()
        pubsub.subscribe("channel")
        assert pubsub.get_message(timeout=LONG)["type"] == "subscribe"
        assert pubsub.get_message(timeout=0) is None
        cache.client.publish("channel", "hello")
        assert pubsub.get_message(timeout=LONG)["data"] == "hello"
    assert cache.get("k") is None


def test_a_held_connection_is_one_connection(cache):
    with cache.connection() as conn:
        assert conn.client_id() == conn.client_id()
        (lease,) = cache.leases()
        assert lease.thread_name == threading.current_thread().name
        assert "test_api.py" in lease.call_site
    with pytest.raises(redis.ConnectionError, match="block that held this connection has ended"):
        conn.ping()
    assert cache.leases() == []


# -- where it connects ---------------------------------------------------------------------------------


def test_over_a_unix_socket(redis_server, redis_url):
    with RedisPool(redis_server.socket_url) as cache:
        assert cache.set("k", "v")
    with RedisPool(redis_url) as cache:
        assert cache.get("k") == "v"


def test_another_database(redis_url):
    with RedisPool(redis_url.rstrip("0") + "3") as third, RedisPool(redis_url) as first:
        third.set("k", "v")
        assert first.get("k") is None
        third.execute("FLUSHDB")


def test_a_credential_provider_and_a_client_name(redis_server):
    provider = UsernamePasswordCredentialProvider("default", redis_server.password)
    with RedisPool(
        f"redis://127.0.0.1:{redis_server.port}", credential_provider=provider, client_name="mine"
    ) as cache:
        listed = cache.execute("CLIENT", "LIST")
        assert "name=mine" in listed
        assert "lib-name=redis-py(poolkit)" in listed


def test_tls_is_verified(tls_redis):
    with RedisPool(tls_redis.tls_url, ca_file=str(tls_redis.ca_file)) as cache:
        cache.set("k", "x" * 1_000_000)
        assert cache.get("k") == "x" * 1_000_000
        assert cache.pipeline([("GET", "k")] * 3) == ["x" * 1_000_000] * 3

    with RedisPool(tls_redis.tls_url) as cache, pytest.raises(BackendUnavailable) as caught:
        cache.get("k")
    assert "certificate verify failed" in str(caught.value).lower()
    assert caught.value.retry_after is None

    with RedisPool(tls_redis.tls_url, verify=False) as cache:
        assert cache.exists("k") == 1


def test_lazy_or_eager(own_redis):
    server = own_redis()
    with RedisPool(server.url) as lazy:
        assert lazy.stats().created == 0
    with RedisPool(server.url, lazy_connect=False) as eager:
        assert eager.stats().created == 1
    server.stop()
    with (
        pytest.raises(BackendUnavailable),
        RedisPool(server.url, lazy_connect=False, acquire_timeout=0.1) as unreachable,
    ):
        pytest.fail(f"{unreachable!r} was entered")
    assert not any(thread.name.startswith("poolkit") for thread in threading.enumerate())


def test_the_first_answer_takes_two_round_trips(redis_server, redis_url):
    with (
        FaultProxy("127.0.0.1", redis_server.port) as proxy,
        RedisPool(through(proxy, redis_server), client_name="x") as cache,
    ):
        cache.get("k")

        assert proxy.round_trips == 2


# -- what it tells of itself ---------------------------------------------------------------------------


def test_counters_are_exact_after_many_threads(cache):
    def work(number):
        for turn in range(200):
            assert cache.execute("ECHO", f"{number}:{turn}") == f"{number}:{turn}"

    together(50, work)

    stats = cache.stats()
    assert (stats.operations, stats.leases + stats.shared, stats.errors) == (10_000, 10_000, 0)
    assert stats.in_use == stats.waiting == 0
    assert stats.created - stats.closed == stats.size == stats.idle <= 20
    assert (stats.wait.count, stats.use.count) == (10_000, stats.leases)


def test_listeners_hear_what_happens(redis_url):
    recorder = Recorder()
    with RedisPool(redis_url, listeners=[recorder], name="heard") as cache:
        cache.get("k")
        with pytest.raises(redis.ResponseError):
            cache.execute("NOSUCHCOMMAND")

    assert Counter(recorder.kinds()) == {
        "opened": 1,
        "connected": 1,
        "ready": 1,
        "acquired": 2,
        "released": 2,
        "failed": 1,
        "removed": 1,
        "closed": 1,
    }
    assert recorder.kinds()[:3] == ["opened", "connected", "ready"]
    assert {event.pool for _, event in recorder.events} == {"heard"}


def test_health(own_redis):
    server = own_redis()
    with RedisPool(server.url, offline_queue=False) as cache:
        assert cache.health_check() is True
        server.kill()
        assert cache.health_check() is False
    assert cache.health_check() is False


def test_a_closed_pool_stays_closed_and_leaves_nothing(redis_url):
    cache = RedisPool(redis_url)
    cache.get("k")
    cache.close()
    cache.close()

    for call in (lambda: cache.get("k"), cache.open, lambda: cache.client.get("k")):
        with pytest.raises(PoolClosed):
            call()
    assert cache.stats().size == 0
    assert not any(thread.name.startswith("poolkit") for thread in threading.enumerate())


def test_idle_connections_are_closed_in_time(redis_url):
    with RedisPool(redis_url, idle_timeout=0.1) as cache:
        cache.get("k")
        eventually(lambda: cache.stats().size == 0)
        assert cache.get("k") is None
        assert cache.stats().created == 2


def test_a_connection_is_replaced_after_its_lifetime(redis_url):
    with RedisPool(redis_url, max_lifetime=0.2) as cache:
        first = cache.execute("CLIENT", "ID")
        eventually(lambda: cache.execute("CLIENT", "ID") != first)
        assert cache.stats().size == 1


def test_a_connection_that_the_server_closed_while_idle_is_not_lent(cache, redis_url):
    first = cache.execute("CLIENT", "ID")
    with redis.Redis.from_url(redis_url) as other:
        other.client_kill_filter(_id=first)
    eventually(lambda: cache.stats().size == 0)  # seen by the sweep, without any call

    assert cache.incr("n") == 1
    assert cache.stats().errors == 0
    assert FRESH < 1.0


# The collector may come to a socket before the connection that would close it; what it says then is true.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_a_dropped_pool_is_collected(redis_url):
    cache = RedisPool(redis_url)
    cache.get("k")
    with redis.Redis.from_url(redis_url) as other:
        before = len(other.client_list())
        del cache
        gc.collect()
        eventually(lambda: len(other.client_list()) < before)


def test_a_dropped_pool_leaves_no_socket_to_the_collector(redis_url, monkeypatch):
    reach = TcpConnection._reach

    def reach_late(conn):
        gc.collect(0)  # so that the collector comes to the socket before it comes to the connection
        return reach(conn)

    monkeypatch.setattr(TcpConnection, "_reach", reach_late)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        gc.disable()
        try:
            cache = RedisPool(redis_url)
            cache.get("k")
            del cache
            gc.collect()
        finally:
            gc.enable()

    assert [each for each in warned if each.category is ResourceWarning] == []


def test_a_forgotten_connection_is_taken_back(redis_url):
    with RedisPool(redis_url, max_size=1, acquire_timeout=LONG) as cache:
        block = cache.connection()
        block.__enter__()
        del block
        gc.collect()

        assert Task(cache.get, "k").result() is None
        assert cache.stats().leaked == 1


def test_a_config_or_its_fields(redis_url):
    config = RedisConfig(url=redis_url, name="mine")
    assert RedisPool(config).name == "mine"
    with pytest.raises(ConfigError, match="not both"):
        RedisPool(config, name="other")
    with pytest.raises(ConfigError, match="url is given twice"):
        RedisPool(redis_url, url=redis_url)
