"""A bench that can't be run is left out with the reason, and doesn't stop the others."""

from __future__ import annotations

import io
import json
import sys
import types
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import answers, runner
from benchmarks.answers import Answer
from benchmarks.budget import Budget
from benchmarks.crew import Contender, Timing, Turn
from benchmarks.harness import Plan, Race
from benchmarks.progress import Silent, Watcher
from benchmarks.report import CONTENT, Report
from poolkit.embedded import EmbeddedError
from tests.benchmarks.support import MACHINE, a_cell, a_contender, a_round, results

QUESTIONS = ("one", "two")


def an_answer(name: str) -> Answer:
    found = results(a_cell(a_contender("ours", ours=True), a_round(10)))
    return answers.speed(name, "How fast?", found, "ours", ())


def a_bench(
    name: str, raises: Exception | None = None, then: Callable[[], None] = lambda: None
) -> types.ModuleType:
    """Return a bench that answers its questions; with *raises*, only the first of them."""

    def answered(plan: Plan, wanted: Collection[str], watcher: Watcher) -> Iterator[Answer]:
        for number, question in enumerate(QUESTIONS):
            if number and raises is not None:
                raise raises
            if question in wanted:
                then()
                yield an_answer(f"{name}.{question}")

    bench = types.ModuleType(f"bench_{name}")
    bench.QUESTIONS, bench.PACKAGES = QUESTIONS, ()  # type: ignore[attr-defined]
    bench.answered = answered  # type: ignore[attr-defined]
    return bench


class Run:
    """A run of benches into a folder, and what its report says."""

    def __init__(self, folder: Path, *benches: types.ModuleType, plan: Plan | None = None) -> None:
        modules = {bench.__name__.removeprefix("bench_"): bench for bench in benches}
        self.shown = io.StringIO()
        plan = plan or Plan()
        self.report = Report(Console(file=self.shown, width=200), folder, MACHINE, plan)
        runner.run(modules, runner.select(modules, []), plan, self.report, Silent())
        self.report.finish()
        content = json.loads((folder / CONTENT).read_text())
        self.answered = [said["name"] for said in content["said"] if said["question"]]
        self.left_out = dict(content["left_out"])


@pytest.fixture(autouse=True)
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.charts.Bars.draw", lambda *_: None)


def test_a_server_that_is_missing_leaves_out_what_needs_it(tmp_path: Path) -> None:
    missing = EmbeddedError("there is no emulator: get it at the shop")
    run = Run(tmp_path, a_bench("broken", missing), a_bench("sound"))
    assert run.answered == ["broken.one", "sound.one", "sound.two"]
    assert run.left_out == {"broken.two": "there is no emulator: get it at the shop"}
    assert not run.report.failed


def test_a_package_that_is_missing_leaves_out_what_needs_it(tmp_path: Path) -> None:
    run = Run(
        tmp_path, a_bench("broken", ModuleNotFoundError("no", name="flask.app")), a_bench("sound")
    )
    assert run.left_out == {"broken.two": "there is no flask; `make install` gets it"}
    assert not run.report.failed


@pytest.mark.parametrize(
    "error", [RuntimeError("out of luck"), ModuleNotFoundError("no poolkit.x", name="poolkit.x")]
)
def test_a_bench_that_breaks_fails_the_run_after_the_others_have_run(
    tmp_path: Path, error: Exception
) -> None:
    run = Run(tmp_path, a_bench("broken", error), a_bench("sound"))
    assert run.answered == ["broken.one", "sound.one", "sound.two"]
    assert run.report.failed
    assert str(error) in run.shown.getvalue()


@pytest.mark.parametrize(
    ("seconds", "answered"), [(5.0, ["first.one"]), (10.0, ["first.one", "first.two"])]
)
def test_when_the_time_is_over_what_is_left_is_said(
    tmp_path: Path, seconds: float, answered: list[str]
) -> None:
    now = [0.0]

    def pass_time() -> None:
        now[0] += 6.0

    names = [f"{bench}.{question}" for bench in ("first", "second") for question in QUESTIONS]
    plan = Plan(budget=Budget(seconds, names, clock=lambda: now[0]))
    run = Run(
        tmp_path, a_bench("first", then=pass_time), a_bench("second", then=pass_time), plan=plan
    )
    assert run.answered == answered
    assert run.left_out.keys() == set(names) - set(answered)
    assert all("--minutes" in why for why in run.left_out.values())


def test_every_bench_is_found_and_one_that_lacks_a_package_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {
        path.stem.removeprefix("bench_")
        for path in Path(runner.benchmarks.__path__[0]).glob("bench_*.py")
    }
    found = runner.find_benches()
    assert found.modules.keys() | found.missing.keys() == names
    for name, bench in found.modules.items():
        assert bench.QUESTIONS, name

    monkeypatch.delitem(sys.modules, "benchmarks.bench_firestore")
    monkeypatch.setitem(sys.modules, "grpc", None)
    for module in [name for name in sys.modules if name.startswith("benchmarks.stream_limited")]:
        monkeypatch.delitem(sys.modules, module)
    found = runner.find_benches()
    assert found.missing == {"firestore": "there is no grpc; `make install` gets it"}


def test_a_quick_run_leaves_out_what_takes_long() -> None:
    wanted = {"http": ["get_by_threads", "tls_100_kb"], "mcp": ["mcp_threads"], "new": ["question"]}
    long_ones = runner.long_ones(wanted)
    assert long_ones.keys() == {"http.tls_100_kb", "mcp.mcp_threads"}
    assert runner.without(wanted, long_ones) == {"http": ["get_by_threads"], "new": ["question"]}


def test_a_server_that_is_missing_is_known_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise EmbeddedError("get it at the shop")

    monkeypatch.setitem(runner.NEEDS, "firestore", (missing, ("streams",)))
    wanted = {"firestore": ["streams", "counter"], "redis": ["tls"]}
    assert runner.unavailable(wanted) == {"firestore.counter": "get it at the shop"}
    monkeypatch.setitem(runner.NEEDS, "firestore", (lambda: None, ("streams",)))
    assert runner.unavailable(wanted) == {}


def test_a_contender_that_is_not_installed_is_left_out_and_has_not_failed() -> None:
    @contextmanager
    def opened(threads: int) -> Iterator[Sequence[Turn]]:
        import no_such_package  # noqa: F401

        yield []

    race = Race(name="race", contenders=[Contender("absent", opened)], threads=[1], budget=1.0)
    found = race.run(Plan(rounds=2, timing=Timing(warmup=0.0, seconds=0.01)))
    answer = answers.speed("race", "How fast?", found, "absent", ())
    assert answer.failures == []
    assert answer.left_out == ["absent: there is no no_such_package; `make install` gets it"]
