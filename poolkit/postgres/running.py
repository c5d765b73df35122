"""What a PostgresPool needs to run, for one process: the parts, put together."""

from __future__ import annotations

import logging

from ..core.deadline import Deadline
from ..core.events import Closed, Events, Opened
from ..core.housekeeper import Timer, housekeeper
from ..core.lease import Holder, LeaseBook
from ..core.lending import Lender
from ..core.retry import Retrier
from ..core.stats import PoolStats, Tally
from .config import PostgresConfig
from .connection import PooledConnection
from .failures import classify
from .supply import Supply

logger = logging.getLogger("poolkit.postgres")

SWEEP = 1.0
"""Seconds between looks at idle connections and at leases nobody can return."""


class Running:
    """What a PostgresPool needs to run, for one process."""

    def __init__(self, config: PostgresConfig) -> None:
        self.name = config.name
        self.slow_query = config.slow_query
        self.tally = Tally()
        self.events = Events(config.name, config.listeners)
        book: LeaseBook[PooledConnection] = LeaseBook()
        self.supply = Supply(config, book=book, tally=self.tally, events=self.events)
        self.lender = Lender(
            config.name,
            max_size=config.max_size,
            max_waiting=config.max_waiting,
            acquire_timeout=config.acquire_timeout,
            book=book,
            store=self.supply,
            outage=self.supply.outage,
            tally=self.tally,
            events=self.events,
        )
        self.supply.turn_away = self.lender.turn_away
        self.retrier = Retrier(
            config.retry,
            classify=classify,
            sleep=self.lender.sleep,
            tally=self.tally,
            events=self.events,
        )
        self.supply.open()
        self._sweeper: Timer = housekeeper().every(SWEEP, self.sweep)
        self._held = 0

    def stats(self) -> PoolStats:
        """Return the pool's state and counters."""
        return self.lender.stats()

    def holders(self) -> list[Holder]:
        """Return who holds connections now, the longest first."""
        return self.lender.holders()

    def sweep(self) -> None:
        """Take back what nobody can return, and look at the idle connections."""
        self.lender.reclaim()
        if self.supply.outage.cause is None:
            self.supply.sweep()

    def stop(self, deadline: Deadline) -> None:
        """Lend nothing more, and close what is there."""
        self._sweeper.cancel()
        held = self.lender.stop(deadline)
        for holder in held:
            logger.warning("pool %r was closed while held by %s", self.name, holder.describe())
        self._held = len(held)
        self.supply.stop(deadline)

    def announce_open(self) -> None:
        """Tell that the pool runs."""
        self.events.tell(Opened)

    def announce_closed(self) -> None:
        """Tell that the pool is closed."""
        self.events.tell(Closed, held=self._held)

    def abandon(self) -> None:
        """In a forked child: touch nothing of the parent's."""
        self.lender.abandon()
        self.supply.abandon()
