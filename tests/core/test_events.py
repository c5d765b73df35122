"""Listeners are told what happens, and never harm the caller."""

from __future__ import annotations

import logging

import pytest

from poolkit import Listener
from poolkit.core.events import (
    Acquired,
    Closed,
    Connected,
    Ended,
    Event,
    Events,
    Failed,
    Leaked,
    Opened,
    Ready,
    Reconnecting,
    Released,
    Removed,
    Retried,
    TimedOut,
)

from .support import together

DETAILS = {
    "opened": (Opened, {}),
    "connected": (Connected, {"seconds": 0.1}),
    "ready": (Ready, {}),
    "reconnecting": (Reconnecting, {"attempt": 1, "delay": 0.1, "error": OSError()}),
    "acquired": (Acquired, {"holder": None, "waited": 0.0}),
    "released": (Released, {"holder": None, "used": 0.0}),
    "removed": (Removed, {"reason": "too old"}),
    "timed_out": (TimedOut, {"waited": 5.0, "error": TimeoutError()}),
    "retried": (Retried, {"attempt": 1, "delay": 0.1, "error": OSError()}),
    "failed": (Failed, {"error": OSError()}),
    "ended": (Ended, {"operation": "GET", "seconds": 0.1, "error": None}),
    "leaked": (Leaked, {"holder": None, "reason": "its thread has ended"}),
    "closed": (Closed, {"held": 0}),
}


class Recorder(Listener):
    def __init__(self):
        self.heard = []


def _record(name):
    def method(self, event):
        self.heard.append((name, event))

    return method


for _name in DETAILS:
    setattr(Recorder, _name, _record(_name))


class Deaf(Listener):
    """Overrides nothing."""


class Raising(Listener):
    def opened(self, event):
        raise ValueError("my own fault")

    def closed(self, event):
        raise ValueError("my own fault")


class Hearing(Listener):
    def __init__(self):
        self.events = []

    def opened(self, event):
        self.events.append(event)


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.DEBUG, logger="poolkit")
    return caplog


@pytest.mark.parametrize("name", DETAILS)
def test_each_event_reaches_its_method_and_no_other(name):
    kind, details = DETAILS[name]
    recorder = Recorder()
    events = Events("db", [recorder])

    assert events.wanted(kind)
    events.tell(kind, **details)

    ((heard, event),) = recorder.heard
    assert heard == name
    assert event == kind(pool="db", **details)


def test_every_kind_of_event_is_covered_here():
    told = {kind for kind in Event.__subclasses__() if kind.__module__ == Event.__module__}
    assert {kind for kind, _ in DETAILS.values()} == told


def test_an_event_is_a_frozen_value():
    with pytest.raises(AttributeError):
        Opened(pool="db").pool = "other"


def test_nobody_listening_means_that_no_event_is_built():
    for listeners in ([], [Deaf()], [Hearing()]):
        events = Events("db", listeners)
        assert not events.wanted(Closed)
        events.tell(Closed, no_such_detail=1)  # would raise if it were built


def test_all_listeners_hear_in_the_order_given():
    order = []

    class Numbered(Listener):
        def __init__(self, number):
            self.number = number

        def opened(self, event):
            order.append(self.number)

    Events("db", [Numbered(1), Numbered(2), Numbered(3)]).tell(Opened)

    assert order == [1, 2, 3]


def test_a_method_inherited_from_a_listeners_own_base_is_heard():
    class Child(Hearing):
        pass

    child = Child()
    Events("db", [child]).tell(Opened)

    assert len(child.events) == 1


def test_a_listener_that_raises_harms_neither_the_caller_nor_the_others():
    before, after = Hearing(), Hearing()
    events = Events("db", [before, Raising(), after])

    events.tell(Opened)

    assert len(before.events) == len(after.events) == 1


def test_a_listener_that_raises_is_logged_once_with_its_traceback(logged):
    events = Events("db", [Raising()])

    for _ in range(3):
        events.tell(Opened)

    (record,) = logged.records
    assert record.levelno == logging.ERROR
    assert "pool 'db'" in record.getMessage()
    assert "Raising" in record.getMessage()
    assert "my own fault" in str(record.exc_info[1])


def test_each_failing_method_of_each_listener_is_logged(logged):
    events = Events("db", [Raising(), Raising()])

    for _ in range(3):
        events.tell(Opened)
        events.tell(Closed, held=0)

    assert len(logged.records) == 4


def test_a_listener_that_raises_in_many_threads_is_logged_once(logged):
    for _ in range(10):
        events = Events("db", [Raising()])
        logged.clear()
        together(8, lambda _, events=events: events.tell(Opened))
        assert len(logged.records) == 1


@pytest.mark.parametrize("fatal", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_passes_through(fatal):
    class Fatal(Listener):
        def opened(self, event):
            raise fatal

    with pytest.raises(fatal):
        Events("db", [Fatal()]).tell(Opened)


def test_a_listener_that_can_not_be_hashed_may_raise_too(logged):
    class Unhashable(Raising):
        __hash__ = None

        def __eq__(self, other):
            return True

    events = Events("db", [Unhashable(), Unhashable()])
    events.tell(Opened)
    events.tell(Opened)

    assert len(logged.records) == 2
