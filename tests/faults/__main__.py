"""Run the fault campaign: ``python -m tests.faults [--seconds N] [--seed S] [--only PATTERN …]``."""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from poolkit.embedded import EmbeddedError
from tests.faults import subjects
from tests.faults.campaign import Campaign, cells
from tests.faults.performance import Cell
from tests.faults.report import WIDTH, Report

SECONDS = 15 * 60
RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; return 0, 1 when a promise was broken, or 2 when nothing could be run."""
    options = _parser().parse_args(arguments)
    every = subjects.every()
    chosen = cells(list(every), options.only)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    if options.list:
        for cell in chosen:
            console.print(
                f"{cell}  – {cell.unfit}" if cell.unfit else f"{cell}",
                markup=False,
                highlight=False,
            )
        return 0
    if not any(not cell.unfit for cell in chosen):
        sys.stderr.write("no cell that can be played matches; --list shows all\n")
        return 2
    console.print(
        f"seed {options.seed}: {len(chosen)} cells, {options.seconds:g} s", highlight=False
    )
    report = Report(chosen, seed=options.seed)
    try:
        with (
            Campaign(every, options.seed) as campaign,
            _progress(console, options.seconds) as show,
        ):
            missing: dict[str, str] = {}
            for cell in campaign.rounds(chosen, options.seconds):
                if cell.subject in missing:
                    continue
                show(cell)
                try:
                    report.add(campaign.play(cell))
                except EmbeddedError as error:
                    missing[cell.subject] = str(error)
                    console.print(f"{cell.subject} is left out: {error}", markup=False)
    except KeyboardInterrupt:
        console.print("\nInterrupted; this is what was found until then.")
    except Exception:
        traceback.print_exc()
        console.print("\nThe campaign itself failed; this is what was found until then.")
        report.show(console)
        return 2
    report.show(console)
    console.print(f"written to {report.write(RESULTS)}", highlight=False)
    return 1 if report.broken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m tests.faults",
        description="Play faults on all pools, and check what poolkit promises. The same seed plays the same faults "
        "in the same order.",
    )
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"for how long ({SECONDS} s)"
    )
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1_000_000), help="what chance begins with"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="a part of fault/pool/state, or a pattern with * for it; may be given several times",
    )
    parser.add_argument("--list", action="store_true", help="show the cells, and play none")
    return parser


@contextlib.contextmanager
def _progress(console: Console, seconds: float) -> Iterator[object]:
    """Show how far it is: a bar on a terminal, a line for each cell elsewhere."""
    if not console.is_terminal:
        yield lambda cell: console.print(f"{cell}", highlight=False)
        return
    columns = (BarColumn(bar_width=30), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=seconds)
        began = time.monotonic()

        def show(cell: Cell) -> None:
            bar.update(task, description=str(cell), completed=time.monotonic() - began)

        yield show


if __name__ == "__main__":
    sys.exit(main())
