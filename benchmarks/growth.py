"""What happens to the cost of a request as the work grows: lines on logarithmic axes, by contender."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.answers import ROUNDS, Answer, Table, failures, left_out, rounds_of
from benchmarks.charts import Curve, CurvePanel, Grid
from benchmarks.harness import Cell, Results
from benchmarks.targets import Finding, Measure, figure

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A contender's cells by how much work there was; None where it is not to be had."""

    label: str
    cells: Mapping[float, Cell]
    ours: bool = False

    def points(self, measure: Measure) -> Points:
        """Return the measure's figure over rounds for each amount of work that ran."""
        values = {x: cell.values(measure) for x, cell in self.cells.items()}
        return [(x, measure.over(found)) for x, found in values.items() if found]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Lines of one backend."""

    title: str
    lines: Sequence[Line]


def answer(
    name: str,
    question: str,
    results: Results,
    plots: Sequence[Plot],
    *,
    x_axis: str,
    ticks: Mapping[float, str],
    measures: Sequence[Measure],
    findings: Sequence[Finding] = (),
    limits: Mapping[str, float] | None = None,
) -> Answer:
    """Answer how the measures grow: a row of panels for each of them, in which ``limits`` are drawn by its name."""
    limits = limits or {}
    return Answer(
        name=name,
        question=question,
        tables=[_table(plots, measure, x_axis, ticks) for measure in measures],
        findings=findings,
        chart=Grid(
            title=question,
            rows=[
                [_panel(plot, measure, x_axis, ticks, limits.get(measure.name)) for plot in plots]
                for measure in measures
            ],
        ),
        note=ROUNDS,
        data=[_line_data(plot, line) for plot in plots for line in plot.lines],
        failures=failures(results.cells),
        left_out=left_out(results.cells),
    )


def reach(points: Points, limit: float) -> float | None:
    """Return how far the work may grow before the figure passes the limit; None if it always has.

    Between two points it is read off the straight line that joins them on logarithmic axes.
    """
    before: tuple[float, float] | None = None
    for x, y in points:
        if y > limit:
            return None if before is None else _crossing(before, (x, y), limit)
        before = (x, y)
    return None if before is None else before[0]


def _crossing(left: tuple[float, float], right: tuple[float, float], limit: float) -> float:
    rise = math.log(right[1] / left[1])
    share = math.log(limit / left[1]) / rise
    return left[0] * (right[0] / left[0]) ** share


def _panel(
    plot: Plot, measure: Measure, x_axis: str, ticks: Mapping[float, str], limit: float | None
) -> CurvePanel:
    return CurvePanel(
        title=plot.title,
        x_axis=x_axis,
        y_axis=f"{measure.name} ({measure.unit}), less is better",
        ticks=ticks,
        curves=[
            Curve(label=line.label, points=line.points(measure), ours=line.ours)
            for line in plot.lines
        ],
        limit=limit,
    )


def _table(
    plots: Sequence[Plot], measure: Measure, x_axis: str, ticks: Mapping[float, str]
) -> Table:
    rows = []
    for plot in plots:
        for line in plot.lines:
            points = dict(line.points(measure))
            figures = [figure(points[x]) if x in points else "–" for x in ticks]
            rows.append([f"{plot.title}: {line.label}", *figures])
    return Table(
        title=f"{measure.name} ({measure.unit}) by {x_axis}",
        headers=["", *ticks.values()],
        rows=rows,
    )


def _line_data(plot: Plot, line: Line) -> dict[str, Any]:
    return {
        "of": plot.title,
        "contender": line.label,
        "points": [{"at": x, "rounds": rounds_of(cell)} for x, cell in line.cells.items()],
    }
