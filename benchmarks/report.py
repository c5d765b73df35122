"""Show answers: tables on the terminal, a JSON file and a chart for each question."""

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

from benchmarks.answers import Answer, Table
from benchmarks.harness import Plan
from benchmarks.targets import Finding


class Report:
    """Writes each answer as it comes, and what was asked and found at the end."""

    def __init__(
        self, console: Console, folder: Path, machine: Mapping[str, str], plan: Plan
    ) -> None:
        self._console = console
        self._folder = folder
        self._machine = dict(machine)
        self._plan = plan
        self._answers: list[Answer] = []

    @property
    def failed(self) -> bool:
        """Say whether a contender failed, or some of its turns did."""
        return any(answer.failures for answer in self._answers)

    def add(self, answer: Answer) -> None:
        """Print the answer, and write its files."""
        self._answers.append(answer)
        self._console.print(f"\n[bold]{answer.name}[/]: {answer.question}")
        for table in answer.tables:
            self._console.print(_rich(table))
        for failure in answer.failures:
            self._console.print(f"  ! {failure}", style="red", markup=False, highlight=False)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write_json(answer)
        answer.chart.draw(self._folder / f"{answer.name}.png", self._footnote(answer))

    def finish(self) -> None:
        """Print the findings beside what the issues ask, the machine, and where the files are."""
        findings = [finding for answer in self._answers for finding in answer.findings]
        if findings:
            self._console.print(_findings(findings))
        for name, value in self._machine.items():
            self._console.print(f"  {name}: {value}", markup=False, highlight=False)
        self._console.print(f"  charts and figures: {self._folder}/", highlight=False)

    def _write_json(self, answer: Answer) -> None:
        content = {
            "name": answer.name,
            "question": answer.question,
            "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "machine": self._machine,
            "plan": dataclasses.asdict(self._plan),
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
            f"{machine['cpu']}, {machine['cores']} cores, {machine['python']}, server on loopback; "
            f"{answer.note}{quick}; {time.strftime('%Y-%m-%d')}"
        )


def _rich(table: Table) -> RichTable:
    drawn = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, header in enumerate(table.headers):
        drawn.add_column(header, justify="right" if number else "left", no_wrap=not number)
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def _findings(findings: Sequence[Finding]) -> RichTable:
    drawn = RichTable(title="What is asked", title_justify="left", box=box.SIMPLE_HEAD)
    for header in ("", "against", "asked", "measured", "over rounds", ""):
        right = header in ("asked", "measured", "over rounds")
        drawn.add_column(header, justify="right" if right else "left", no_wrap=True)
    for finding in findings:
        measured = "" if finding.value is None else finding.shown(finding.value)
        spread = ""
        if finding.low is not None and finding.high is not None:
            spread = f"{finding.low:.2f} – {finding.high:.2f}"
        drawn.add_row(
            finding.name, finding.against, finding.bound, measured, spread, _verdict(finding)
        )
    return drawn


def _verdict(finding: Finding) -> str:
    if finding.value is None:
        return "[red]not measured[/]"
    if finding.met is None:
        return ""
    return "[green]met[/]" if finding.met else "[red]not met[/]"


def _finding(finding: Finding) -> dict[str, Any]:
    return {**dataclasses.asdict(finding), "met": finding.met}
