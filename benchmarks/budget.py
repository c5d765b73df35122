"""Divide the time of a run among its questions, so that all of them are answered when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a question takes, in seconds: ``least`` in any case, ``more`` where there is time for all its rounds."""

    least: float = 3.0
    more: float = 20.0
    quick: bool = True  # whether a quick run asks it


UNKNOWN = Cost()

# In the order in which they are asked. What isn't here comes after, at the cost of what is unknown.
COSTS: Mapping[str, Cost] = {
    "postgres.throughput_by_threads": Cost(least=6, more=200),
    "postgres.fairness": Cost(least=1, more=0),  # of the same race
    "postgres.slow_neighbours": Cost(more=12),
    "postgres.result_sets": Cost(more=12),
    "postgres.empty_block": Cost(more=20),
    "postgres.memory": Cost(least=40, more=0),
    "redis.get_by_threads": Cost(least=4, more=90),
    "redis.fairness": Cost(least=1, more=0),
    "redis.set_by_threads": Cost(more=20, quick=False),
    "redis.pipeline": Cost(more=24),
    "redis.tls": Cost(more=8),
    "http.get_by_threads": Cost(least=4, more=80),
    "http.fairness": Cost(least=1, more=0),
    "http.get_100_kb": Cost(more=24, quick=False),
    "http.tls_by_threads": Cost(more=20, quick=False),
    "http.tls_100_kb": Cost(more=12, quick=False),
    "http.pooled_tls": Cost(more=10),
    "http.stream_1_gib": Cost(least=15, more=0, quick=False),
    "distance.kept_connections": Cost(least=4, more=20),
    "growth.threads": Cost(least=5, more=40),
    "growth.connections": Cost(least=5, more=30, quick=False),
    "growth.bytes": Cost(least=5, more=30, quick=False),
    "kit.watched_get": Cost(more=16),
    "kit.watched_query": Cost(more=16, quick=False),
    "hosts.flask_gunicorn": Cost(least=70, more=0, quick=False),
    "hosts.extension_cost": Cost(more=12),
    "mcp.mcp_calls": Cost(least=45, more=60),
    "mcp.mcp_threads": Cost(least=175, more=0, quick=False),
    "firestore.get_by_threads": Cost(least=10, more=36),
    "firestore.batch_get": Cost(more=24),
    "firestore.batch_write": Cost(least=8, more=16, quick=False),
    "firestore.bulk_write": Cost(least=36, more=12, quick=False),
    "firestore.streams": Cost(least=14, more=10),
    "firestore.counter": Cost(least=36, more=24, quick=False),
}
QUICK_LEAST = 0.25  # of the least a whole run takes: rounds are fewer and shorter


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
        self._least = QUICK_LEAST if quick else 1.0
        self._open = {question: cost_of(question) for question in questions}
        self._count = len(self._open)

    def share(self, question: str, seconds: float) -> float:
        """Return how long a race may take that would like so many seconds, for the others to have theirs."""
        others = [cost for name, cost in self._open.items() if name != question]
        free = self._left() - sum(cost.least for cost in others) * self._least
        wanted = seconds + sum(cost.more for cost in others)
        return seconds * min(1.0, max(0.0, free / wanted)) if wanted else 0.0

    def close(self, question: str) -> None:
        """Note that a question needs no more time."""
        self._open.pop(question, None)

    @property
    def spent(self) -> bool:
        """Whether the time is over."""
        return self._left() <= 0

    @property
    def progress(self) -> str:
        """Say how many questions are answered, and how long the others will take."""
        wanted = sum(cost.least * self._least + cost.more for cost in self._open.values())
        left = max(0.0, min(self._left(), wanted))
        answered = self._count - len(self._open)
        return f"{answered} of {self._count} questions answered, {_about(left)} left"

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
