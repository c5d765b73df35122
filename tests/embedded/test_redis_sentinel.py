"""The embedded sentinels know each other and their servers, and replace the master."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as driver

from poolkit.core.errors import ConfigError
from poolkit.embedded import EmbeddedError, RedisSentinel, guardian
from poolkit.embedded import redis_sentinel as make_sentinel
from tests.embedded.owners import SOON, gone, owner, told


@pytest.fixture
def sentinel(redis_sentinel: RedisSentinel) -> Iterator[driver.Sentinel]:
    client = driver.Sentinel(
        [address.split(":") for address in redis_sentinel.sentinels],
        sentinel_kwargs={"password": redis_sentinel.sentinel_password},
        password=redis_sentinel.password,
        decode_responses=True,
    )
    yield client
    for each in client.sentinels:
        each.close()


class TestFromTheStart:
    def test_the_sentinels_know_each_other_and_the_servers(
        self, redis_sentinel: RedisSentinel, sentinel: driver.Sentinel
    ) -> None:
        master = ("127.0.0.1", redis_sentinel.master.port)
        replicas = [("127.0.0.1", s.port) for s in redis_sentinel.servers if s.port != master[1]]
        assert sentinel.discover_master(redis_sentinel.service) == master
        assert sentinel.discover_slaves(redis_sentinel.service) == replicas
        for each in redis_sentinel.sentinel_servers:
            assert len(each.ask("SENTINEL", "SENTINELS", redis_sentinel.service)) == 2

    def test_what_the_master_is_told_the_replica_knows(
        self, redis_sentinel: RedisSentinel, sentinel: driver.Sentinel
    ) -> None:
        with (
            sentinel.master_for(redis_sentinel.service) as master,
            sentinel.slave_for(redis_sentinel.service) as replica,
        ):
            master.set("a", "1")
            assert guardian.wait_for(lambda: replica.get("a") == "1", SOON)

    def test_both_passwords_are_asked_for_and_not_shown(
        self, redis_sentinel: RedisSentinel
    ) -> None:
        passwords = {redis_sentinel.password, redis_sentinel.sentinel_password}
        assert len(passwords) == 2
        for server in redis_sentinel.servers + redis_sentinel.sentinel_servers:
            with driver.Redis(port=server.port, retry=None) as client:
                with pytest.raises(driver.AuthenticationError):
                    client.ping()
            shown = repr(redis_sentinel) + repr(server) + server.log()
            assert not any(password in shown for password in passwords)

    @pytest.mark.parametrize(
        "options",
        [{"sentinels": 0}, {"replicas": -1}, {"settings": {"replicaof": "127.0.0.1 1"}}],
    )
    def test_what_makes_no_sense_is_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            make_sentinel(**options)


class TestFailover:
    def test_on_request(self, redis_sentinel: RedisSentinel, sentinel: driver.Sentinel) -> None:
        before = redis_sentinel.master
        redis_sentinel.failover()
        after = redis_sentinel.master
        assert after is not before
        assert before.info("INFO", "replication")["master_port"] == str(after.port)
        assert sentinel.discover_master(redis_sentinel.service) == ("127.0.0.1", after.port)

    @pytest.mark.slow
    @pytest.mark.parametrize("failure", ["kill", "pause"])
    def test_of_a_master_that_fails(self, redis_sentinel: RedisSentinel, failure: str) -> None:
        before = redis_sentinel.master
        getattr(before, failure)()
        redis_sentinel.wait_ok()
        after = redis_sentinel.master
        assert after is not before
        assert after.ask("SET", "a", "1") == "OK"
        before.start()
        before.resume()
        redis_sentinel.wait_ok()
        assert redis_sentinel.master is after
        assert before.ask("GET", "a") == "1"

    @pytest.mark.slow
    def test_with_sentinels_that_were_frozen(self, redis_sentinel: RedisSentinel) -> None:
        """They distrust their clocks then, and begin by looking on: not for long, and wait_ok waits."""
        sentinels = redis_sentinel.sentinel_servers
        before = [int(each.info("INFO", "sentinel")["sentinel_total_tilt"]) for each in sentinels]
        for each in sentinels:
            each.pause()
        time.sleep(2.5)
        for each in sentinels:
            each.resume()

        def tilts() -> list[int]:
            return [int(each.info("INFO", "sentinel")["sentinel_total_tilt"]) for each in sentinels]

        assert guardian.wait_for(lambda: all(map(int.__gt__, tilts(), before)), SOON)
        redis_sentinel.wait_ok(timeout=10.0)
        assert {each.info("INFO", "sentinel")["sentinel_tilt"] for each in sentinels} == {"0"}

    def test_with_a_sentinel_dead(self, redis_sentinel: RedisSentinel) -> None:
        before = redis_sentinel.master
        redis_sentinel.sentinel_servers[0].kill()
        redis_sentinel.failover()
        assert redis_sentinel.master is not before
        redis_sentinel.start()

    def test_that_can_not_be_says_why(self, redis_sentinel: RedisSentinel) -> None:
        for server in redis_sentinel.servers:
            if server is not redis_sentinel.master:
                server.pause()
        for server in redis_sentinel.sentinel_servers[1:]:
            server.pause()
        with pytest.raises(EmbeddedError, match="not in order after"):
            redis_sentinel.failover(timeout=0.5)


class TestItsEnd:
    def test_with_an_owner_that_is_killed(self) -> None:
        script = """
            from poolkit.embedded import redis_sentinel
            with redis_sentinel(sentinels=1) as group:
                for server in group.servers + group.sentinel_servers:
                    tell(server.pid, server._home.path)
                time.sleep(60)
        """
        with owner(script) as owning:
            homes = [told(owning).split() for _ in range(3)]
            owning.kill()
        for pid, folder in homes:
            assert guardian.wait_for(lambda at=(int(pid), Path(folder)): gone(*at), SOON)
