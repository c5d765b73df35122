"""What the issues ask for, as data, and whether a run met it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.crew import Round
from benchmarks.harness import Results


@dataclass(frozen=True)
class Measure:
    """One figure of a round; ``scale`` takes seconds to ``unit``."""

    name: str
    unit: str
    of: Callable[[Round], float]
    scale: float = 1.0
    over: Callable[[Iterable[float]], float] = statistics.median

    def __call__(self, round: Round) -> float:
        return self.of(round) * self.scale


THROUGHPUT = Measure("turns a second", "/s", lambda round: round.throughput)
P50 = Measure("p50", "ms", lambda round: round.p50, 1e3)
P99 = Measure("p99", "ms", lambda round: round.p99, 1e3)
LONGEST = Measure("longest turn", "ms", lambda round: round.longest, 1e3, max)
SLOWEST_SHARE = Measure("slowest / median thread", "", lambda round: round.slowest_share)
COST = Measure("time a turn", "µs", lambda round: 1 / round.throughput, 1e6)
CPU = Measure("CPU time a turn", "µs", lambda round: round.cpu_seconds / sum(round.turns), 1e6)
RSS = Measure("resident memory", "MB", lambda round: round.rss_bytes, 1e-6, max)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A bound on one contender's measure: alone, or as a ratio to a peer's or its difference from it."""

    name: str  # what the issue calls it
    contender: str
    threads: int
    peer: str | None = None
    measure: Measure = THROUGHPUT
    compare: Literal["ratio", "difference"] = "ratio"
    at_least: float | None = None
    at_most: float | None = None

    def judge(self, results: Results) -> Finding:
        """Measure it in these results."""
        label = f"{self.name}, {self.threads} thread{'s' if self.threads > 1 else ''}"
        if self.peer is None:
            values = results.cell(self.contender, self.threads).values(self.measure)
            unit = self.measure.unit
        else:
            pairs = results.pairs(self.contender, self.peer, self.threads)
            values = [self._compared(ours, theirs) for ours, theirs in pairs]
            unit = "×" if self.compare == "ratio" else self.measure.unit
        return Finding(
            name=label,
            against=self.peer or f"({self.measure.name})",
            value=self.measure.over(values) if values else None,
            low=min(values, default=None),
            high=max(values, default=None),
            unit=unit,
            at_least=self.at_least,
            at_most=self.at_most,
        )

    def _compared(self, ours: Round, theirs: Round) -> float:
        if self.compare == "difference":
            return self.measure(ours) - self.measure(theirs)
        return self.measure(ours) / self.measure(theirs)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a run found for a target: the median, the extremes over rounds, and the bound. None: not measured."""

    name: str
    against: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """Say whether the bound is kept; None when nothing was measured, or nothing is asked."""
        if self.value is None or (self.at_least is None and self.at_most is None):
            return None
        enough = self.at_least is None or self.value >= self.at_least
        return enough and (self.at_most is None or self.value <= self.at_most)

    @property
    def bound(self) -> str:
        """Say what is asked, as ``≥ 2.00 ×``."""
        bounds = (("≥", self.at_least), ("≤", self.at_most))
        return " and ".join(
            f"{sign} {self.shown(value)}" for sign, value in bounds if value is not None
        )

    def shown(self, value: float) -> str:
        return f"{value:.2f} {self.unit}".rstrip()


def judge(targets: Sequence[Target], results: Results) -> list[Finding]:
    """Measure all targets."""
    return [target.judge(results) for target in targets]
