"""Any number of writes, in chunks, each with a result of its own: they are not atomic."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from google.api_core import exceptions
from google.cloud.firestore_v1 import types

from ..core.deadline import Deadline
from ..core.errors import OutcomeUnknown, PoolKitError
from ..core.retry import RetryPolicy
from ..core.verdict import Again, Phase
from . import channels
from .failures import classify, is_precondition
from .operations import MOST_WRITES, Writes
from .pacing import Pacer
from .side_by_side import side_by_side

logger = logging.getLogger("poolkit.firestore")

CHUNK = 100
"""Writes that one call carries; the most is :data:`~poolkit.firestore.operations.MOST_WRITES`."""

WORKERS = 8
"""Calls at a time."""

assert CHUNK <= MOST_WRITES


@dataclass(frozen=True)
class BulkResult:
    """What became of one write of a bulk.

    ``path`` of the document; ``error`` is None if it was written, and what the library would raise, or one of
    poolkit's, if not; ``update_time`` of the document, if it was written and that changed it; ``attempts`` made.
    """

    path: str
    error: Exception | None = None
    update_time: datetime | None = None
    attempts: int = 1

    @property
    def ok(self) -> bool:
        """Whether it was written."""
        return self.error is None


@dataclass(eq=False)
class _Item:
    """One write, and what is known of it so far."""

    number: int
    writes: Writes
    idempotent: bool
    attempts: int = 0
    lost: bool = field(default=False)
    """Whether an answer was lost, so that it may have run before."""


class Bulk:
    """One bulk of writes."""

    def __init__(
        self,
        send: Callable[[Sequence[Any]], Any],
        pacer: Pacer,
        policy: RetryPolicy,
        *,
        backoff: Callable[[int], float],
        sleep: Callable[[float], object],
        spend: Callable[[bool], bool],
        deadline: Deadline,
    ) -> None:
        self._send = send
        self._pacer = pacer
        self._policy = policy
        self._backoff = backoff
        self._sleep = sleep
        self._spend = spend
        self._deadline = deadline
        self._results: list[BulkResult] = []

    def run(self, writes: Sequence[Writes], *, idempotent: bool) -> list[BulkResult]:
        """Return what became of each of *writes*, in their order. Those to one document are done in theirs."""
        items = [
            _Item(number, each, idempotent or each.guarded) for number, each in enumerate(writes)
        ]
        self._results = [BulkResult(each.path) for each in writes]
        for wave in _waves(items):
            pending = wave
            for attempt in range(1, self._policy.attempts + 1):
                chunks = [pending[start : start + CHUNK] for start in range(0, len(pending), CHUNK)]
                again = side_by_side(self._write, chunks, WORKERS)
                pending = [item for failed in again for item in failed]
                if not pending or not self._may_go_on(attempt):
                    break
        return self._results

    def _may_go_on(self, attempt: int) -> bool:
        """Wait before the next attempt; return whether there may be one."""
        pause = self._backoff(attempt)
        if attempt >= self._policy.attempts or pause >= self._deadline.remaining():
            return False
        if not self._spend(True):
            return False
        self._deadline.sleep(pause, self._sleep)
        return not self._deadline.expired

    def _write(self, items: list[_Item]) -> list[_Item]:
        """Send one chunk, note the results, and return the items that may be sent again."""
        if not self._pacer.take(len(items), self._deadline):
            error = self._deadline.exceeded("bulk_write", stage="waiting")
            for item in items:
                self._note(item, error)
            return []
        try:
            answer = self._send([write for item in items for write in item.writes.protobufs])
        except (exceptions.GoogleAPICallError, PoolKitError) as error:
            return [item for item in items if self._failed(item, error)]
        again = []
        for item, status, result in zip(items, answer.status, answer.write_results, strict=True):
            item.attempts += 1
            if not status.code:
                stamp = channels.time_of(result.update_time)
                self._note(item, None, stamp)
            elif self._refused(item, exceptions.from_grpc_status(status.code, status.message)):
                again.append(item)
        return again

    def _failed(self, item: _Item, error: Exception) -> bool:
        """Take note of a call that failed as a whole; return whether the item may be sent again."""
        item.attempts += 1
        verdict = classify(error, Phase.RUNNING)
        return self._judge(item, error, verdict.again, unknown=verdict.unknown)

    def _refused(self, item: _Item, error: exceptions.GoogleAPICallError) -> bool:
        """Take note of a write that the server says it has not done; return whether it may be sent again."""
        if item.lost and is_precondition(error):
            self._note(item, _unknown(error))
            return False
        verdict = classify(error, Phase.RUNNING)
        return self._judge(item, error, verdict.again, unknown=verdict.unknown)

    def _judge(self, item: _Item, error: Exception, again: Again, *, unknown: bool) -> bool:
        item.lost = item.lost or unknown
        told = _unknown(error) if item.lost and not isinstance(error, OutcomeUnknown) else error
        self._note(item, told)
        return again is Again.SAFE or (item.idempotent and again is Again.IF_IDEMPOTENT)

    def _note(
        self, item: _Item, error: Exception | None, update_time: datetime | None = None
    ) -> None:
        self._results[item.number] = BulkResult(
            item.writes.path, error, update_time, max(1, item.attempts)
        )


def request_for(database: str, protobufs: Sequence[Any]) -> Any:
    """Return the request that carries one chunk."""
    return types.BatchWriteRequest.pb()(database=database, writes=protobufs)


def _waves(items: Sequence[_Item]) -> list[list[_Item]]:
    """Return the items in waves, one to be done after the other: no document is in one of them twice.

    A call must not have two writes to one document, and calls that run side by side have no order.
    """
    waves: list[list[_Item]] = []
    depth: dict[str, int] = {}
    for item in items:
        wave = depth.get(item.writes.name, 0)
        depth[item.writes.name] = wave + 1
        if wave == len(waves):
            waves.append([])
        waves[wave].append(item)
    return waves


def _unknown(error: Exception) -> OutcomeUnknown:
    told = OutcomeUnknown(f"an answer was lost, so it may have been written or not: {error}")
    told.__cause__ = error
    return told
