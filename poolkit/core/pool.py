"""What all pools can do, whatever they lend: open, be looked at, close."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from . import checks
from .budget import RetryBudget
from .config import PoolConfig
from .deadline import Deadline, deadline
from .events import Closed, Events, Opened
from .housekeeper import housekeeper
from .lease import Holder
from .lending import Lender, ServerState
from .lifecycle import Lifecycle, Running
from .stats import PoolStats, Tally

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger("poolkit")

HEALTH_TIMEOUT = 5.0
"""Seconds a health check may take where no earlier deadline is in force."""


class Lending(Running, Protocol):
    """What a pool needs to run, for one process: it lends, and tells."""

    events: Events

    def stats(self) -> PoolStats:
        """Return its state and counters."""

    @property
    def lenders(self) -> Sequence[Lender[Any]]:
        """Those who lend its connections: one, or one for each server."""

    @property
    def budgets(self) -> Mapping[str, RetryBudget]:
        """What may be spent on retries, by the name of the pool, or of each host."""


ConfigT = TypeVar("ConfigT", bound=PoolConfig)
RunningT = TypeVar("RunningT", bound=Lending)


class Pool(Generic[ConfigT, RunningT]):
    """What all pools can do; each adds how its connections are used.

    *start* makes what runs in one process; *ping* asks the backend for a sign of life and raises if
    there is none.
    """

    def __init__(
        self, config: ConfigT, *, start: Callable[[], RunningT], ping: Callable[[], object]
    ) -> None:
        self.config = config
        self._ping = ping
        self._lifecycle: Lifecycle[RunningT] = Lifecycle(
            config.name, start, opened=_tell_opened, closed=_tell_closed
        )

    def __repr__(self) -> str:
        state = self._lifecycle.state
        running = self._lifecycle.latest
        if running is None:
            return f"<{type(self).__name__} {self.name!r} {state}>"
        return f"<{type(self).__name__} {self.name!r} {state}: {running.stats().summary()}>"

    @property
    def name(self) -> str:
        """What the pool is called in logs, errors and metrics."""
        return self.config.name

    def open(self) -> Self:
        """Get ready to lend connections. Not needed: the first use does it."""
        self._lifecycle.open()
        return self

    def __enter__(self) -> Self:
        try:
            return self.open()
        except BaseException:
            self.close(timeout=0)  # __exit__ will not be called
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def stats(self) -> PoolStats:
        """Return the pool's state and counters as a frozen snapshot; of a closed pool, the last."""
        running = self._lifecycle.latest
        if running is not None:
            return running.stats()
        return PoolStats.of(
            Tally(), name=self.name, max_size=self.config.max_size, in_use=0, waiting=0
        )

    def leases(self) -> list[Holder]:
        """Return who holds connections now, the longest first."""
        running = self._lifecycle.latest
        lenders = running.lenders if running is not None else ()
        return sorted(
            (holder for lender in lenders for holder in lender.holders()),
            key=lambda holder: holder.since,
        )

    def servers(self) -> list[ServerState]:
        """Return how it is with each of its servers now: mostly one, in an HttpPool one for each host."""
        running = self._lifecycle.latest
        return [lender.state() for lender in running.lenders] if running is not None else []

    def retry_budgets(self) -> dict[str, float]:
        """Return what is left of the retry budget, 0.0 to 1.0, by name: in an HttpPool for each host."""
        running = self._lifecycle.latest
        budgets = running.budgets if running is not None else {}
        return {name: budget.tokens / budget.CAPACITY for name, budget in budgets.items()}

    def recall(
        self,
        *,
        since: float = 0.0,
        until: float = math.inf,
        reason: str = "it was recalled by its thread",
    ) -> list[Holder]:
        """Take back what the calling thread still holds and got from *since* to *until*; return what that was.

        For the end of a unit of work, a request say, that should hold nothing any more. Both are in seconds of
        :func:`time.perf_counter`, like :attr:`Holder.since <poolkit.Holder.since>`. The connections are closed, and
        logged and told as leaked, with *reason*.
        """
        running = self._lifecycle.latest
        thread = threading.current_thread()
        return [
            holder
            for lender in (running.lenders if running is not None else ())
            if lender.book
            for holder in lender.recall(thread, since=since, until=until, reason=reason)
        ]

    def holds(self, *, since: float = 0.0, until: float = math.inf) -> bool:
        """Whether the calling thread still holds anything that :meth:`recall` would take back. Cheap."""
        running = self._lifecycle.latest
        if running is None:
            return False
        for lender in running.lenders:
            if lender.book and lender.holds(threading.current_thread(), since=since, until=until):
                return True
        return False

    def ping(self, timeout: float = HEALTH_TIMEOUT) -> float:
        """Ask the backend for a sign of life, and return how many seconds that took.

        Raises what a use of the pool would; at most *timeout* seconds are waited.
        """
        began = perf_counter()
        with deadline(timeout):
            self._ping()
        return perf_counter() - began

    def health_check(self) -> bool:
        """Whether the backend gives a sign of life now, within five seconds. Never raises."""
        try:
            self.ping()
        except Exception as error:  # noqa: BLE001 - never raises, as promised
            logger.warning("pool %r: health check failed: %s", self.name, error)
            return False
        return True

    @property
    def state(self) -> str:
        """``new``, ``open`` or ``closed``; in a forked child, ``new`` until it is used there."""
        return self._lifecycle.state

    def when_opened(self, call: Callable[[], object]) -> None:
        """Have *call* called each time the pool has opened itself: once in each process that uses it."""
        self._lifecycle.when_opened.append(call)

    def close(self, timeout: float = 5.0) -> None:
        """Refuse new calls, wait up to *timeout* seconds for those under way, and close the connections.

        A connection still lent after that is closed when it comes back; its holder is logged. Idempotent.
        """
        self._lifecycle.close(Deadline.after(checks.seconds("timeout", timeout, forever=True)))
        housekeeper().join(1.0)


def _tell_opened(running: Lending) -> None:
    running.events.tell(Opened)


def _tell_closed(running: Lending, held: Sequence[Holder]) -> None:
    for holder in held:
        logger.warning(
            "pool %r was closed while held by %s", running.events.pool, holder.describe()
        )
    running.events.tell(Closed, held=len(held))
