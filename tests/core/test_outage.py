"""While the backend is down everybody is told at once, and one probe looks whether it is back."""

from __future__ import annotations

import math
import threading

import pytest

from poolkit import BackendUnavailable, Deadline, Listener
from poolkit.core import outage as outage_module
from poolkit.core.events import Events
from poolkit.core.housekeeper import Housekeeper
from poolkit.core.outage import FIRST_PROBE, LONGEST_PAUSE, Outage

from .support import LONG, Task, eventually, together


class Planned:
    def __init__(self, seconds, call):
        self.seconds = seconds
        self.call = call
        self.cancelled = False
        self.fired = False

    def cancel(self):
        self.cancelled = True

    def fire(self):
        assert not self.fired
        self.fired = True
        if not self.cancelled:
            self.call()


class Clockwork:
    """A housekeeper whose timers go off when the test says so."""

    def __init__(self):
        self.all = []

    def after(self, seconds, call):
        self.all.append(Planned(seconds, call))
        return self.all[-1]

    @property
    def pending(self):
        return [timer for timer in self.all if not timer.cancelled and not timer.fired]

    def fire(self):
        (timer,) = self.pending
        timer.fire()
        return timer.seconds


class Scene(Listener):
    def __init__(self, **options):
        self.probes = 0
        self.heard = []
        self.clock = Clockwork()
        events = Events("db", [self])
        self.outage = Outage("db", self.clock, events=events, probe=self.probe, **options)

    def ready(self, event):
        self.heard.append("ready")

    def reconnecting(self, event):
        self.heard.append((event.attempt, event.delay, event.error))

    def probe(self):
        self.probes += 1


@pytest.fixture
def scene():
    """Give an outage with timers and probes that are only counted."""
    return Scene()


CAUSE = OSError("connection refused")


def test_as_long_as_nothing_fails_nothing_is_said_or_planned(scene):
    assert scene.outage.cause is None
    assert scene.clock.all == []


def test_a_failure_is_told_to_everybody_at_once_with_its_cause(scene):
    scene.outage.down(CAUSE)

    error = scene.outage.error()
    assert isinstance(error, BackendUnavailable)
    assert error.__cause__ is CAUSE is scene.outage.cause
    assert str(error) == "pool 'db': the backend can't be reached: connection refused"
    assert 0 <= error.retry_after <= FIRST_PROBE
    assert scene.outage.error() is not scene.outage.error()  # to each caller one of his own


def test_a_cause_of_many_lines_is_told_in_one():
    scene = Scene(explain=lambda text: f"{text} (see the manual)")
    scene.outage.down(OSError("connection\n\trefused\n"))
    assert str(scene.outage.error()).endswith("reached: connection refused (see the manual)")


def test_a_cause_without_words_is_named_by_its_kind(scene):
    scene.outage.down(TimeoutError())
    assert str(scene.outage.error()).endswith("reached: TimeoutError")


def test_probes_follow_one_another_with_a_doubling_pause_of_at_most_half_a_second(scene):
    scene.outage.down(CAUSE)
    bound = FIRST_PROBE
    for number in range(40):
        pause = scene.clock.fire()
        assert scene.probes == number + 1
        assert scene.clock.pending == []  # the next one is planned when this one has failed
        assert bound / 2 <= pause <= bound <= LONGEST_PAUSE <= 0.5
        scene.outage.down(CAUSE)
        bound = min(LONGEST_PAUSE, 2 * bound)


def test_many_reports_of_one_outage_make_one_probe(scene):
    for _ in range(50):
        scene.outage.down(CAUSE)

    assert len(scene.clock.pending) == 1
    assert scene.clock.fire() <= FIRST_PROBE


def test_many_threads_that_find_it_down_make_one_probe(scene):
    together(20, lambda _: scene.outage.down(CAUSE))

    assert len(scene.clock.pending) == 1


def test_the_latest_cause_is_the_one_that_is_told(scene):
    scene.outage.down(CAUSE)
    later = OSError("no route to host")
    scene.outage.down(later)

    assert scene.outage.error().__cause__ is later


def test_once_it_is_up_nobody_is_told_and_nothing_is_probed(scene):
    scene.outage.down(CAUSE)
    scene.outage.up()

    assert scene.outage.cause is None
    for timer in scene.clock.pending:
        timer.fire()
    assert scene.probes == 0


def test_the_next_outage_begins_with_the_shortest_pause(scene):
    scene.outage.down(CAUSE)
    for _ in range(6):
        scene.clock.fire()
        scene.outage.down(CAUSE)
    scene.clock.fire()
    scene.outage.up()

    scene.outage.down(CAUSE)

    assert scene.clock.fire() <= FIRST_PROBE


def test_who_was_turned_away_just_before_it_came_up_is_told_why(scene):
    scene.outage.down(CAUSE)
    scene.outage.up()

    error = scene.outage.error()

    assert error.__cause__ is CAUSE
    assert "connection refused" in str(error)


def test_a_hopeless_cause_is_not_probed_by_itself(scene):
    scene.outage.down(OSError("wrong password"), hopeless=True)

    error = scene.outage.error()

    assert scene.clock.all == []
    assert scene.probes == 0
    assert error.retry_after is None
    assert "poolkit does not retry this by itself" in str(error)


def test_a_cause_found_hopeless_by_a_probe_ends_the_probing(scene):
    scene.outage.down(CAUSE)
    scene.clock.fire()
    scene.outage.down(OSError("wrong password"), hopeless=True)

    assert scene.clock.pending == []


def test_a_probe_planned_before_the_cause_was_found_hopeless_does_not_happen(scene):
    scene.outage.down(CAUSE)
    scene.outage.down(OSError("wrong password"), hopeless=True)

    for timer in scene.clock.pending:
        timer.fire()

    assert scene.probes == 0


def test_a_hopeless_cause_is_looked_at_again_for_a_caller_but_not_for_each(scene, monkeypatch):
    monkeypatch.setattr(outage_module, "HOPELESS_PAUSE", 0.0)
    scene.outage.down(OSError("wrong password"), hopeless=True)
    monkeypatch.setattr(outage_module, "HOPELESS_PAUSE", math.inf)

    errors = together(20, lambda _: scene.outage.error())

    assert scene.probes == 1
    assert all(isinstance(error, BackendUnavailable) for error in errors)


def test_a_mended_hopeless_cause_is_forgotten(scene):
    scene.outage.down(OSError("wrong password"), hopeless=True)
    scene.outage.up()
    assert scene.outage.cause is None

    scene.outage.down(CAUSE)

    assert scene.outage.error().retry_after is not None
    assert len(scene.clock.pending) == 1


@pytest.mark.parametrize("hopeless", [False, True])
def test_when_nothing_is_known_any_more_nobody_is_told_or_kept_waiting(scene, hopeless):
    scene.outage.down(CAUSE, hopeless=hopeless)

    scene.outage.forget()

    assert scene.outage.cause is None
    assert scene.outage.wait(Deadline.after(0.0)) is True
    for timer in scene.clock.pending:
        timer.fire()
    assert scene.probes == 0


def test_that_it_was_reached_is_told_again_after_nothing_was_known(scene):
    scene.outage.up()()
    scene.outage.down(CAUSE)()
    scene.outage.forget()
    assert scene.heard[-1] != "ready"

    scene.outage.up()()

    assert scene.heard[-1] == "ready"


def test_after_the_end_nothing_is_planned_or_probed(scene, monkeypatch):
    monkeypatch.setattr(outage_module, "HOPELESS_PAUSE", 0.0)
    scene.outage.down(CAUSE)
    planned = scene.clock.all[0]
    scene.outage.end()

    assert planned.cancelled
    planned.cancelled = False
    planned.fire()  # it was about to run
    scene.outage.down(CAUSE)
    scene.outage.down(CAUSE, hopeless=True)
    scene.outage.error()
    scene.outage.end()

    assert scene.clock.pending == []
    assert scene.probes == 0


def test_a_backend_that_comes_back_is_found_with_real_timers():
    answers = [False, False, True]

    class Backend:
        def __init__(self):
            self.outage = Outage("db", Housekeeper(), events=Events("db", ()), probe=self.probe)

        def probe(self):
            if answers.pop(0):
                self.outage.up()
            else:
                self.outage.down(CAUSE)

    backend = Backend()
    backend.outage.down(CAUSE)

    eventually(lambda: backend.outage.cause is None)
    assert answers == []


def test_listeners_hear_that_it_is_ready_once_each_time_it_becomes_so(scene):
    scene.outage.up()()
    scene.outage.up()()
    scene.outage.down(CAUSE)()
    scene.outage.up()()

    assert scene.heard[0] == "ready"
    assert [kind for kind in scene.heard if kind == "ready"] == ["ready"] * 2


def test_listeners_hear_of_each_probe_that_is_planned(scene):
    scene.outage.down(CAUSE)()
    scene.outage.down(OSError("the same outage, told by another thread"))()
    scene.clock.fire()
    scene.outage.down(CAUSE)()

    (first, delay, cause), (second, later, _) = scene.heard
    assert (first, second) == (1, 2)
    assert [delay, later] == [timer.seconds for timer in scene.clock.all]
    assert cause is CAUSE


def test_nothing_is_told_before_the_caller_says_so(scene):
    tell = scene.outage.up()
    assert scene.heard == []

    tell()

    assert scene.heard == ["ready"]


def test_waiting_ends_when_it_is_up(scene):
    scene.outage.down(CAUSE)
    task = Task(scene.outage.wait, Deadline.after(LONG))

    scene.outage.up()

    assert task.result() is True


def test_waiting_goes_on_when_it_was_up_for_a_moment_only(scene):
    class Flapping(threading.Event):
        """Who waits for it finds, when woken for the first time, that it is down again."""

        woken = 0

        def wait(self, timeout=None):
            settled = super().wait(timeout)
            self.woken += 1
            if self.woken == 1:
                scene.outage.down(CAUSE)
            return settled

    settled = scene.outage._settled = Flapping()
    scene.outage.down(CAUSE)
    waiter = Task(scene.outage.wait, Deadline.after(LONG))
    scene.outage.up()
    eventually(lambda: settled.woken == 1 and not settled.is_set())
    scene.outage.up()

    assert waiter.result() is True


def test_waiting_ends_when_nothing_is_left_to_wait_for(scene):
    scene.outage.down(CAUSE)
    task = Task(scene.outage.wait, Deadline.after(LONG))

    scene.outage.end()

    assert task.result() is False


def test_waiting_ends_at_its_time(scene):
    scene.outage.down(CAUSE)

    assert scene.outage.wait(Deadline.after(0.01)) is False
