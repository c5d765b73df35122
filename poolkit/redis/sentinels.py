"""Where the master is: whoever the sentinels say it is, asked anew for each connection that is opened."""

from __future__ import annotations

import dataclasses
import threading

import redis

from ..core.deadline import Deadline
from .address import Server
from .config import RedisConfig
from .dial import ask

ASK_TIMEOUT = 1.0
"""Seconds that one sentinel may take to answer, before the next one is asked."""


class Sentinels:
    """The sentinels of one master."""

    def __init__(self, config: RedisConfig) -> None:
        self._service = config.service
        # Sentinels have users and passwords of their own, and no databases.
        self._config = dataclasses.replace(
            config,
            db=0,
            username=config.sentinel_username,
            password=config.sentinel_password,
            credential_provider=None,
        )
        self._lock = threading.Lock()
        # Guarded by _lock: the one that answered last comes first.
        self._servers = list(config.servers)

    def master(self, until: Deadline) -> Server:
        """Return the address of the master. Raises redis-py's ConnectionError if none of them knows it."""
        with self._lock:
            servers = list(self._servers)
        problems = []
        for server in servers:
            try:
                (found,) = ask(
                    server,
                    self._config,
                    ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service),
                    until=until,
                    timeout=ASK_TIMEOUT,
                )
            except redis.RedisError as error:
                problems.append(f"{server}: {error}")
                continue
            if not found:
                problems.append(f"{server}: knows no master {self._service!r}")
                continue
            with self._lock:
                self._servers.remove(server)
                self._servers.insert(0, server)
            host, port = (part if isinstance(part, str) else part.decode() for part in found)
            return Server(host, int(port))
        raise redis.ConnectionError(
            f"no sentinel could name the master {self._service!r}: {'; '.join(problems)}"
        )
