"""The goals, as data, and whether a run met them."""

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
    more_is_better: bool = False
    noise: float = 0.05  # by which a ratio to another may be off for no reason

    def is_worse(self, ratio: float) -> bool:
        """Say whether who has this ratio to another is clearly worse."""
        return ratio < 1 - self.noise if self.more_is_better else ratio > 1 / (1 - self.noise)

    def __call__(self, round: Round) -> float:
        return self.of(round) * self.scale


THROUGHPUT = Measure("requests a second", "/s", lambda round: round.throughput, more_is_better=True)
P50 = Measure("p50", "ms", lambda round: round.p50, 1e3)
P99 = Measure("p99", "ms", lambda round: round.p99, 1e3, noise=0.2)
LONGEST = Measure("longest request", "ms", lambda round: round.longest, 1e3, max)
SLOWEST_SHARE = Measure(
    "slowest / median thread", "", lambda round: round.slowest_share, more_is_better=True
)
COST = Measure("time a request", "µs", lambda round: 1 / round.throughput, 1e6)
CPU = Measure(
    "client's CPU time a request", "µs", lambda round: round.cpu_seconds / sum(round.turns), 1e6
)
RSS = Measure("resident memory", "MB", lambda round: round.rss_bytes, 1e-6, max)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A bound on one contender's measure: alone, or as a ratio to a peer's or its difference from it."""

    name: str  # what is done
    contender: str
    threads: int
    peer: str | None = None
    measure: Measure = THROUGHPUT
    compare: Literal["ratio", "difference"] = "ratio"
    at_least: float | None = None
    at_most: float | None = None

    def judge(self, results: Results) -> Finding:
        """Measure it in these results."""
        rival = False
        if self.peer is None:
            values = results.cell(self.contender, self.threads).values(self.measure)
            unit = self.measure.unit
        else:
            pairs = results.pairs(self.contender, self.peer, self.threads)
            values = [self._compared(ours, theirs) for ours, theirs in pairs]
            unit = "×" if self.compare == "ratio" else self.measure.unit
            peer = results.cell(self.peer, self.threads).contender
            rival = self.compare == "ratio" and not (peer.ours or peer.floor)
        return Finding(
            name=self.name,
            threads=self.threads,
            against=self.peer or f"({self.measure.name} of {self.contender})",
            measure=self.measure.name,
            value=self.measure.over(values) if values else None,
            low=min(values, default=None),
            high=max(values, default=None),
            unit=unit,
            at_least=self.at_least,
            at_most=self.at_most,
            rival=rival,
            more_is_better=self.measure.more_is_better,
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
    threads: int | None = None
    measure: str = ""
    rival: bool = False  # whether it is against another's way to do the same
    more_is_better: bool = False

    @property
    def label(self) -> str:
        """Say what was done, by how many threads."""
        if self.threads is None:
            return self.name
        return f"{self.name}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    @property
    def met(self) -> bool | None:
        """Say whether the bound is kept; None when nothing was measured, or nothing is asked."""
        if self.value is None or (self.at_least is None and self.at_most is None):
            return None
        enough = self.at_least is None or self.value >= self.at_least
        return enough and (self.at_most is None or self.value <= self.at_most)

    @property
    def peer_wins(self) -> bool:
        """Say whether a rival is clearly better, whatever the goal."""
        if self.value is None or not self.rival:
            return False
        return self.value < 0.97 if self.more_is_better else self.value > 1.03

    @property
    def bound(self) -> str:
        """Say what the goal is, as ``≥ 2.00 ×``."""
        bounds = (("≥", self.at_least), ("≤", self.at_most))
        return " and ".join(
            f"{sign} {self.shown(value)}" for sign, value in bounds if value is not None
        )

    @property
    def spread(self) -> str:
        """Say the extremes over rounds, if there were several."""
        if self.low is None or self.high is None or self.low == self.high:
            return ""
        return f"{figure(self.low)} – {figure(self.high)}"

    @property
    def verdict(self) -> str:
        """Say ``met``, ``missed`` or ``not measured``, and whether the peer wins; nothing where there is no goal."""
        if self.value is None:
            return "not measured"
        said = {True: "met", False: "missed", None: ""}[self.met]
        return "; ".join(filter(None, (said, "the peer wins" if self.peer_wins else "")))

    def shown(self, value: float) -> str:
        return f"{figure(value)} {self.unit}".rstrip()


def figure(value: float) -> str:
    """Write it in three digits or so: 0.042, 0.97, 12.3, 1,234."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 or size == 0 else f"{value:.3f}"


def judge(targets: Sequence[Target], results: Results) -> list[Finding]:
    """Measure all targets."""
    return [target.judge(results) for target in targets]


def beaten(results: Results, measures: Sequence[Measure]) -> list[Finding]:
    """Return where a peer is better than the fastest of ours, by more than rounds differ for no reason.

    Contenders that are a floor are no peers: they do less than what is asked.
    """
    found = []
    for threads in sorted({cell.threads for cell in results.cells}):
        cells = [cell for cell in results.with_threads(threads) if any(cell.rounds)]
        ours = [cell for cell in cells if cell.contender.ours]
        if not ours:
            continue
        best = max(ours, key=lambda cell: THROUGHPUT.over(cell.values(THROUGHPUT)))
        peers = [cell for cell in cells if not (cell.contender.ours or cell.contender.floor)]
        for peer in peers:
            for measure in measures:
                finding = Target(
                    name=best.contender.name,
                    contender=best.contender.name,
                    peer=peer.contender.name,
                    threads=threads,
                    measure=measure,
                ).judge(results)
                if finding.value is not None and measure.is_worse(finding.value):
                    found.append(finding)
    return found
