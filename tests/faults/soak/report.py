"""What came out of a soak: a line a sample, a table of it all, and a file."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from tests.faults.soak.judge import MIB, theil_sen
from tests.faults.soak.run import Outcome
from tests.faults.soak.samples import Sample

FILE = "soak"


def line(sample: Sample) -> str:
    """Return a sample in one line."""
    return (
        f"{sample.at:6.0f} s {sample.operations:>10,} operations {sample.faults:5} faults "
        f"{sample.rss / MIB:7.1f} MiB {sample.objects:>7,} objects {sample.threads:3} threads "
        f"({sample.natives}) {sample.descriptors:4} descriptors {sample.connections:3} connections"
    )


def show(outcome: Outcome, console: Console) -> None:
    """Print what came out."""
    table = Table(title=f"Seed {outcome.seed}", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("", "after the warm-up", "at the end", "at most", "may be"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in _rows(outcome):
        table.add_row(*row)
    console.print(table)
    for text in _lines(outcome):
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def write(outcome: Outcome, folder: Path) -> Path:
    """Write all figures as JSON, and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{FILE}.json"
    content = dataclasses.asdict(outcome)
    content["violations"] = [str(each) for each in outcome.violations]
    content["at"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    path.write_text(json.dumps(content, indent=1))
    return path


def _rows(outcome: Outcome) -> Sequence[Sequence[str]]:
    first, last = (rest.sample for rest in outcome.rests)
    every, warm = outcome.samples, outcome.samples[outcome.warm :]
    rows = [
        [
            f"{what}, at rest",
            f"{getattr(first, what):,}",
            f"{getattr(last, what):,}",
            f"{max(getattr(each, what) for each in every):,}",
            str(getattr(outcome.bounds, what, "")),
        ]
        for what in ("threads", "natives", "descriptors", "connections", "objects")
    ]
    return [_memory(warm), *rows] if warm else rows


def _memory(warm: Sequence[Sample]) -> list[str]:
    quarter = max(1, len(warm) // 4)
    return [
        "memory, MiB, in a quarter",
        f"{median(each.rss for each in warm[:quarter]) / MIB:.1f}",
        f"{median(each.rss for each in warm[-quarter:]) / MIB:.1f}",
        f"{max(each.rss for each in warm) / MIB:.1f}",
        "",
    ]


def _lines(outcome: Outcome) -> Sequence[str]:
    warm = outcome.samples[outcome.warm :]
    answered = sum(outcome.answered.values())
    slope = theil_sen([(each.operations, each.rss) for each in warm])
    pools = ", ".join(f"{name} {count:,}" for name, count in outcome.answered.items())
    counted = ", ".join(
        f"{name} {said:,} {'=' if said == known else '≠'} {known:,}"
        for name, (said, known) in outcome.counted.items()
    )
    summary = (
        f"{answered:,} operations answered ({pools}) in {outcome.seconds:.0f} s, "
        f"{answered / outcome.seconds:,.0f} a second; {sum(outcome.errors.values()):,} failed; "
        f"{sum(outcome.played.values())} faults; Python {platform.python_version()}"
    )
    return [
        summary,
        f"memory: {slope * 1e6 / MIB:+.2f} MiB a million operations",
        f"operations as pools say, and as was counted: {counted}",
        *(f"✗ {violation}" for violation in outcome.violations),
    ]
