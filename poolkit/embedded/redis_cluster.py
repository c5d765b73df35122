"""A private Redis Cluster, whose slots can be moved and whose masters can be killed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from poolkit.core import checks

from .group import Group, start
from .process import EmbeddedError, Home, free_port
from .redis import RedisServer, checked

SLOTS = 16384
SETTINGS = {
    "cluster-node-timeout": "1000",  # ms without an answer until a node counts as failed
    # Replicas stay with their master, so that tests know where they are.
    "cluster-allow-replica-migration": "no",
    # A replica counts as one from the first byte on that its master has to tell it.
    "repl-ping-replica-period": "1",
}
OURS = (
    "cluster-announce-bus-port",
    "cluster-announce-ip",
    "cluster-announce-port",
    "cluster-config-file",
    "cluster-enabled",
    "cluster-port",
    "masterauth",
    "replicaof",
)
MOVED_AT_ONCE = 100  # keys
MOVE_TIMEOUT = 5000  # ms


def redis_cluster(
    masters: int = 3,
    replicas: int = 1,
    *,
    settings: Mapping[str, str] | None = None,
    startup_timeout: float = 30.0,
) -> RedisCluster:
    """Run a private Redis Cluster for the length of a block, which gets the :class:`RedisCluster`.

    Each of its *masters* has an equal part of the slots, and as many *replicas* as said; of fewer
    than three masters there is no majority left to replace one. *settings* are lines of redis.conf.
    Raises :class:`EmbeddedError` if it isn't in order within *startup_timeout* seconds.
    """
    return RedisCluster(masters, replicas, settings=settings, startup_timeout=startup_timeout)


class RedisCluster(Group[RedisServer]):
    """A private Redis Cluster. A master that doesn't answer is replaced after about two seconds.

    All servers share a password. Each can be stopped, killed, frozen and started again by itself.
    Not for several threads at a time.
    """

    def __init__(
        self,
        masters: int = 3,
        replicas: int = 1,
        *,
        settings: Mapping[str, str] | None = None,
        startup_timeout: float = 30.0,
    ) -> None:
        super().__init__(startup_timeout=startup_timeout)
        self._masters = checks.count("masters", masters, at_least=1)
        self._replicas = checks.count("replicas", replicas, at_least=0)
        self._settings = {**SETTINGS, **checked(settings, OURS)}

    @property
    def servers(self) -> list[RedisServer]:
        """All servers, at first the masters before the replicas."""
        return list(self._started())

    @property
    def nodes(self) -> list[str]:
        """The addresses of all servers, as ``127.0.0.1:port``."""
        return [f"127.0.0.1:{server.port}" for server in self._started()]

    @property
    def urls(self) -> list[str]:
        """The URLs of all servers, with the password."""
        return [server.url for server in self._started()]

    def slot_of(self, key: str | bytes) -> int:
        """Return the slot of a key."""
        return int(self._running()[0].ask("CLUSTER", "KEYSLOT", key))

    def master_of(self, key: str | bytes) -> RedisServer:
        """Return the server that has the slot of *key* now, of those that run."""
        return self._owner(self.slot_of(key))

    def move_slot(self, slot: int, to: RedisServer) -> None:
        """Move a slot with its keys to the master *to*; on return all servers know."""
        self.begin_move(slot, to)
        self.finish_move(slot, to)

    def begin_move(self, slot: int, to: RedisServer) -> None:
        """Begin to move a slot: for keys that it lacks, its master answers ASK from here on."""
        source = self._owner(slot)
        if source is to:
            raise EmbeddedError(f"{to!r} has the slot {slot} already")
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", _identity(source))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", _identity(to))

    def finish_move(self, slot: int, to: RedisServer) -> None:
        """Move the keys, then the slot itself; on return all servers know."""
        source = self._owner(slot)
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, MOVED_AT_ONCE):
            there = ("127.0.0.1", to.port, "", 0, MOVE_TIMEOUT)
            source.ask("MIGRATE", *there, "REPLACE", "AUTH", self._password, "KEYS", *keys)
        # The receiver first: if it failed after the giver had let go, the slot would be nobody's.
        others = [server for server in self._running() if _is_master(server) and server is not to]
        for server in (to, *others):
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", _identity(to))
        self.wait_ok()

    def _create(self) -> None:
        settings = {
            **self._settings,
            "cluster-enabled": "yes",
            "cluster-announce-ip": "127.0.0.1",
            "masterauth": self._password,
        }
        nodes = [
            ClusterNode(
                settings=settings,
                startup_timeout=self._startup_timeout,
                password=self._password,
            )
            for _ in range(self._masters * (1 + self._replicas))
        ]
        self._all = [*nodes]
        start(self._all)
        self._join(nodes)

    def _join(self, nodes: Sequence[ClusterNode]) -> None:
        """Hand out the slots, and make the servers known to each other."""
        for epoch, node in enumerate(nodes, start=1):
            # Two masters of one epoch would have to find out first which of them gets another one.
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        masters, replicas = nodes[: self._masters], nodes[self._masters :]
        for number, master in enumerate(masters):
            first, end = (SLOTS * each // len(masters) for each in (number, number + 1))
            master.ask("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        # Each to each: word of mouth would take its time.
        for number, node in enumerate(nodes, start=1):
            for other in nodes[number:]:
                node.ask("CLUSTER", "MEET", "127.0.0.1", other.port, other.bus_port)
        for number, replica in enumerate(replicas):
            self._follow(replica, masters[number % len(masters)])

    def _follow(self, replica: RedisServer, master: RedisServer) -> None:
        identity = _identity(master)
        # It refuses while it has not heard of the master.
        self._until(lambda: "" if replica.ask("CLUSTER", "REPLICATE", identity) == "OK" else "?")

    def _amiss(self) -> str:
        running = self._running()
        ports = {server.port for server in running}
        views = [_view(server) for server in running]
        for server, view in zip(running, views, strict=True):
            if stranger := {port for part in view for port in part.ports} - ports:
                return f"{server!r} believes that there is somebody on the ports {stranger}"
            if view != views[0]:
                return f"{server!r} and {running[0]!r} don't agree on who has which slot"
            if amiss := self._amiss_at(server, view):
                return f"{server!r} {amiss}"
        return ""

    def _amiss_at(self, server: RedisServer, view: frozenset[Part]) -> str:
        state = server.info("CLUSTER", "INFO")
        if state["cluster_state"] != "ok":
            return f"says that the cluster's state is {state['cluster_state']}"
        if state["cluster_known_nodes"] != str(len(self._all)):
            return f"knows {state['cluster_known_nodes']} nodes, not {len(self._all)}"
        state = server.info("INFO", "replication")
        if state["role"] == "slave":
            if state["master_link_status"] != "up":
                return "has no link to its master"
            if not any(server.port in part.replicas for part in view):
                return "is not known as a replica yet"
        return ""

    def _owner(self, slot: int) -> RedisServer:
        """Return the running server that says it has the slot; of several the one elected last."""
        owners = {}
        for server in self._running():
            epoch, slots = _claim(server)
            if any(slot in part for part in slots):
                owners[epoch] = server
        if not owners:
            raise EmbeddedError(f"no server that runs has the slot {slot}")
        return owners[max(owners)]


class ClusterNode(RedisServer):
    """One server of a cluster, with a second port for what the servers tell each other."""

    bus_port = 0

    def _command(self, home: Home, port: int) -> Sequence[str | Path]:
        if port != self._port:  # the port is tried for the first time, so this one may be too
            self.bus_port = free_port()
        return [*super()._command(home, port), "--cluster-port", str(self.bus_port)]


class Part(NamedTuple):
    """A range of slots, and the ports of those who serve it."""

    first: int
    last: int
    master: int
    replicas: frozenset[int]

    @property
    def ports(self) -> frozenset[int]:
        return self.replicas | {self.master}


def _view(server: RedisServer) -> frozenset[Part]:
    """Return who serves what, as *server* sees it and tells clients."""
    view = []
    for first, last, *nodes in server.ask("CLUSTER", "SLOTS"):
        master, *replicas = (node[1] for node in nodes)
        view.append(Part(first, last, master, frozenset(replicas)))
    return frozenset(view)


def _claim(server: RedisServer) -> tuple[int, list[range]]:
    """Return the epoch of a server, and the slots that it says it has as their master."""
    lines = server.ask("CLUSTER", "NODES").splitlines()
    mine = next(line.split() for line in lines if "myself" in line.split()[2])
    # From the 9th word on: 7, 10-20, and in brackets those that are being moved.
    parts = [word.split("-") for word in mine[8:] if not word.startswith("[")]
    return int(mine[6]), [range(int(part[0]), int(part[-1]) + 1) for part in parts]


def _identity(server: RedisServer) -> str:
    return str(server.ask("CLUSTER", "MYID"))


def _is_master(server: RedisServer) -> bool:
    return server.info("INFO", "replication")["role"] == "master"
