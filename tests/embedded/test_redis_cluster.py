"""The embedded cluster is one from the start, survives its masters, and lets its slots be moved."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as driver

from poolkit.core.errors import ConfigError
from poolkit.embedded import EmbeddedError, RedisCluster, RedisServer, guardian
from poolkit.embedded import redis_cluster as make_cluster
from tests.embedded.owners import SOON, gone, owner, told


@pytest.fixture
def client(redis_cluster: RedisCluster) -> Iterator[driver.RedisCluster]:
    with driver.RedisCluster.from_url(
        redis_cluster.urls[0], decode_responses=True, socket_timeout=1
    ) as client:
        yield client
    with warnings.catch_warnings():
        # redis-py leaves open what it had to a node that it drops.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def another(cluster: RedisCluster, master: RedisServer) -> RedisServer:
    """Return another master."""
    return next(
        server
        for server in cluster.servers
        if server is not master and server.info("INFO", "replication")["role"] == "master"
    )


class TestFromTheStart:
    def test_every_slot_has_a_master_and_a_replica(
        self, redis_cluster: RedisCluster, client: driver.RedisCluster
    ) -> None:
        assert len(client.get_primaries()) == len(client.get_replicas()) == 3
        assert {node.name for node in client.get_nodes()} == set(redis_cluster.nodes)

    def test_all_keys_can_be_written(self, client: driver.RedisCluster) -> None:
        for number in range(300):
            client.set(f"key-{number}", number)
        assert all(client.dbsize(target_nodes=node) for node in client.get_primaries())
        assert client.get("key-299") == "299"

    def test_without_the_password_nothing_is_told(self, redis_cluster: RedisCluster) -> None:
        url = redis_cluster.urls[0].replace(f":{redis_cluster.password}@", "")
        with driver.Redis.from_url(url) as client:
            with pytest.raises(driver.AuthenticationError):
                client.execute_command("CLUSTER", "SLOTS")
        assert redis_cluster.password not in repr(redis_cluster) + repr(redis_cluster.servers)

    def test_settings_reach_all_of_it(self) -> None:
        settings = {"cluster-require-full-coverage": "no", "maxmemory": "5mb"}
        with make_cluster(masters=1, replicas=0, settings=settings) as cluster:
            answer = cluster.servers[0].ask("CONFIG", "GET", *settings)
            assert dict(zip(answer[::2], answer[1::2], strict=True)) == {
                "cluster-require-full-coverage": "no",
                "maxmemory": "5242880",
            }

    @pytest.mark.parametrize(
        "options",
        [
            {"masters": 0},
            {"replicas": -1},
            {"startup_timeout": 0},
            {"settings": {"cluster-enabled": "no"}},
        ],
    )
    def test_what_makes_no_sense_is_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            make_cluster(**options)


class TestFailover:
    @pytest.mark.parametrize("failure", ["kill", "pause"])
    def test_a_replica_takes_over(
        self, redis_cluster: RedisCluster, client: driver.RedisCluster, failure: str
    ) -> None:
        client.set("a", "1")
        assert client.execute_command("WAIT", 1, 5000, target_nodes=client.get_node_from_key("a"))
        before = redis_cluster.master_of("a")
        getattr(before, failure)()
        redis_cluster.wait_ok()
        assert redis_cluster.master_of("a") is not before
        assert client.get("a") == "1"
        before.start()
        before.resume()
        redis_cluster.wait_ok()
        assert before.info("INFO", "replication")["role"] == "slave"

    def test_waiting_for_it_is_bounded(self, redis_cluster: RedisCluster) -> None:
        for server in redis_cluster.servers[1:]:
            server.pause()
        began = time.monotonic()
        with pytest.raises(EmbeddedError, match=r"not in order after 0\.2 s: .* on the ports"):
            redis_cluster.wait_ok(timeout=0.2)
        assert time.monotonic() - began < 5

    def test_all_of_it_can_be_killed_and_started(self, redis_cluster: RedisCluster) -> None:
        nodes = redis_cluster.nodes
        for server in redis_cluster.servers:
            server.kill()
        with pytest.raises(EmbeddedError, match=r"nothing of .* is running"):
            redis_cluster.master_of("a")
        redis_cluster.start()
        assert redis_cluster.nodes == nodes
        assert redis_cluster.master_of("a").ask("SET", "a", "1") == "OK"


class TestMovingSlots:
    def test_takes_the_keys_along(
        self, redis_cluster: RedisCluster, client: driver.RedisCluster
    ) -> None:
        names = ["{a}", b"{a}\xff\n", *(f"{{a}}{number}" for number in range(250))]
        for name in names:
            client.set(name, "x")
        source = redis_cluster.master_of("{a}")
        target = another(redis_cluster, source)
        slot = redis_cluster.slot_of("a")
        redis_cluster.move_slot(slot, target)
        assert redis_cluster.master_of("a") is target
        assert target.ask("CLUSTER", "COUNTKEYSINSLOT", slot) == len(names)
        assert all(client.get(name) == "x" for name in names)
        with pytest.raises(EmbeddedError, match="MOVED"):
            source.ask("GET", "{a}")
        with pytest.raises(EmbeddedError, match="already"):
            redis_cluster.begin_move(slot, target)

    def test_half_way_the_old_master_answers_ask(
        self, redis_cluster: RedisCluster, client: driver.RedisCluster
    ) -> None:
        client.set("{b}here", "1")
        source = redis_cluster.master_of("{b}")
        target = another(redis_cluster, source)
        slot = redis_cluster.slot_of("b")
        redis_cluster.begin_move(slot, target)
        assert redis_cluster.master_of("b") is source
        assert source.ask("GET", "{b}here") == "1"
        with pytest.raises(EmbeddedError, match=f"ASK {slot} 127.0.0.1:{target.port}"):
            source.ask("GET", "{b}new")
        client.set("{b}new", "2")
        redis_cluster.finish_move(slot, target)
        assert redis_cluster.master_of("b") is target
        assert [target.ask("GET", key) for key in ("{b}here", "{b}new")] == ["1", "2"]


class TestItsEnd:
    def test_with_an_exception_in_the_block(self) -> None:
        with pytest.raises(ZeroDivisionError), make_cluster(replicas=0) as cluster:
            homes = [(server.pid, server._home.path) for server in cluster.servers if server._home]
            raise ZeroDivisionError
        assert len(homes) == 3
        assert all(gone(*home) for home in homes)
        with pytest.raises(EmbeddedError, match="not started"):
            _ = cluster.nodes

    def test_with_an_owner_that_is_killed(self) -> None:
        script = """
            from poolkit.embedded import redis_cluster
            with redis_cluster(replicas=0) as cluster:
                for server in cluster.servers:
                    tell(server.pid, server._home.path)
                time.sleep(60)
        """
        with owner(script) as owning:
            homes = [told(owning).split() for _ in range(3)]
            owning.kill()
        for pid, folder in homes:
            assert guardian.wait_for(lambda at=(int(pid), Path(folder)): gone(*at), SOON)

    def test_comes_at_once_if_a_server_can_not_be_started(self) -> None:
        with pytest.raises(EmbeddedError, match="no-such-thing"):
            make_cluster(settings={"no-such-thing": "1"}).start()
