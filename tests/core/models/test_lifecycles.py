"""A lifecycle, opened, closed and forked in any order by several threads: each start is stopped once, or dropped."""

from __future__ import annotations

import threading

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from poolkit import Deadline, PoolClosed
from poolkit.core import lifecycle as lifecycle_module
from poolkit.core.deadline import NEVER
from poolkit.core.lifecycle import Lifecycle
from tests.core import test_lifecycle
from tests.core.support import LONG, Task
from tests.generated import examples


class Engine(test_lifecycle.Engine):
    """One that also counts what it is to tell."""

    opened = closed = 0

    def note_open(self):
        self.opened += 1

    def note_closed(self, held):
        self.closed += 1


class Starter:
    """Starts engines; a start may be held, and may fail."""

    def __init__(self):
        self.engines = []
        self.calls = 0
        self.fails = False
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self):
        self.calls += 1
        self.begun.set()
        assert self.may_end.wait(LONG)
        if self.fails:
            self.fails = False
            raise OSError("it can't be started")
        self.engines.append(Engine())
        return self.engines[-1]


class AnyOrder(RuleBasedStateMachine):
    """Compare a lifecycle with a model of it: what runs, if anything does, and whether it was closed."""

    def __init__(self):
        super().__init__()
        self.start = Starter()
        self.lifecycle = Lifecycle(
            "db", self.start, opened=Engine.note_open, closed=Engine.note_closed
        )
        self.told = 0  # calls of when_opened
        self.lifecycle.when_opened.append(self.hear)
        self.running = None
        self.closed = False
        self.dropped = []
        self.openers = []  # while a start is held; the first does it
        self.closers = []  # while a start or a stop is held

    def teardown(self):
        self.start.may_end.set()
        for engine in self.start.engines:
            engine.may_stop.set()
        for task in (*self.openers, *self.closers):
            task.end()
        self.lifecycle.close(NEVER)
        for engine in self.dropped:
            lifecycle_module._abandoned.remove(engine)
        for engine in self.start.engines:
            assert len(engine.stopped) + engine.abandoned == 1
            assert (engine.opened, engine.closed) == (1, len(engine.stopped))

    def hear(self):
        self.told += 1

    @property
    def is_quiet(self):
        return not self.openers and not self.closers

    # -- one thread ----------------------------------------------------------------------------------

    @precondition(lambda self: not self.openers)
    @rule()
    def open(self):
        if self.closed:
            with pytest.raises(PoolClosed):
                self.lifecycle.open()  # at once, even while another thread is closing
            return
        opened = self.lifecycle.open()
        assert self.running in (None, opened)
        self.running = opened

    @precondition(lambda self: self.is_quiet and self.running is None and not self.closed)
    @rule()
    def fail_to_open(self):
        self.start.fails = True
        with pytest.raises(OSError, match="can't be started"):
            self.lifecycle.open()

    @precondition(lambda self: self.is_quiet and len(self.start.engines) > 1)
    @rule()
    def close(self):
        self.lifecycle.close(NEVER)
        self.running, self.closed = None, True

    @precondition(lambda self: self.is_quiet)
    @rule()
    def find_oneself_in_a_forked_child(self):
        """As it is there: no other thread, and the hook has run."""
        self.lifecycle.after_fork()
        if self.running is not None:
            assert self.running.abandoned == 1
            self.dropped.append(self.running)
        self.running = None
        assert self.lifecycle.latest is None

    # -- several threads, while a start is held ------------------------------------------------------

    @precondition(lambda self: self.is_quiet and self.running is None and not self.closed)
    @rule()
    def begin_to_open(self):
        self.start.begun.clear()
        self.start.may_end.clear()
        self.openers = [Task(self.lifecycle.open)]
        assert self.start.begun.wait(LONG)

    @precondition(lambda self: self.openers and len(self.openers) < 4)
    @rule()
    def open_meanwhile(self):
        self.openers.append(Task(self.lifecycle.open))

    @precondition(lambda self: self.openers and not self.closers)
    @rule()
    def close_meanwhile(self):
        self.closers.append(Task(self.lifecycle.close, NEVER))

    @precondition(lambda self: self.openers)
    @rule(fails=st.booleans())
    def finish_opening(self, fails):
        self.start.fails = fails
        calls = self.start.calls
        self.start.may_end.set()
        first, *others = self.openers
        assert isinstance(first.end(), OSError) is fails
        opened = {task.value for task in (first, *others) if task.end() is None}
        for other in others:
            assert other.error is None or (self.closers and isinstance(other.error, PoolClosed))
            other.error = None
        assert len(opened) <= 1
        assert self.start.calls - calls <= fails  # one more, if somebody else had to try
        self.openers = []
        if self.closers:
            self.closers.pop().result()
            self.closed = True
            assert all(len(engine.stopped) == 1 for engine in opened)
        elif opened:
            (self.running,) = opened

    # -- several threads, while a stop is held -------------------------------------------------------

    @precondition(lambda self: self.is_quiet and self.running is not None)
    @precondition(lambda self: len(self.start.engines) > 1)
    @rule()
    def begin_to_close(self):
        self.running.may_stop.clear()
        self.closers = [Task(self.lifecycle.close, NEVER)]
        assert self.running.stopping.wait(LONG)
        self.closed = True

    @property
    def is_stopping(self):
        return self.closers and not self.openers

    @precondition(lambda self: self.is_stopping and len(self.closers) < 4)
    @rule()
    def close_too(self):
        self.closers.append(Task(self.lifecycle.close, NEVER))

    @precondition(lambda self: self.is_stopping)
    @rule()
    def close_too_in_a_hurry(self):
        self.lifecycle.close(Deadline.after(0))
        assert not self.running.stopped

    @precondition(lambda self: self.is_stopping)
    @rule()
    def finish_closing(self):
        assert all(closer.is_alive() for closer in self.closers)
        self.running.may_stop.set()
        for closer in self.closers:
            closer.result()
        assert len(self.running.stopped) == 1
        self.running, self.closers = None, []

    # -- what holds ----------------------------------------------------------------------------------

    @invariant()
    def the_lifecycle_agrees_with_the_model(self):
        if self.openers and self.closers:
            return  # which of them comes first is open
        state = "closed" if self.closed else "open" if self.running is not None else "new"
        assert self.lifecycle.state == state
        assert self.lifecycle.running is (None if self.closed else self.running)
        if not self.openers:
            assert self.told == len(self.start.engines)
        for engine in self.start.engines:
            assert len(engine.stopped) + engine.abandoned <= 1
            assert engine.opened == 1
        assert all(not engine.stopped for engine in self.dropped)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = examples(40, stateful_step_count=25)
