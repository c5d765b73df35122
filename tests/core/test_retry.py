"""Trying again: only what is safe, with full jitter, within the deadline and a budget for all threads."""

from __future__ import annotations

import math
import random

import pytest
import tenacity

from poolkit import (
    Cancellation,
    Cancelled,
    ConfigError,
    Deadline,
    DeadlineExceeded,
    Listener,
    OutcomeUnknown,
    RetryPolicy,
    deadline,
)
from poolkit.core.budget import RetryBudget
from poolkit.core.deadline import NEVER, PULSE
from poolkit.core.events import Events
from poolkit.core.retry import Retrier
from poolkit.core.stats import Tally
from poolkit.core.verdict import Again, Phase, Verdict

from .support import together


class Broken(Exception):
    pass


SAFE = Verdict(Again.SAFE)
THROTTLED = Verdict(Again.SAFE, throttled=True)
UNKNOWN = Verdict(Again.IF_IDEMPOTENT, unknown=True)
NEVER_AGAIN = Verdict(Again.NEVER)


class Bench:
    """A retrier whose pauses are noted instead of slept."""

    def __init__(self, verdict=SAFE, *, policy=None, listeners=()):
        self.verdict = verdict
        self.pauses = []
        self.phases = []
        self.tally = Tally()
        self.retrier = Retrier(
            policy or RetryPolicy(),
            classify=self.classify,
            sleep=self.pauses.append,
            tally=self.tally,
            events=Events("db", listeners),
        )

    def classify(self, error, phase):
        self.phases.append(phase)
        return self.verdict

    def call(self, attempt, *, idempotent=False, deadline=NEVER):
        return self.retrier.call(attempt, idempotent=idempotent, deadline=deadline)

    @property
    def tokens(self):
        return self.retrier.budget.tokens

    @property
    def retries(self):
        return self.tally.total().retries


class Failing:
    """An operation that fails *times* times and then succeeds."""

    def __init__(self, times=1_000_000):
        self.left = times
        self.errors = []

    @property
    def attempts(self):
        return len(self.errors) + (self.left == 0)

    def __call__(self, state):
        if self.left:
            self.left -= 1
            self.errors.append(Broken(f"attempt {len(self.errors) + 1}"))
            raise self.errors[-1]
        return "done"


# -- the policy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": 1.5},
        {"base": -1},
        {"base": float("nan")},
        {"cap": float("inf")},
        {"base": 5.0, "cap": 3.0},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError, match="RetryPolicy"):
        RetryPolicy(**wrong)


def test_a_policy_is_a_frozen_value():
    with pytest.raises(AttributeError):
        RetryPolicy().attempts = 5
    assert RetryPolicy(attempts=3) == RetryPolicy()


# -- attempts ------------------------------------------------------------------------------------------


def test_success_does_not_enter_tenacity(monkeypatch):
    def entered(**_):
        raise AssertionError("a success must not pay for retrying")

    monkeypatch.setattr(tenacity, "Retrying", entered)

    assert Bench().call(lambda state: 7) == 7


def test_failing_for_good_does_not_enter_tenacity(monkeypatch):
    monkeypatch.setattr(tenacity, "Retrying", None)
    operation = Failing()

    with pytest.raises(Broken, match="attempt 1"):
        Bench(NEVER_AGAIN).call(operation)
    assert operation.attempts == 1


def test_what_did_not_run_is_tried_again():
    bench = Bench()
    operation = Failing(times=2)

    assert bench.call(operation) == "done"

    assert operation.attempts == 3
    assert bench.retries == 2
    assert len(bench.pauses) == 2


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_attempts_include_the_first_one(attempts):
    bench = Bench(policy=RetryPolicy(attempts=attempts))
    operation = Failing()

    with pytest.raises(Broken) as caught:
        bench.call(operation)

    assert operation.attempts == attempts
    assert bench.retries == attempts - 1
    assert caught.value is operation.errors[-1]


def test_each_attempt_begins_at_connecting():
    bench = Bench()
    seen = []

    def attempt(state):
        seen.append(state.phase)
        state.phase = Phase.RUNNING
        raise Broken

    with pytest.raises(Broken):
        bench.call(attempt)

    assert seen == [Phase.CONNECTING] * 3
    assert bench.phases == [Phase.RUNNING] * 3


def test_the_last_verdict_decides_whether_to_go_on():
    bench = Bench()
    operation = Failing()

    def attempt(state):
        if operation.attempts == 1:
            bench.verdict = NEVER_AGAIN
        return operation(state)

    with pytest.raises(Broken, match="attempt 2"):
        bench.call(attempt)
    assert operation.attempts == 2


@pytest.mark.parametrize("fatal", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("at", [1, 2])
def test_what_ends_the_program_is_never_caught(fatal, at):
    bench = Bench()
    attempts = []

    def attempt(state):
        attempts.append(state)
        raise fatal if len(attempts) == at else Broken

    with pytest.raises(fatal):
        bench.call(attempt)
    assert len(attempts) == at


# -- what may be repeated ------------------------------------------------------------------------------


def test_unknown_outcome_is_not_repeated_and_says_so():
    bench = Bench(UNKNOWN)
    operation = Failing()

    with pytest.raises(OutcomeUnknown, match="may have taken effect or not: attempt 1") as caught:
        bench.call(operation)

    assert operation.attempts == 1
    assert caught.value.__cause__ is operation.errors[0]


def test_unknown_outcome_of_what_is_idempotent_is_repeated():
    bench = Bench(UNKNOWN)
    operation = Failing(times=2)

    assert bench.call(operation, idempotent=True) == "done"


def test_unknown_outcome_of_what_is_idempotent_ends_with_the_drivers_own_error():
    bench = Bench(UNKNOWN)
    operation = Failing()

    with pytest.raises(Broken, match="attempt 3"):
        bench.call(operation, idempotent=True)


@pytest.mark.parametrize("kind", [DeadlineExceeded, Cancelled])
def test_what_is_idempotent_leaves_no_doubt_when_its_time_is_over(kind):
    bench = Bench(NEVER_AGAIN)
    late = kind("too late", stage="running")

    def operation(state):
        raise late.in_doubt(", and it may have taken effect")

    with pytest.raises(OutcomeUnknown):
        bench.call(operation)
    with pytest.raises(kind) as caught:
        bench.call(operation, idempotent=True)
    assert caught.value is late


def test_unknown_outcome_after_a_safe_failure_is_not_repeated():
    bench = Bench(SAFE)
    operation = Failing()

    def attempt(state):
        if operation.attempts == 1:
            bench.verdict = UNKNOWN
        return operation(state)

    with pytest.raises(OutcomeUnknown) as caught:
        bench.call(attempt)

    assert operation.attempts == 2
    assert caught.value.__cause__ is operation.errors[1]


def test_an_error_that_says_unknown_already_is_not_wrapped_again():
    bench = Bench(UNKNOWN)
    error = OutcomeUnknown("during COMMIT")

    def attempt(state):
        raise error

    with pytest.raises(OutcomeUnknown) as caught:
        bench.call(attempt)
    assert caught.value is error
    assert caught.value.__cause__ is None


def test_idempotent_does_not_make_hopeless_things_repeatable():
    operation = Failing()

    with pytest.raises(Broken):
        Bench(NEVER_AGAIN).call(operation, idempotent=True)
    assert operation.attempts == 1


# -- pauses --------------------------------------------------------------------------------------------


def test_pauses_are_drawn_from_zero_to_a_doubling_bound_with_a_cap():
    policy = RetryPolicy(attempts=8, base=0.1, cap=3.0)
    bounds = [0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0]
    drawn = [[] for _ in bounds]
    for _ in range(400):
        bench = Bench(policy=policy)
        with pytest.raises(Broken):
            bench.call(Failing())
        assert len(bench.pauses) == 7
        for number, pause in enumerate(bench.pauses):
            drawn[number].append(pause / bounds[number])

    for shares in drawn:
        assert 0 <= min(shares) < 0.1  # full jitter: near to nothing as likely as near to all
        assert 0.9 < max(shares) <= 1
        assert 0.4 < sum(shares) / len(shares) < 0.6


def test_each_retry_is_logged_with_its_pause_and_cause(caplog):
    bench = Bench()
    failures = iter([Broken("first"), Broken("second")])

    def attempt(_):
        error = next(failures, None)
        if error is not None:
            raise error
        return "done"

    with caplog.at_level("INFO", logger="poolkit"):
        assert bench.retrier.call(attempt, idempotent=False, deadline=NEVER) == "done"

    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "first",
        "second",
    ]
    assert f"the next follows in {bench.pauses[0]:.3f} s" in caplog.records[0].getMessage()


def test_without_a_base_there_is_no_pause():
    bench = Bench(policy=RetryPolicy(base=0.0, cap=0.0))
    assert bench.call(Failing(times=2)) == "done"
    assert bench.pauses == [0.0, 0.0]


def test_no_pause_reaches_past_the_deadline(monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    bench = Bench(policy=RetryPolicy(attempts=5, base=3.0))
    operation = Failing()

    with pytest.raises(Broken, match="attempt 1"):
        bench.call(operation, deadline=Deadline.after(2.5))

    assert bench.pauses == []
    assert bench.retries == 0
    assert bench.tokens == RetryBudget.CAPACITY


def test_nothing_is_tried_again_after_the_deadline():
    operation = Failing()
    with pytest.raises(Broken, match="attempt 1"):
        Bench(policy=RetryPolicy(base=0.0)).call(operation, deadline=Deadline.after(0))


def test_a_deadline_far_away_does_not_matter():
    assert Bench().call(Failing(times=2), deadline=Deadline.after(1000)) == "done"


# -- cancelled -----------------------------------------------------------------------------------------


def test_a_pause_ends_early_when_it_is_cancelled():
    cancellation = Cancellation()
    bench = Bench(policy=RetryPolicy(attempts=3, base=100.0, cap=100.0))
    bench.retrier.sleep = lambda seconds: (bench.pauses.append(seconds), cancellation.cancel())
    random.seed(1)  # or the pause might be shorter than a look
    failing = Failing()

    with deadline(math.inf, cancellation=cancellation) as limit:
        with pytest.raises(Cancelled, match="pool 'db': cancelled while waiting") as caught:
            bench.call(failing, deadline=limit)

    assert caught.value.__cause__ is failing.errors[0]  # what it was to be tried again for
    assert failing.attempts == 1
    assert bench.pauses == [PULSE]


def test_what_is_cancelled_is_not_tried_again():
    cancellation = Cancellation()
    bench = Bench()

    def attempt(state):
        cancellation.cancel()
        raise Broken("attempt")

    with deadline(math.inf, cancellation=cancellation) as limit, pytest.raises(Broken):
        bench.call(attempt, deadline=limit)

    assert bench.pauses == []


# -- the budget ----------------------------------------------------------------------------------------


def test_a_budget_is_not_overdrawn():
    budget = RetryBudget()
    assert budget.spend(499)
    assert not budget.spend(2)
    assert budget.spend(1)
    assert not budget.spend(1)
    assert budget.tokens == 0


def test_a_budget_is_not_filled_beyond_its_capacity():
    budget = RetryBudget()
    budget.refund(14)
    assert budget.tokens == 500
    budget.spend(10)
    budget.refund(14)
    assert budget.tokens == 500


@pytest.mark.parametrize(("verdict", "price"), [(SAFE, 14), (THROTTLED, 5)])
def test_a_retry_has_its_price(verdict, price):
    bench = Bench(verdict)

    with pytest.raises(Broken):
        bench.call(Failing())

    assert bench.tokens == 500 - 2 * price


def test_a_retry_that_succeeds_gives_its_price_back():
    bench = Bench()
    bench.call(Failing(times=1))
    assert bench.tokens == 500
    bench.call(Failing(times=2))
    assert bench.tokens == 500 - 14


def test_a_success_gives_one_token_back():
    bench = Bench()
    bench.retrier.budget.spend(100)
    bench.call(lambda state: None)
    assert bench.tokens == 401


def test_an_empty_budget_ends_the_retries_of_all():
    bench = Bench()
    bench.retrier.budget.spend(500 - 14)
    first, second = Failing(), Failing()

    with pytest.raises(Broken, match="attempt 2"):
        bench.call(first)
    with pytest.raises(Broken, match="attempt 1"):
        bench.call(second)

    assert (first.attempts, second.attempts) == (2, 1)
    assert bench.tokens == 0


def test_many_threads_share_the_budget_exactly():
    bench = Bench()

    def work(number):
        attempts = 0
        for _ in range(20):
            operation = Failing()
            with pytest.raises(Broken):
                bench.call(operation)
            attempts += operation.attempts
        return attempts

    attempts = sum(together(20, work))

    # Each retry costs 14 of the 500 tokens and nothing comes back.
    assert attempts - 20 * 20 == 500 // 14
    assert bench.retries == 500 // 14
    assert bench.tokens == 500 % 14


# -- being told ----------------------------------------------------------------------------------------


def test_listeners_hear_of_each_retry_before_the_pause():
    heard = []

    class Ears(Listener):
        def retried(self, event):
            heard.append((event.pool, event.attempt, event.error, event.delay, len(bench.pauses)))

    bench = Bench(listeners=[Ears()])
    operation = Failing(times=2)
    bench.call(operation)

    assert heard == [
        ("db", 1, operation.errors[0], bench.pauses[0], 0),
        ("db", 2, operation.errors[1], bench.pauses[1], 1),
    ]
