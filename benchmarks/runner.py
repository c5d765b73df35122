"""Find the benches, choose among their questions, and run them: one that can't be run doesn't stop the others."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType

import benchmarks
from benchmarks import budget
from benchmarks.crew import describe_error
from benchmarks.harness import Plan, missing_package
from benchmarks.progress import Watcher
from benchmarks.report import Report
from poolkit.embedded import EmbeddedError
from poolkit.embedded.firestore import find_jar, find_java

Wanted = Mapping[str, Sequence[str]]  # questions by bench

# What a bench does without where it is missing, but not as well.
TOOLS = {
    "http": (
        "nginx",
        "HTTP is asked of the embedded server, in Python: `apt-get install nginx-light`",
    ),
    "hosts": ("wrk", "the load comes from a client in Python: `apt-get install wrk`"),
}


def _find_emulator() -> None:
    find_jar()
    find_java()


# What a bench can't do without, for all but some of its questions. Known beforehand, its time goes to others.
NEEDS: dict[str, tuple[Callable[[], object], Collection[str]]] = {
    "firestore": (_find_emulator, ("streams",)),
}


@dataclass(frozen=True, kw_only=True)
class Benches:
    """The modules ``bench_<name>`` by name, and why others can't be imported."""

    modules: Mapping[str, ModuleType]
    missing: Mapping[str, str] = field(default_factory=dict)


def find_benches() -> Benches:
    """Return the benches of this package, in the order in which they run."""
    modules: dict[str, ModuleType] = {}
    missing: dict[str, str] = {}
    names = [found.name for found in pkgutil.iter_modules(benchmarks.__path__)]
    names = [name.removeprefix("bench_") for name in names if name.startswith("bench_")]
    for name in sorted(names, key=lambda name: (budget.place_of(name), name)):
        try:
            modules[name] = importlib.import_module(f"benchmarks.bench_{name}")
        except ModuleNotFoundError as error:
            if (package := missing_package(error)) is None:
                raise
            missing[name] = f"there is no {package}; `make install` gets it"
    return Benches(modules=modules, missing=missing)


def select(modules: Mapping[str, ModuleType], names: Sequence[str]) -> dict[str, list[str]]:
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
            if question not in wanted.setdefault(bench, []):
                wanted[bench].append(question)
    return wanted


def long_ones(wanted: Wanted) -> dict[str, str]:
    """Return the questions that a quick run does not ask, and the reason."""
    names = [name for name in names_of(wanted) if budget.cost_of(name).quick is None]
    return dict.fromkeys(names, "too long for a quick run; name it, or `make bench`")


def unavailable(wanted: Wanted) -> dict[str, str]:
    """Return the questions for which a server is missing, and how to get it."""
    found: dict[str, str] = {}
    for bench in wanted.keys() & NEEDS.keys():
        look, besides = NEEDS[bench]
        try:
            look()
        except EmbeddedError as error:
            needing = [f"{bench}.{each}" for each in wanted[bench] if each not in besides]
            found.update(dict.fromkeys(needing, str(error)))
    return found


def without(wanted: Wanted, names: Collection[str]) -> dict[str, list[str]]:
    """Return what is left without these questions."""
    left = {
        bench: [each for each in questions if f"{bench}.{each}" not in names]
        for bench, questions in wanted.items()
    }
    return {bench: questions for bench, questions in left.items() if questions}


def names_of(wanted: Wanted) -> list[str]:
    return [f"{bench}.{question}" for bench, questions in wanted.items() for question in questions]


def run(
    modules: Mapping[str, ModuleType],
    wanted: Wanted,
    plan: Plan,
    report: Report,
    watcher: Watcher,
) -> None:
    """Answer the wanted questions into the report; what there is no time or no program for is left out."""
    for bench, questions in wanted.items():
        if bench in TOOLS and shutil.which(TOOLS[bench][0]) is None:
            tool, instead = TOOLS[bench]
            report.leave_out(f"{tool}, in {bench}", instead)
        open_questions = dict.fromkeys(f"{bench}.{question}" for question in questions)
        for name, why in _answered(
            modules[bench], questions, open_questions, plan, report, watcher
        ):
            report.leave_out(name, why)


def _answered(
    module: ModuleType,
    questions: Sequence[str],
    open_questions: dict[str, None],
    plan: Plan,
    report: Report,
    watcher: Watcher,
) -> Iterator[tuple[str, str]]:
    """Answer a bench's questions; yield those that it leaves open, each with the reason."""
    why = "it gave no answer"
    try:
        if _allows(plan, open_questions):
            with contextlib.closing(module.answered(plan, questions, watcher)) as answers:
                for answer in answers:
                    report.add(answer)
                    open_questions.pop(answer.name, None)
                    if plan.budget is not None:
                        plan.budget.close(answer.name)
                    if open_questions and not _allows(plan, open_questions):
                        break
        if open_questions and not _allows(plan, open_questions):
            why = "no time was left for it; --minutes gives more"
    except EmbeddedError as error:
        why = str(error)
    except Exception as error:
        if (package := missing_package(error)) is None:
            report.fail(", ".join(open_questions), describe_error(error))
            return
        why = f"there is no {package}; `make install` gets it"
    finally:
        if plan.budget is not None:
            for name in open_questions:
                plan.budget.close(name)
    yield from ((name, why) for name in open_questions)


def _allows(plan: Plan, names: Collection[str]) -> bool:
    return plan.budget is None or plan.budget.allows(names)
