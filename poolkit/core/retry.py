"""What is tried again, when, and how often.

The :class:`Retrier` acts on the verdict of a backend. Waiting is exponential with full jitter, never past the deadline,
nor beyond what is left of the budget.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, NoReturn, TypeVar

import tenacity

from . import checks
from .budget import RetryBudget
from .deadline import Deadline
from .errors import ConfigError, DeadlineOutcomeUnknown, OutcomeUnknown
from .events import Ended, Events, Failed, Retried
from .stats import Tally
from .verdict import OWN, Again, Classify, Phase, Verdict

logger = logging.getLogger("poolkit")

ResultT = TypeVar("ResultT")
ErrorT = TypeVar("ErrorT", bound=BaseException)


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


def _nothing() -> None:
    """There is nothing to do before a pause."""


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
        self.classify = classify
        self.sleep = sleep
        self._tally = tally
        self._events = events
        self._tells_end = events.wanted(Ended)

    def call(
        self,
        attempt: Callable[[Try], ResultT],
        *,
        idempotent: bool,
        deadline: Deadline,
        policy: RetryPolicy | None = None,
        operation: object = "",
        before_pause: Callable[[], None] = _nothing,
    ) -> ResultT:
        """Return what ``attempt(try)`` returns, trying again where the verdict and *idempotent* allow it.

        *policy* takes the place of the pool's, for this call; *operation* is what listeners are told: its first
        word. *before_pause* is called when it is clear that another attempt follows. The attempt keeps
        ``try.phase`` up to date. Raises its last error;
        :class:`~poolkit.OutcomeUnknown` from it when it may have taken effect and must not be repeated.
        """
        policy = policy or self.policy
        if self._tells_end:
            return self.whole(
                lambda: self.repeat(attempt, idempotent, deadline, policy, before_pause), operation
            )
        self._tally.mine().operations += 1
        try:
            return self.repeat(attempt, idempotent, deadline, policy, before_pause)
        except BaseException as error:
            self.count_error(error)
            raise

    def whole(self, work: Callable[[], ResultT], operation: object) -> ResultT:
        """Return what ``work()`` returns, counted and told as one operation: it may :meth:`repeat` several things."""
        self._tally.mine().operations += 1
        began = perf_counter()
        failure: BaseException | None = None
        try:
            return work()
        except BaseException as error:
            self.count_error(error)
            failure = error
            raise
        finally:
            if self._tells_end:
                self._events.tell(
                    Ended,
                    operation=_first_word(operation),
                    seconds=perf_counter() - began,
                    error=failure,
                )
            del failure  # or it and this frame would keep each other alive

    def repeat(
        self,
        attempt: Callable[[Try], ResultT],
        idempotent: bool,
        deadline: Deadline,
        policy: RetryPolicy,
        before_pause: Callable[[], None] = _nothing,
    ) -> ResultT:
        """Do as :meth:`call` does, and count and tell nothing: this is a part of an operation."""
        state = Try()
        try:
            result = attempt(state)
        except Exception as error:  # noqa: BLE001 - classified, and raised again unless it is repeated
            verdict = self.classify(error, state.phase)
            if not _may_repeat(verdict, idempotent):
                _raise(error, verdict, idempotent)
            again = _Repetition(self, attempt, idempotent, deadline, policy, before_pause)
            return again.run(error, verdict)
        self.budget.refund()
        return result

    @property
    def label(self) -> str:
        """What its pool is called in messages."""
        return f"pool {self._events.pool!r}"

    def count_error(self, error: BaseException) -> None:
        """Count and tell an error that an operation ended with."""
        self._tally.mine().errors += 1
        self._events.tell(Failed, error=error)

    def turned_away(self, error: ErrorT, operation: object) -> ErrorT:
        """Count and tell an operation that ends with *error* before it begins, and return that."""
        self._tally.mine().operations += 1
        self.count_error(error)
        if self._tells_end:
            self._events.tell(Ended, operation=_first_word(operation), seconds=0.0, error=error)
        return error

    def announce(self, attempt: int, pause: float, error: BaseException) -> None:
        """Count and tell that another attempt follows after attempt number *attempt* and a pause."""
        self._tally.mine().retries += 1
        logger.info(
            "pool %r: attempt %d failed, the next follows in %.3f s: %s",
            self._events.pool,
            attempt,
            pause,
            error,
        )
        if self._events.wanted(Retried):
            self._events.tell(Retried, attempt=attempt, delay=pause, error=error)


class _Repetition(Generic[ResultT]):
    """The attempts at one operation after the first. Only here is tenacity entered: a success costs nothing."""

    def __init__(
        self,
        retrier: Retrier,
        attempt: Callable[[Try], ResultT],
        idempotent: bool,
        deadline: Deadline,
        policy: RetryPolicy,
        before_pause: Callable[[], None],
    ) -> None:
        self._retrier = retrier
        self._attempt = attempt
        self._idempotent = idempotent
        self._deadline = deadline
        self._policy = policy
        self._before_pause = before_pause
        self._backoff = tenacity.wait_random_exponential(multiplier=policy.base, max=policy.cap)
        self._pending: Exception | None = None
        self._failure: BaseException | None = None
        self._verdict = OWN
        self._price = 0

    def run(self, first: Exception, verdict: Verdict) -> ResultT:
        """Go on after the *first* attempt failed, which means *verdict*."""
        self._pending, self._verdict = first, verdict
        del first
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._is_repeatable),
            wait=self._pause,
            stop=self._gives_up,
            before_sleep=self._announce,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            result = retrying(self._once_more)
        except Exception as error:  # noqa: BLE001 - raised again
            _raise(error, self._verdict, self._idempotent)
        self._retrier.budget.refund(self._price)
        return result

    def _once_more(self) -> ResultT:
        if self._pending is not None:
            error, self._pending = self._pending, None
            try:
                raise error
            finally:
                del error  # or it and this frame would keep each other, and the result, alive
        state = Try()
        try:
            return self._attempt(state)
        except Exception as error:
            self._verdict = self._retrier.classify(error, state.phase)
            raise

    def _is_repeatable(self, error: BaseException) -> bool:
        # tenacity catches KeyboardInterrupt and its like too, which nobody has classified.
        return isinstance(error, Exception) and _may_repeat(self._verdict, self._idempotent)

    def _pause(self, state: tenacity.RetryCallState) -> float:
        return max(self._verdict.wait, self._backoff(state)) if _pauses else 0.0

    def _gives_up(self, state: tenacity.RetryCallState) -> bool:
        if state.attempt_number >= self._policy.attempts:
            return True
        if self._deadline.remaining() <= state.upcoming_sleep:
            return True
        self._price = RetryBudget.THROTTLED if self._verdict.throttled else RetryBudget.TRANSIENT
        return not self._retrier.budget.spend(self._price)

    def _sleep(self, seconds: float) -> None:
        error, self._failure = self._failure, None
        try:
            self._deadline.sleep(seconds, self._retrier.sleep)
            if self._deadline.expired:
                raise self._deadline.exceeded(self._retrier.label, stage="waiting") from error
        finally:
            del error  # or it and this frame would keep each other alive

    def _announce(self, state: tenacity.RetryCallState) -> None:
        self._before_pause()
        error = state.outcome.exception() if state.outcome is not None else None
        self._failure = error
        if error is not None:
            self._retrier.announce(state.attempt_number, state.upcoming_sleep, error)


def _may_repeat(verdict: Verdict, idempotent: bool) -> bool:
    return verdict.again is Again.SAFE or (idempotent and verdict.again is Again.IF_IDEMPOTENT)


def _raise(error: Exception, verdict: Verdict, idempotent: bool) -> NoReturn:
    """Raise what the caller gets to see of *error*.

    What is idempotent ends with the last error as it is: whoever repeats it later does no harm. So it leaves no doubt.
    """
    if idempotent and isinstance(error, DeadlineOutcomeUnknown) and error.plain is not None:
        raise error.plain
    if not verdict.unknown or idempotent or isinstance(error, OutcomeUnknown):
        raise error
    raise OutcomeUnknown(
        f"its answer was lost, so it may have taken effect or not: {error}"
    ) from error


def _first_word(operation: object) -> str:
    """Return the word that names an operation, and nothing of what it is done to."""
    word = operation.split(None, 1)[0] if isinstance(operation, str) and operation.strip() else ""
    return word if word.replace("|", "").isalnum() else ""


_pauses = True


def set_pauses(wanted: bool) -> bool:
    """Say whether there are pauses between attempts, in the whole process: tests may do without. Return what was so."""
    global _pauses
    before, _pauses = _pauses, wanted
    return before


class Try:
    """One attempt at an operation, which notes here how far it has come."""

    __slots__ = ("phase",)

    def __init__(self) -> None:
        self.phase = Phase.CONNECTING
