"""Logging in, TLS, and how little it takes to be ready."""

from __future__ import annotations

import threading

import pytest
import redis
import trustme
from redis.credentials import CredentialProvider

from poolkit import BackendUnavailable, RedisPool
from poolkit.core import resolving
from poolkit.redis import transports
from tests.core.support import LONG, Stopwatch, Task, eventually, together
from tests.faults.proxy import FaultProxy
from tests.http.scripted import Blackhole

from .scripted import ScriptedRedis
from .support import node_of, through

OTHER_NAME = "127.1"
"""Leads to 127.0.0.1 (inet_aton(3)), and is in no certificate."""


class Rotating(CredentialProvider):
    """Gives what it has at the moment, and counts."""

    def __init__(self, user, password):
        self.current = (user, password)
        self.asked = 0

    def get_credentials(self):
        self.asked += 1
        return self.current


@pytest.fixture
def user(redis_server, redis_url):
    """Give the name and the password of a user that may do all."""
    redis_server.ask("ACL", "SETUSER", "app", "on", ">p@ss/w:rd", "~*", "&*", "+@all")
    yield "app", "p@ss/w:rd"
    redis_server.ask("ACL", "DELUSER", "app")


# -- logging in ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["url", "keywords", "provider"])
def test_a_user_logs_in(redis_server, user, way):
    at = f"127.0.0.1:{redis_server.port}"
    given = {
        "url": {"url": f"redis://app:p%40ss%2Fw%3Ard@{at}"},
        "keywords": {"url": f"redis://{at}", "username": user[0], "password": user[1]},
        "provider": {"url": f"redis://{at}", "credential_provider": Rotating(*user)},
    }[way]

    with RedisPool(**given) as cache:
        assert cache.execute("ACL", "WHOAMI") == "app"
        assert cache.client.acl_whoami() == "app"


@pytest.fixture
def limited(redis_server, redis_url):
    """Give the address for a user that may read and write keys, and no more."""
    redis_server.ask("ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@read", "+@write")
    yield f"redis://limited:pw@127.0.0.1:{redis_server.port}"
    redis_server.ask("ACL", "DELUSER", "limited")


def test_a_user_that_may_only_read_and_write_can_do_that(limited):
    with RedisPool(limited, lazy_connect=False) as cache:
        assert cache.set("k", "v")
        assert cache.client.get("k") == "v"
        assert cache.pipeline([("GET", "k")]) == ["v"]
        with cache.connection() as conn:
            assert conn.get("k") == "v"
        assert cache.health_check()
        with pytest.raises(redis.exceptions.NoPermissionError):
            cache.execute("PING")


def test_a_user_that_may_not_ask_for_a_pong_keeps_its_connections(limited):
    with RedisPool(limited) as cache:
        cache.get("k")
        node_of(cache)._node.shelf.suspect()

        cache.get("k")

        assert cache.stats().created == 1


def test_a_user_of_a_cluster_needs_to_know_no_more_than_the_slots(redis_cluster, tags):
    rules = ("on", ">pw", "~*", "+@read", "+@write", "+cluster|slots")
    for server in redis_cluster.servers:
        server.ask("ACL", "SETUSER", "limited", *rules)
    try:
        with RedisPool(nodes=redis_cluster.nodes, username="limited", password="pw") as cache:
            cache.mset(dict.fromkeys(tags, "v"))
            assert cache.mget(tags) == ["v"] * 3
    finally:
        for server in redis_cluster.servers:
            server.ask("ACL", "DELUSER", "limited")


def test_a_provider_is_asked_for_each_connection(redis_server, user):
    provider = Rotating(*user)
    url = f"redis://127.0.0.1:{redis_server.port}"
    with RedisPool(url, credential_provider=provider) as cache:
        with cache.connection() as first:
            assert first.acl_whoami() == "app"
            provider.current = ("default", redis_server.password)
            with cache.connection() as second:
                assert second.acl_whoami() == "default"

        assert provider.asked == cache.stats().created == 2


@pytest.mark.parametrize("given", ["s3cret", ""])
def test_a_wrong_password_is_told_and_not_shown(redis_server, redis_url, given):
    auth = f":{given}@" if given else ""
    url = f"redis://{auth}127.0.0.1:{redis_server.port}"
    pool = RedisPool(url, lazy_connect=False, acquire_timeout=LONG)

    with Stopwatch() as watch, pytest.raises(BackendUnavailable) as caught:
        pool.open()
    pool.close()

    assert watch.seconds < 5
    assert caught.value.retry_after is None
    assert ("invalid username-password" if given else "HELLO must be called") in str(caught.value)
    assert "s3cret" not in str(caught.value) + repr(caught.value.__cause__)


def test_a_password_that_was_mended_is_used_after_a_moment(redis_server, redis_url, user):
    provider = Rotating("app", "old")
    url = f"redis://127.0.0.1:{redis_server.port}"
    with RedisPool(url, credential_provider=provider, acquire_timeout=0.2) as cache:
        with pytest.raises(BackendUnavailable):
            cache.get("k")
        provider.current = user

        def works():
            try:
                return cache.execute("ACL", "WHOAMI") == "app"
            except BackendUnavailable:
                return False

        eventually(works, timeout=5)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            # Redis 5.0.14
            "unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `s3cret`, ",
            "Redis 6 or newer is needed",
        ),
        ("no such thing: HELLO 3 AUTH default s3cret", "no such thing"),
        ("max number of clients reached", "max number of clients reached"),
        ("DENIED Redis is running in protected mode", "protected mode"),
    ],
    ids=["unknown", "quoted", "full", "protected"],
)
def test_a_server_that_refuses_the_greeting_is_told_and_the_password_not_shown(caplog, said, told):
    caplog.set_level("DEBUG")
    with (
        ScriptedRedis(lambda _: b"", hello=f"-ERR {said}\r\n".encode()) as server,
        RedisPool(server.url.replace("redis://", "redis://:s3cret@"), acquire_timeout=0.2) as cache,
    ):
        with pytest.raises(BackendUnavailable, match=told) as caught:
            cache.get("k")
        health = cache.health_check()

    shown = [*map(repr, _chain(caught.value)), str(caught.value), repr(health), caplog.text]
    assert "s3cret" not in " ".join(shown)


def _chain(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# -- getting ready -------------------------------------------------------------------------------------


def test_every_connection_has_the_name_and_the_database(redis_url):
    with RedisPool(redis_url.removesuffix("/0"), db=4, client_name="mine") as cache:

        def look(_):
            with cache.connection() as conn:
                blocks.wait(LONG)
                info = conn.client_info()
                return info["name"], info["db"], info["lib-name"], info["resp"]

        blocks = threading.Barrier(5)

        assert together(5, look) == [("mine", 4, "redis-py(poolkit)", "3")] * 5
        assert cache.stats().created == 5


@pytest.mark.parametrize(
    "settings",
    [{}, {"ready_check": False}, {"client_name": "x", "db": 3}, {"decode_responses": False}],
    ids=str,
)
def test_the_first_answer_takes_at_most_two_round_trips(redis_server, redis_url, settings):
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        url = through(proxy, redis_server).removesuffix("/0")
        with RedisPool(url, **settings) as cache:
            assert cache.get("k") is None
            assert proxy.round_trips <= 2

            proxy.reset_round_trips()
            assert cache.get("k") is None
            assert proxy.round_trips == 1
            assert proxy.connections_total == 1


def test_a_lazy_pool_connects_at_the_first_use_and_an_eager_one_when_opened(
    redis_server, redis_url
):
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        url = through(proxy, redis_server)
        lazy, eager = RedisPool(url), RedisPool(url, lazy_connect=False)
        with lazy:
            assert proxy.connections_total == 0
            lazy.get("k")
            assert proxy.connections_total == 1
        with eager:
            assert proxy.connections_total == 2
            assert eager.stats().size == 1


def test_an_eager_pool_that_can_not_connect_opens_no_block():
    pool = RedisPool("redis://127.0.0.1:1", lazy_connect=False, offline_queue=False)

    with pytest.raises(BackendUnavailable, match="Connection refused"), pool:
        pytest.fail("the block was entered")

    assert pool.stats().size == 0


@pytest.mark.parametrize("said", ["BUSY Redis is busy running a script.", "LOADING wait"])
def test_a_server_that_is_not_ready_yet_is_waited_for_by_the_first_command(said):
    answers = iter([f"-{said}\r\n".encode()] * 2)
    with (
        ScriptedRedis(lambda _: b"$1\r\nv\r\n", ping=lambda: next(answers, b"+PONG\r\n")) as server,
        RedisPool(server.url, acquire_timeout=LONG) as cache,
    ):
        assert cache.get("k") == "v"


def test_a_real_server_that_runs_a_script_is_waited_for_by_the_first_command(own_redis):
    server = own_redis(settings={"busy-reply-threshold": "10"})
    with RedisPool(server.url) as other:
        script = Task(other.execute, "EVAL", "while true do end", 0)
        eventually(lambda: _is_busy(server))
        with RedisPool(server.url, acquire_timeout=LONG) as cache:
            first = Task(cache.get, "k")
            eventually(lambda: cache.stats().waiting == 1 or not first.is_alive())
            server.ask("SCRIPT", "KILL")

            assert first.result() is None
        assert "Error running script" in str(script.end()) or script.error is not None


def _is_busy(server):
    try:
        server.ask("GET", "k")
    except Exception as error:
        return "BUSY" in str(error)
    return False


# -- TLS -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_server_that_proves_who_it_is_is_trusted(tls_redis, host):
    url = tls_redis.tls_url.replace("localhost", host)
    with RedisPool(url, ca_file=str(tls_redis.ca_file)) as cache:
        assert cache.set("k", "v")
        assert together(8, lambda n: cache.execute("ECHO", str(n))) == [str(n) for n in range(8)]
        assert cache.client.get("k") == "v"
        with cache.connection() as conn:
            assert conn.get("k") == "v"


def test_tls_by_keyword(tls_redis):
    url = tls_redis.tls_url.replace("rediss://", "redis://")
    with RedisPool(url, tls=True, ca_file=str(tls_redis.ca_file)) as cache:
        assert cache.set("k", "v")


def refusal(url, **settings):
    """Return why a pool could not connect, and check that it said so at once and kept its secret."""
    with RedisPool(url, acquire_timeout=LONG, **settings) as cache:
        with Stopwatch() as watch, pytest.raises(BackendUnavailable) as caught:
            cache.get("k")
        assert cache.stats().size == 0
    assert watch.seconds < 5
    assert caught.value.retry_after is None  # only a person can mend it
    assert url.split("@")[0].split(":")[-1] not in str(caught.value)
    return str(caught.value)


def test_a_server_of_an_unknown_authority_is_refused(tls_redis, tmp_path):
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)

    assert "certificate verify failed" in refusal(tls_redis.tls_url)
    assert "certificate verify failed" in refusal(tls_redis.tls_url, ca_file=str(stranger))


def test_a_server_by_another_name_is_refused(tls_redis):
    url = tls_redis.tls_url.replace("localhost", OTHER_NAME)

    assert "ostname mismatch" in refusal(url, ca_file=str(tls_redis.ca_file))


def test_a_server_is_taken_unseen_only_if_told_so(tls_redis):
    url = tls_redis.tls_url.replace("localhost", OTHER_NAME)

    with RedisPool(url, verify=False) as cache:
        assert cache.set("k", "v")


def test_tls_to_a_port_without_it_is_refused_and_no_password_sent(redis_server, redis_url):
    url = redis_url.replace("redis://", "rediss://")
    with RedisPool(url, verify=False, connect_timeout=0.2, acquire_timeout=0.2) as cache:
        with pytest.raises(BackendUnavailable) as caught:
            cache.get("k")

    assert redis_server.password not in str(caught.value)


def test_pooled_tls_connections_are_kept(tls_redis):
    with RedisPool(tls_redis.tls_url, ca_file=str(tls_redis.ca_file), max_size=2) as cache:
        for number in range(50):
            assert cache.set("k", number)

        assert cache.stats().created == 1


# -- a host with several addresses ---------------------------------------------------------------------


def test_an_address_that_does_not_answer_leaves_the_others_their_time(redis_url, monkeypatch):
    def resolve(host, port, until):
        mute = resolving.resolve("127.0.0.1", hole.port, until)
        return [*mute, *resolving.resolve(host, port, until)]

    with Blackhole() as hole:
        monkeypatch.setattr(transports, "resolve", resolve)
        with RedisPool(redis_url, connect_timeout=LONG, acquire_timeout=LONG) as cache:
            with Stopwatch() as watch:
                assert cache.execute("PING") == "PONG"
            assert watch.seconds < LONG / 2
            assert cache.stats().created == 1
