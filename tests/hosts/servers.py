"""What a program has open on the servers, looked at from the servers' side, all the time."""

from __future__ import annotations

import re
import threading
from types import TracebackType
from typing import Any

import psycopg

from poolkit.embedded import RedisServer
from tests.core.support import Task, eventually

EVERY = 0.02
"""Seconds between two looks."""


class Opened:
    """Counts, for the length of a block, the connections of the program called *name* on both servers.

    A connection that its program has closed is seen until the server has noticed; so two looks in a row
    have to see it.
    """

    def __init__(self, name: str, conninfo: str, redis: RedisServer) -> None:
        self._name = name
        self._conn = psycopg.connect(conninfo, autocommit=True)
        self._redis = redis
        self._over = threading.Event()
        self._most_postgres = self._most_redis = 0

    def __enter__(self) -> Opened:
        self._task = Task(self._work)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        try:
            self._task.result()
        finally:
            self._conn.close()

    def most(self) -> tuple[int, int]:
        """Return the most that there were at a time since this was last asked: to PostgreSQL, to Redis."""
        most = self._most_postgres, self._most_redis
        self._most_postgres = self._most_redis = 0
        return most

    def ask(self, text: str) -> None:
        """Have PostgreSQL do something that is no program's."""
        self._conn.execute(text.encode())

    def postgres(self) -> set[int]:
        """Return the pids of its backends."""
        return set(
            self._found("select pid from pg_stat_activity where application_name = %s", self._name)
        )

    def redis(self) -> set[str]:
        """Return the ids of its connections."""
        listed = [line.split() for line in self._redis.ask("CLIENT", "LIST").splitlines()]
        return {words[0] for words in listed if f"name={self._name}" in words}

    def from_ports(self, ports: set[int]) -> list[str]:
        """Return the connections on both servers whose other ends are on these *ports*."""
        found = self._found(
            "select 'postgres:' || client_port from pg_stat_activity where client_port = any(%s)",
            list(ports),
        )
        listed = re.findall(r" addr=127\.0\.0\.1:(\d+) ", self._redis.ask("CLIENT", "LIST"))
        return found + [f"redis:{port}" for port in listed if int(port) in ports]

    def none_left(self, *, within: float) -> None:
        """Wait until it has none any more; fail after *within* seconds."""
        eventually(lambda: not self.postgres() and not self.redis(), within)

    def _found(self, text: str, parameter: object) -> list[Any]:
        return [row[0] for row in self._conn.execute(text.encode(), [parameter])]

    def _work(self) -> None:
        postgres, redis = self.postgres(), self.redis()
        while not self._over.wait(EVERY):
            before, postgres = postgres, self.postgres()
            self._most_postgres = max(self._most_postgres, len(before & postgres))
            before_redis, redis = redis, self.redis()
            self._most_redis = max(self._most_redis, len(before_redis & redis))
