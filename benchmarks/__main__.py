"""Run the benchmarks: ``python -m benchmarks [--minutes M] [--quick] [name …]``.

``--readme`` measures nothing, and prints the last run's tables.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

import benchmarks
from benchmarks import machine, runner
from benchmarks.budget import Budget
from benchmarks.crew import Timing
from benchmarks.document import readme
from benchmarks.harness import Plan
from benchmarks.headline import Headline
from benchmarks.progress import Bar, Lines, Watcher
from benchmarks.report import CONTENT, Report
from benchmarks.runner import Benches, Wanted

RESULTS = Path(__file__).parent / "results"
WIDTH = 150  # of what is printed to a file
MINUTES, QUICK_MINUTES = 15.0, 2.0
SPARE = 0.97  # of the time: the last race may end late
CHART = 0.4  # seconds to draw one, when all is measured
QUIET = 0.1  # share of the cores' time that others may take


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; return 0, or 1 when a contender failed."""
    benches = runner.find_benches()
    options = _parser(benches).parse_args(arguments)
    if options.readme:
        return _show_readme()
    try:
        wanted = runner.select(benches.modules, options.names)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    left_out = runner.unavailable(wanted)
    if options.quick and not options.names:
        left_out |= runner.long_ones(wanted)
    if not options.names:
        left_out |= benches.missing
    wanted = runner.without(wanted, left_out)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    packages = dict.fromkeys(
        package for name in wanted for package in benches.modules[name].PACKAGES
    )
    taken = machine.busy()
    about = machine.describe(list(packages), taken)
    plan = plan_of(options, wanted)
    report = Report(console, RESULTS, about, plan, _warning(taken))
    for name, why in left_out.items():
        report.leave_out(name, why)
    try:
        with _watcher(console, plan.budget) as watcher:
            runner.run(benches.modules, wanted, plan, report, watcher)
    except KeyboardInterrupt:
        console.print("\nInterrupted; this is what was measured until then.")
        report.finish()
        return 130
    report.finish()
    return 1 if report.failed else 0


def plan_of(options: argparse.Namespace, wanted: Wanted) -> Plan:
    """Return the plan: whole or quick, its minutes divided, then what is asked in figures, which no budget cuts."""
    minutes = options.minutes or (QUICK_MINUTES if options.quick else MINUTES)
    if options.quick:
        rounds, timing = 3, Timing(warmup=0.05, seconds=0.12)
    else:
        # Shorter rounds rather than fewer; but with hundreds of threads a request may take 0.3 s.
        seconds = min(0.5, max(0.3, 0.3 * minutes / MINUTES))
        rounds, timing = 7, Timing(warmup=seconds / 3, seconds=seconds)
    budget = None
    if not options.rounds:
        questions = runner.names_of(wanted)
        seconds = minutes * 60 * SPARE - CHART * len(questions)
        budget = Budget(seconds, questions, quick=options.quick)
    return Plan(
        rounds=options.rounds or rounds,
        timing=Timing(warmup=timing.warmup, seconds=options.seconds or timing.seconds),
        scale=float("inf") if options.rounds else 1.0,
        quick=options.quick,
        budget=budget,
    )


def _warning(taken: float) -> str | None:
    if taken <= QUIET:
        return None
    return (
        f"The machine isn't quiet: others took {taken:.0%} of its cores' time before the start. "
        "Figures are rough, and ratios may be off."
    )


def _show_readme() -> int:
    try:
        content = (RESULTS / CONTENT).read_text()
    except FileNotFoundError:
        print(f"There is no {RESULTS / CONTENT} yet: `make bench` writes it.", file=sys.stderr)
        return 2
    print(readme(Headline.from_json(content)), end="")
    return 0


def _parser(benches: Benches) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"of {', '.join(benches.modules)}, or bench.question",
    )
    parser.add_argument(
        "--minutes",
        type=_positive,
        help=f"that all of it may take: {MINUTES:g}, or {QUICK_MINUTES:g} when quick",
    )
    parser.add_argument("--quick", action="store_true", help="shorter and rougher")
    parser.add_argument("--rounds", type=_count, help="rounds of a race, however long they take")
    parser.add_argument("--seconds", type=_positive, help="timed seconds of a round")
    parser.add_argument(
        "--readme", action="store_true", help="measure nothing; print the last run's tables in reST"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds")
    return int(text)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time")
    return value


@contextlib.contextmanager
def _watcher(console: Console, budget: Budget | None) -> Iterator[Watcher]:
    progress = (lambda: budget.progress) if budget is not None else str
    if console.is_terminal:
        with Bar(console, progress) as bar:
            yield bar
    else:
        yield Lines(console, progress)


if __name__ == "__main__":
    sys.exit(main())
