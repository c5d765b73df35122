"""Race contenders against each other: the same work, the same threads, turn and turn about.

A shared machine is noisy, so contenders run in short interleaved rounds (A B C A B C …): whatever slows
the machine meets them all, a figure is the median over rounds, and a ratio pairs two contenders within
the same round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.budget import Budget
from benchmarks.crew import Contender, Round, Timing, describe_error, run_round
from benchmarks.progress import Silent, Watcher


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much to measure: rounds of a race, the length of one, and how much time a race may take.

    That is a share of ``budget``, which all questions have in common; without one, the race's own seconds, scaled.
    """

    rounds: int = 7
    timing: Timing = field(default_factory=Timing)
    scale: float = 1.0
    quick: bool = False
    budget: Budget | None = None

    def seconds_of(self, race: str, seconds: float) -> float:
        """Return how long a race may take that would like so many seconds."""
        if self.budget is None:
            return seconds * self.scale
        return self.budget.share(race, seconds)

    @property
    def fewest(self) -> int:
        """Return how many rounds are run even when the budget is spent."""
        return 1 if self.quick else min(self.rounds, 2)


@dataclass(kw_only=True)
class Cell:
    """All rounds of one contender with so many threads; None stands for a round that failed."""

    contender: Contender
    threads: int
    rounds: list[Round | None] = field(default_factory=list)
    failure: str | None = None
    left_out: bool = False  # there was no package for it, or no time: no fault of its own

    @property
    def errors(self) -> int:
        return sum(round.errors for round in self.rounds if round)

    @property
    def first_error(self) -> str | None:
        return next((round.first_error for round in self.rounds if round and round.errors), None)

    def values(self, measure: Callable[[Round], float]) -> list[float]:
        """Return the measure of each round that ran."""
        return [measure(round) for round in self.rounds if round]


class Results:
    """The cells of a race."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = list(cells)

    def cell(self, contender: str, threads: int) -> Cell:
        for cell in self.cells:
            if cell.contender.name == contender and cell.threads == threads:
                return cell
        raise KeyError(f"nobody called {contender!r} ran with {threads} threads")

    def with_threads(self, threads: int) -> list[Cell]:
        return [cell for cell in self.cells if cell.threads == threads]

    def pairs(self, contender: str, peer: str, threads: int) -> list[tuple[Round, Round]]:
        """Return the two contenders' rounds side by side, where both ran."""
        ours = self.cell(contender, threads).rounds
        theirs = self.cell(peer, threads).rounds
        return [(mine, yours) for mine, yours in zip(ours, theirs, strict=True) if mine and yours]


@dataclass(frozen=True, kw_only=True)
class Race:
    """Contenders, the numbers of threads they run with, and the seconds that all of it may take.

    ``slices`` cuts each round into so many shorter ones: good for turns of microseconds.
    """

    name: str
    contenders: Sequence[Contender]
    threads: Sequence[int]
    budget: float
    slices: int = 1

    def run(self, plan: Plan, watcher: Watcher | None = None) -> Results:
        """Run all rounds; a contender that fails is left out of the rounds that follow, with its reason."""
        watcher = watcher or Silent()
        until = time.monotonic()
        seconds = plan.seconds_of(self.name, self.budget)
        shares = [plan.timing.of(threads).seconds for threads in self.threads]
        cells: list[Cell] = []
        for threads, share in zip(self.threads, shares, strict=True):
            until += seconds * share / sum(shares)
            cells += self._run_with(threads, plan, until, watcher)
        return Results(cells)

    def _run_with(self, threads: int, plan: Plan, until: float, watcher: Watcher) -> list[Cell]:
        cells = [Cell(contender=contender, threads=threads) for contender in self.contenders]
        rounds, timing = plan.rounds * self.slices, plan.timing.of(threads, self.slices)
        title = f"{self.name}, {threads} thread{'s' if threads > 1 else ''}"
        watcher.stage(title, rounds * len(cells))
        began = time.monotonic()
        for number in range(rounds):
            if number >= plan.fewest and not _is_worth_it(began, number, until):
                break  # only whole rounds, so that every ratio keeps its pair
            for cell in cells:
                watcher.step(f"round {number + 1}, {cell.contender.name}")
                _add_round(cell, timing)
        for cell in cells:
            if not any(cell.rounds) and cell.failure is None:
                cell.failure = f"no turn ended in rounds of {timing.seconds:g} s"
                cell.left_out = plan.quick  # whose rounds are short
        return cells


def _is_worth_it(began: float, number: int, until: float) -> bool:
    """Tell whether most of the next round will fit, after so many since it *began*: some end late, some early."""
    now = time.monotonic()
    return now + (now - began) / number / 2 < until


def _add_round(cell: Cell, timing: Timing) -> None:
    if cell.failure is not None:
        cell.rounds.append(None)
        return
    try:
        round = run_round(cell.contender, cell.threads, timing)
    except Exception as error:
        cell.failure = describe_error(error)
        if missing := missing_package(error):
            cell.failure, cell.left_out = f"there is no {missing}; `make install` gets it", True
        cell.rounds.append(None)
        return
    if any(round.turns):
        cell.rounds.append(round)
        return
    cell.rounds.append(None)
    cell.failure = round.first_error  # none: others took the cores away, the next round may do


def missing_package(error: BaseException) -> str | None:
    """Return the package for want of which it was raised; None if that isn't why, or the package is ours."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    package = error.name.partition(".")[0]
    return None if package in ("poolkit", "benchmarks") else package
