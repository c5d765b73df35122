"""The harness measures what happened: turns, latencies, pairs; and hides no failure."""

from __future__ import annotations

import io
import itertools
import json
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import answers
from benchmarks.crew import (
    Contender,
    Log,
    Round,
    ThreadsStuck,
    Timing,
    Turn,
    Window,
    quantile,
    run_round,
    take_turns,
)
from benchmarks.harness import Cell, Plan, Race, Results
from benchmarks.report import Report
from benchmarks.runner import select
from benchmarks.targets import P99, SLOWEST_SHARE, Target
from tests.benchmarks.support import a_round

# Long enough that every thread has its turn, also where others take the cores away.
SHORT = Timing(warmup=0.005, seconds=0.1, patience=5.0)
# A turn that never sleeps would keep the GIL from the others for 5 ms at a time.
NAP = threading.Event()


def nap() -> None:
    NAP.wait(0.0005)


def contender(name: str, turn: Turn = nap, log: list[str] | None = None) -> Contender:
    """Return a contender of equal turns, which writes into ``log`` when it is opened and closed."""

    @contextmanager
    def opened(threads: int) -> Iterator[Sequence[Turn]]:
        if log is not None:
            log.append(f"open {name}")
        yield [turn] * threads
        if log is not None:
            log.append(f"close {name}")

    return Contender(name, opened)


def results(**rounds: list[Round | None]) -> Results:
    return Results(
        [Cell(contender=contender(name), threads=2, rounds=given) for name, given in rounds.items()]
    )


def bench_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("bench-")]


def ticking(step: float = 1.0) -> Callable[[], float]:
    """Return a clock that moves on by ``step`` whenever it is read: one turn takes one step."""
    ticks = itertools.count()
    return lambda: next(ticks) * step


def a_window(start: float, stop: float) -> Window:
    window = Window()
    window.start, window.stop = start, stop
    return window


def test_only_turns_that_end_in_the_window_are_counted() -> None:
    log = Log()
    # Turns end at 1, 2, … 8; those at 3, 4, 5, 6, 7 are within [3, 7.5], the one at 8 is too late.
    take_turns(lambda: None, a_window(3.0, 7.5), log, ticking())
    assert log.turns == 5


def test_the_turn_under_way_at_the_end_counts_for_latency() -> None:
    log = Log()
    times = iter([0.0, 1.0, 500.0])
    take_turns(lambda: None, a_window(0.5, 2.0), log, lambda: next(times))
    assert log.turns == 1
    assert list(log.latencies) == [1.0, 499.0]


def test_a_turn_that_raises_is_an_error_and_no_turn() -> None:
    log = Log()
    turns = itertools.count()

    def every_second_fails() -> None:
        if next(turns) % 2:
            raise LookupError("no such key")

    take_turns(every_second_fails, a_window(0.0, 8.5), log, ticking())
    assert log.turns == log.errors == 4
    assert log.first_error == "LookupError: no such key"


def test_turns_of_all_threads_add_up() -> None:
    calls = [0] * 4

    def turn_of(index: int) -> Turn:
        def turn() -> None:
            calls[index] += 1
            nap()

        return turn

    @contextmanager
    def opened(threads: int) -> Iterator[Sequence[Turn]]:
        yield [turn_of(index) for index in range(threads)]

    # No warm-up: all calls are counted, but for the one of each thread that ends too late.
    timing = Timing(warmup=0.0, seconds=0.1, patience=5.0)
    found = run_round(Contender("counted", opened), 4, timing)
    assert [max(called - 1, 0) for called in calls] == list(found.turns)
    assert found.throughput == sum(found.turns) / 0.1
    assert found.errors == 0


def test_threads_start_together() -> None:
    together = threading.Barrier(3)
    met = threading.Event()

    def turn() -> None:
        if not met.is_set():
            together.wait(5.0)  # breaks, and fails the turn, unless all three are here at once
            met.set()
        nap()

    timing = Timing(warmup=0.0, seconds=0.5, patience=5.0)
    assert run_round(contender("together", turn), 3, timing).errors == 0


def test_threads_are_joined_before_the_contender_closes() -> None:
    alive_at_close: list[int] = []

    @contextmanager
    def opened(threads: int) -> Iterator[Sequence[Turn]]:
        yield [nap] * threads
        alive_at_close.append(len(bench_threads()))

    run_round(Contender("watched", opened), 5, SHORT)
    assert alive_at_close == [0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_threads_are_joined_when_the_round_is_interrupted(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_seconds: float) -> None:
        raise error

    monkeypatch.setattr("benchmarks.crew.time.sleep", interrupted)
    with pytest.raises(error):
        run_round(contender("interrupted"), 5, Timing(warmup=60.0, seconds=60.0))
    assert bench_threads() == []


def test_threads_that_start_before_one_cannot_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    started = itertools.count()
    start = threading.Thread.start

    def start_three(thread: threading.Thread) -> None:
        if next(started) == 3:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_three)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        run_round(contender("many"), 5, SHORT)
    assert bench_threads() == []


def test_a_thread_that_closing_frees_is_joined() -> None:
    closed = threading.Event()

    @contextmanager
    def opened(threads: int) -> Iterator[Sequence[Turn]]:
        yield [lambda: closed.wait(30.0)] * threads
        closed.set()

    found = run_round(
        Contender("freed", opened), 2, Timing(warmup=0.0, seconds=0.01, patience=0.05)
    )
    assert found.turns == (0, 0)
    assert bench_threads() == []


def test_a_thread_stuck_for_good_is_reported() -> None:
    free = threading.Event()
    stuck = contender("stuck", lambda: free.wait(30.0))
    try:
        with pytest.raises(ThreadsStuck, match="2 of 2 threads"):
            run_round(stuck, 2, Timing(warmup=0.0, seconds=0.01, patience=0.05))
    finally:
        free.set()
        for thread in bench_threads():
            thread.join()


def test_contenders_run_turn_and_turn_about() -> None:
    log: list[str] = []
    race = Race(
        name="race",
        contenders=[contender("a", log=log), contender("b", log=log)],
        threads=[1],
        budget=60.0,
    )
    found = race.run(Plan(rounds=2, timing=SHORT))
    assert log == ["open a", "close a", "open b", "close b"] * 2
    assert [len(cell.values(SLOWEST_SHARE)) for cell in found.cells] == [2, 2]


def test_a_spent_budget_leaves_whole_rounds_and_never_none() -> None:
    race = Race(
        name="race", contenders=[contender("a"), contender("b")], threads=[1, 2], budget=0.0
    )
    found = race.run(Plan(rounds=50, timing=SHORT))
    assert [len(cell.rounds) for cell in found.cells] == [2, 2, 2, 2]


def test_a_contender_that_cannot_open_fails_alone() -> None:
    @contextmanager
    def refused(_threads: int) -> Iterator[Sequence[Turn]]:
        raise ConnectionError("refused\nis the server running?")
        yield []

    race = Race(
        name="race",
        contenders=[Contender("broken", refused), contender("sound")],
        threads=[1],
        budget=60.0,
    )
    found = race.run(Plan(rounds=2, timing=SHORT))
    assert found.cell("broken", 1).failure == "ConnectionError: refused"
    assert found.cell("broken", 1).rounds == [None, None]
    assert all(found.cell("sound", 1).rounds)


def test_a_contender_whose_every_turn_fails_has_failed() -> None:
    def fails() -> None:
        nap()
        raise LookupError("no such key")

    race = Race(name="race", contenders=[contender("a", fails)], threads=[1], budget=60.0)
    assert race.run(Plan(rounds=2, timing=SHORT)).cells[0].failure == "LookupError: no such key"


def test_a_round_without_a_turn_is_lost_and_the_next_one_runs() -> None:
    calls = itertools.count()

    def first_is_slow() -> None:
        NAP.wait(0.3 if next(calls) == 0 else 0.0005)

    race = Race(name="race", contenders=[contender("a", first_is_slow)], threads=[1], budget=60.0)
    cell = race.run(Plan(rounds=2, timing=SHORT)).cells[0]
    assert [bool(round) for round in cell.rounds] == [False, True]
    assert cell.failure is None


def test_a_contender_that_never_ends_a_turn_has_failed() -> None:
    slow = contender("a", lambda: NAP.wait(0.3))
    race = Race(name="race", contenders=[slow], threads=[1], budget=60.0)
    cell = race.run(Plan(rounds=2, timing=SHORT)).cells[0]
    assert cell.failure == "no turn ended in rounds of 0.1 s"


def test_ratios_pair_the_two_rounds_of_the_same_time() -> None:
    # The machine gets ten times slower from round to round; ours is always twice as fast.
    found = results(
        ours=[a_round(2000), a_round(200), a_round(20)],
        peer=[a_round(1000), a_round(100), a_round(10)],
    )
    finding = Target(name="", contender="ours", peer="peer", threads=2).judge(found)
    assert (finding.value, finding.low, finding.high) == (2.0, 2.0, 2.0)


def test_a_failed_round_leaves_its_pair_out() -> None:
    found = results(ours=[a_round(10), None, a_round(30)], peer=[a_round(10), a_round(1), None])
    finding = Target(name="", contender="ours", peer="peer", threads=2).judge(found)
    assert (finding.low, finding.high) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("at_least", "at_most", "met"),
    [
        (2.0, None, True),
        (2.1, None, False),
        (None, 2.0, True),
        (None, 1.9, False),
        (None, None, None),
    ],
)
def test_a_target_is_met_up_to_its_bound(
    at_least: float | None, at_most: float | None, met: bool | None
) -> None:
    found = results(ours=[a_round(2)], peer=[a_round(1)])
    target = Target(
        name="", contender="ours", peer="peer", threads=2, at_least=at_least, at_most=at_most
    )
    assert target.judge(found).met is met


def test_what_did_not_run_is_not_met() -> None:
    found = results(ours=[None], peer=[a_round(1)])
    finding = Target(name="", contender="ours", peer="peer", threads=2, at_least=1.0).judge(found)
    assert finding.value is None
    assert finding.met is None


def test_a_target_may_bound_a_difference_or_a_contender_alone() -> None:
    found = results(ours=[a_round(1, 4, 4, p99=0.005)], peer=[a_round(1, p99=0.002)])
    apart = Target(
        name="", contender="ours", peer="peer", threads=2, measure=P99, compare="difference"
    )
    alone = Target(name="", contender="ours", threads=2, measure=SLOWEST_SHARE, at_least=1 / 3)
    assert apart.judge(found).value == pytest.approx(3.0)
    assert alone.judge(found).value == 0.25
    assert alone.judge(found).met is False


def test_quantiles_are_of_the_nearest_rank() -> None:
    assert quantile([], 0.99) == 0.0
    assert quantile([1.0], 0.99) == 1.0
    assert quantile([float(n) for n in range(100)], 0.50) == 50.0
    assert quantile([float(n) for n in range(100)], 0.99) == 99.0


def test_the_report_writes_figures_and_a_chart_and_shows_failures(tmp_path: Path) -> None:
    found = results(
        ours=[a_round(20), a_round(30)], peer=[a_round(10), a_round(10)], broken=[None, None]
    )
    found.cell("broken", 2).failure = "ConnectionError: refused"
    targets = [Target(name="speed", contender="ours", peer="peer", threads=2, at_least=2.0)]
    shown = io.StringIO()
    machine = {"cpu": "an abacus", "cores": "1", "python": "CPython"}
    report = Report(Console(file=shown, width=150), tmp_path, machine, Plan(rounds=2))
    report.add(answers.speed("what.speed", "How fast?", found, "peer", targets))
    report.finish()

    assert report.failed
    assert "broken failed: ConnectionError: refused (threads: 2)" in shown.getvalue()
    assert "≥ 2.00 ×" in shown.getvalue()
    assert "an abacus" in shown.getvalue()
    content = json.loads((tmp_path / "what.speed.json").read_text())
    assert content["findings"][0]["value"] == 2.5
    assert content["findings"][0]["met"] is True
    assert content["results"][2]["failure"] == "ConnectionError: refused"
    assert (tmp_path / "what.speed.png").read_bytes().startswith(b"\x89PNG")


def test_names_choose_benches_and_questions() -> None:
    bench = types.ModuleType("bench_postgres")
    bench.QUESTIONS = ("speed", "memory")  # type: ignore[attr-defined]
    modules = {"postgres": bench}
    assert select(modules, []) == select(modules, ["postgres"])
    assert select(modules, ["memory", "postgres.speed"]) == {"postgres": ["memory", "speed"]}
    with pytest.raises(
        ValueError, match=r"no benchmark 'sped'; there are: postgres, postgres\.speed"
    ):
        select(modules, ["sped"])
