"""Divide the time of a run among its questions, so that all of them are answered when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a question takes, in seconds: ``least`` in any case, ``more`` where there is time for all its rounds.

    ``quick`` is the least in a quick run; None: there it isn't asked.
    """

    least: float = 3.0
    more: float = 20.0
    quick: float | None = None


UNKNOWN = Cost(quick=3.0)

# In the order in which they are asked. What isn't here comes after, at the cost of what is unknown.
COSTS: Mapping[str, Cost] = {
    "postgres.throughput_by_threads": Cost(least=6, more=200, quick=18),
    "postgres.fairness": Cost(least=1, more=0, quick=0.5),  # of the same race
    "postgres.slow_neighbours": Cost(more=12, quick=1.5),
    "postgres.result_sets": Cost(more=12, quick=1.5),
    "postgres.empty_block": Cost(more=20, quick=2),
    "postgres.memory": Cost(least=40, more=0, quick=6),
    "redis.get_by_threads": Cost(least=4, more=90, quick=8),
    "redis.fairness": Cost(least=1, more=0, quick=0.5),
    "redis.set_by_threads": Cost(more=20),
    "redis.pipeline": Cost(more=24, quick=4),
    "redis.tls": Cost(more=8, quick=1),
    "http.get_by_threads": Cost(least=4, more=80, quick=9),
    "http.fairness": Cost(least=1, more=0, quick=0.5),
    "http.get_100_kb": Cost(more=24),
    "http.tls_by_threads": Cost(more=20),
    "http.tls_100_kb": Cost(more=12),
    "http.pooled_tls": Cost(more=10, quick=2),
    "http.stream_1_gib": Cost(least=15, more=0),
    "distance.kept_connections": Cost(least=4, more=20, quick=9),
    "growth.threads": Cost(least=5, more=40, quick=15),
    "growth.connections": Cost(least=5, more=30),
    "growth.bytes": Cost(least=5, more=30),
    "kit.watched_get": Cost(more=16, quick=3),
    "kit.watched_query": Cost(more=16),
    "hosts.flask_gunicorn": Cost(least=70, more=0),
    "hosts.extension_cost": Cost(more=12, quick=2),
    "mcp.mcp_calls": Cost(least=65, more=40, quick=18),
    "mcp.mcp_threads": Cost(least=95, more=0),
    "firestore.get_by_threads": Cost(least=10, more=36),
    "firestore.batch_get": Cost(more=24),
    "firestore.batch_write": Cost(least=8, more=16),
    "firestore.bulk_write": Cost(least=36, more=12),
    "firestore.streams": Cost(least=14, more=10, quick=7),
    "firestore.counter": Cost(least=36, more=24),
}


class Budget:
    """The seconds of a run, and the questions that are still to be answered within them."""

    def __init__(
        self,
        seconds: float,
        questions: Iterable[str],
        *,
        quick: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._until = clock() + seconds
        self._open = {question: cost_of(question) for question in questions}
        self._quick = quick
        self._count = len(self._open)

    def share(self, question: str, seconds: float) -> float:
        """Return how long a race may take that would like so many seconds, for the others to have theirs."""
        others = [cost for name, cost in self._open.items() if name != question]
        free = self._left() - sum(map(self._least, others))
        wanted = seconds + sum(cost.more for cost in others)
        return seconds * min(1.0, max(0.0, free / wanted)) if wanted else 0.0

    def close(self, question: str) -> None:
        """Note that a question needs no more time."""
        self._open.pop(question, None)

    def allows(self, questions: Iterable[str]) -> bool:
        """Whether there is time for at least one of the questions."""
        return self._left() > min(self._least(cost_of(question)) for question in questions)

    @property
    def progress(self) -> str:
        """Say how many questions are answered, and how long the others will take."""
        wanted = sum(self._least(cost) + cost.more for cost in self._open.values())
        left = max(0.0, min(self._left(), wanted))
        answered = self._count - len(self._open)
        return f"{answered} of {self._count} questions answered, {_about(left)} left"

    def _least(self, cost: Cost) -> float:
        return cost.quick or 0.0 if self._quick else cost.least

    def _left(self) -> float:
        return self._until - self._clock()


def cost_of(question: str) -> Cost:
    return COSTS.get(question, UNKNOWN)


def place_of(bench: str) -> int:
    """Return where a bench comes in a run."""
    benches = list(dict.fromkeys(question.partition(".")[0] for question in COSTS))
    return benches.index(bench) if bench in benches else len(benches)


def _about(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"
