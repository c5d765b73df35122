"""All hosts that are called, each made when it is first asked for, and dropped when it was not for a while."""

from __future__ import annotations

import threading
from time import monotonic

from ..core.errors import PoolClosed
from ..core.events import Events
from ..core.stats import Tally
from .config import HttpConfig
from .guard import Guard
from .host import Host
from .supply import Supply
from .target import Origin, Target

UNUSED = 60.0
"""Seconds after which a host that has no connections, and that nobody asked for, is dropped."""

MOST = 1000
"""Hosts from which on those not in use are dropped at once: strangers may name any number."""


class Hosts:
    """The hosts of one pool."""

    def __init__(self, config: HttpConfig, *, events: Events) -> None:
        self._config = config
        self._events = events
        self.guard = Guard(allowed_hosts=config.allowed_hosts, allow_private=config.allow_private)
        self._supply = Supply(config, self.guard)
        self._gone = Tally()  # what was counted by hosts that were dropped
        self._lock = threading.RLock()  # a collection in here may come back
        # Changed under _lock, but read without it:
        self._hosts: dict[Origin, Host] = {}
        self._closed = False

    def of(self, target: Target, call: object) -> Host:
        """Return the host of *target*, which is not dropped as long as *call* is one of its ``calls``.

        Raises :class:`~poolkit.AddressBlocked` if it may not be called.
        """
        host = self._hosts.get(target.origin)
        if host is None:
            self.guard.check_host(target.origin)
            host = self._make(target.origin, call)
        host.calls.add(call)
        if host.dropped:
            host.calls.discard(call)
            host = self._make(target.origin, call)
        host.asked = monotonic()
        return host

    def all(self) -> list[Host]:
        """Return the hosts that there are."""
        return list(self._hosts.copy().values())

    def counted(self) -> tuple[list[Host], Tally]:
        """Return the hosts that there are, and what was counted by all that there ever were."""
        whole = Tally()
        with self._lock:
            hosts = list(self._hosts.values())
            for tally in (self._gone, *(host.tally for host in hosts)):
                whole.add(tally)
        return hosts, whole

    def sweep(self) -> None:
        """Look after the connections of all hosts, and drop those that are not used."""
        for host in self.all():
            host.node.sweep()
        self._drop(UNUSED)

    def close(self) -> list[Host]:
        """Make no more; return those that there are."""
        with self._lock:
            self._closed = True
            return list(self._hosts.values())

    def _make(self, origin: Origin, call: object) -> Host:
        if len(self._hosts) >= MOST:
            self._drop(0.0)
        with self._lock:
            if self._closed:  # a redirect may lead here, from a host that is waited for
                raise PoolClosed(f"pool {self._config.name!r} is closed; make a new one")
            host = self._hosts.get(origin)
            if host is None:
                host = self._hosts[origin] = Host(
                    origin, self._config, self._supply, events=self._events
                )
            host.calls.add(call)
            return host

    def _drop(self, unused: float) -> None:
        """Drop hosts that are not in use, and were not asked for in so many seconds."""
        before = monotonic() - unused
        dropped = []
        with self._lock:
            for origin, host in list(self._hosts.items()):
                if host.asked > before or not host.is_unused:
                    continue
                host.dropped = True  # first: whose call is not seen now will see that
                if host.calls:
                    host.dropped = False
                    continue
                del self._hosts[origin]
                self._gone.add(host.tally)
                dropped.append(host)
        for host in dropped:
            host.node.retire("it was not used for long")
