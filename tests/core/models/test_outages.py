"""An outage, in any order of events: told once, probed by one, and waited for no longer than it lasts."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from poolkit import BackendUnavailable
from poolkit.core import outage as outage_module
from poolkit.core.deadline import NEVER, Deadline
from poolkit.core.outage import FIRST_PROBE, HOPELESS_PAUSE, LONGEST_PAUSE
from tests.core.support import Task
from tests.core.test_outage import Scene
from tests.generated import examples

from .clock import Clock


class AnyOrder(RuleBasedStateMachine):
    """Compare an outage with a model of it: the cause, whether only a person can mend it, and one timer."""

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.clock = Clock(self.patch, outage_module)
        self.scene = Scene()
        self.outage = self.scene.outage
        self.cause = self.last_cause = None
        self.hopeless = self.reached = self.ended = False
        self.failures = 0
        self.probes = 0
        self.looking = False  # whether a probe has not reported yet
        self.next_ask = 0.0  # when a caller may look for one that only a person can mend
        self.heard = []
        self.waiters = []

    def teardown(self):
        self.outage.end()
        for waiter in self.waiters:
            assert waiter.result() is False
        self.patch.undo()

    # -- the model -----------------------------------------------------------------------------------

    @property
    def is_to_wait_for(self):
        return self.cause is not None and not self.hopeless and not self.ended

    def release(self):
        """See that those who wait are told, if there is nothing to wait for any more."""
        if not self.is_to_wait_for:
            for waiter in self.waiters:
                assert waiter.result() is (self.cause is None and not self.ended)
            self.waiters.clear()

    # -- what happens --------------------------------------------------------------------------------

    @rule(hopeless=st.sampled_from((False, False, True)))
    def fail(self, hopeless):
        cause = OSError(f"failure {len(self.heard)}")
        planned = bool(self.scene.clock.pending)
        self.outage.down(cause, hopeless=hopeless)()
        if self.ended:
            return
        self.cause = self.last_cause = cause
        self.looking = False
        self.hopeless = hopeless
        if hopeless:
            self.next_ask = self.clock.now + HOPELESS_PAUSE
        elif not planned:
            self.failures += 1
            (timer,) = self.scene.clock.pending
            longest = min(LONGEST_PAUSE, FIRST_PROBE * 2 ** (self.failures - 1))
            assert longest / 2 <= timer.seconds <= longest
            self.heard.append((self.failures, timer.seconds, cause))
        self.release()

    @rule()
    def answer(self):
        self.outage.up()()
        if not self.ended and (self.cause is not None or not self.reached):
            self.heard.append("ready")
        self.reached = True
        self.cause, self.hopeless, self.failures = None, False, 0
        self.release()

    @precondition(lambda self: self.scene.clock.pending)
    @rule()
    def timer_goes_off(self):
        if self.is_to_wait_for:
            self.probes += 1
            self.looking = True
        self.clock.sleep(self.scene.clock.fire())

    @precondition(lambda self: self.scene.clock.pending and self.is_to_wait_for)
    @rule(times=st.integers(1, 4))
    def go_on(self, times):
        for _ in range(times):
            self.timer_goes_off()
            self.fail(hopeless=False)

    @rule(seconds=st.sampled_from((0.1, 1.0, 5.0)))
    def time_passes(self, seconds):
        self.clock.sleep(seconds)

    @rule()
    def nobody_knows(self):
        self.outage.forget()
        self.reached = False
        self.cause, self.hopeless, self.failures = None, False, 0
        self.release()

    @precondition(lambda self: len(self.heard) > 3)
    @rule()
    def end(self):
        self.outage.end()
        self.ended = True
        self.release()
        assert not self.scene.clock.pending

    # -- what callers do -----------------------------------------------------------------------------

    @precondition(lambda self: len(self.waiters) < 3)
    @rule()
    def wait(self):
        self.waiters.append(Task(self.outage.wait, NEVER))
        self.release()

    @rule()
    def wait_in_a_hurry(self):
        assert self.outage.wait(Deadline.after(0)) is (self.cause is None and not self.ended)

    @rule()
    def ask_why(self):
        asks = self.cause is not None and self.hopeless and not self.ended
        if asks and self.clock.now >= self.next_ask:
            self.probes += 1
            self.next_ask = self.clock.now + HOPELESS_PAUSE
        error = self.outage.error()

        assert isinstance(error, BackendUnavailable)
        if self.last_cause is not None:
            assert error.__cause__ is self.last_cause
        assert (error.retry_after is None) is self.hopeless
        assert error.retry_after is None or 0 <= error.retry_after <= HOPELESS_PAUSE

    # -- what holds ----------------------------------------------------------------------------------

    @invariant()
    def the_outage_agrees_with_the_model(self):
        assert self.outage.cause is self.cause
        assert self.outage.ended is self.ended
        assert self.scene.heard == self.heard
        assert self.scene.probes == self.probes
        assert len(self.scene.clock.pending) <= 1
        if self.is_to_wait_for:
            assert all(waiter.is_alive() for waiter in self.waiters)

    @invariant()
    def one_that_may_end_by_itself_is_looked_for(self):
        if self.is_to_wait_for:
            assert self.scene.clock.pending or self.looking, "nobody would notice that it is back"


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = examples(40, stateful_step_count=30)
