"""The gate, in any order of what threads do, those that come back among them: no turn is lost, given twice or left."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from poolkit import BackendUnavailable, Deadline, PoolClosed, PoolOverloaded
from poolkit.core import gate as gate_module
from poolkit.core.deadline import NEVER
from poolkit.core.gate import COMES_BACK, FAIR_AFTER, Gate, Waited
from tests.core.support import LONG, eventually
from tests.generated import examples

from .actors import Actor
from .clock import Clock

ACTORS = 6
MAX_WAITING = 3
IN_A_ROW = 3


class Visitor(Actor):
    """A thread, with what a gate may know of it."""

    left_at = -LONG  # when it last gave up a turn
    returned = False  # whether it came back at once, the last time
    in_a_row = 0  # turns that it gave up without having had to wait
    since = 0.0  # when it began to wait


class AnyOrder(RuleBasedStateMachine):
    """Compare a gate with a model of it: tokens, who is inside, and a queue, oldest first.

    Nobody looks for a turn that was left lying before it is told to, and time passes only when it is told to.
    """

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.clock = Clock(self.patch, gate_module)
        self.patch.setattr(gate_module, "_LOOK", LONG)
        self.patch.setattr(gate_module, "IN_A_ROW", IN_A_ROW)
        self.size = self.free = 2
        self.closed = False
        self.gate = Gate("db", self.size, max_waiting=MAX_WAITING)
        self.visitors = [Visitor(f"visitor {number}") for number in range(ACTORS)]
        self.inside = []
        self.queue = []

    def teardown(self):
        self.gate._settle()  # first: a turn may be left lying
        self.settle()
        while self.inside:
            for visitor in self.inside:
                visitor.do(self.gate.leave)
                self.free += 1
            self.inside.clear()
            self.gate._settle()
            self.settle()
        if self.closed:
            assert self.gate.wait_empty(Deadline.after(0))
        else:
            for _ in range(self.size):  # all turns are there, and not one more
                assert self.gate.enter(NEVER, 0.0) == 0.0
            with pytest.raises(Waited):
                self.gate.enter(NEVER, 0.0)
        for visitor in self.visitors:
            visitor.go_home()
        self.patch.undo()

    # -- the model -----------------------------------------------------------------------------------

    @property
    def outside(self):
        return [
            each for each in self.visitors if each not in self.inside and each not in self.queue
        ]

    @property
    def owed(self):
        """Turns that are to be taken away."""
        return max(0, len(self.inside) + self.free - (0 if self.closed else self.size))

    def settle(self, keep=0):
        """Take away what is owed, and give the rest, but so many as to *keep*, to the oldest."""
        self.free -= min(self.free, self.owed)
        while self.queue and self.free > keep:
            self.free -= 1
            served = self.queue.pop(0)
            assert served.outcome.result() >= 0.0
            self.inside.append(served)

    def note_return(self, visitor):
        visitor.returned = self.clock.now - visitor.left_at < COMES_BACK

    def may_stay(self, visitor):
        """Whether *visitor* may leave its turn lying for a moment, to take it again."""
        oldest = self.queue[0].since
        return (
            visitor.returned
            and visitor.in_a_row < IN_A_ROW
            and self.clock.now - oldest < FAIR_AFTER
        )

    def comes(self, visitor, patience):
        """Have *visitor* come, and say whether it is to wait; what it gets at once, it has got."""
        if self.free and not self.owed:
            self.free -= 1
            if self.queue:
                self.note_return(visitor)
            assert visitor.do(lambda: self.gate.enter(NEVER, patience)) == 0.0
            self.inside.append(visitor)
            return False
        full = len(self.queue) >= MAX_WAITING
        visitor.since = self.clock.now
        outcome = visitor.begin(lambda: self.gate.enter(NEVER, patience))
        if self.closed or full:
            self.settle()
            assert isinstance(outcome.end(), PoolClosed if self.closed else PoolOverloaded)
            return False
        self.note_return(visitor)
        visitor.in_a_row = 0
        return True

    # -- what threads do -----------------------------------------------------------------------------

    @precondition(lambda self: self.outside)
    @rule(number=st.integers(0, ACTORS), count=st.integers(2, ACTORS))
    def come(self, number, count):
        for _ in range(min(count, len(self.outside))):
            visitor = self.outside[number % len(self.outside)]
            if self.comes(visitor, LONG):
                self.queue.append(visitor)
                self.settle()
                eventually(lambda: self.gate.waiting == len(self.queue))

    @precondition(lambda self: self.outside)
    @rule(number=st.integers(0, ACTORS))
    def come_in_a_hurry(self, number):
        visitor = self.outside[number % len(self.outside)]
        if self.comes(visitor, 0.0):
            assert isinstance(visitor.outcome.end(), Waited)
            self.settle()

    @precondition(lambda self: self.inside)
    @rule(number=st.integers(0, ACTORS))
    def leave(self, number):
        visitor = self.inside.pop(number % len(self.inside))
        self.leaves(visitor, self.gate.leave)

    @precondition(lambda self: self.inside and self.queue)
    @rule(
        number=st.integers(0, 1),
        times=st.integers(2, 12),
        stay=st.sampled_from((0.0, 0.0, COMES_BACK, FAIR_AFTER)),
    )
    def leave_and_come_back_at_once(self, number, times, stay):
        for _ in range(times):
            self.clock.sleep(stay)
            visitor = self.inside.pop(number % len(self.inside))
            self.leaves(visitor, self.gate.leave)
            if self.comes(visitor, LONG):
                self.queue.append(visitor)
                self.settle()
                eventually(lambda: self.gate.waiting == len(self.queue))
            if not self.inside:
                break

    @precondition(lambda self: self.inside)
    @rule(number=st.integers(0, ACTORS))
    def leave_and_be_interrupted(self, number):
        """Between the two halves: the turn lies there until somebody looks."""
        visitor = self.inside.pop(number % len(self.inside))
        visitor.do(lambda: self.gate.put_down(None))
        self.free += 1

    @precondition(lambda self: self.outside)
    @rule(number=st.integers(0, ACTORS))
    def pass_on(self, number):
        """As one does who was interrupted: a turn, or none if somebody took it meanwhile."""
        self.passes_on(self.outside[number % len(self.outside)], self.gate.pass_on)

    def leaves(self, visitor, leave):
        self.free += 1
        self.passes_on(visitor, leave)

    def passes_on(self, visitor, leave):
        """Have *visitor* pass a turn on, which lies there only if it may, and alone."""
        if not self.queue:
            visitor.do(leave)
            if self.owed:
                self.settle()
            return
        visitor.in_a_row += 1
        may_stay = self.may_stay(visitor)
        visitor.left_at = self.clock.now
        visitor.do(leave)
        self.settle(keep=1 if may_stay else 0)

    @rule()
    def look(self):
        """As each does who has waited for a while."""
        self.gate._settle()
        self.settle()

    @rule(seconds=st.sampled_from((COMES_BACK / 2, COMES_BACK * 2, FAIR_AFTER)))
    def time_passes(self, seconds):
        self.clock.sleep(seconds)

    # -- what owners do ------------------------------------------------------------------------------

    @rule(size=st.integers(1, 4))
    def resize(self, size):
        self.gate.resize(size)
        if not self.closed:
            more = size - self.size
            if more > 0:
                self.free += more - min(more, self.owed)
            self.size = size
            self.settle()

    @rule()
    def turn_away(self):
        self.gate.turn_away(lambda: BackendUnavailable("down"))
        self.dismiss(BackendUnavailable)

    @precondition(lambda self: len(self.inside) + len(self.queue) > 3)
    @rule()
    def close(self):
        self.gate.close(lambda: PoolClosed("closed"))
        self.closed = True
        self.dismiss(PoolClosed)
        self.settle()

    def dismiss(self, kind):
        for visitor in self.queue:
            assert isinstance(visitor.outcome.end(), kind)
        self.queue.clear()

    # -- what holds ----------------------------------------------------------------------------------

    @invariant()
    def the_gate_agrees_with_the_model(self):
        assert self.gate.in_use == len(self.inside)
        assert self.gate.waiting == len(self.queue)
        assert not any(visitor.outcome.is_there for visitor in self.queue)
        assert len(self.gate._free) == self.free
        if self.closed:
            assert self.gate.wait_empty(Deadline.after(0)) is (not self.inside)
            self.settle()  # as that does


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = examples(30, stateful_step_count=25)
