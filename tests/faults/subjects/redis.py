"""RedisPool, for the campaign."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import redis

from poolkit import PoolKitError, RedisPool
from poolkit.embedded import RedisSentinel, RedisServer
from tests.faults.subjects import ACQUIRE_TIMEOUT, SIZE, Midway

OURS = "chaos"


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
        number = _number(id)
        if number % 2:
            count, answer = self.pool.pipeline([("HINCRBY", self._hash, id, number), ("ECHO", id)])
        else:
            count, answer = self.pool.execute("HINCRBY", self._hash, id, number), id
        return str(answer) if count == number else f"{answer}, counted to {count}"

    def upsert(self, id: str) -> str:
        self.pool.execute("HSET", f"{self._hash}:once", id, 1, idempotent=True)
        return id

    def read(self, id: str) -> str:
        return str(self.pool.execute("ECHO", id))

    def in_block(self, ids: Sequence[str], midway: Midway) -> Sequence[str] | None:
        with self.pool.connection() as conn:
            conn.execute_command("MULTI")
            for number, id in enumerate(ids):
                conn.execute_command("HINCRBY", self._hash, id, _number(id))
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
        self.server.ask("PING")

    def effects(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for key in (self._hash, f"{self._hash}:once"):
            words = [_text(word) for word in self.server.ask("HGETALL", key)]
            for id, count in zip(words[::2], map(int, words[1::2]), strict=True):
                found[id] = count if key.endswith(":once") else count // _number(id)
        return found

    def connections(self) -> int:
        return _text(self.server.ask("CLIENT", "LIST")).count(f" name={OURS} ")

    @contextmanager
    def crowd(self) -> Iterator[None]:
        with self._aside() as admin:
            admin.config_set("maxclients", 1)  # which is the admin itself
            self._kill(admin)
            try:
                yield
            finally:
                admin.config_set("maxclients", 1000)

    @contextmanager
    def refuse_writes(self) -> Iterator[None]:
        self.server.ask("CONFIG", "SET", "maxmemory", "1")
        try:
            yield
        finally:
            self.server.ask("CONFIG", "SET", "maxmemory", "0")

    def evict(self) -> None:
        with self._aside() as admin:
            self._kill(admin)

    @property
    def _hash(self) -> str:
        return f"effects:{self._cell}"

    def _aside(self) -> redis.Redis:
        return redis.Redis.from_url(
            self.server.socket_url, single_connection_client=True, decode_responses=True
        )

    def _kill(self, admin: redis.Redis) -> None:
        admin.client_kill_filter(_type="normal", skipme=True)


class Master:
    """Whichever server sentinels call the master, as if it were one."""

    def __init__(self) -> None:
        self.group = RedisSentinel()

    def start(self) -> None:
        """Start all of it, or what has ended of it, and wait until it is in order."""
        self.group.start()

    def resume(self) -> None:
        """Do nothing: nobody freezes it."""

    def close(self) -> None:
        """End all of it."""
        self.group.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.group.master, name)


class Sentinel(Redis):
    """The same with sentinels, that make a replica the master where that fails; what was not passed on yet is lost."""

    name = "sentinel"
    forgets = True

    def __init__(self) -> None:
        self.server: Any = Master()
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


def _number(id: str) -> int:
    """Return the number that is its last part."""
    return int(id.rpartition(".")[2])


def _text(word: object) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)
