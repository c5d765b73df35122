"""The matrix of a campaign: as a table for the terminal, and as files."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from tests.faults.bookkeeper import Fate
from tests.faults.performance import STATES, Cell, Result

KEPT, BROKEN, NOT_PLAYED, UNFIT = "✓", "✗", " ", "–"
WIDTH = 220
"""Columns that all figures take; a terminal with fewer shows some of them."""

FIGURES = (
    "cells",
    "calls",
    "acknowledged",
    "failed",
    "unknown",
    "past deadline, ms",
    "healthy, ms",
)
FILE = "matrix"


class Report:
    """Gathers results; one row a fault, one column a pool, one sign a state."""

    def __init__(self, cells: Sequence[Cell], *, seed: int) -> None:
        self._cells = cells
        self._seed = seed
        self._results: list[Result] = []
        self._began = time.monotonic()

    def add(self, result: Result) -> None:
        """Take one result."""
        self._results.append(result)

    @property
    def broken(self) -> list[Result]:
        """Those in which a promise was broken."""
        return [result for result in self._results if result.violations]

    def show(self, console: Console) -> None:
        """Print the matrix, why some of it is empty, and what was broken."""
        console.print(self._matrix(console.width))
        for line in self._notes():
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    def write(self, folder: Path) -> Path:
        """Write what :meth:`show` prints, and all figures as JSON; return the path of the first."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{FILE}.txt"
        with path.open("w") as file:
            self.show(Console(file=file, width=WIDTH))
        figures = {
            "seed": self._seed,
            "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "results": [_as_json(result) for result in self._results],
        }
        (folder / f"{FILE}.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False))
        return path

    # -- private -----------------------------------------------------------------------------------------

    def _matrix(self, width: int) -> Table:
        figures = FIGURES if width >= WIDTH else FIGURES[:2]
        subjects = list(dict.fromkeys(cell.subject for cell in self._cells))
        table = Table(title=f"Seed {self._seed}", title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("fault", no_wrap=True)
        for subject in subjects:
            table.add_column(subject, justify="center", no_wrap=True)
        for figure in figures:
            table.add_column(figure, justify="right", no_wrap=True)
        for fault in dict.fromkeys(cell.fault for cell in self._cells):
            row = [self._signs(fault.name, subject) for subject in subjects]
            found = [each for each in self._results if each.cell.fault == fault]
            table.add_row(fault.name, *row, *_figures(found)[: len(figures)])
        table.add_section()
        table.add_row("all", *("" for _ in subjects), *_figures(self._results)[: len(figures)])
        return table

    def _signs(self, fault: str, subject: str) -> str:
        """Return a sign for each state."""
        found: dict[str, list[Result]] = defaultdict(list)
        for result in self._results:
            if (result.cell.fault.name, result.cell.subject) == (fault, subject):
                found[result.cell.state].append(result)
        unfit = {
            cell.state
            for cell in self._cells
            if (cell.fault.name, cell.subject) == (fault, subject) and cell.unfit
        }
        return " ".join(_sign(found[state], state in unfit) for state in STATES)

    def _notes(self) -> Iterable[str]:
        yield (
            f"A sign for each state: {', '.join(STATES)}. {KEPT} all promises kept, {BROKEN} one broken, "
            f"{UNFIT} can't be; past deadline: the worst, less what the machine took (as measured)."
        )
        reasons: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
        for cell in self._cells:
            if cell.unfit:
                reasons[cell.subject, cell.unfit][cell.fault.name] = None
        subjects: dict[tuple[str, str], list[str]] = defaultdict(list)
        for (subject, reason), faults in reasons.items():
            subjects[reason, ", ".join(faults)].append(subject)
        for (reason, faults_named), names in subjects.items():
            yield f"{UNFIT} {', '.join(names)}: {reason} ({faults_named})"
        calls = sum(sum(result.fates.values()) for result in self._results)
        yield (
            f"{len(self._results)} cells, {calls} calls in {time.monotonic() - self._began:.0f} s on Python "
            f"{platform.python_version()}; {len(self.broken)} cells with a broken promise"
        )
        for result in self.broken:
            yield f"\n{BROKEN} {result.cell}   --seed {self._seed} --only '{result.cell}'"
            for violation in result.violations:
                yield f"    {violation}"
            for place in result.interruptions:
                yield f"    interrupted: {place}"


def _sign(results: Sequence[Result], unfit: bool) -> str:
    if unfit:
        return UNFIT
    if not results:
        return NOT_PLAYED
    return BROKEN if any(result.violations for result in results) else KEPT


def _figures(results: Sequence[Result]) -> list[str]:
    if not results:
        return ["0", *[""] * 6]
    fates: Counter[Fate] = Counter()
    for result in results:
        fates.update(result.fates)
    worst = max(results, key=lambda result: result.overshoot)
    recovered = max(result.recovered for result in results)
    return [
        str(len(results)),
        str(fates.total()),
        *(str(fates[fate]) for fate in Fate),
        f"{_milliseconds(worst.overshoot)} ({_milliseconds(max(r.measured for r in results))})",
        _milliseconds(recovered),
    ]


def _milliseconds(seconds: float) -> str:
    if math.isinf(seconds):
        return "never" if seconds > 0 else "–"
    return f"{max(0.0, seconds) * 1000:.0f}"


def _as_json(result: Result) -> dict[str, object]:
    content = {
        field.name: getattr(result, field.name)
        for field in dataclasses.fields(result)
        if field.name not in ("cell", "fates", "violations")
    }
    for name, value in content.items():
        if isinstance(value, float) and math.isinf(value):
            content[name] = None
    return {
        "fault": result.cell.fault.name,
        "subject": result.cell.subject,
        "state": result.cell.state,
        "fates": {fate.value: count for fate, count in result.fates.items()},
        "violations": [str(violation) for violation in result.violations],
        **content,
    }
