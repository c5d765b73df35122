"""One budget of wall-clock time over a block."""

from __future__ import annotations

import contextvars
import math
import pickle
import signal
import sys
import threading
import time

import pytest

from poolkit import (
    Cancellation,
    Cancelled,
    CancelledOutcomeUnknown,
    ConfigError,
    Deadline,
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
    OutcomeUnknown,
    deadline,
)
from poolkit.core import deadline as deadline_module
from poolkit.core import instant as instant_module
from poolkit.core.deadline import NEVER, PULSE, ambient, impose

from .support import LONG, Task


def test_outside_of_a_block_there_is_no_deadline():
    assert ambient() is NEVER
    assert NEVER.never
    assert not NEVER.expired
    assert NEVER.remaining() == math.inf


def test_a_block_has_its_deadline_and_leaves_none_behind():
    before = time.monotonic()
    with deadline(5) as limit:
        after = time.monotonic()
        assert ambient() is limit
        assert before + 5 <= limit.at <= after + 5
        assert limit.budget == 5
        assert not limit.never
    assert ambient() is NEVER


def test_an_exception_leaves_no_deadline_behind():
    with pytest.raises(KeyError):
        with deadline(5):
            raise KeyError
    assert ambient() is NEVER


@pytest.mark.parametrize(("outer", "inner"), [(1, 50), (50, 1)])
def test_nested_blocks_take_the_earlier(outer, inner):
    with deadline(outer) as first:
        with deadline(inner) as second:
            assert ambient() is second
            assert second.budget == min(outer, inner)
            assert second.at <= first.at
        assert ambient() is first


def test_a_block_without_limit_keeps_the_outer_one():
    with deadline(5) as outer, deadline(math.inf) as inner:
        assert (inner.at, inner.budget) == (outer.at, outer.budget)


def test_a_generator_that_ends_out_of_order_takes_no_deadline_away_and_leaves_none_behind():
    def bounded():
        with deadline(50):
            yield

    for end in (lambda steps: steps.close(), lambda steps: next(steps, None)):
        steps = bounded()
        next(steps)
        with deadline(5) as limit:
            end(steps)
            assert ambient() is limit
        assert ambient() is NEVER


def test_a_block_that_was_left_between_two_steps_does_not_come_back():
    def step():
        with deadline(5):
            yield

    with deadline(50) as around:
        work = step()
        next(work)
        inside = ambient()
        impose(NEVER)
        work.close()
        impose(inside)
        assert ambient() is around
    assert ambient() is NEVER


@pytest.mark.parametrize("seconds", [-1, -0.0001, math.nan, -math.inf, "5", None, True])
def test_what_is_no_number_of_seconds_is_refused_before_the_block(seconds):
    with pytest.raises(ConfigError, match="deadline must be"):
        deadline(seconds)


def test_zero_seconds_have_passed_at_once():
    with deadline(0) as limit:
        assert limit.expired
        assert limit.remaining() <= 0


def test_a_block_is_not_entered_twice_at_a_time_but_may_be_used_again():
    block = deadline(5)
    with block:
        with pytest.raises(RuntimeError, match="already entered"):
            block.__enter__()
        assert ambient().budget == 5
    with block as again:
        assert ambient() is again
    assert ambient() is NEVER


class _Struck(BaseException):
    """What an interruption raises."""


@pytest.mark.parametrize("cancellation", [None, Cancellation()])
@pytest.mark.parametrize("outer", [0.5, 50])
def test_an_interruption_at_any_point_leaves_no_deadline_behind(outer, cancellation):
    points = 0
    struck = True
    while struck:
        struck = False
        left = points = points + 1

        def strike(frame, event, called):
            nonlocal left, struck
            # That is where the interpreter looks for signals; a finalizer can't be interrupted so.
            if event not in ("call", "c_return") or frame.f_code.co_name == "__del__":
                return
            left -= frame.f_code.co_filename in (deadline_module.__file__, instant_module.__file__)
            if left == 0 and not struck:
                struck = True
                raise _Struck

        with deadline(outer) as limit:
            sys.setprofile(strike)
            try:
                with deadline(5, cancellation=cancellation):
                    pass
            except _Struck:
                pass
            finally:
                sys.setprofile(None)
            assert ambient() is limit, f"point {points}"
        assert ambient() is NEVER
    assert points > 4


def test_a_new_thread_has_no_deadline():
    with deadline(5):
        assert Task(ambient).result() is NEVER


def test_a_thread_that_runs_in_a_copied_context_has_the_deadline():
    with deadline(5) as limit:
        context = contextvars.copy_context()
    assert Task(context.run, ambient).result() is limit


def test_threads_do_not_see_each_others_deadlines():
    with deadline(LONG) as mine:

        def other():
            with deadline(1):
                return ambient()

        assert Task(other).result().budget == 1
        assert ambient() is mine


def test_a_deadline_can_not_be_changed():
    limit = Deadline.after(5)
    with pytest.raises(AttributeError):
        limit.at = 0.0
    with pytest.raises(AttributeError):
        limit.budget = 0.0


def test_exceeded_names_the_budget_and_the_stage():
    error = Deadline.after(0.8).exceeded("pool 'db'", stage="connecting")

    assert isinstance(error, DeadlineExceeded)
    assert error.stage == "connecting"
    assert str(error) == "pool 'db': the deadline of 0.8 s passed while connecting"


def test_repr_tells_what_is_left():
    assert repr(NEVER) == "Deadline(never)"
    assert repr(Deadline.after(5)).startswith("Deadline(5 s, ")


# -- cancelling ----------------------------------------------------------------------------------------


def cancellable(seconds=LONG):
    """Return a deadline, and what cancels it."""
    cancellation = Cancellation()
    with deadline(seconds, cancellation=cancellation) as limit:
        return limit, cancellation


@pytest.mark.parametrize("seconds", [LONG, math.inf])
def test_what_is_cancelled_has_passed(seconds):
    limit, cancellation = cancellable(seconds)
    assert not cancellation.cancelled
    assert not limit.expired
    assert limit.remaining() > LONG - 1
    assert limit.never == (seconds == math.inf)

    before = time.monotonic()
    cancellation.cancel()

    assert cancellation.cancelled
    assert limit.expired
    assert limit.remaining() <= 0
    assert before <= limit.at <= time.monotonic()
    assert not limit.never


def test_cancelling_again_changes_nothing():
    limit, cancellation = cancellable()
    cancellation.cancel()
    at = limit.at
    cancellation.cancel()
    assert limit.at == at


def test_a_signal_handler_may_cancel_whatever_it_interrupts():
    limit, cancellation = cancellable()
    before = signal.signal(signal.SIGUSR1, lambda *_: cancellation.cancel())
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert limit.expired


def test_what_was_cancelled_before_the_block_has_passed_in_it_and_not_behind_it():
    cancellation = Cancellation()
    cancellation.cancel()
    with deadline(LONG, cancellation=cancellation) as limit:
        assert limit.expired
    assert ambient() is NEVER


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(("outer", "inner"), [(1, 50), (50, 1), (math.inf, math.inf)])
def test_nested_blocks_end_when_either_is_cancelled(outer, inner, which):
    both = Cancellation(), Cancellation()
    with deadline(outer, cancellation=both[0]) as first:
        with deadline(inner, cancellation=both[1]) as second:
            assert second.budget == min(outer, inner)
            both[which].cancel()
            assert second.expired
            assert first.expired == (which == 0)
        assert ambient() is first


@pytest.mark.parametrize("seconds", [1, 50])
def test_a_plain_block_keeps_the_cancellation_around_it(seconds):
    cancellation = Cancellation()
    with deadline(5, cancellation=cancellation), deadline(seconds) as inner:
        assert inner.budget == min(5, seconds)
        cancellation.cancel()
        assert inner.expired


def test_a_block_that_adds_nothing_keeps_the_deadline_around_it():
    cancellation = Cancellation()
    with deadline(5, cancellation=cancellation) as outer:
        with deadline(50) as inner:
            assert (inner.at, inner.budget) == (outer.at, outer.budget)
            assert inner.cancellations == outer.cancellations
        with deadline(50, cancellation=cancellation) as inner:
            assert (inner.at, inner.budget) == (outer.at, outer.budget)
            assert inner.cancellations == outer.cancellations


@pytest.mark.parametrize("turn", [False, True])
def test_the_earlier_of_two_keeps_the_cancellations_of_both(turn):
    one, first = cancellable(1)
    other, second = cancellable(5)
    limit = other.earlier(one) if turn else one.earlier(other)
    assert limit.budget == 1
    assert set(limit.cancellations) == {first, second}
    assert limit.earlier(NEVER) is limit
    assert NEVER.earlier(limit) is limit


def test_what_can_not_be_cancelled_is_waited_for_in_one_go():
    limit = Deadline.after(5)
    assert limit.pulse == math.inf
    assert 4 < limit.stretch() <= 5
    assert NEVER.stretch() == threading.TIMEOUT_MAX
    assert Deadline.after(-1).stretch() == 0


def test_what_can_be_cancelled_is_looked_at_again_and_again():
    limit, cancellation = cancellable()
    assert limit.stretch() == PULSE
    assert cancellable(PULSE / 2)[0].stretch() <= PULSE / 2
    cancellation.cancel()
    assert limit.stretch() == 0


def test_a_wait_for_an_event_ends_when_it_is_set_when_it_is_too_late_and_when_it_is_cancelled():
    event = threading.Event()
    assert not Deadline.after(0.01).wait(event)
    assert not cancellable(0.01)[0].wait(event)
    limit, cancellation = cancellable()
    waiter = Task(limit.wait, event)
    cancellation.cancel()
    assert not waiter.result()
    limit, _ = cancellable()
    waiter = Task(limit.wait, event)
    event.set()
    assert waiter.result()


def test_a_pause_is_cut_short_when_it_is_cancelled():
    slept = []
    Deadline.after(5).sleep(1.25, slept.append)
    assert slept == [1.25]
    slept.clear()
    limit, cancellation = cancellable()
    limit.sleep(2.5 * PULSE, slept.append)
    assert slept == pytest.approx([PULSE, PULSE, PULSE / 2])
    slept.clear()
    limit.sleep(LONG, lambda seconds: (slept.append(seconds), cancellation.cancel()))
    assert slept == [PULSE]


def test_a_grace_counts_from_when_a_cancellation_is_noticed():
    at = Deadline.after(5)
    assert at.grace(2).at == at.at + 2
    limit, cancellation = cancellable(5)
    assert limit.grace(2).at == limit.at + 2
    cancellation.cancel()
    noticed = limit.grace(2)
    assert noticed.at >= limit.at + 2
    assert not noticed.cancellations
    assert not noticed.expired


def test_the_error_says_what_ended_it():
    limit, cancellation = cancellable(0.8)
    early = limit.exceeded("pool 'db'", stage="running")
    assert type(early) is DeadlineExceeded
    assert str(early) == "pool 'db': the deadline of 0.8 s passed while running"

    cancellation.cancel()
    error = limit.exceeded("pool 'db'", stage="running")
    assert type(error) is Cancelled
    assert isinstance(error, DeadlineExceeded)
    assert error.stage == "running"
    assert str(error) == "pool 'db': cancelled while running"


def test_what_had_passed_before_it_was_cancelled_was_not_cancelled():
    limit, cancellation = cancellable(0)
    cancellation.cancel()
    assert type(limit.exceeded("pool 'db'", stage="running")) is DeadlineExceeded


def test_in_doubt_the_error_is_of_the_same_kind_and_says_so():
    passed = DeadlineExceeded("late", stage="running").in_doubt(", perhaps")
    assert type(passed) is DeadlineOutcomeUnknown
    error = Cancelled("cancelled", stage="running").in_doubt(", perhaps")
    assert type(error) is CancelledOutcomeUnknown
    for kind in (Cancelled, DeadlineOutcomeUnknown, OutcomeUnknown):
        assert isinstance(error, kind)
    assert (str(error), error.stage) == ("cancelled, perhaps", "running")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.stage) == (type(error), str(error), "running")


@pytest.mark.parametrize("wrong", [True, 5, "yes", threading.Event()])
def test_what_is_no_cancellation_is_refused_before_the_block(wrong):
    with pytest.raises(ConfigError, match=r"cancellation must be a poolkit\.Cancellation"):
        deadline(5, cancellation=wrong)


def test_repr_tells_whether_it_was_cancelled():
    limit, cancellation = cancellable(math.inf)
    assert repr(limit) == "Deadline(never, can be cancelled)"
    assert repr(cancellation) == "<Cancellation not cancelled>"
    limit, cancellation = cancellable(5)
    assert repr(limit).startswith("Deadline(5 s, ")
    assert repr(limit).endswith(" s left, can be cancelled)")
    cancellation.cancel()
    assert repr(limit).endswith(", cancelled)")
    assert repr(cancellation) == "<Cancellation cancelled>"
