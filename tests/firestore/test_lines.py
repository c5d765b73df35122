"""Transactions of one pool queue up at documents that are in demand."""

from __future__ import annotations

import pytest

from poolkit.core.deadline import NEVER, Deadline
from poolkit.firestore import lines as module
from poolkit.firestore.lines import Lines, Turn
from tests.core.support import Stopwatch, Task, eventually


@pytest.fixture
def lines():
    """Give lines at which ``hot`` and ``warm`` are in demand."""
    lines = Lines()
    lines.heat(["hot", "warm"])
    return lines


def test_nobody_waits_where_nothing_is_in_demand(lines):
    turns = [Turn(), Turn()]
    for turn in turns:
        lines.wait(turn, ["cold"], NEVER)
        assert (list(turn.touched), turn.held) == (["cold"], [])


def test_they_go_in_their_order(lines):
    first, order = Turn(), []
    lines.wait(first, ["hot"], NEVER)

    def work(number):
        turn = Turn()
        lines.wait(turn, ["hot"], NEVER)
        order.append(number)
        lines.leave(turn)

    tasks = []
    for number in range(5):
        tasks.append(Task(work, number))
        eventually(lambda: len(lines._lines["hot"].waiting) == len(tasks))
    assert order == []
    lines.leave(first)
    for task in tasks:
        task.result()
    assert order == [0, 1, 2, 3, 4]
    assert lines._lines == {}


def test_one_who_has_its_turn_does_not_wait_for_itself(lines):
    turn = Turn()
    for _ in range(2):
        lines.wait(turn, ["warm", "hot"], NEVER)
    assert turn.held == ["hot", "warm"]
    lines.leave(turn)
    lines.leave(turn)
    assert lines._lines == {}


def test_the_wait_ends_with_the_deadline_and_the_place_is_given_up(lines):
    first, second = Turn(), Turn()
    lines.wait(first, ["hot"], NEVER)
    with Stopwatch() as watch:
        lines.wait(second, ["hot"], Deadline.after(0.05))
    assert 0.04 < watch.seconds < 1.0
    assert (second.held, len(lines._lines["hot"].waiting)) == ([], 0)
    lines.leave(second)
    lines.leave(first)
    assert lines._lines == {}


def test_two_that_want_each_others_wait_for_a_moment_only(lines):
    one, two = Turn(), Turn()
    lines.wait(one, ["hot"], NEVER)
    lines.wait(two, ["warm"], NEVER)
    with Stopwatch() as watch:
        tasks = [Task(lines.wait, one, ["warm"], NEVER), Task(lines.wait, two, ["hot"], NEVER)]
        for task in tasks:
            task.result()
    assert watch.seconds < 5 * module.PATIENCE_HOLDING
    lines.leave(one)
    lines.leave(two)
    assert lines._lines == {}


def test_demand_is_forgotten_after_a_while(lines, monkeypatch):
    now = module.monotonic()
    monkeypatch.setattr(module, "monotonic", lambda: now + module.HOT + 1)
    turn = Turn()
    lines.wait(turn, ["hot"], NEVER)
    assert turn.held == []
    assert "hot" not in lines._hot


def test_what_is_remembered_is_bounded(lines, monkeypatch):
    monkeypatch.setattr(module, "MOST_HOT", 10)
    now = module.monotonic()
    monkeypatch.setattr(module, "monotonic", lambda: now + module.HOT + 1)
    lines.heat([f"{n}" for n in range(9)])
    assert set(lines._hot) == {f"{n}" for n in range(9)}
