"""Combining, over generated schedules: whatever befalls some, everybody gets its own answer or is told its fate."""

from __future__ import annotations

import gc
import sys
import traceback
from contextlib import suppress
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from poolkit import Deadline, DeadlineExceeded
from poolkit.core import combining, pace, reading
from poolkit.core.deadline import NEVER
from tests.core.steered import Broken, Lost, Overdue, Server, Wrong
from tests.core.support import Interrupted, Task, eventually

KINDS = ("answered", "error", "slow", "deadline", "killed", "cancelled", "interrupted", "apart")


class Step(NamedTuple):
    """What one request is like, and what befalls it."""

    kind: str
    point: int


class Schedule(NamedTuple):
    """What several threads ask, one thing after the other."""

    lanes: int
    threads: list[list[Step]]
    stoppable: bool


STEPS = st.builds(Step, st.sampled_from(KINDS), st.integers(1, 120))
SCHEDULES = st.builds(
    Schedule,
    st.integers(1, 3),
    st.lists(st.lists(STEPS, min_size=1, max_size=8), min_size=2, max_size=8),
    st.booleans(),
)

ALLOWED = {
    "answered": (Lost,),
    "error": (Lost, Wrong),
    "slow": (Lost,),
    "deadline": (Lost, Overdue, DeadlineExceeded),
    "killed": (Lost, Broken),
    "cancelled": (Lost,),
    "interrupted": (Lost, Interrupted),
    "apart": (Lost,),
}


class Life:
    """One run of a schedule."""

    def __init__(self, schedule):
        self.server = Server(schedule.lanes, size=schedule.lanes + 1)
        self.server.stoppable = schedule.stoppable
        self.requests = []
        self.problems = []
        self.told = []  # the requests, and what was told: a value or an error
        self.tasks = []

    def work(self, number, steps):
        for turn, step in enumerate(steps):
            tag = f"{number}:{turn}"
            asked = self.make(tag, step)
            deadline = Deadline.after(step.point / 20_000) if step.kind == "deadline" else NEVER
            try:
                answer = self.server.ask(asked, deadline)
            except Exception as error:
                self.told.append((asked, type(error)))
                if not isinstance(error, ALLOWED[step.kind]) and not isinstance(error, Interrupted):
                    self.problems.append((tag, step, error))
            else:
                self.told.append((asked, None))
                if answer != tag:
                    self.problems.append((tag, step, answer))

    def state(self, tasks):
        """Say where everybody is, for the one who has to find out why."""
        frames = sys._current_frames()
        lender = self.server.lender
        stacks = [traceback.format_stack(frames[task.ident]) for task in tasks if task.is_alive()]
        return "\n".join(
            [repr(self.server.combiner), repr(lender.gate), repr(lender.holders())]
            + ["".join(stack) for stack in stacks]
        )

    def make(self, tag, step):
        how = {
            "error": {"answer": Wrong(tag)},
            "killed": {"answer": Broken(tag)},
            "apart": {"fits": False},
        }.get(step.kind, {})
        asked = self.server.asked(tag, **how)
        asked.cancelled = step.kind == "cancelled"
        asked.pause = step.point / 10_000 if step.kind in ("slow", "deadline") else 0.0
        self.requests.append(asked)
        return asked


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(
    max_examples=80,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # threads don't fail twice alike
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(schedule=SCHEDULES)
def test_everybody_gets_its_own_answer_or_is_told_its_fate(schedule, monkeypatch):
    monkeypatch.setattr(pace, "WINDOW", float("inf"))
    monkeypatch.setattr(combining, "LOOK", 0.02)
    life = Life(schedule)
    tasks = [Task(life.work, number, steps) for number, steps in enumerate(schedule.threads)]
    for task, steps in zip(tasks, schedule.threads, strict=True):
        if any(step.kind == "interrupted" for step in steps):
            with suppress(AssertionError):  # it has ended
                task.interrupt()
    for task in tasks:
        try:
            error = task.end(10)
        except AssertionError as stuck:
            raise AssertionError(f"{stuck}: {life.state(tasks)}") from None
        assert isinstance(error, (Interrupted, type(None)))
        task.error = None

    assert life.problems == []
    for asked, error in life.told:
        if error is None:
            assert asked.ran == 1, asked
        assert asked.ran <= 1, asked  # nobody's is run twice
    gc.collect()
    server = life.server
    eventually(lambda: server.lender.reclaim() or not server.book, 5)
    server.stoppable = False
    monkeypatch.setattr(reading, "SILENCE", 30.0)
    assert repr(server.combiner) == "<Combiner of 'db': 0 lead, 0 wait>"
    server.lost_at_gate = server.lender.gate.in_use
    # Two: an interruption can hit the one point where a pool loses a turn.
    assert server.lost_at_gate <= sum(
        any(step.kind == "interrupted" for step in steps) for steps in schedule.threads
    )
