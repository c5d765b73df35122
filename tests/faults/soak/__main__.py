"""Run a soak: ``python -m tests.faults.soak [--operations N] [--seed S] [--seconds-at-most N]``."""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from poolkit.embedded import EmbeddedError
from tests.faults.report import WIDTH
from tests.faults.soak import report, samples
from tests.faults.soak.places import POOLS
from tests.faults.soak.run import Show, Soak
from tests.faults.soak.samples import Sample
from tests.faults.subjects import Subject, every

TUNABLES = "GLIBC_TUNABLES"
PLAIN = "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1"
"""Have glibc keep what is freed for nobody. Else each thread keeps up to seven pieces of each of 64 sizes for itself,
which takes hours to fill up and looks like a leak: with these, memory in use is what is in use."""

OPERATIONS = 10_000_000
SECONDS = 2 * 60 * 60
EVERY = 5.0
RESULTS = Path(__file__).parents[1] / "results"


def main(arguments: list[str] | None = None) -> int:
    """Run it; return 0, 1 when something grew or was broken, or 2 when not all could be run."""
    options = _parser().parse_args(arguments)
    if arguments is None and TUNABLES not in os.environ:
        os.environ[TUNABLES] = PLAIN
        os.execv(sys.executable, [sys.executable, "-m", __spec__.parent, *sys.argv[1:]])
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(
        f"seed {options.seed}: {options.operations:,} operations, {options.seconds_at_most:g} s at most",
        highlight=False,
    )
    with ExitStack() as servers:
        try:
            subjects = _started(servers, options.pool or POOLS)
        except EmbeddedError as error:
            console.print(f"{error}", markup=False)
            return 2
        soak = Soak(
            subjects,
            seed=options.seed,
            operations=options.operations,
            seconds=options.seconds_at_most,
            every=options.every,
        )
        samples.set_aside()
        with _progress(console, options.operations) as show:
            try:
                outcome = soak.run(show)
            except KeyboardInterrupt:
                console.print("\nInterrupted: nothing was judged.")
                return 2
    report.show(outcome, console)
    console.print(f"written to {report.write(outcome, RESULTS)}", highlight=False)
    return 1 if outcome.violations else 0


def _started(servers: ExitStack, names: list[str]) -> dict[str, Subject]:
    subjects = {name: every()[name]() for name in names}
    for subject in subjects.values():
        servers.callback(subject.server.close)
        subject.server.start()
    return subjects


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m tests.faults.soak",
        description="Have many operations answered by all pools at once, with a fault a second, and see that memory, "
        "threads and descriptors stay flat. The same seed plays the same faults.",
    )
    parser.add_argument(
        "--operations", type=int, default=OPERATIONS, help=f"how many ({OPERATIONS:,})"
    )
    parser.add_argument(
        "--seconds-at-most", type=float, default=SECONDS, help=f"for how long ({SECONDS} s)"
    )
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1_000_000), help="what chance begins with"
    )
    parser.add_argument(
        "--every", type=float, default=EVERY, help=f"seconds between two samples ({EVERY:g})"
    )
    parser.add_argument(
        "--pool",
        action="append",
        choices=POOLS,
        help="one of the pools, instead of all; may be given several times",
    )
    return parser


@contextlib.contextmanager
def _progress(console: Console, operations: int) -> Iterator[Show]:
    """Show how far it is: a bar on a terminal, a line for each sample elsewhere."""
    if not console.is_terminal:
        yield lambda sample: console.print(report.line(sample), highlight=False)
        return
    columns = (BarColumn(bar_width=30), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=operations)

        def show(sample: Sample) -> None:
            bar.update(task, description=report.line(sample), completed=sample.operations)

        yield show


if __name__ == "__main__":
    sys.exit(main())
