"""What the log is told of answers: enough to find each, and no more than somebody can read."""

from __future__ import annotations

import logging

import pytest

from poolkit import BackendUnavailable, CancelledOutcomeUnknown, PoolTimeout
from poolkit.hosts import answering
from poolkit.hosts.answering import Answering

from ..core.support import together


@pytest.fixture
def clock(monkeypatch):
    """Give a clock that stands still: a list with its time."""
    clock = [100.0]
    monkeypatch.setattr(answering, "monotonic", lambda: clock[0])
    return clock


def test_of_a_kind_of_error_one_a_second_is_told_with_how_many_there_were_meanwhile(clock, caplog):
    answers = Answering()
    caplog.set_level(logging.WARNING, "poolkit.hosts")

    first = [answers.answer(PoolTimeout(f"{n}"), "the view 'busy'") for n in range(500)]
    other = answers.answer(BackendUnavailable("…"), "the view 'other'")
    clock[0] += 0.9
    first.append(answers.answer(PoolTimeout("500"), "the view 'busy'"))
    clock[0] += 0.1
    second = answers.answer(PoolTimeout("501"), "the view 'busy'")
    clock[0] += 60
    third = answers.answer(PoolTimeout("502"), "the view 'busy'")

    references = {answer.reference for answer in first}
    assert len(references | {other.reference, second.reference, third.reference}) == 4
    assert [record.reference for record in caplog.records] == [
        *references,
        other.reference,
        second.reference,
        third.reference,
    ]
    (reference,) = references
    of_both = f"(reference {second.reference}; 500 more have the reference {reference})"
    assert caplog.messages[0].endswith("PoolTimeout: 0")
    assert of_both in caplog.messages[2]
    assert "more" not in caplog.messages[3]


def test_those_in_between_are_told_one_by_one_at_the_level_debug(clock, caplog):
    answers = Answering()
    caplog.set_level(logging.DEBUG, "poolkit.hosts")
    for n in range(3):
        answers.answer(PoolTimeout(f"{n}"), f"the view {n}")
    assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG", "DEBUG"]
    assert len({record.reference for record in caplog.records}) == 1
    assert caplog.messages[2].startswith("the view 2 was answered with 503")


def test_of_many_threads_all_are_counted(clock, caplog):
    answers = Answering()
    together(8, lambda _: [answers.answer(PoolTimeout("…"), "the view") for _ in range(200)])
    clock[0] += 1
    answers.answer(PoolTimeout("…"), "the view")
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 2
    assert "; 1599 more have" in told[1].message


def test_an_outcome_that_nobody_knows_is_told_each_time_with_where_it_was_left(clock, caplog):
    def pay():
        raise CancelledOutcomeUnknown("it may have been paid", stage="running")

    answers = Answering()
    for _ in range(3):
        try:
            pay()
        except CancelledOutcomeUnknown as error:
            answers.answer(error, "the view 'pay'")
    assert len({record.reference for record in caplog.records}) == 3
    assert caplog.text.count("in pay\n") == 3


def test_other_answers_have_no_traceback(caplog):
    Answering().answer(PoolTimeout("…"), "the view")
    assert caplog.records[0].exc_info is None


def test_what_has_no_answer_is_not_told(caplog):
    assert Answering().answer(KeyError("x"), "the view") is None
    assert caplog.records == []
