"""Run the benchmarks: ``python -m benchmarks [--quick] [--rounds N] [--seconds S] [name …]``."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from rich.console import Console

import benchmarks
from benchmarks import machine
from benchmarks.crew import Timing
from benchmarks.harness import Plan
from benchmarks.progress import Bar, Lines, Watcher
from benchmarks.report import Report

RESULTS = Path(__file__).parent / "results"
WIDTH = 150  # of what is printed to a file


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; return 0, or 1 when a contender failed."""
    modules = find_benches()
    options = _parser(modules).parse_args(arguments)
    try:
        wanted = select(modules, options.names)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    packages = dict.fromkeys(package for name in wanted for package in modules[name].PACKAGES)
    plan = plan_of(options)
    report = Report(console, RESULTS, machine.describe(list(packages)), plan)
    try:
        with _watcher(console) as watcher:
            for name, questions in wanted.items():
                with contextlib.closing(
                    modules[name].answered(plan, questions, watcher)
                ) as answers:
                    for answer in answers:
                        report.add(answer)
    except KeyboardInterrupt:
        console.print("\nInterrupted; this is what was measured until then.")
        report.finish()
        return 130
    report.finish()
    return 1 if report.failed else 0


def find_benches() -> dict[str, ModuleType]:
    """Return the modules ``bench_<name>`` of this package by name."""
    return {
        found.name.removeprefix("bench_"): importlib.import_module(f"benchmarks.{found.name}")
        for found in pkgutil.iter_modules(benchmarks.__path__)
        if found.name.startswith("bench_")
    }


def select(modules: dict[str, ModuleType], names: list[str]) -> dict[str, list[str]]:
    """Return the questions to answer by bench; a name is a bench, a question, or ``bench.question``.

    Raises ValueError on an unknown name.
    """
    every = {bench: list(module.QUESTIONS) for bench, module in modules.items()}
    if not names:
        return every
    wanted: dict[str, list[str]] = {}
    for name in names:
        found = [
            (bench, question)
            for bench, questions in every.items()
            for question in questions
            if name in (bench, question, f"{bench}.{question}")
        ]
        if not found:
            known = [*every, *(f"{b}.{q}" for b, questions in every.items() for q in questions)]
            raise ValueError(f"no benchmark {name!r}; there are: {', '.join(known)}")
        for bench, question in found:
            wanted.setdefault(bench, []).append(question)
    return wanted


def plan_of(options: argparse.Namespace) -> Plan:
    """Return the plan: whole or quick, then what was asked for in figures, which no budget cuts."""
    plan = Plan()
    if options.quick:
        timing = Timing(warmup=0.08, seconds=0.2)
        plan = Plan(rounds=3, timing=timing, scale=0.16, quick=True)
    rounds = options.rounds or plan.rounds
    seconds = options.seconds or plan.timing.seconds
    return Plan(
        rounds=rounds,
        timing=Timing(warmup=plan.timing.warmup, seconds=seconds),
        scale=float("inf") if options.rounds else plan.scale,
        quick=plan.quick,
    )


def _parser(modules: dict[str, ModuleType]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"of {', '.join(modules)}, or bench.question"
    )
    parser.add_argument("--quick", action="store_true", help="shorter and rougher")
    parser.add_argument("--rounds", type=_count, help="rounds of a race")
    parser.add_argument("--seconds", type=_seconds, help="timed seconds of a round")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds")
    return int(text)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time")
    return value


@contextlib.contextmanager
def _watcher(console: Console) -> Iterator[Watcher]:
    if console.is_terminal:
        with Bar(console) as bar:
            yield bar
    else:
        yield Lines(console)


if __name__ == "__main__":
    sys.exit(main())
