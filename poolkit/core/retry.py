"""What may be tried again, when, and how often.

A backend classifies each failure once into a :class:`Verdict`; the :class:`Retrier` acts on it. Waiting is
exponential with full jitter, never past the deadline, and all threads of a pool share one budget, so that
an outage is not multiplied by its retries.
"""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol, TypeVar

import tenacity

from . import checks
from .deadline import Deadline
from .errors import ConfigError, OutcomeUnknown
from .events import Events, Failed, Retried
from .stats import Tally

logger = logging.getLogger("poolkit")

ResultT = TypeVar("ResultT")


class Phase(enum.Enum):
    """How far an operation had come when it failed."""

    CONNECTING = "connecting"
    """Nothing of it was sent."""
    RUNNING = "running"
    """It was sent, and takes effect by itself."""
    IN_PARTS = "running, in parts"
    """It was sent, and may take effect in parts, each by itself."""
    IN_TRANSACTION = "in a transaction"
    """It was sent inside a transaction whose commit was not: a lost connection undoes it."""
    COMMITTING = "committing"
    """The commit was sent."""


class Again(enum.Enum):
    """Whether an operation may be tried again."""

    SAFE = "safe"
    """It did not take effect."""
    IF_IDEMPOTENT = "if idempotent"
    """It may have taken effect."""
    NEVER = "never"
    """Trying again would not help, or is the caller's decision."""


@dataclass(frozen=True)
class Verdict:
    """What a failure means. Made in a backend's ``failures.py``, nowhere else.

    ``unknown``: it may have taken effect. ``throttled``: the backend asked for less. ``hopeless``: no
    connection can be made until a person mends the cause.
    """

    again: Again
    unknown: bool = False
    throttled: bool = False
    hopeless: bool = False


OWN = Verdict(Again.NEVER)
"""The caller's own error: passes through, the connection is fine."""


class Classify(Protocol):
    """Tells what a failure means."""

    def __call__(self, error: BaseException, phase: Phase) -> Verdict: ...


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How to try again: at most ``attempts`` in all, the first included.

    Before the n-th retry it waits ``uniform(0, min(cap, base · 2ⁿ⁻¹))`` seconds: full jitter (AWS
    Architecture Blog, "Exponential Backoff And Jitter").
    """

    attempts: int = 3
    base: float = 0.1
    cap: float = 3.0

    def __post_init__(self) -> None:
        checks.count("RetryPolicy.attempts", self.attempts, at_least=1)
        checks.seconds("RetryPolicy.base", self.base)
        checks.seconds("RetryPolicy.cap", self.cap)
        if self.base > self.cap:
            raise ConfigError(
                f"RetryPolicy.base ({self.base:g} s) is more than cap ({self.cap:g} s)"
            )


class RetryBudget:
    """What all threads of a pool may spend on retries, refilled by successes.

    500 tokens, 14 for a transient failure and 5 for a throttled one; each success gives one back, a
    retry that succeeds gives its price back (the standard mode of botocore's retries, version 2.1).
    """

    CAPACITY = 500
    TRANSIENT = 14
    THROTTLED = 5

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens = self.CAPACITY

    @property
    def tokens(self) -> int:
        """How many tokens are left."""
        return self._tokens

    def spend(self, price: int) -> bool:
        """Take *price* tokens if there are so many; return whether there were."""
        with self._lock:
            if self._tokens < price:
                return False
            self._tokens -= price
            return True

    def refund(self, price: int = 1) -> None:
        """Give tokens back after a success."""
        if self._tokens < self.CAPACITY:
            with self._lock:
                self._tokens = min(self.CAPACITY, self._tokens + price)


class Retrier:
    """Runs the operations of one pool, again where that is safe, and counts them."""

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        classify: Classify,
        sleep: Callable[[float], None],
        tally: Tally,
        events: Events,
    ) -> None:
        self.policy = policy
        self.budget = RetryBudget()
        self._classify = classify
        self._sleep = sleep
        self._tally = tally
        self._events = events

    def call(
        self, attempt: Callable[[Try], ResultT], *, idempotent: bool, deadline: Deadline
    ) -> ResultT:
        """Return what ``attempt(try)`` returns, trying again where the verdict and *idempotent* allow it.

        The attempt keeps ``try.phase`` up to date. Raises its last error;
        :class:`~poolkit.OutcomeUnknown` from it when it may have taken effect and must not be repeated.
        """
        self._tally.mine().operations += 1
        state = Try()
        try:
            try:
                result = attempt(state)
            except Exception as error:  # noqa: BLE001 - classified, and raised again unless it is repeated
                verdict = self._classify(error, state.phase)
                if self._may_repeat(verdict, idempotent):
                    return self._again(attempt, error, verdict, idempotent, deadline)
                self._raise(error, verdict, idempotent)
        except BaseException as error:
            self.count_error(error)
            raise
        self.budget.refund()
        return result

    def count_error(self, error: BaseException) -> None:
        """Count and tell an error that an operation ended with."""
        self._tally.mine().errors += 1
        self._events.tell(Failed, error=error)

    def _again(
        self,
        attempt: Callable[[Try], ResultT],
        first: Exception,
        first_verdict: Verdict,
        idempotent: bool,
        deadline: Deadline,
    ) -> ResultT:
        """Go on after the *first* attempt failed. Only now is tenacity entered: a success costs nothing."""
        verdict = first_verdict
        pending: Exception | None = first
        price = 0

        def once_more() -> ResultT:
            nonlocal pending, verdict
            if pending is not None:
                error, pending = pending, None
                raise error
            state = Try()
            try:
                return attempt(state)
            except Exception as error:
                verdict = self._classify(error, state.phase)
                raise

        def repeatable(error: BaseException) -> bool:
            # tenacity catches KeyboardInterrupt and its like too, which nobody has classified.
            return isinstance(error, Exception) and self._may_repeat(verdict, idempotent)

        def give_up(state: tenacity.RetryCallState) -> bool:
            nonlocal price
            if state.attempt_number >= self.policy.attempts:
                return True
            if deadline.remaining() <= state.upcoming_sleep:
                return True
            price = RetryBudget.THROTTLED if verdict.throttled else RetryBudget.TRANSIENT
            return not self.budget.spend(price)

        def announce(state: tenacity.RetryCallState) -> None:
            self._tally.mine().retries += 1
            if state.outcome is not None:
                logger.info(
                    "pool %r: attempt %d failed, the next follows in %.3f s: %s",
                    self._events.pool,
                    state.attempt_number,
                    state.upcoming_sleep,
                    state.outcome.exception(),
                )
            if self._events.wanted(Retried) and state.outcome is not None:
                self._events.tell(
                    Retried,
                    attempt=state.attempt_number,
                    delay=state.upcoming_sleep,
                    error=state.outcome.exception(),
                )

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(repeatable),
            wait=tenacity.wait_random_exponential(multiplier=self.policy.base, max=self.policy.cap),
            stop=give_up,
            before_sleep=announce,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            result = retrying(once_more)
        except Exception as error:  # noqa: BLE001 - raised again
            self._raise(error, verdict, idempotent)
        self.budget.refund(price)
        return result

    @staticmethod
    def _may_repeat(verdict: Verdict, idempotent: bool) -> bool:
        return verdict.again is Again.SAFE or (idempotent and verdict.again is Again.IF_IDEMPOTENT)

    @staticmethod
    def _raise(error: Exception, verdict: Verdict, idempotent: bool) -> NoReturn:
        """Raise what the caller gets to see of *error*.

        What is idempotent ends with the last error as it is: whoever repeats it later does no harm.
        """
        if not verdict.unknown or idempotent or isinstance(error, OutcomeUnknown):
            raise error
        raise OutcomeUnknown(
            f"its answer was lost, so it may have taken effect or not: {error}"
        ) from error


class Try:
    """One attempt at an operation, which notes here how far it has come."""

    __slots__ = ("phase",)

    def __init__(self) -> None:
        self.phase = Phase.CONNECTING
