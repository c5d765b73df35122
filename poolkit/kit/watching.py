"""What watches the pools of a kit, for one process: health, leaks, and whether the server admits so many."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..core import checks
from ..core.deadline import Deadline, deadline
from ..core.lease import Holder
from .backends import AnyPool
from .health import HealthChecker, Limits
from .leaks import LeakDetector
from .recent import RecentEvents

logger = logging.getLogger("poolkit")

ADVICE_TIMEOUT = 5.0
"""Seconds in which the server has to say how many connections it admits."""


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """How the pools are watched. Times are in seconds.

    ``health_every``, ``health_timeout``
        between two checks of a pool, and for each; ``limits`` say from where on a pool is degraded.
    ``leaks_every``
        between two looks for leaks.
    """

    health_every: float = 30.0
    health_timeout: float = 5.0
    limits: Limits = field(default_factory=Limits)
    leaks_every: float = 60.0

    def __post_init__(self) -> None:
        checks.seconds("health_every", self.health_every, zero=False)
        checks.seconds("health_timeout", self.health_timeout, zero=False)
        checks.seconds("leaks_every", self.leaks_every, zero=False)


class Companion(Protocol):
    """What is there as long as a kit is open, in each process.

    Starting and stopping are idempotent; a thread may do the one while another does the other, and stops it afterwards.
    """

    def start(self) -> None:
        """Begin: the kit is in use in this process."""

    def stop(self) -> None:
        """End: the kit is being closed."""


class Companions:
    """The companions of a kit that somebody else still has: those that are dropped are let go of."""

    def __init__(self) -> None:
        self._known: list[weakref.ref[Companion]] = []

    def __iter__(self) -> Iterator[Companion]:
        """Iterate over those that are there now; others may come and go meanwhile."""
        alive = [known() for known in self._known.copy()]
        return (companion for companion in alive if companion is not None)

    def add(self, companion: Companion) -> None:
        """Add *companion*, for as long as somebody else has it."""
        self._known.append(weakref.ref(companion, self._known.remove))


class Watching:
    """Watches the pools of a kit in one process. After a fork, the child makes its own."""

    def __init__(
        self,
        pools: Mapping[str, AnyPool],
        settings: WatchSettings | None,
        *,
        instances: int,
        recent: RecentEvents,
        companions: Iterable[Companion] = (),
    ) -> None:
        self._pools = pools
        self._instances = instances
        self._companions = companions
        self._active = settings is not None
        settings = settings or WatchSettings()
        self.health = HealthChecker(
            pools,
            every=settings.health_every,
            timeout=settings.health_timeout,
            limits=settings.limits,
            changed=recent.health_changed,
        )
        self.leaks = LeakDetector(
            pools,
            every=settings.leaks_every,
            overdue=recent.overdue,
            given_back=recent.given_back,
        )
        self._adviser: threading.Thread | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()  # set under _lock

    def start(self) -> None:
        """Begin to watch, unless it was stopped before."""
        for companion in self._companions:
            self.accompany(companion)
        if self._active:
            self._begin()

    def accompany(self, companion: Companion) -> None:
        """Start *companion*, which is among the companions by now, unless it was stopped before."""
        if self._stopped.is_set():
            return
        companion.start()
        # Meanwhile another thread may have stopped all, and come to this one before it was started.
        if self._stopped.is_set():
            companion.stop()

    def stop(self, deadline: Deadline) -> Sequence[Holder]:
        """Watch no more, for good. Nobody holds it."""
        with self._lock:
            self._stopped.set()
        for companion in self._companions:
            companion.stop()
        self.leaks.stop()
        self.health.stop(deadline)
        if self._adviser is not None and self._adviser is not threading.current_thread():
            self._adviser.join(max(0.0, deadline.remaining()))
        return ()

    def abandon(self) -> None:
        """In a forked child: the threads are the parent's."""

    def _begin(self) -> None:
        # None of this waits for anybody; what is stopped has begun by then, or never does.
        with self._lock:
            if self._stopped.is_set():
                return
            self.health.start()
            self.leaks.start()
            if "postgres" in self._pools:
                self._adviser = threading.Thread(
                    target=self._advise, name="poolkit-advice", daemon=True
                )
                self._adviser.start()

    def _advise(self) -> None:
        """Warn if all instances together may open more connections than the server admits."""
        pool = self._pools["postgres"]
        try:
            with deadline(ADVICE_TIMEOUT):
                admits = admitted(pool)
        except Exception as error:  # noqa: BLE001 - no advice, then
            logger.debug("pool %r: max_connections could not be asked for: %s", pool.name, error)
            return
        wanted = self._instances * pool.config.max_size
        if wanted > admits:
            logger.warning(
                "pool %r: %d instances may open %d connections in all, the server admits %d; "
                "lower max_size to %d, or raise the server's max_connections",
                pool.name,
                self._instances,
                wanted,
                admits,
                max(1, admits // self._instances),
                extra={"pool": pool.name},
            )


def admitted(pool: Any) -> int:
    """Ask the server of a PostgresPool how many connections it admits, those for its administrators left out."""
    (count,) = pool.query_one(
        "select current_setting('max_connections')::int"
        " - current_setting('superuser_reserved_connections')::int"
    )
    return int(count)
