"""A private Redis with replicas, and sentinels that say which of them is the master."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from poolkit.core import checks

from .group import Group, start
from .process import EmbeddedError, Home, new_password
from .redis import RedisServer, checked

SERVICE = "poolkit"
DOWN_AFTER = 1000  # ms without an answer until a sentinel takes a server for dead
FAILOVER_TIMEOUT = 3000  # ms for each step of a failover; after twice that it is tried again
OURS = ("masterauth", "replicaof")
HASTE = {
    # ms, between what sentinels tell each other, ask each other, and ask the servers. Not the time
    # between their pings: they would think nothing of a replica that they don't ask as often.
    "publish-period": 200,
    "ask-period": 100,
    "info-period": 1000,
    # For so long a sentinel that was not run for two seconds only looks on. It is for a clock that
    # jumps; here it is a machine that is busy, or the sentinel was frozen.
    "tilt-period": 1000,
}


def redis_sentinel(
    replicas: int = 1,
    sentinels: int = 3,
    *,
    settings: Mapping[str, str] | None = None,
    startup_timeout: float = 30.0,
) -> RedisSentinel:
    """Run a private Redis with sentinels for the length of a block, which gets the :class:`RedisSentinel`.

    *settings* are lines of redis.conf for the master and its *replicas*. Raises
    :class:`EmbeddedError` if it isn't in order within *startup_timeout* seconds.
    """
    return RedisSentinel(replicas, sentinels, settings=settings, startup_timeout=startup_timeout)


class RedisSentinel(Group[RedisServer]):
    """A master, its replicas, and sentinels that replace a master that doesn't answer.

    All servers share a password, and all sentinels another one. Each can be stopped, killed, frozen
    and started again by itself. Not for several threads at a time.
    """

    service = SERVICE

    def __init__(
        self,
        replicas: int = 1,
        sentinels: int = 3,
        *,
        settings: Mapping[str, str] | None = None,
        startup_timeout: float = 30.0,
    ) -> None:
        super().__init__(startup_timeout=startup_timeout)
        self._settings = checked(settings, OURS)
        self._replicas = checks.count("replicas", replicas, at_least=0)
        self._sentinels = checks.count("sentinels", sentinels, at_least=1)
        self._sentinel_password = new_password()

    def failover(self, timeout: float | None = None) -> None:
        """Have another server made the master; on return all know it, and follow it."""
        before = self.master

        def amiss() -> str:
            if self.master is before:
                # Refused while that is under way, or no good replica is known.
                self._speaker().ask("SENTINEL", "FAILOVER", SERVICE)
                return f"{before!r} is still the master"
            return self._amiss()

        self._until(amiss, timeout)

    @property
    def servers(self) -> list[RedisServer]:
        """The master and its replicas, at first in this order."""
        return self._started()[: 1 + self._replicas]

    @property
    def sentinel_servers(self) -> list[RedisServer]:
        """The sentinels, to be stopped, killed and frozen."""
        return self._started()[1 + self._replicas :]

    @property
    def sentinels(self) -> list[str]:
        """The addresses of the sentinels, as ``127.0.0.1:port``."""
        return [f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinel_servers]

    @property
    def sentinel_password(self) -> str:
        """The password of the user ``default`` on each sentinel."""
        return self._sentinel_password

    @property
    def master(self) -> RedisServer:
        """The server that is the master now, as the first running sentinel says."""
        return self._master_by(self._speaker())

    def _create(self) -> None:
        settings = {**self._settings, "masterauth": self._password}
        master = self._server(settings)
        self._all = [master]
        master.start()  # the others are told its port
        following = {**settings, "replicaof": f"127.0.0.1 {master.port}"}
        self._all += [self._server(following) for _ in range(self._replicas)]
        self._all += [self._sentinel(master.port) for _ in range(self._sentinels)]
        start(self._all)

    def _server(self, settings: Mapping[str, str]) -> RedisServer:
        return RedisServer(
            settings=settings, startup_timeout=self._startup_timeout, password=self._password
        )

    def _sentinel(self, master: int) -> SentinelServer:
        majority = self._sentinels // 2 + 1
        settings = {
            # What it tells the other sentinels, before what it watches.
            "sentinel sentinel-pass": self._sentinel_password,
            "sentinel monitor": f"{SERVICE} 127.0.0.1 {master} {majority}",
            "sentinel auth-pass": f"{SERVICE} {self._password}",
            "sentinel down-after-milliseconds": f"{SERVICE} {DOWN_AFTER}",
            "sentinel failover-timeout": f"{SERVICE} {FAILOVER_TIMEOUT}",
            "sentinel parallel-syncs": f"{SERVICE} {max(self._replicas, 1)}",
        }
        return SentinelServer(
            settings=settings,
            startup_timeout=self._startup_timeout,
            password=self._sentinel_password,
        )

    def _amiss(self) -> str:
        running = self._running()
        sentinels = [each for each in self.sentinel_servers if each in running]
        master = self.master
        if master not in running:
            return f"{master!r} is the master, and doesn't run"
        for sentinel in sentinels:
            if self._master_by(sentinel) is not master:
                return f"{sentinel!r} doesn't know that {master!r} is the master"
            if amiss := self._amiss_at(sentinel):
                return f"{sentinel!r} {amiss}"
        replicas = [each for each in self.servers if each in running and each is not master]
        if master.info("INFO", "replication")["role"] != "master":
            return f"{master!r} doesn't know that it is the master"
        for replica in replicas:
            state = replica.info("INFO", "replication")
            follows = state.get("master_port"), state.get("master_link_status")
            if follows != (str(master.port), "up"):
                return f"{replica!r} doesn't follow {master!r}"
            for sentinel in sentinels:
                if not _knows(sentinel, replica):
                    return f"{sentinel!r} doesn't know that {replica!r} is a replica"
        return ""

    def _amiss_at(self, sentinel: RedisServer) -> str:
        state = _pairs(sentinel.ask("SENTINEL", "MASTER", SERVICE))
        if state["flags"] != "master":
            return f"says that the master is {state['flags']}"
        others = state["num-other-sentinels"]
        if others != str(self._sentinels - 1):
            return f"knows {others} others, not {self._sentinels - 1}"
        if sentinel.info("INFO", "sentinel")["sentinel_tilt"] != "0":
            return "only looks on, since it was not run for a while (TILT)"
        return ""

    def _speaker(self) -> RedisServer:
        """Return the first of the sentinels that run."""
        speaker = next((each for each in self.sentinel_servers if each.runs), None)
        if speaker is None:
            raise EmbeddedError("no sentinel is running")
        return speaker

    def _master_by(self, sentinel: RedisServer) -> RedisServer:
        _, port = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if server.port == int(port))


class SentinelServer(RedisServer):
    """One sentinel: the same program, in another mode."""

    def start(self) -> None:
        """Start it, and wait until it takes commands. Does nothing if it runs."""
        super().start()
        # Not for the file: it forgets these when it ends.
        self.ask("SENTINEL", "DEBUG", *(word for pair in HASTE.items() for word in pair))

    def _command(self, home: Home, port: int) -> Sequence[str | Path]:
        return [*super()._command(home, port), "--sentinel"]


def _knows(sentinel: RedisServer, replica: RedisServer) -> bool:
    """Tell whether the sentinel takes *replica* for one that is well."""
    found = [_pairs(each) for each in sentinel.ask("SENTINEL", "REPLICAS", SERVICE)]
    well = [
        each for each in found if (each["flags"], each["master-link-status"]) == ("slave", "ok")
    ]
    return any(each["port"] == str(replica.port) for each in well)


def _pairs(words: Sequence[str]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2], strict=True))
