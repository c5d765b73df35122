"""One budget of wall-clock time over a block."""

from __future__ import annotations

import contextvars
import math
import sys
import time

import pytest

from poolkit import ConfigError, Deadline, DeadlineExceeded, deadline
from poolkit.core import deadline as deadline_module
from poolkit.core.deadline import NEVER, ambient

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


@pytest.mark.parametrize("outer", [0.5, 50])
def test_an_interruption_at_any_point_leaves_no_deadline_behind(outer):
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
            left -= frame.f_code.co_filename == deadline_module.__file__
            if left == 0 and not struck:
                struck = True
                raise _Struck

        with deadline(outer) as limit:
            sys.setprofile(strike)
            try:
                with deadline(5):
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
