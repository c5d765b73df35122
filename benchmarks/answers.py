"""Turn the results of a race into answers: a table, findings, and a chart for each question."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.charts import Bar, Bars, Chart, Panel
from benchmarks.harness import Cell, Results
from benchmarks.targets import (
    COST,
    CPU,
    LONGEST,
    P50,
    P99,
    RSS,
    SLOWEST_SHARE,
    THROUGHPUT,
    Finding,
    Measure,
    Target,
    judge,
)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Text in rows; the first column is a name, the others are figures."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a run has to say to one question; ``data`` is ready for JSON."""

    name: str
    question: str
    tables: Sequence[Table]
    findings: Sequence[Finding]
    chart: Chart
    note: str  # how it was measured
    data: Any
    failures: Sequence[str] = field(default=())


ROUNDS = "medians of interleaved rounds"

Column = tuple[Measure, str]  # what, and how a figure is shown

SPEED_COLUMNS: Mapping[str, Column] = {
    "turns/s": (THROUGHPUT, "{:,.0f}"),
    "p50 ms": (P50, "{:,.2f}"),
    "p99 ms": (P99, "{:,.1f}"),
    "longest ms": (LONGEST, "{:,.0f}"),
    "slowest/median thread": (SLOWEST_SHARE, "{:.2f}"),
    "client CPU µs": (CPU, "{:,.0f}"),
    "RSS MB": (RSS, "{:,.0f}"),
}
SERVED_COLUMNS: Mapping[str, Column] = {
    "requests/s": (THROUGHPUT, "{:,.0f}"),
    "p50 ms": (P50, "{:,.1f}"),
    "p99 ms": (P99, "{:,.1f}"),
    "longest ms": (LONGEST, "{:,.0f}"),
    "host's CPU µs": (CPU, "{:,.0f}"),
    "host's RSS MB": (RSS, "{:,.0f}"),
}
COST_COLUMNS: Mapping[str, Column] = {
    "µs a turn": (COST, "{:,.2f}"),
    "p50 ms": (P50, "{:,.4f}"),
    "p99 ms": (P99, "{:,.4f}"),
    "longest ms": (LONGEST, "{:,.1f}"),
    "client CPU µs": (CPU, "{:,.2f}"),
}


def speed(
    name: str, question: str, results: Results, reference: str, targets: Sequence[Target]
) -> Answer:
    """Answer how fast each contender is with how many threads, beside ``reference``."""
    counts = _thread_counts(results)
    return Answer(
        name=name,
        question=question,
        tables=[_table(results, threads, reference, SPEED_COLUMNS) for threads in counts],
        findings=judge(targets, results),
        chart=Bars(
            title=question,
            rows=[
                [_panel(results, n, THROUGHPUT, targets, "{:,.0f}") for n in counts],
                [_panel(results, n, P99, targets, "{:,.1f} ms") for n in counts],
            ],
        ),
        note=ROUNDS,
        data=_cells(results.cells),
        failures=_failures(results.cells),
    )


def served(
    name: str, question: str, results: Results, reference: str, targets: Sequence[Target]
) -> Answer:
    """Answer how fast a server is for clients of other processes; the threads are its own."""
    answer = speed(name, question, results, reference, targets)
    tables = [_table(results, n, reference, SERVED_COLUMNS) for n in _thread_counts(results)]
    return dataclasses.replace(answer, tables=tables)


def fairness(
    name: str, question: str, results: Results, threads: Sequence[int], targets: Sequence[Target]
) -> Answer:
    """Answer how many turns the slowest thread had for each one of the median thread."""
    cells = [cell for cell in results.cells if cell.threads in threads]
    return Answer(
        name=name,
        question=question,
        tables=[],  # the share is a column of the race's own table
        findings=judge(targets, results),
        chart=Bars(
            title=question,
            rows=[[_panel(results, n, SLOWEST_SHARE, targets, "{:.2f}") for n in threads]],
        ),
        note=ROUNDS,
        data=_cells(cells),
    )


def cost(
    name: str, question: str, results: Results, reference: str, targets: Sequence[Target]
) -> Answer:
    """Answer how long a turn takes that has nothing to wait for."""
    counts = _thread_counts(results)
    return Answer(
        name=name,
        question=question,
        tables=[_table(results, threads, reference, COST_COLUMNS) for threads in counts],
        findings=judge(targets, results),
        chart=Bars(
            title=question,
            rows=[[_panel(results, n, COST, targets, "{:.1f} µs") for n in counts]],
        ),
        note=ROUNDS,
        data=_cells(results.cells),
        failures=_failures(results.cells),
    )


def _thread_counts(results: Results) -> list[int]:
    return sorted({cell.threads for cell in results.cells})


def _table(results: Results, threads: int, reference: str, columns: Mapping[str, Column]) -> Table:
    cells = results.with_threads(threads)
    rounds = max(len(cell.rounds) for cell in cells)
    stolen = [round.stolen for cell in cells for round in cell.rounds if round]
    return Table(
        title=f"{_plural(threads, 'thread')}: medians of {rounds} rounds; × is against {reference}; "
        f"stolen CPU {min(stolen, default=0):.0%} to {max(stolen, default=0):.0%}",
        headers=["", "×", *columns, "errors"],
        rows=[_row(cell, results, reference, columns) for cell in cells],
    )


def _row(cell: Cell, results: Results, reference: str, columns: Mapping[str, Column]) -> list[str]:
    name = cell.contender.name
    if not any(cell.rounds):
        return [name, "", "failed", *[""] * (len(columns) - 1), str(cell.errors or "")]
    ratio = Target(name="", contender=name, peer=reference, threads=cell.threads).judge(results)
    figures = [shown.format(_middle(cell, measure)) for measure, shown in columns.values()]
    ratio_shown = "" if ratio.value is None else f"{ratio.value:.2f}"
    return [name, ratio_shown, *figures, str(cell.errors or "")]


def _middle(cell: Cell, measure: Measure) -> float:
    return measure.over(cell.values(measure))


def _panel(
    results: Results,
    threads: int,
    measure: Measure,
    targets: Sequence[Target],
    shown: str,
) -> Panel:
    bars = []
    for cell in results.with_threads(threads):
        values = cell.values(measure)
        if not values:
            bars.append(Bar(label=cell.contender.name, value=None))
            continue
        bars.append(
            Bar(
                label=cell.contender.name,
                value=measure.over(values),
                low=min(values),
                high=max(values),
                text=shown.format(measure.over(values)),
                ours=cell.contender.ours,
                asked=_asked(cell, measure, targets, results),
            )
        )
    unit = f" ({measure.unit})" if measure.unit and not measure.unit.startswith("/") else ""
    better = "higher" if measure in (THROUGHPUT, SLOWEST_SHARE) else "lower"
    return Panel(
        title=_plural(threads, "thread"),
        axis=f"{measure.name}{unit}, {better} is better",
        bars=bars,
    )


def _asked(
    cell: Cell, measure: Measure, targets: Sequence[Target], results: Results
) -> float | None:
    """Return where this bar must end for the hardest of its targets."""
    least, most = [], []
    for target in targets:
        key = (target.contender, target.threads, target.measure)
        if key != (cell.contender.name, cell.threads, measure) or target.compare != "ratio":
            continue
        theirs = [1.0]
        if target.peer is not None:
            theirs = results.cell(target.peer, cell.threads).values(measure)
        if theirs and target.at_least is not None:
            least.append(target.at_least * measure.over(theirs))
        if theirs and target.at_most is not None:
            most.append(target.at_most * measure.over(theirs))
    return max(least, default=min(most, default=None))


def _cells(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    return [
        {
            "contender": cell.contender.name,
            "threads": cell.threads,
            "failure": cell.failure,
            "rounds": [
                {
                    **dataclasses.asdict(round),
                    "throughput": round.throughput,
                    "slowest_share": round.slowest_share,
                }
                if round
                else None
                for round in cell.rounds
            ],
        }
        for cell in cells
    ]


def _failures(cells: Sequence[Cell]) -> list[str]:
    """Say of each contender that failed, or whose turns failed, why and with how many threads."""
    threads: dict[str, list[int]] = {}
    for cell in cells:
        if cell.failure is not None:
            said = f"{cell.contender.name} failed: {cell.failure}"
        elif cell.errors:
            said = f"{cell.contender.name}, some turns failed: {cell.first_error}"
        else:
            continue
        threads.setdefault(said, []).append(cell.threads)
    return [f"{said} (threads: {', '.join(map(str, counts))})" for said, counts in threads.items()]


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
