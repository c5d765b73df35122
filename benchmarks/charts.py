"""Draw an answer so that it can be read without its text: what, of whom, in which unit, and which are ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS, THEIRS, ASKED, FAINT = "#1f6fb4", "#b9bec6", "#d1495b", "#6b7280"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A value with its extremes over rounds, the text beside it, and the value that is asked of it."""

    label: str
    value: float | None  # None: it did not run
    low: float = 0.0
    high: float = 0.0
    text: str = ""
    ours: bool = False
    asked: float | None = None


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
        if any(bar.asked is not None for row in self.rows for panel in row for bar in panel.bars):
            handles.append((_line(ASKED), "what the issue asks"))
        _finish(figure, self.title, handles, path, footnote, height)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points of one contender."""

    label: str
    points: Sequence[tuple[float, float]]
    ours: bool = False


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Curves over a logarithmic x, and the value none of them should pass."""

    title: str
    x_axis: str
    y_axis: str
    curves: Sequence[Curve]
    limit: float | None = None

    def draw(self, path: Path, footnote: str) -> None:
        height = 5.2
        figure, ((axis,),) = _figure(1, 1, 9.5, height)
        handles = []
        for curve in self.curves:
            colour = OURS if curve.ours else FAINT
            xs, ys = zip(*curve.points, strict=True) if curve.points else ((), ())
            axis.plot(xs, ys, marker="o", color=colour, linewidth=3.5 if curve.ours else 1.4)
            handles.append((_line(colour), curve.label))
        if self.limit is not None:
            axis.axhline(self.limit, color=ASKED, linewidth=1.4)
            handles.append((_line(ASKED), "what the issue asks: at most this"))
        axis.set_xscale("log")
        axis.set_xlabel(self.x_axis)
        axis.set_ylabel(self.y_axis)
        axis.grid(axis="y", color="#e5e7eb")
        axis.set_axisbelow(True)
        _clean(axis)
        _finish(figure, self.title, handles, path, footnote, height)


Chart = Bars | Curves


def _draw_bars(axis: Any, panel: Panel, *, named: bool) -> None:
    for place, bar in enumerate(panel.bars):
        if bar.value is None:
            axis.annotate("did not run", (0, place), (4, 0), xycoords=("axes fraction", "data"),
                          textcoords="offset points", va="center", color=ASKED)  # fmt: skip
            continue
        axis.barh(place, bar.value, color=OURS if bar.ours else THEIRS, height=0.7)
        axis.plot([bar.low, bar.high], [place, place], color=FAINT, linewidth=1)
        if bar.asked is not None:
            axis.plot([bar.asked] * 2, [place - 0.42, place + 0.42], color=ASKED, linewidth=2)
        furthest = max(bar.value, bar.high, bar.asked or 0.0)
        axis.annotate(bar.text, (furthest, place), (4, 0), textcoords="offset points",
                      va="center", fontsize=8.5)  # fmt: skip
    axis.set_yticks(range(len(panel.bars)), [bar.label for bar in panel.bars] if named else [])
    axis.tick_params(axis="y", length=0)
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


def _clean(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
