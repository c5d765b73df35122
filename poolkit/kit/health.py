"""Whether the pools can serve: asked of the backends now and then, off the path of requests."""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

from ..core import checks
from ..core.deadline import Deadline
from ..core.errors import PoolOverloaded
from ..core.housekeeper import Timer, housekeeper
from ..core.stats import PoolStats
from .backends import AnyPool

logger = logging.getLogger("poolkit.health")


class Status(enum.Enum):
    """How well a pool, or a kit, can serve."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """It serves, but not as it should."""
    UNAVAILABLE = "unavailable"
    """It can't serve."""

    @property
    def severity(self) -> int:
        """0 for healthy, 1 for degraded, 2 for unavailable."""
        return list(Status).index(self)


@dataclass(frozen=True, kw_only=True)
class PoolHealth:
    """What the last check of a pool found.

    ``reasons`` say why it is not healthy, by kind: ``backend``, ``waiting``, ``errors``. ``latency`` is the
    seconds in which the backend answered, None if it did not; ``checked_at`` is in seconds since the epoch.
    """

    status: Status
    reasons: Mapping[str, str] = field(default_factory=dict)
    latency: float | None = None
    checked_at: float


@dataclass(frozen=True, kw_only=True)
class KitHealth:
    """What the last checks of all pools found.

    ``live``: the process can go on. ``ready``: no pool is unavailable, so requests can be served. A pool that
    was not checked yet is missing in ``pools``.
    """

    status: Status
    live: bool
    ready: bool
    pools: Mapping[str, PoolHealth]

    def as_dict(self) -> dict[str, object]:
        """Return all of it as JSON has it."""
        return {
            "status": self.status.value,
            "live": self.live,
            "ready": self.ready,
            "pools": {
                name: {
                    "status": health.status.value,
                    "reasons": list(health.reasons.values()),
                    "latency": health.latency,
                    "checked_at": health.checked_at,
                }
                for name, health in self.pools.items()
            },
        }


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many threads may be ``waiting``, and what ``error_rate``, in percent, a pool may have since its last check.

    With more it is degraded.
    """

    waiting: int = 5
    error_rate: float = 5.0

    def __post_init__(self) -> None:
        checks.count("Limits.waiting", self.waiting)
        checks.seconds("Limits.error_rate", self.error_rate)


def nobody(*_: object) -> None:
    """There is nobody to tell."""


class HealthChecker:
    """Checks each pool *every* so many seconds, each in a thread of its own, so that none delays another.

    A check may take *timeout* seconds. What changes is logged, once, and *changed* is called with the pool's name.
    """

    def __init__(
        self,
        pools: Mapping[str, AnyPool],
        *,
        every: float = 30.0,
        timeout: float = 5.0,
        limits: Limits | None = None,
        changed: Callable[[str, PoolHealth], object] = nobody,
    ) -> None:
        self._every = checks.seconds("every", every, zero=False)
        self._timeout = checks.seconds("timeout", timeout, zero=False)
        limits = limits or Limits()
        self._watches = {
            name: _Watch(name, pool, self._timeout, limits, changed) for name, pool in pools.items()
        }
        self._timer: Timer | None = None
        self._first: Timer | None = None

    def start(self) -> None:
        """Check now, and from now on."""
        self._first = housekeeper().after(0.0, self._round)
        self._timer = housekeeper().every(self._every, self._round)

    def stop(self, deadline: Deadline) -> None:
        """Check no more, and wait for checks under way, until *deadline* at most."""
        for timer in (self._first, self._timer):
            if timer is not None:
                timer.cancel()
        for watch in self._watches.values():
            watch.end(deadline)

    def last(self) -> KitHealth:
        """Return what was found last. Costs nothing."""
        found = {
            name: health
            for name, watch in self._watches.items()
            if (health := watch.last) is not None
        }
        worst = max(
            (health.status for health in found.values()), key=_severity, default=Status.HEALTHY
        )
        return KitHealth(
            status=worst,
            live=housekeeper().is_alive,
            ready=worst is not Status.UNAVAILABLE,
            pools=found,
        )

    def check(self) -> KitHealth:
        """Check all pools now, side by side, and return what was found: after the time-out at the latest."""
        self._round()
        until = Deadline.after(self._timeout + _GRACE)
        for watch in self._watches.values():
            if not watch.join(until):
                watch.note_hung()
        return self.last()

    def _round(self) -> None:
        for watch in self._watches.values():
            watch.begin()


_GRACE = 0.5
"""Seconds that a check may take beyond its time-out, before it is said to hang."""


class _Watch:
    """Checks one pool."""

    def __init__(
        self,
        name: str,
        pool: AnyPool,
        timeout: float,
        limits: Limits,
        changed: Callable[[str, PoolHealth], object],
    ) -> None:
        self.last: PoolHealth | None = None
        self._name = name
        self._pool = pool
        self._timeout = timeout
        self._limits = limits
        self._changed = changed
        self._ended = False
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._thread: threading.Thread | None = None
        self._since = 0.0
        self._counted = (0, 0)  # operations and errors at the last check
        self._told: tuple[Status, frozenset[str]] = (Status.HEALTHY, frozenset())

    def begin(self) -> None:
        """Begin a check, unless one is under way: then that hangs if it should have ended."""
        with self._lock:
            thread = self._thread
            if thread is None or not thread.is_alive():
                self._since = monotonic()
                self._thread = threading.Thread(
                    target=self._check, name=f"poolkit-health-{self._name}", daemon=True
                )
                self._thread.start()
                return
        self.note_hung()

    def end(self, deadline: Deadline) -> None:
        """Say nothing more, and wait for a check under way."""
        self._ended = True
        self.join(deadline)

    def join(self, until: Deadline) -> bool:
        """Wait for a check under way; return whether it has ended."""
        with self._lock:  # or it might not have been started yet
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(max(0.0, until.remaining()))
        return not thread.is_alive()

    def note_hung(self) -> None:
        """Say that the check under way hangs, if it has had its time."""
        taken = monotonic() - self._since
        if taken > self._timeout:
            self._conclude(None, {"backend": f"the check has not ended for {taken:.1f} s"})

    def _check(self) -> None:
        reasons: dict[str, str] = {}
        latency = None
        try:
            latency = self._pool.ping(self._timeout)
        except PoolOverloaded as error:
            # The others are served, or all of them hang: to send requests elsewhere helps in the one case only.
            reasons["waiting" if self._serves() else "backend"] = _in_a_line(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a reason
            reasons["backend"] = _in_a_line(error)
        complaints = self._complaints(self._pool.stats())
        if not reasons:
            reasons = complaints
        self._conclude(latency, reasons)

    def _serves(self) -> bool:
        """Whether anything went well since the last check."""
        before, errors_before = self._counted
        stats = self._pool.stats()
        return stats.operations - stats.errors > before - errors_before

    def _complaints(self, stats: PoolStats) -> dict[str, str]:
        """Return what the pool's figures since the last check say against it."""
        found: dict[str, str] = {}
        before, errors_before = self._counted
        self._counted = (stats.operations, stats.errors)
        operations = stats.operations - before
        errors = stats.errors - errors_before
        if stats.waiting > self._limits.waiting:
            found["waiting"] = (
                f"{stats.waiting} threads wait for a connection, {stats.in_use} of {stats.max_size} "
                "are in use; consider a larger pool, or shorter use"
            )
        if operations > 0 and 100.0 * errors / operations > self._limits.error_rate:
            found["errors"] = (
                f"{errors} of {operations} operations since the last check failed "
                f"({100.0 * errors / operations:.0f} %)"
            )
        return found

    def _conclude(self, latency: float | None, reasons: Mapping[str, str]) -> None:
        if self._ended:
            return  # what was found is that the pool is being closed
        status = _status_for(reasons)
        self.last = health = PoolHealth(
            status=status, reasons=dict(reasons), latency=latency, checked_at=time.time()
        )
        with self._lock:
            before, self._told = self._told, (status, frozenset(reasons))
            changed = before != self._told
        if changed:
            level = logging.INFO if status is Status.HEALTHY else logging.WARNING
            logger.log(
                level,
                "pool %r is %s%s",
                self._pool.name,
                status.value,
                "".join(f"; {reason}" for reason in reasons.values()),
                extra={"pool": self._pool.name, "status": status.value},
            )
            self._changed(self._pool.name, health)


def _status_for(reasons: Mapping[str, str]) -> Status:
    if "backend" in reasons:
        return Status.UNAVAILABLE
    return Status.DEGRADED if reasons else Status.HEALTHY


def _severity(status: Status) -> int:
    return status.severity


def _in_a_line(error: BaseException) -> str:
    """Return what *error* says, and what caused it where that is not in it."""
    said = (str(error).splitlines() or [""])[0]
    text = f"{type(error).__name__}: {said}"
    cause = error.__cause__
    if cause is not None and (more := (str(cause).splitlines() or [""])[0]) not in text:
        text += f" ({more})"
    return text
