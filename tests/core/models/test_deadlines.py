"""Deadline blocks, over generated programs: the earliest of those around is in force, and none stays behind."""

from __future__ import annotations

import contextvars
import math
from contextlib import ExitStack, contextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolkit import deadline
from poolkit.core import deadline as deadline_module
from poolkit.core import instant as instant_module
from poolkit.core.deadline import NEVER, ambient
from tests.core.support import Task
from tests.generated import examples

from .clock import Clock

SECONDS = st.sampled_from((0, 1, 2.0, 5, 100.0, math.inf))
PROGRAMS = st.recursive(
    st.one_of(
        st.just(("look",)),
        st.tuples(st.just("pause"), st.sampled_from((0.5, 3.0))),
        st.tuples(st.just("raise")),
        st.tuples(st.just("leave")),
    ),
    lambda part: st.one_of(
        st.tuples(
            st.sampled_from(("block", "block", "decorated", "stacked", "in a generator", "closed")),
            SECONDS,
            st.lists(part, max_size=3),
        ),
        st.tuples(
            st.sampled_from(("catch", "call", "thread", "thread in this context", "context")),
            st.none(),
            st.lists(part, max_size=3),
        ),
    ),
    max_leaves=15,
)


class Oops(Exception):
    """What programs raise and catch."""


class Machine:
    """Runs a program, with what has to be in force passed along by hand."""

    def __init__(self, clock):
        self.clock = clock
        self.looks = 0

    def look(self, at):
        self.looks += 1
        assert ambient().at == at

    def run(self, program, at):
        """Run *program* where *at* is in force. Returns whether it left early; may raise :class:`Oops`."""
        for kind, *more in program:
            self.look(at)
            if kind == "pause":
                self.clock.sleep(*more)
            elif kind == "raise":
                raise Oops
            elif kind == "leave":
                return True
            elif kind != "look":
                seconds, body = more
                try:
                    if self.step(kind, seconds, body, at):
                        return True
                finally:
                    self.look(at)
        return False

    def step(self, kind, seconds, body, at):
        inner = at if seconds is None else min(at, self.clock.now + seconds)
        if kind == "block":
            with deadline(seconds) as limit:
                assert limit is ambient()
                return self.run(body, inner)
        elif kind == "stacked":
            with ExitStack() as stack:
                stack.enter_context(deadline(math.inf))
                stack.enter_context(deadline(seconds))
                stack.enter_context(deadline(seconds + 1))
                return self.run(body, inner)
        elif kind == "decorated":
            with bounded(seconds):
                return self.run(body, inner)
        elif kind == "in a generator":
            for _ in bounded_steps(
                seconds, 2
            ):  # as long as it is suspended, its block is around us too
                if self.run(body, inner):
                    break
        elif kind == "closed":
            steps = bounded_steps(seconds, 9)
            next(steps)
            try:
                return self.run(body, inner)
            finally:
                steps.close()
        elif kind == "catch":
            try:
                return self.run(body, at)
            except Oops:
                return False
        elif kind == "call":
            self.run(body, at)
        elif kind == "thread":
            return self.in_thread(self.run, body, math.inf)
        elif kind == "thread in this context":
            return self.in_thread(contextvars.copy_context().run, self.run, body, at)
        elif kind == "context":
            return contextvars.copy_context().run(self.run, body, at)
        return False

    def in_thread(self, call, *given):
        return Task(call, *given).result()


@contextmanager
def bounded(seconds):
    with deadline(seconds):
        yield


def bounded_steps(seconds, count):
    with deadline(seconds):
        yield from range(count)


@examples(120)
@given(st.lists(PROGRAMS, min_size=1, max_size=4))
def test_the_earliest_deadline_around_is_in_force_and_none_stays_behind(program):
    with pytest.MonkeyPatch.context() as patch:
        machine = Machine(Clock(patch, deadline_module, instant_module))
        with suppress(Oops):
            machine.run(program, math.inf)
        assert ambient() is NEVER
        assert machine.looks > 0


LENGTHS = (1, 2, 5, 100)
STEPS = st.tuples(st.booleans(), st.integers(0, 3), st.sampled_from((0.0, 0.5, 3.0)))


@examples(100)
@given(st.lists(STEPS, min_size=1, max_size=20))
def test_blocks_that_are_left_in_any_order_take_no_deadline_away_and_leave_none_behind(steps):
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch, deadline_module, instant_module)
        blocks = [deadline(seconds) for seconds in LENGTHS]
        entered = {}  # the number of each that is, in order, and what is in force since then
        for enters, number, pause in steps:
            if not enters:
                entered.pop(number, None)
                blocks[number].__exit__(None, None, None)
            elif number in entered:
                with pytest.raises(RuntimeError, match="already entered"):
                    blocks[number].__enter__()
            else:
                around = list(entered.values())[-1] if entered else math.inf
                entered[number] = min(around, clock.now + LENGTHS[number])
                assert blocks[number].__enter__() is ambient()
            assert ambient().at == (list(entered.values())[-1] if entered else math.inf)
            clock.sleep(pause)
        for number in entered:
            blocks[number].__exit__(None, None, None)
        assert ambient() is NEVER
