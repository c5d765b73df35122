"""The bookkeeper finds each promise that a made-up history breaks, and nothing in one that keeps them."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.bookkeeper import Bookkeeper, Call, Evidence, Fate
from tests.faults.control import Control

GOOD = Evidence(effects={"a": 1, "b": 1, "c": 1}, turns=4, most=4, connections=2, known=2)


def call(*ids: str, fate: Fate = Fate.ACKNOWLEDGED, took: float = 0.1, **details: Any) -> Call:
    """Return a call that began at moment 10, with a budget of a second."""
    known = {"kind": "write", "writes": True, "began": 10.0, "budget": 1.0, **details}
    return Call(ids=ids, fate=fate, ended=10.0 + took, **known)


def good_calls() -> list[Call]:
    return [
        call("a", answer=("a",)),
        call("b", "c", kind="transaction"),
        call("d", fate=Fate.FAILED, took=1.04),
        call("e", fate=Fate.UNKNOWN),
        call("f", kind="read", writes=False, answer=("f",)),
    ]


class Busy:
    """A machine that takes so many seconds from everybody, whenever it is asked about."""

    def __init__(self, lost: float, contended: float = 0.0) -> None:
        self.spans: list[tuple[float, float]] = []
        self._lost = lost
        self._contended = contended

    def lost(self, since: float, until: float) -> float:
        self.spans.append((since, until))
        return self._lost

    def contended(self, since: float, until: float) -> float:
        return self._contended


def judged(evidence: Evidence = GOOD, *more: Call, **options: Any) -> list[str]:
    book = Bookkeeper(**options)
    for each in [*good_calls(), *more]:
        book.begin(each)
    return [violation.promise for violation in book.judge(evidence)]


def with_effects(**changed: int) -> Evidence:
    return replace(GOOD, effects={**GOOD.effects, **changed})


def test_a_history_that_keeps_all_promises() -> None:
    assert judged() == []


@pytest.mark.parametrize("times", [0, 1])
def test_what_is_unknown_may_have_happened_or_not(times: int) -> None:
    assert judged(with_effects(e=times)) == []


def test_an_answer_to_somebody_else() -> None:
    stolen = call("g", kind="read", writes=False, answer=("f",))
    assert judged(GOOD, stolen) == ["nothing crossed"]


def test_an_effect_that_nobody_asked_for() -> None:
    assert judged(with_effects(stray=1)) == ["nothing crossed"]


@pytest.mark.parametrize("effects", [{"a": 0}, {"b": 0, "c": 0}])
def test_an_acknowledged_write_that_is_gone(effects: dict[str, int]) -> None:
    assert judged(with_effects(**effects)) == ["nothing acknowledged lost"]


def test_what_a_server_without_a_memory_held_before_its_end_may_be_gone() -> None:
    gone = replace(with_effects(a=0), forgot=10.5)
    assert judged(gone) == []
    assert judged(gone, call("later", began=11.0)) == ["nothing acknowledged lost"]


@pytest.mark.parametrize("name", ["a", "e"])
def test_a_write_that_took_effect_twice(name: str) -> None:
    assert judged(with_effects(**{name: 2})) == ["nothing doubled"]


def test_a_failure_that_happened_nevertheless() -> None:
    assert judged(with_effects(d=1)) == ["what failed did not happen"]


@pytest.mark.parametrize("fate", [Fate.UNKNOWN, Fate.ACKNOWLEDGED])
def test_half_a_transaction(fate: Fate) -> None:
    found = judged(with_effects(g=1), call("g", "h", kind="transaction", fate=fate))
    assert "all of a block or nothing" in found


def test_half_a_pipeline_is_no_broken_promise() -> None:
    assert judged(with_effects(g=1), call("g", "h", kind="pipeline", fate=Fate.UNKNOWN)) == []


def test_a_call_that_ends_too_late() -> None:
    assert judged(GOOD, call("g", fate=Fate.FAILED, took=1.06)) == ["no wait past the deadline"]


def test_what_the_machine_took_after_the_deadline_is_not_the_pools() -> None:
    late = call("g", fate=Fate.FAILED, took=1.2)
    busy = Busy(lost=0.16)
    assert judged(GOOD, late, losses=busy) == []
    assert (11.0, 11.2) in busy.spans  # nothing that was lost before the deadline excuses it
    assert judged(GOOD, late, losses=Busy(lost=0.14)) == ["no wait past the deadline"]


@pytest.mark.parametrize(("queued", "contended"), [(0.16, 0.0), (0.08, 0.08), (0.08, 0.06)])
def test_nor_is_what_its_own_thread_waited_for_a_core_and_all_for_the_interpreter(
    queued: float, contended: float
) -> None:
    late = call("g", fate=Fate.FAILED, took=1.2, queued=queued)
    enough = queued + contended > 0.15
    found = judged(GOOD, late, losses=Busy(lost=0.08, contended=contended))
    assert found == ([] if enough else ["no wait past the deadline"])


def test_a_caller_that_never_comes_back() -> None:
    assert judged(replace(GOOD, stuck=["worker 3"])) == ["no wait past the deadline"]


def test_a_call_that_was_interrupted_has_no_end_to_be_late() -> None:
    lost = call("g", fate=Fate.UNKNOWN)
    lost.ended = float("inf")
    assert judged(GOOD, lost) == []


def test_an_error_that_is_nowhere_documented() -> None:
    odd = call("g", fate=Fate.FAILED, error="KeyError: 7", expected=False)
    assert judged(GOOD, odd) == ["no errors but those known"]


@pytest.mark.parametrize("seconds", [1.1, float("inf")])
def test_a_pool_that_stays_ill(seconds: float) -> None:
    assert judged(replace(GOOD, recovered=seconds)) == ["healthy soon after the server"]


@pytest.mark.parametrize(
    "leak",
    [{"in_use": 1}, {"waiting": 1}, {"turns": 3}, {"connections": 3}, {"afterwards": 1}],
    ids=str,
)
def test_a_leak(leak: dict[str, int]) -> None:
    assert judged(replace(GOOD, **leak)) == ["nothing leaked"]


def test_a_thread_that_is_left_behind() -> None:
    assert judged(replace(GOOD, threads=["reader"])) == ["threads joined"]


def test_a_secret_in_a_log() -> None:
    assert judged(replace(GOOD, spilled=["poolkit: password=…"])) == ["no secret told"]


def test_the_worst_wait_is_told_with_and_without_what_the_machine_took() -> None:
    book = Bookkeeper(Busy(lost=0.2))
    for took in (0.5, 1.3, 1.1):
        book.begin(call("x", took=took))
    measured, net = book.overshoot()
    assert measured == pytest.approx(0.3)
    assert net == pytest.approx(0.1)


def test_the_control_loses_what_a_hog_of_the_interpreter_takes() -> None:
    with Control() as control:
        began = time.monotonic()
        threading.Event().wait(0.05)
        quiet = control.lost(began, time.monotonic())
        began = time.monotonic()
        sum(range(20_000_000))  # one C call: nobody else gets the interpreter meanwhile
        ended = time.monotonic()
        threading.Event().wait(0.05)
        assert control.lost(began, ended) > 0.8 * (ended - began) - 0.01
        assert control.contended(began, ended) <= control.lost(began, ended)
        assert control.lost(began, began) == 0.0
    assert quiet < ended - began
