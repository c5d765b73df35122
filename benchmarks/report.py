"""Show answers: tables on the terminal, a JSON file and a chart for each question, and the headline of them all."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from benchmarks.answers import Answer, Table
from benchmarks.charts import Drawing, draw_all
from benchmarks.document import document
from benchmarks.harness import Plan
from benchmarks.headline import (
    CLAIM_HEADERS,
    GOAL_HEADERS,
    LEFT_OUT_HEADERS,
    WIN_HEADERS,
    Headline,
    Row,
    Said,
)
from benchmarks.targets import Finding

DOCUMENT, CONTENT = "report.rst", "report.json"
FIGURES = ("goal", "over rounds")
COLOURS = {
    "met": "green",
    "missed": "red",
    "not measured": "yellow",
    "holds": "green",
    "does not hold here": "red",
}


class Report:
    """Writes each answer as it comes, and at the end what all of them say together."""

    def __init__(
        self,
        console: Console,
        folder: Path,
        machine: Mapping[str, str],
        plan: Plan,
        warning: str | None = None,
    ) -> None:
        self._console = console
        self._folder = folder
        self._machine = dict(machine)
        self._plan = plan
        self._warning = warning
        self._began = time.monotonic()
        self._said: list[Said] = []
        self._left_out: list[tuple[str, str]] = []
        self._drawings: list[Drawing] = []  # for when nothing is measured any more
        if warning is not None:
            self._console.print(f"! {warning}", style="yellow", markup=False, highlight=False)

    @property
    def failed(self) -> bool:
        """Say whether a contender failed, or some of its turns did."""
        return any(said.failures for said in self._said)

    def add(self, answer: Answer) -> None:
        """Print the answer, and write its figures."""
        self._said.append(
            Said(
                name=answer.name,
                question=answer.question,
                findings=answer.findings,
                beaten=answer.beaten,
                failures=answer.failures,
            )
        )
        self._console.print(f"\n[bold]{answer.name}[/]: {answer.question}")
        for table in answer.tables:
            self._console.print(_rich(table))
        for why in answer.left_out:
            self.leave_out(f"{answer.name}, a contender", why)
        self._show_failures(answer.failures)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write_json(answer)
        path = self._folder / f"{answer.name}.png"
        path.unlink(missing_ok=True)
        self._drawings.append(Drawing(answer.chart, path, self._footnote(answer)))

    def leave_out(self, name: str, why: str) -> None:
        """Note that something was not measured, and what to do about it."""
        self._left_out.append((name, why))
        self._console.print(f"- {name}: {why}", style="yellow", markup=False, highlight=False)

    def fail(self, name: str, why: str) -> None:
        """Note that a bench broke off."""
        self._said.append(Said(name=name, question="", failures=[why]))
        self._show_failures([why])

    def finish(self) -> None:
        """Draw the charts; print and write goals, claims, where peers win, what was left out, and the machine."""
        draw_all(self._drawings)
        headline = self._headline()
        self._folder.mkdir(parents=True, exist_ok=True)
        charts = [drawing.path.name for drawing in self._drawings]
        (self._folder / DOCUMENT).write_text(document(headline, charts))
        (self._folder / CONTENT).write_text(headline.to_json())
        self._print(headline)

    def _headline(self) -> Headline:
        return Headline(
            at=time.strftime("%Y-%m-%d %H:%M"),
            minutes=(time.monotonic() - self._began) / 60,
            quick=self._plan.quick,
            machine=self._machine,
            warning=self._warning,
            said=self._said,
            left_out=self._left_out,
        )

    def _print(self, headline: Headline) -> None:
        for title, headers, rows in (
            ("Goals", GOAL_HEADERS, headline.goals()),
            ("What the guide claims", CLAIM_HEADERS, headline.claims()),
            ("Where a peer wins", WIN_HEADERS, headline.wins()),
            ("Left out", LEFT_OUT_HEADERS, headline.reasons()),
        ):
            if rows:
                self._console.print(_rows(title, headers, rows))
        for name, value in headline.machine.items():
            self._console.print(f"  {name}: {value}", markup=False, highlight=False)
        if headline.warning:
            self._console.print(f"! {headline.warning}", style="yellow", markup=False)
        self._console.print(f"  {headline.summary}; all of it: {self._folder / DOCUMENT}")

    def _show_failures(self, failures: Sequence[str]) -> None:
        for failure in failures:
            self._console.print(f"  ! {failure}", style="red", markup=False, highlight=False)

    def _write_json(self, answer: Answer) -> None:
        plan = self._plan
        content = {
            "name": answer.name,
            "question": answer.question,
            "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "machine": self._machine,
            "plan": {
                "rounds": plan.rounds,
                "timing": dataclasses.asdict(plan.timing),
                "quick": plan.quick,
            },
            "findings": [_finding(finding) for finding in answer.findings],
            "failures": list(answer.failures),
            "results": answer.data,
        }
        path = self._folder / f"{answer.name}.json"
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def _footnote(self, answer: Answer) -> str:
        machine = self._machine
        quick = " (a quick run)" if self._plan.quick else ""
        return (
            f"{machine['cpu']}, {machine['cores']} cores, {machine['python']}, servers on the same "
            f"machine; {answer.note}{quick}; {time.strftime('%Y-%m-%d')}"
        )


def _rich(table: Table) -> RichTable:
    drawn = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, header in enumerate(table.headers):
        drawn.add_column(header, justify="right" if number else "left", no_wrap=not number)
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def _rows(title: str, headers: Row, rows: Sequence[Row]) -> RichTable:
    """Draw rows of text: figures to the right, and what begins and ends a row in colour."""
    drawn = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for header in headers:
        drawn.add_column(header, justify="right" if header in FIGURES else "left")
    for first, *cells, last in rows:
        colour = COLOURS.get(last.partition(";")[0], "")
        drawn.add_row(Text(first, "bold"), *map(Text, cells), Text(last, colour))
    return drawn


def _finding(finding: Finding) -> dict[str, Any]:
    return {**dataclasses.asdict(finding), "met": finding.met}
