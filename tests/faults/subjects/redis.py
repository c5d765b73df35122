"""RedisPool, for the campaign."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import redis

from poolkit import PoolKitError, RedisPool
from poolkit.embedded import EmbeddedError, RedisCluster, RedisSentinel, RedisServer
from tests.faults.subjects import ACQUIRE_TIMEOUT, SIZE, Midway, until

OURS = "chaos"

TAGS = ("b", "c", "d")
"""Of the slots 3300, 7365 and 11298: each is in another third, and so at another master."""

HALF_MOVED = 0.05
"""Seconds for which a slot stays between two masters, who answer ASK and TRYAGAIN then."""


class Redis:
    """Fields of a hash are the effects: how often each was counted up."""

    name = "redis"
    block = "transaction"
    looks_names_up = True
    forgets = False
    errors = (PoolKitError, redis.RedisError)
    pool: RedisPool

    def __init__(self) -> None:
        # What is acknowledged was written before: only the machine's end could lose it.
        self.server = RedisServer(settings={"appendonly": "yes"})
        self._cell = ""

    @property
    def secrets(self) -> Sequence[str]:
        return [self.server.password]

    def open(self, cell: str, host: str, port: int) -> None:
        address = urlsplit(self.server.url)
        place = f"{address.netloc.rpartition('@')[0]}@{host}:{port}"
        self._open(cell, url=address._replace(netloc=place).geturl())

    def _open(self, cell: str, **settings: Any) -> None:
        self._cell = cell
        self.pool = RedisPool(
            name=f"{self.name}-{cell}",
            client_name=OURS,
            max_size=SIZE,
            acquire_timeout=ACQUIRE_TIMEOUT,
            **settings,
        )

    def write(self, id: str) -> str:
        # Counted up by a number of its own: so the answer is nobody else's.
        number, key = _number(id), self._key(id)
        if number % 2:
            count, answer = self.pool.pipeline([("HINCRBY", key, id, number), ("ECHO", id)])
        else:
            count, answer = self.pool.execute("HINCRBY", key, id, number), id
        return str(answer) if count == number else f"{answer}, counted to {count}"

    def upsert(self, id: str) -> str:
        self.pool.execute("HSET", f"{self._key(id)}:once", id, 1, idempotent=True)
        return id

    def read(self, id: str) -> str:
        return str(self.pool.execute("ECHO", id))

    def in_block(self, ids: Sequence[str], midway: Midway) -> Sequence[str] | None:
        key = self._key(ids[0])
        with self.pool.connection(key=key) as conn:
            conn.execute_command("MULTI")
            for number, id in enumerate(ids):
                conn.execute_command("HINCRBY", key, id, _number(id))
                conn.execute_command("ECHO", id)
                if number == 0:
                    midway()
            answers = conn.execute_command("EXEC")
        return [str(each) for each in answers[1::2]]

    def hold(self) -> AbstractContextManager[object]:
        return self.pool.connection()

    def seed(self) -> None:
        pass

    def answers(self) -> None:
        for key in self._keys:
            self._server_of(key).ask("PING")

    def effects(self) -> Mapping[str, int]:
        found: Counter[str] = Counter()
        for effects in self._keys:
            for key in (effects, f"{effects}:once"):
                words = [_text(word) for word in self._server_of(key).ask("HGETALL", key)]
                for id, count in zip(words[::2], map(int, words[1::2]), strict=True):
                    found[id] += count if key.endswith(":once") else count // _number(id)
        return found

    def connections(self) -> int:
        lists = [_text(server.ask("CLIENT", "LIST")) for server in self._servers()]
        return sum(clients.count(f" name={OURS} ") for clients in lists)

    @contextmanager
    def crowd(self) -> Iterator[None]:
        with ExitStack() as admins:
            for server in self._servers():
                admin = admins.enter_context(_aside(server))
                admin.config_set("maxclients", 1)  # which is the admin itself
                admins.callback(admin.config_set, "maxclients", 1000)
                _kill(admin)
            yield

    @contextmanager
    def refuse_writes(self) -> Iterator[None]:
        for server in self._servers():
            server.ask("CONFIG", "SET", "maxmemory", "1")
        try:
            yield
        finally:
            for server in self._servers():
                server.ask("CONFIG", "SET", "maxmemory", "0")

    def evict(self) -> None:
        for server in self._servers():
            with _aside(server) as admin:
                _kill(admin)

    def _key(self, id: str) -> str:
        """Return the hash that has an id."""
        return f"effects:{self._cell}"

    @property
    def _keys(self) -> Sequence[str]:
        """All such hashes."""
        return [self._key("")]

    def _server_of(self, key: str) -> RedisServer:
        """Return the server that has a key."""
        return self.server

    def _servers(self) -> Sequence[RedisServer]:
        """Return all servers that run."""
        return [self.server]


class Master:
    """Whichever server of a group is the master, as if it were one; until another one is, it is the one that was."""

    def __init__(self, group: Any, find: Callable[[], RedisServer]) -> None:
        self.group = group
        self._find = find
        self._last: RedisServer | None = None

    def start(self) -> None:
        """Start all of it, or what has ended of it, and wait until it is in order."""
        self.group.start()

    def resume(self) -> None:
        """Do nothing: nobody freezes it."""

    def close(self) -> None:
        """End all of it."""
        self.group.close()

    def __getattr__(self, name: str) -> Any:
        try:
            self._last = self._find()
        except EmbeddedError:
            if self._last is None:
                raise
        return getattr(self._last, name)


class Sentinel(Redis):
    """The same with sentinels, that make a replica the master where that fails; what was not passed on yet is lost."""

    name = "sentinel"
    forgets = True

    def __init__(self) -> None:
        group = RedisSentinel()
        self.server: Any = Master(group, lambda: group.master)
        self._cell = ""

    @property
    def secrets(self) -> Sequence[str]:
        return [self.server.group.password, self.server.group.sentinel_password]

    def open(self, cell: str, host: str, port: int) -> None:
        group = self.server.group
        self._open(
            cell,
            sentinels=group.sentinels,
            service=group.service,
            password=group.password,
            sentinel_password=group.sentinel_password,
        )

    def take_over(self) -> None:
        group = self.server.group
        assert until(lambda: group.master.runs, 20), "no replica was promoted"


class Cluster(Redis):
    """The same with a cluster: spread over its masters, each of which a replica takes over from where it fails.

    What was not passed on yet is lost then.
    """

    name = "cluster"
    forgets = True

    def __init__(self) -> None:
        self._group = RedisCluster()
        self.server: Any = Master(self._group, lambda: self._group.master_of(TAGS[0]))
        self._cell = ""

    @property
    def secrets(self) -> Sequence[str]:
        return [self._group.password]

    def open(self, cell: str, host: str, port: int) -> None:
        self._open(cell, nodes=self._group.nodes, password=self._group.password)

    @contextmanager
    def hold(self) -> Iterator[object]:
        """Hold a connection to each master."""
        with ExitStack() as held:
            yield [held.enter_context(self.pool.connection(key=key)) for key in self._keys]

    def read(self, id: str) -> str:
        """Ask each master."""
        asked = [("EVAL_RO", "return ARGV[1]", 1, key, id) for key in self._keys]
        return " ".join(dict.fromkeys(self.pool.pipeline(asked, idempotent=True)))

    def take_over(self) -> None:
        def is_served() -> bool:
            try:
                return self._group.master_of(TAGS[0]).runs
            except EmbeddedError:
                return False

        assert until(is_served, 20), "no replica was promoted"

    def move_slots(self) -> None:
        for tag, other in zip(TAGS, TAGS[1:] + TAGS[:1], strict=True):
            slot = self._group.slot_of(tag)
            home, away = self._group.master_of(tag), self._group.master_of(other)
            for to in (away, home):
                self._group.begin_move(slot, to)
                threading.Event().wait(HALF_MOVED)
                self._group.finish_move(slot, to)

    def _key(self, id: str) -> str:
        return self._key_by(TAGS[_number(id) % len(TAGS)])

    @property
    def _keys(self) -> Sequence[str]:
        return [self._key_by(tag) for tag in TAGS]

    def _key_by(self, tag: str) -> str:
        return f"effects:{{{tag}}}:{self._cell}"

    def _server_of(self, key: str) -> RedisServer:
        return self._group.master_of(key)

    def _servers(self) -> Sequence[RedisServer]:
        return [server for server in self._group.servers if server.runs]


def _aside(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(
        server.socket_url, single_connection_client=True, decode_responses=True
    )


def _kill(admin: redis.Redis) -> None:
    admin.client_kill_filter(_type="normal", skipme=True)


def _number(id: str) -> int:
    """Return the number that is its last part."""
    return int(id.rpartition(".")[2])


def _text(word: object) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)
