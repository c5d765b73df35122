"""Trying again, over generated failures: as often as is allowed, safe and paid for, and never past the deadline."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolkit import Deadline, Listener, OutcomeUnknown, RetryPolicy
from poolkit.core import deadline as deadline_module
from poolkit.core import instant as instant_module
from poolkit.core.budget import RetryBudget
from poolkit.core.deadline import NEVER
from poolkit.core.events import Events
from poolkit.core.retry import Retrier
from poolkit.core.stats import Tally
from poolkit.core.verdict import OWN, Again, Phase, Verdict
from tests.generated import examples

from .clock import Clock

VERDICTS = st.sampled_from(
    (
        Verdict(Again.SAFE),
        Verdict(Again.SAFE),
        OWN,
        Verdict(Again.SAFE, throttled=True),
        Verdict(Again.SAFE, throttled=True, wait=0.7),
        Verdict(Again.IF_IDEMPOTENT, unknown=True),
        Verdict(Again.NEVER, unknown=True),
        Verdict(Again.NEVER, hopeless=True),
    )
)


class Failing(Exception):
    """What an attempt ends with; *verdict* is what it means."""

    def __init__(self, verdict):
        super().__init__("it failed")
        self.verdict = verdict


class Fatal(BaseException):
    """What nobody classifies."""


class Attempt(NamedTuple):
    """One attempt: how long it takes, and how it ends; *verdict* None is well, and Fatal is not for long."""

    seconds: float
    verdict: Verdict | type[Fatal] | None


class Call(NamedTuple):
    """One operation: what becomes of each of its attempts, of which later ones end like the last."""

    attempts: list[Attempt]
    idempotent: bool
    limit: float
    policy: RetryPolicy | None


POLICIES = st.builds(
    lambda attempts, base: RetryPolicy(attempts=attempts, base=base, cap=1.0),
    st.sampled_from((5, 4, 3, 2, 1)),
    st.sampled_from((1.0, 0.1, 0.0)),
)
ATTEMPTS = st.builds(
    Attempt, st.sampled_from((0.0, 0.01, 0.5)), VERDICTS | VERDICTS | st.sampled_from((None, Fatal))
)
CALLS = st.builds(
    Call,
    st.lists(ATTEMPTS, min_size=3, max_size=5) | st.lists(ATTEMPTS, min_size=1, max_size=2),
    st.booleans(),
    st.sampled_from((math.inf, math.inf, 0.0, 0.3, 1.0)),
    st.none() | POLICIES,
)


class Life(Listener):
    """A retrier over a clock that only sleeping and working move, with what was seen of each call."""

    def __init__(self, patch, policy, tokens):
        self.clock = Clock(patch, deadline_module, instant_module)
        self.tally = Tally()
        self.heard = 0
        self.retrier = Retrier(
            policy,
            classify=lambda error, phase: error.verdict,
            sleep=self.sleep,
            tally=self.tally,
            events=Events("db", [self]),
        )
        assert self.retrier.budget.spend(RetryBudget.CAPACITY - tokens)
        self.tokens = tokens  # of the model
        self.failed = self.retries = 0
        self.began = []
        self.pauses = []

    def retried(self, event):
        self.heard += 1

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.clock.sleep(seconds)

    def run(self, call):
        """Run *call*, and hold what becomes of it against the rules."""
        self.began, self.pauses = [], []
        policy = call.policy or self.retrier.policy
        limit = Deadline.after(call.limit) if call.limit < math.inf else NEVER
        raised, told = [], None

        def attempt(state):
            assert state.phase is Phase.CONNECTING
            state.phase = Phase.RUNNING
            mine = call.attempts[min(len(self.began), len(call.attempts) - 1)]
            self.began.append(self.clock.now)
            self.clock.sleep(mine.seconds)
            if mine.verdict is None:
                return "done"
            raised.append(Fatal() if mine.verdict is Fatal else Failing(mine.verdict))
            raise raised[-1]

        try:
            value = self.retrier.call(
                attempt, idempotent=call.idempotent, deadline=limit, policy=call.policy
            )
        except BaseException as error:
            told = error
        else:
            assert value == "done"
        count = len(self.began)
        ended = count > len(raised)
        assert (told is None) is ended
        self.failed += not ended
        self.retries += count - 1
        assert count <= policy.attempts
        assert len(self.pauses) == count - 1
        for number, error in enumerate(raised):
            self.check_failure(call, policy, limit, error, number, last=number == count - 1)
        if ended:
            price = price_of(raised[-1].verdict) if raised else 1
            self.tokens = min(RetryBudget.CAPACITY, self.tokens + price)
        else:
            check_what_is_told(told, raised[-1], call.idempotent)
        assert self.retrier.budget.tokens == self.tokens

    def check_failure(self, call, policy, limit, error, number, *, last):
        """Was it right to go on, or to give up, after attempt *number* ended with *error*?"""
        if isinstance(error, Fatal):
            assert last
            return
        verdict = error.verdict
        failed_at = self.began[number] + call.attempts[min(number, len(call.attempts) - 1)].seconds
        longest = max(verdict.wait, min(policy.cap, policy.base * 2**number))
        if last:
            assert (
                not may_repeat(verdict, call.idempotent)
                or number + 1 == policy.attempts
                or failed_at + longest >= limit.at
                or self.tokens < price_of(verdict)
            ), "it gave up too early"
            return
        assert may_repeat(verdict, call.idempotent)
        assert verdict.wait <= self.pauses[number] <= longest
        assert self.began[number + 1] < limit.at
        assert self.tokens >= price_of(verdict)
        self.tokens -= price_of(verdict)


def may_repeat(verdict, idempotent):
    return verdict.again is Again.SAFE or (verdict.again is Again.IF_IDEMPOTENT and idempotent)


def price_of(verdict):
    return 5 if verdict.throttled else 14


def check_what_is_told(told, last, idempotent):
    """Is what the caller is *told* what it has to know?"""
    if not isinstance(last, Fatal) and last.verdict.unknown and not idempotent:
        assert isinstance(told, OutcomeUnknown)
        assert told.__cause__ is last
    else:
        assert told is last


@examples(150)
@given(
    POLICIES,
    st.sampled_from((500, 450, 30, 14, 13, 5, 4, 0)),
    st.lists(CALLS, min_size=3, max_size=8),
)
def test_what_may_be_tried_again_is_within_all_bounds_and_nothing_else_is(policy, tokens, calls):
    with pytest.MonkeyPatch.context() as patch:
        life = Life(patch, policy, tokens)
        for call in calls:
            life.run(call)
            assert 0 <= life.retrier.budget.tokens <= RetryBudget.CAPACITY

        total = life.tally.total()
        assert (total.operations, total.errors) == (len(calls), life.failed)
        assert total.retries == life.heard == life.retries


@examples(100)
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from((0, 1, 5, 14, 499, 500, 501))), max_size=30)
)
def test_a_budget_holds_what_was_not_spent_within_its_capacity(steps):
    budget, left = RetryBudget(), 500
    for spends, amount in steps:
        if spends:
            assert budget.spend(amount) is (amount <= left)
            left -= amount if amount <= left else 0
        else:
            budget.refund(amount)
            left = min(500, left + amount)
        assert budget.tokens == left
