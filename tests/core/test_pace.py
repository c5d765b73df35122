"""How many lanes, and how large batches, as answers come in."""

from __future__ import annotations

import pytest

from poolkit.core import pace
from poolkit.core.pace import GROWTH, LARGEST, WINDOW, Pace

MOST = 20


class Clock:
    """The two clocks, of which *busy* says how much of a core this process uses."""

    def __init__(self) -> None:
        self.now = 100.0
        self.cpu = 1.0

    def pass_window(self, pace: Pace, busy: float, windows: float = 1.0) -> None:
        self.now += windows * WINDOW * 1.001  # floats
        self.cpu += busy * windows * WINDOW
        assert pace.is_due(self.now)
        pace.look(self.now)
        assert not pace.is_due(self.now)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "process_time", lambda: clock.cpu)
    return clock


@pytest.fixture
def steady(clock) -> Pace:
    steady = Pace(4, lambda: MOST)
    clock.pass_window(steady, 0.4)
    assert (steady.lanes, steady.largest) == (4, LARGEST)
    return steady


def test_a_busy_interpreter_needs_fewer_lanes_but_one(steady, clock):
    lanes = []
    for _ in range(5):
        steady.note_gathered()
        clock.pass_window(steady, 0.95)
        lanes.append(steady.lanes)
    assert lanes == [3, 2, 1, 1, 1]


def test_an_idle_one_for_which_requests_gather_needs_more_up_to_all_connections(steady, clock):
    lanes = []
    for _ in range(5):
        steady.note_gathered()
        clock.pass_window(steady, 0.2)
        lanes.append(steady.lanes)
    assert lanes == [7, 11, 17, MOST, MOST]


def test_when_nothing_gathers_or_it_is_in_between_the_lanes_stay(steady, clock):
    clock.pass_window(steady, 0.2)
    assert steady.lanes == 4
    steady.note_gathered()
    clock.pass_window(steady, 0.4)
    assert steady.lanes == 4


def test_after_a_rest_it_begins_anew(steady, clock):
    clock.pass_window(steady, 0.95)
    assert steady.lanes == 3
    clock.pass_window(steady, 0.95, windows=20)
    assert steady.lanes == 4


def test_slow_batches_make_the_next_ones_smaller_and_use_more_lanes(steady, clock):
    for largest in (16, 8, 4, 2, 1, 1):
        steady.note_slow()
        assert steady.largest == largest
    assert steady.lanes == 10
    clock.pass_window(steady, 0.95)
    assert steady.lanes == 10  # not given up while there are slow ones
    clock.pass_window(steady, 0.95)
    assert steady.lanes == 9


def test_batches_grow_by_one_with_each_200_requests_answered_quickly(steady):
    steady.note_slow()
    for _ in range(GROWTH // 10):
        assert steady.largest == 16
        steady.note_quick(10)
    assert steady.largest == 17
    steady.note_quick(GROWTH - 1)
    steady.note_slow()  # forgets what was quick before
    steady.note_quick(1)
    assert steady.largest == 8
    for _ in range(100):
        steady.note_quick(GROWTH)
    assert steady.largest == LARGEST
