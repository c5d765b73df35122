"""What a FirestorePool needs to run, for one process: the parts, put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from random import uniform
from typing import Any

from google.api_core import exceptions
from google.cloud.firestore_v1 import types

from ..core.budget import RetryBudget
from ..core.deadline import Deadline, ambient
from ..core.events import Events
from ..core.housekeeper import Timer, housekeeper
from ..core.lease import Holder
from ..core.lending import Lender
from ..core.retry import Retrier, Try
from ..core.stats import PoolStats, Tally
from . import channels, commits
from .bulk import Bulk, BulkResult, request_for
from .calls import Caller
from .config import FirestoreConfig, identity_of
from .failures import classify, classify_part
from .fleet import Fleet, Slot
from .methods import BATCH_GET, BATCH_WRITE, COMMIT, GET, LIST_COLLECTIONS, Method
from .operations import Writes, all_guarded, check_commit
from .pacing import Pacer
from .spreading import Route
from .transactions import Transactions

SWEEP = 1.0
"""Seconds between looks at idle channels and at leases nobody can return."""

TRANSACTION_ATTEMPTS = 10
"""Attempts at a transaction that others keep aborting, at least; the library makes 5, without pauses."""


class Running:
    """What a FirestorePool needs to run, for one process."""

    def __init__(self, config: FirestoreConfig) -> None:
        self.config = config
        self.tally = Tally()
        self.events = Events(config.name, config.listeners)
        self.identity = identity_of(config)
        self.fleet = Fleet(config, self.identity, tally=self.tally, events=self.events)
        self.lender: Lender[Slot] = Lender(
            config.name,
            max_size=config.calls,
            max_waiting=config.max_waiting,
            acquire_timeout=config.acquire_timeout,
            book=self.fleet.book,
            store=self.fleet,
            outage=self.fleet.outage,
            tally=self.tally,
            events=self.events,
        )
        self.fleet.turn_away = self.lender.turn_away
        self.caller = Caller(config.name, self.lender, self.fleet)
        self.retrier = self._make_retrier(attempts=config.retry.attempts)
        patient = self._make_retrier(attempts=max(TRANSACTION_ATTEMPTS, config.retry.attempts))
        self.database = f"projects/{self.identity.project}/databases/{config.database}"
        self._metadata = channels.metadata_for(config, self.database)
        self.transactions = Transactions(
            self.caller,
            patient,
            database=self.database,
            metadata=self._metadata,
            rpc_timeout=config.rpc_timeout,
        )
        parts = self._make_retrier(attempts=config.retry.attempts, part=True)
        self.route = Route(
            self.caller, self.fleet, self.retrier, parts, self.transactions, config.rpc_timeout
        )
        for retrier in (patient, parts):
            retrier.budget = self.retrier.budget
        self._sweeper: Timer = housekeeper().every(SWEEP, self.sweep)

    # -- use -----------------------------------------------------------------------------------------

    def read(self, method: Method, request: Any) -> Any:
        """Return the answer to a call that only reads; None where it says that there is no such document."""
        deadline = ambient()

        def attempt(state: Try) -> Any:
            try:
                return self.caller.unary(method, request, **self._options(state, deadline))
            except exceptions.NotFound:
                return None

        return self.retrier.call(attempt, idempotent=True, deadline=deadline, operation=method.name)

    def get(self, name: str, mask: Any) -> Any:
        """Return the protobuf of one document; None if there is none."""
        return self.read(GET, types.GetDocumentRequest.pb()(name=name, mask=mask))

    def fetch(self, request: Any) -> Sequence[Any]:
        """Return the answers to a request for several documents."""
        deadline = ambient()

        def attempt(state: Try) -> list[Any]:
            options = self._options(state, deadline)
            return list(self.caller.stream(BATCH_GET, request, **options))

        return self.retrier.call(
            attempt, idempotent=True, deadline=deadline, operation=BATCH_GET.name
        )

    def commit(self, protobufs: Sequence[Any], *, idempotent: bool) -> Any:
        """Have all of these writes done, or none; return the server's answer."""
        request = types.CommitRequest.pb()(database=self.database, writes=protobufs)
        check_commit(protobufs, request)
        deadline = ambient()

        def attempt(state: Try) -> Any:
            return self.caller.unary(COMMIT, request, **self._options(state, deadline))

        return commits.write(
            self.retrier,
            attempt,
            guarded=all_guarded(protobufs),
            idempotent=idempotent,
            deadline=deadline,
        )

    def bulk(self, writes: Sequence[Writes], *, rate: float, idempotent: bool) -> list[BulkResult]:
        """Have these writes done, each by itself; return what became of each."""
        deadline, policy = ambient(), self.config.retry

        def send(protobufs: Sequence[Any]) -> Any:
            self.tally.mine().operations += 1
            try:
                return self.caller.unary(
                    BATCH_WRITE,
                    request_for(self.database, protobufs),
                    **self._options(Try(), deadline),
                )
            except Exception as error:
                self.retrier.count_error(error)
                raise

        def spend(throttled: bool) -> bool:
            self.tally.mine().retries += 1
            price = RetryBudget.THROTTLED if throttled else RetryBudget.TRANSIENT
            return self.retrier.budget.spend(price)

        bulk = Bulk(
            send,
            Pacer(rate, self.lender.sleep),
            policy,
            backoff=lambda attempt: uniform(0, min(policy.cap, policy.base * 2.0 ** (attempt - 1))),
            sleep=self.lender.sleep,
            spend=spend,
            deadline=deadline,
        )
        return bulk.run(writes, idempotent=idempotent)

    def ping(self) -> None:
        """Ask the server for a sign of life."""
        request = types.ListCollectionIdsRequest.pb()(
            parent=f"{self.database}/documents", page_size=1
        )
        self.read(LIST_COLLECTIONS, request)

    # -- inspect and close ---------------------------------------------------------------------------

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
        return {self.config.name: self.retrier.budget}

    def sweep(self) -> None:
        """Take back what nobody can return, and look after the channels."""
        self.lender.reclaim()
        if self.fleet.outage.cause is None:
            self.fleet.sweep()

    def stop(self, deadline: Deadline) -> Sequence[Holder]:
        """Make no more calls, close the channels, and return who still makes one."""
        self._sweeper.cancel()
        held = self.lender.stop(deadline)
        self.fleet.stop(deadline)
        return held

    def abandon(self) -> None:
        """In a forked child: touch nothing of the parent's."""
        self.lender.abandon()
        self.fleet.abandon()

    # -- private -------------------------------------------------------------------------------------

    def _options(self, state: Try, deadline: Deadline) -> dict[str, Any]:
        return {
            "metadata": self._metadata,
            "timeout": self.config.rpc_timeout,
            "state": state,
            "deadline": deadline,
        }

    def _make_retrier(self, *, attempts: int, part: bool = False) -> Retrier:
        return Retrier(
            dataclasses.replace(self.config.retry, attempts=attempts),
            classify=classify_part if part else classify,
            sleep=self.lender.sleep,
            tally=self.tally,
            events=self.events,
        )
