"""What a PostgresPool needs to run, for one process: the parts, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.budget import RetryBudget
from ..core.combining import Combiner
from ..core.deadline import Deadline
from ..core.events import Events
from ..core.housekeeper import Timer, housekeeper
from ..core.lease import Holder, LeaseBook
from ..core.lending import Lender
from ..core.retry import Retrier, Try
from ..core.stats import PoolStats, Tally
from ..core.verdict import Phase
from .config import PostgresConfig
from .connection import PooledConnection
from .effects import combines, takes_effect_in_parts
from .failures import classify
from .lanes import PostgresFlight
from .statement import Answer, Statement
from .supply import Supply

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
        self._combiner: Combiner[PooledConnection, Statement, Answer] | None = None
        if config.combine and not config.pgbouncer:
            self._combiner = Combiner(
                self.lender,
                lanes=min(config.lanes, config.max_size),
                launch=PostgresFlight,
                tally=self.tally,
            )
        self.retrier = Retrier(
            config.retry,
            classify=classify,
            sleep=self.lender.sleep,
            tally=self.tally,
            events=self.events,
        )
        self.supply.open()
        self._sweeper: Timer = housekeeper().every(SWEEP, self.sweep)

    def run(self, statement: Statement, state: Try, deadline: Deadline) -> Any:
        """Run one statement, together with those of other threads if that helps, and return what is wanted of it."""
        combiner, text = self._combiner, statement.text
        if (
            combiner is not None
            and type(text) is str
            and combines(text)
            and self.supply.speaks_utf8
        ):
            found = combiner.ask(statement, state, deadline)
            return statement.value(found) if type(found) is Answer else found
        lease, conn = self.lender.lend(deadline)
        try:
            state.phase = Phase.IN_PARTS if takes_effect_in_parts(text) else Phase.RUNNING
            return statement.alone(conn)
        finally:
            self.lender.take_back(lease, conn)

    def stats(self) -> PoolStats:
        """Return the pool's state and counters."""
        return self.lender.stats()

    @property
    def lenders(self) -> Sequence[Lender[Any]]:
        """Who lends its connections."""
        return [self.lender]

    @property
    def budgets(self) -> Mapping[str, RetryBudget]:
        """What may be spent on retries."""
        return {self.name: self.retrier.budget}

    def sweep(self) -> None:
        """Take back what nobody can return, and look at the idle connections."""
        self.lender.reclaim()
        if self.supply.outage.cause is None:
            self.supply.sweep()

    def stop(self, deadline: Deadline) -> Sequence[Holder]:
        """Lend nothing more, close what is there, and return who still holds."""
        self._sweeper.cancel()
        held = self.lender.stop(deadline)
        self.supply.stop(deadline)
        return held

    def abandon(self) -> None:
        """In a forked child: touch nothing of the parent's."""
        self.lender.abandon()
        self.supply.abandon()
