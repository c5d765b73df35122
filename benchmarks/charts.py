"""Draw an answer so that it can be read without its text: what, of whom, in which unit, and which are ours."""

from __future__ import annotations

import multiprocessing
import os
import textwrap
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS, THEIRS, GOAL, FAINT = "#1f6fb4", "#b9bec6", "#d1495b", "#6b7280"
OUR_LINES = (OURS, "#7db3e0", "#0b3c66")
THEIR_LINES = ("#4b5563", "#b7791f", "#9ca3af", "#6b8e23")
MANY_POWERS = 200.0
FEW = 4  # charts: to start processes for less takes longer
LABEL_GAP = 0.075  # of an axis's height, which a label takes


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A value with its extremes over rounds, the text beside it, and the value that is its goal."""

    label: str
    value: float | None  # None: it did not run
    low: float = 0.0
    high: float = 0.0
    text: str = ""
    ours: bool = False
    goal: float | None = None


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Bars on one axis."""

    title: str
    axis: str
    bars: Sequence[Bar]


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Rows of panels; all panels name the same contenders in the same order."""

    title: str
    rows: Sequence[Sequence[Panel]]

    def draw(self, path: Path, footnote: str) -> None:
        columns, tallest = len(self.rows[0]), max(len(row[0].bars) for row in self.rows)
        height = len(self.rows) * (0.9 + 0.33 * tallest) + 1.2
        width = max(9.5, 3.4 + 3.1 * columns)  # the title takes 9
        figure, axes = _figure(len(self.rows), columns, width, height)
        for row, panels in enumerate(self.rows):
            for column, panel in enumerate(panels):
                _draw_bars(axes[row][column], panel, named=column == 0)
        handles = [
            (_patch(OURS), "poolkit"),
            (_patch(THEIRS), "others"),
            (_line(FAINT), "lowest to highest round"),
        ]
        if any(bar.goal is not None for row in self.rows for panel in row for bar in panel.bars):
            handles.append((_line(GOAL), "goal"))
        _finish(figure, self.title, handles, path, footnote, height)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points of one contender."""

    label: str
    points: Sequence[tuple[float, float]]
    ours: bool = False


@dataclass(frozen=True, kw_only=True)
class CurvePanel:
    """Curves over a logarithmic x; with ``ticks``, which name its values, y is logarithmic too.

    ``limit`` is what none should pass.
    """

    x_axis: str
    y_axis: str
    curves: Sequence[Curve]
    title: str = ""
    ticks: Mapping[float, str] | None = None
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Rows of panels of curves."""

    title: str
    rows: Sequence[Sequence[CurvePanel]]

    def draw(self, path: Path, footnote: str) -> None:
        columns = len(self.rows[0])
        height = len(self.rows) * 3.3 + 1.2
        figure, axes = _figure(len(self.rows), columns, max(9.5, 5.4 * columns), height)
        for row, panels in enumerate(self.rows):
            for column, panel in enumerate(panels):
                _draw_curves(axes[row][column], panel)
        handles = [(_line(OURS), "poolkit"), (_line(THEIR_LINES[0]), "others")]
        if any(panel.limit is not None for row in self.rows for panel in row):
            handles.append((_line(GOAL), "goal: not above this"))
        _finish(figure, self.title, handles, path, footnote, height)


Chart = Bars | Grid


@dataclass(frozen=True)
class Drawing:
    """A chart that is still to be drawn, and where to."""

    chart: Chart
    path: Path
    footnote: str

    def draw(self) -> None:
        self.chart.draw(self.path, self.footnote)


def draw_all(drawings: Sequence[Drawing]) -> None:
    """Draw charts; many of them on all cores, since each takes up to a second."""
    if len(drawings) < FEW:
        for drawing in drawings:
            drawing.draw()
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as processes:
        for future in [processes.submit(drawing.draw) for drawing in drawings]:
            future.result()


def _draw_curves(axis: Any, panel: CurvePanel) -> None:
    axis.set_xscale("log")
    if panel.ticks is not None:
        axis.set_yscale("log")
        axis.set_xticks(list(panel.ticks), list(panel.ticks.values()))
        axis.minorticks_off()
        _set_y_ticks(axis, [y for curve in panel.curves for _, y in curve.points])
    else:
        axis.xaxis.set_major_formatter(_plain)
        axis.xaxis.set_minor_formatter("")
    axis.yaxis.set_major_formatter(_plain)
    colours = {True: iter(OUR_LINES), False: iter(THEIR_LINES)}
    ends = []
    for curve in panel.curves:
        colour = next(colours[curve.ours], FAINT)
        if curve.points:
            xs, ys = zip(*curve.points, strict=True)
            width = 2.6 if curve.ours else 1.6
            axis.plot(xs, ys, marker="o", markersize=4, color=colour, linewidth=width)
            ends.append((xs[-1], ys[-1], curve.label, colour))
        else:
            ends.append((1.0, 1.0, f"{curve.label}: did not run", colour))
    if panel.limit is not None:
        axis.axhline(panel.limit, color=GOAL, linewidth=1.4)
    _label_ends(axis, ends)
    axis.set_title(panel.title, fontsize=10.5, loc="left")
    axis.set_xlabel(panel.x_axis, fontsize=9)
    axis.set_ylabel(panel.y_axis, fontsize=9)
    axis.grid(axis="y", color="#e5e7eb")
    axis.set_axisbelow(True)
    _clean(axis)


def _set_y_ticks(axis: Any, values: Sequence[float]) -> None:
    """Name 1, 2 and 5 of each power of ten; of many powers, only the 1."""
    from matplotlib.ticker import LogLocator

    few = bool(values) and max(values) < MANY_POWERS * min(values)
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))


def _label_ends(axis: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each curve's name at the right, where it ends, or as near to there as others leave room."""
    axis.set_ylim(axis.get_ylim())  # final from here on
    to_axes = axis.transData + axis.transAxes.inverted()
    heights = [(to_axes.transform((x, y))[1], label, colour) for x, y, label, colour in ends]
    lowest = -LABEL_GAP
    for height, label, colour in sorted(heights):
        text = textwrap.wrap(label, 26)
        half = LABEL_GAP * len(text) / 2
        place = max(height, lowest + half)
        lowest = place + half
        axis.annotate("\n".join(text), (1.02, place), xycoords="axes fraction", va="center",
                      color=colour, fontsize=8.5)  # fmt: skip


# What lies behind a bar's text must not cross it.
_BEHIND = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}


def _draw_bars(axis: Any, panel: Panel, *, named: bool) -> None:
    for place, bar in enumerate(panel.bars):
        if bar.value is None:
            axis.annotate("did not run", (0, place), (4, 0), xycoords=("axes fraction", "data"),
                          textcoords="offset points", va="center", color=GOAL)  # fmt: skip
            continue
        axis.barh(place, bar.value, color=OURS if bar.ours else THEIRS, height=0.7)
        axis.plot([bar.low, bar.high], [place, place], color=FAINT, linewidth=1)
        axis.annotate(bar.text, (max(bar.value, bar.high), place), (4, 0), va="center", fontsize=8.5,
                      textcoords="offset points", bbox=_BEHIND, zorder=5)  # fmt: skip
        if bar.goal is not None:
            axis.plot(
                [bar.goal] * 2, [place - 0.42, place + 0.42], color=GOAL, linewidth=2, zorder=5
            )
    axis.set_yticks(range(len(panel.bars)), [bar.label for bar in panel.bars] if named else [])
    for label, bar in zip(axis.get_yticklabels(), panel.bars, strict=False):
        label.set(color=OURS if bar.ours else "black", weight="bold" if bar.ours else "normal")
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_formatter(_plain)
    axis.invert_yaxis()
    axis.set_title(panel.title, fontsize=10.5, loc="left")
    axis.set_xlabel(panel.axis, fontsize=9)
    axis.margins(x=0.28)
    axis.set_xlim(left=0)
    axis.locator_params(axis="x", nbins=5)
    axis.grid(axis="x", color="#e5e7eb")
    axis.set_axisbelow(True)
    _clean(axis)


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    # matplotlib takes a second to import: only when there is something to draw.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="constrained"
    )


def _finish(
    figure: Any,
    title: str,
    handles: Sequence[tuple[Any, str]],
    path: Path,
    footnote: str,
    height: float,
) -> None:
    from matplotlib import pyplot

    top, bottom = 1 - 0.75 / height, 0.3 / height
    figure.get_layout_engine().set(rect=(0, bottom, 1, top - bottom), w_pad=0.1, h_pad=0.1)
    figure.suptitle(title, x=0.01, y=1 - 0.08 / height, ha="left", fontsize=13, weight="bold")
    if handles:
        marks, labels = zip(*handles, strict=True)
        figure.legend(
            marks, labels, loc="upper left", bbox_to_anchor=(0.005, 1 - 0.36 / height),
            ncols=len(labels), frameon=False, fontsize=9,
        )  # fmt: skip
    figure.text(0.01, 0.08 / height, footnote, fontsize=7.5, color=FAINT)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _patch(colour: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour)


def _line(colour: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linewidth=2)


def _plain(value: float, _place: int | None = None) -> str:
    return f"{value:,.10g}"


def _clean(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
