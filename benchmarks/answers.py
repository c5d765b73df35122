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
    beaten,
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
    left_out: Sequence[str] = field(default=())  # contenders that could not be measured, and why
    beaten: Sequence[Finding] = field(default=())  # by which peers, and where


ROUNDS = "medians of interleaved rounds"

Column = tuple[Measure, str]  # what, and how a figure is shown

SPEED_COLUMNS: Mapping[str, Column] = {
    "requests/s": (THROUGHPUT, "{:,.0f}"),
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
    "µs a request": (COST, "{:,.2f}"),
    "p50 ms": (P50, "{:,.4f}"),
    "p99 ms": (P99, "{:,.4f}"),
    "longest ms": (LONGEST, "{:,.1f}"),
    "client CPU µs": (CPU, "{:,.2f}"),
}
LATENCY_COLUMNS: Mapping[str, Column] = {
    "p50 ms": (P50, "{:,.2f}"),
    "p99 ms": (P99, "{:,.1f}"),
    "longest ms": (LONGEST, "{:,.0f}"),
    "client CPU µs": (CPU, "{:,.0f}"),
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
        failures=failures(results.cells),
        left_out=left_out(results.cells),
        beaten=beaten(results, (THROUGHPUT, P99)),
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
        failures=failures(results.cells),
        left_out=left_out(results.cells),
        beaten=beaten(results, (THROUGHPUT,)),
    )


def latency(name: str, question: str, results: Results, targets: Sequence[Target]) -> Answer:
    """Answer how long a request takes, by contenders that do different things."""
    counts = _thread_counts(results)
    return Answer(
        name=name,
        question=question,
        tables=[_table(results, threads, None, LATENCY_COLUMNS) for threads in counts],
        findings=judge(targets, results),
        chart=Bars(
            title=question,
            rows=[[_panel(results, n, P50, targets, "{:,.1f} ms") for n in counts]],
        ),
        note=ROUNDS,
        data=_cells(results.cells),
        failures=failures(results.cells),
        left_out=left_out(results.cells),
    )


def _thread_counts(results: Results) -> list[int]:
    return sorted({cell.threads for cell in results.cells})


def _table(
    results: Results, threads: int, reference: str | None, columns: Mapping[str, Column]
) -> Table:
    cells = results.with_threads(threads)
    rounds = max(len(cell.rounds) for cell in cells)
    stolen = [round.stolen for cell in cells for round in cell.rounds if round]
    against = "" if reference is None else f" × is against {reference};"
    return Table(
        title=f"{_plural(threads, 'thread')}: medians of {_plural(rounds, 'round')};{against} "
        f"stolen CPU {min(stolen, default=0):.0%} to {max(stolen, default=0):.0%}",
        headers=["", *([] if reference is None else ["×"]), *columns, "errors"],
        rows=[_row(cell, results, reference, columns) for cell in cells],
    )


def _row(
    cell: Cell, results: Results, reference: str | None, columns: Mapping[str, Column]
) -> list[str]:
    name = cell.contender.name
    ratio = [] if reference is None else [_ratio(cell, results, reference)]
    if not any(cell.rounds):
        why = "left out" if cell.left_out else "failed"
        return [name, *ratio, why, *[""] * (len(columns) - 1), str(cell.errors or "")]
    figures = [shown.format(_middle(cell, measure)) for measure, shown in columns.values()]
    return [name, *ratio, *figures, str(cell.errors or "")]


def _ratio(cell: Cell, results: Results, reference: str) -> str:
    target = Target(name="", contender=cell.contender.name, peer=reference, threads=cell.threads)
    value = target.judge(results).value
    return "" if value is None else f"{value:.2f}"


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
                goal=_goal(cell, measure, targets, results),
            )
        )
    unit = f" ({measure.unit})" if measure.unit and not measure.unit.startswith("/") else ""
    better = "more" if measure.more_is_better else "less"
    return Panel(
        title=_plural(threads, "thread"),
        axis=f"{measure.name}{unit}, {better} is better",
        bars=bars,
    )


def _goal(
    cell: Cell, measure: Measure, targets: Sequence[Target], results: Results
) -> float | None:
    """Return where this bar must end for the hardest of its goals."""
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
            "rounds": rounds_of(cell),
        }
        for cell in cells
    ]


def rounds_of(cell: Cell) -> list[dict[str, Any] | None]:
    """Return what there is of each round, ready for JSON."""
    return [
        {
            **dataclasses.asdict(round),
            "throughput": round.throughput,
            "slowest_share": round.slowest_share,
        }
        if round
        else None
        for round in cell.rounds
    ]


def failures(cells: Sequence[Cell]) -> list[str]:
    """Say of each contender that failed, or whose turns failed, why and with how many threads."""
    threads: dict[str, list[int]] = {}
    for cell in cells:
        if cell.left_out:
            continue
        if cell.failure is not None:
            said = f"{cell.contender.name} failed: {cell.failure}"
        elif cell.errors:
            said = f"{cell.contender.name}, some turns failed: {cell.first_error}"
        else:
            continue
        threads.setdefault(said, []).append(cell.threads)
    return [f"{said} (threads: {', '.join(map(str, counts))})" for said, counts in threads.items()]


def left_out(cells: Sequence[Cell]) -> list[str]:
    """Say which contenders could not be measured, through no fault of theirs, and why."""
    said = (f"{cell.contender.name}: {cell.failure}" for cell in cells if cell.left_out)
    return list(dict.fromkeys(said))


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
