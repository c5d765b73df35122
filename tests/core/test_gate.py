"""The gate: at most so many through, the others in their turn, and no turn lost on the way."""

from __future__ import annotations

import itertools
import math
import random
import signal
import threading
import time
from contextlib import suppress
from time import monotonic

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from poolkit import (
    BackendUnavailable,
    Cancellation,
    Deadline,
    PoolClosed,
    PoolOverloaded,
    deadline,
)
from poolkit.core import gate as gate_module
from poolkit.core.deadline import NEVER
from poolkit.core.gate import Gate, Waited
from tests.interruptions import Interruption, Struck

from .support import LONG, Interrupted, Task, eventually, together


def gate(size=1, max_waiting=1000):
    return Gate("db", size, max_waiting=max_waiting)


def closed():
    return PoolClosed("closed")


class Visitor(Task):
    """A thread that enters the gate, stays until it is told to go, and leaves."""

    def __init__(self, turnstile, *, deadline=NEVER, patience=LONG, log=None):
        self.turnstile = turnstile
        self.inside = threading.Event()
        self.may_go = threading.Event()
        self.log = log
        super().__init__(self.visit, deadline, patience)

    def visit(self, deadline, patience):
        waited = self.turnstile.enter(deadline, patience)
        try:
            if self.log is not None:
                self.log.append(self)
            self.inside.set()
            assert self.may_go.wait(LONG)
        finally:
            self.turnstile.leave()
        return waited

    def go(self):
        """Leave, and wait until that is done."""
        self.may_go.set()
        return self.result()


def waiting_visitor(turnstile, **how):
    """Return a visitor that waits."""
    before = turnstile.waiting
    visitor = Visitor(turnstile, **how)
    eventually(lambda: turnstile.waiting == before + 1)
    return visitor


def holding_visitor(turnstile):
    visitor = Visitor(turnstile)
    assert visitor.inside.wait(LONG)
    return visitor


def assert_nothing_is_lost(turnstile, size):
    """All *size* turns are there, and not one more."""
    eventually(lambda: turnstile.in_use == 0)
    assert turnstile.waiting == 0
    for _ in range(size):
        assert turnstile.enter(NEVER, 0.0) == 0.0
    with pytest.raises(Waited):
        turnstile.enter(NEVER, 0.0)
    for _ in range(size):
        turnstile.leave()
    assert turnstile.in_use == 0


# -- entering and leaving ------------------------------------------------------------------------------


def test_a_free_turn_costs_no_waiting():
    turnstile = gate(size=2)

    assert turnstile.enter(NEVER, LONG) == 0.0
    assert turnstile.enter(NEVER, LONG) == 0.0

    assert turnstile.in_use == 2
    turnstile.leave()
    turnstile.leave()
    assert_nothing_is_lost(turnstile, 2)


def test_a_free_turn_is_given_even_when_the_deadline_has_passed():
    turnstile = gate()

    assert turnstile.enter(Deadline.after(0), 0.0) == 0.0


def test_a_waiter_gets_the_turn_that_is_given_up_and_knows_how_long_it_waited():
    turnstile = gate()
    holder = holding_visitor(turnstile)
    before = monotonic()
    waiter = waiting_visitor(turnstile)
    queued = monotonic()

    holder.go()

    assert waiter.inside.wait(LONG)
    served = monotonic()
    waited = waiter.go()
    assert 0 < waited <= served - before
    assert waited <= served - queued + (queued - before)
    assert_nothing_is_lost(turnstile, 1)


def test_cold_waiters_are_served_oldest_first():
    turnstile = gate()
    log = []
    holder = holding_visitor(turnstile)
    waiters = [waiting_visitor(turnstile, log=log) for _ in range(12)]

    holder.go()
    for waiter in waiters:
        assert waiter.inside.wait(LONG)
        waiter.go()

    assert log == waiters
    assert_nothing_is_lost(turnstile, 1)


def test_as_many_waiters_are_served_as_turns_are_given_up():
    turnstile = gate(size=3)
    holders = [holding_visitor(turnstile) for _ in range(3)]
    waiters = [waiting_visitor(turnstile) for _ in range(3)]

    for holder in holders:
        holder.go()

    for waiter in waiters:
        assert waiter.inside.wait(LONG)
    assert turnstile.in_use == 3
    for waiter in waiters:
        waiter.go()
    assert_nothing_is_lost(turnstile, 3)


def test_the_repr_tells_the_state():
    turnstile = gate(size=2)
    turnstile.enter(NEVER, LONG)

    assert repr(turnstile) == "<Gate 'db' open: 1/2 in use, 0 waiting>"


# -- bounds --------------------------------------------------------------------------------------------


def test_patience_bounds_the_wait():
    turnstile = gate()
    turnstile.enter(NEVER, LONG)

    before = monotonic()
    with pytest.raises(Waited) as caught:
        turnstile.enter(NEVER, 0.05)

    assert 0.05 <= monotonic() - before < 5
    assert 0.05 <= caught.value.seconds < 5
    assert turnstile.waiting == 0
    turnstile.leave()
    assert_nothing_is_lost(turnstile, 1)


def test_the_deadline_bounds_the_wait():
    turnstile = gate()
    turnstile.enter(NEVER, LONG)

    before = monotonic()
    with pytest.raises(Waited):
        turnstile.enter(Deadline.after(0.05), LONG)

    assert 0.05 <= monotonic() - before < 5
    assert turnstile.waiting == 0


@pytest.mark.parametrize(
    ("limit", "patience"), [(Deadline.after(0), LONG), (NEVER, 0), (NEVER, -1)]
)
def test_who_may_not_wait_is_told_at_once(limit, patience):
    turnstile = gate()
    turnstile.enter(NEVER, LONG)

    with pytest.raises(Waited):
        turnstile.enter(limit, patience)

    assert turnstile.waiting == 0


def test_a_cancelled_waiter_leaves_and_its_turn_goes_to_the_next(monkeypatch):
    monkeypatch.setattr(
        gate_module, "_LOOK", LONG
    )  # not only because it looks for a turn left lying
    turnstile = gate()
    holder = holding_visitor(turnstile)
    cancellation = Cancellation()
    with deadline(LONG, cancellation=cancellation) as limit:
        first = waiting_visitor(turnstile, deadline=limit)
    second = waiting_visitor(turnstile)

    before = monotonic()
    cancellation.cancel()

    assert isinstance(first.end(), Waited)
    assert monotonic() - before < 1
    assert turnstile.waiting == 1
    holder.go()
    second.go()
    assert_nothing_is_lost(turnstile, 1)


def test_more_waiters_than_allowed_are_refused():
    turnstile = gate(max_waiting=2)
    holder = holding_visitor(turnstile)
    waiters = [waiting_visitor(turnstile) for _ in range(2)]

    with pytest.raises(PoolOverloaded, match="pool 'db': 2 threads wait already, max_waiting is 2"):
        turnstile.enter(NEVER, LONG)

    assert turnstile.waiting == 2
    for visitor in (holder, *waiters):
        visitor.go()
    assert_nothing_is_lost(turnstile, 1)


def test_with_no_waiting_allowed_free_turns_are_still_given():
    turnstile = gate(max_waiting=0)

    assert turnstile.enter(NEVER, LONG) == 0.0
    with pytest.raises(PoolOverloaded):
        turnstile.enter(NEVER, LONG)


# -- pace ----------------------------------------------------------------------------------------------


def keep_a_pace(turnstile, *, turns, seconds):
    """Let *turns* visitors through a gate of one, at least *seconds* apart, while others wait."""
    holder = holding_visitor(turnstile)
    waiters = [waiting_visitor(turnstile) for _ in range(turns)]
    for waiter in waiters[:-1]:
        threading.Event().wait(seconds)
        holder.go()
        assert waiter.inside.wait(LONG)
        holder = waiter
    return holder, waiters[-1]


def test_a_wait_that_can_not_fit_the_deadline_is_refused_on_arrival():
    turnstile = gate()
    visitors = keep_a_pace(turnstile, turns=25, seconds=0.02)

    with pytest.raises(PoolOverloaded, match="at the present pace"):
        turnstile.enter(Deadline.after(0.01), LONG)

    assert turnstile.waiting == 1
    for visitor in visitors:
        visitor.go()
    assert_nothing_is_lost(turnstile, 1)


def test_a_wait_that_fits_the_deadline_is_not_refused():
    turnstile = gate()
    visitors = keep_a_pace(turnstile, turns=25, seconds=0.002)

    late = waiting_visitor(turnstile, deadline=Deadline.after(LONG))

    for visitor in (*visitors, late):
        visitor.go()
    assert_nothing_is_lost(turnstile, 1)


def test_no_wait_is_refused_before_the_pace_is_known():
    turnstile = gate()
    visitors = keep_a_pace(turnstile, turns=4, seconds=0.02)

    with pytest.raises(Waited):
        turnstile.enter(Deadline.after(0.01), LONG)

    for visitor in visitors:
        visitor.go()


def test_a_slow_crowd_that_has_gone_does_not_get_the_next_one_refused():
    turnstile = gate()
    for visitor in keep_a_pace(turnstile, turns=25, seconds=0.02):
        visitor.go()
    eventually(lambda: turnstile.in_use == 0)

    turnstile.enter(NEVER, LONG)
    with pytest.raises(Waited):  # waited, that is, and was not refused
        turnstile.enter(Deadline.after(0.01), LONG)


# -- coming back ---------------------------------------------------------------------------------------


def test_a_waiter_is_served_though_another_thread_keeps_coming_back():
    turnstile = gate()
    stop = threading.Event()
    hogging = threading.Event()

    def hog():
        while not stop.is_set():
            turnstile.enter(NEVER, LONG)
            hogging.set()
            turnstile.leave()

    hog_task = Task(hog)
    assert hogging.wait(LONG)
    try:
        for _ in range(20):
            assert turnstile.enter(NEVER, LONG) < 2.0
            turnstile.leave()
    finally:
        stop.set()
    hog_task.result()
    assert_nothing_is_lost(turnstile, 1)


def test_no_thread_of_many_that_come_back_is_starved():
    turnstile = gate(size=2)
    stop = threading.Event()
    turns = [0] * 10

    def work(number):
        while not stop.is_set() and turns[number] < 200:
            turnstile.enter(NEVER, LONG)
            turns[number] += 1
            turnstile.leave()

    together(10, work)

    assert turns == [200] * 10
    assert_nothing_is_lost(turnstile, 2)


def test_a_turn_left_lying_for_a_thread_that_does_not_come_back_is_found(monkeypatch):
    # Whoever gives up a turn counts as coming back soon, and no waiter as old.
    monkeypatch.setattr(gate_module, "COMES_BACK", math.inf)
    monkeypatch.setattr(gate_module, "FAIR_AFTER", math.inf)
    turnstile = gate()

    for _ in range(5):
        first = holding_visitor(turnstile)
        turnstile_user = waiting_visitor(turnstile, patience=10 * LONG)
        first.go()
        assert turnstile_user.inside.wait(LONG / 3)
        last = waiting_visitor(turnstile, patience=10 * LONG)
        turnstile_user.go()
        assert last.inside.wait(LONG / 3)
        last.go()
    assert_nothing_is_lost(turnstile, 1)


# -- closing and turning away --------------------------------------------------------------------------


def test_closing_fails_all_who_wait_and_all_who_come():
    turnstile = gate(size=2)
    holders = [holding_visitor(turnstile) for _ in range(2)]
    waiters = [waiting_visitor(turnstile) for _ in range(5)]

    turnstile.close(closed)

    for waiter in waiters:
        assert isinstance(waiter.end(), PoolClosed)
    with pytest.raises(PoolClosed):
        turnstile.enter(NEVER, LONG)
    assert turnstile.waiting == 0
    for holder in holders:
        holder.go()
    with pytest.raises(PoolClosed):
        turnstile.enter(NEVER, LONG)
    assert turnstile.in_use == 0


def test_each_waiter_gets_an_error_of_its_own():
    turnstile = gate()
    holding_visitor(turnstile)
    waiters = [waiting_visitor(turnstile) for _ in range(3)]

    turnstile.close(closed)

    assert len({id(waiter.end()) for waiter in waiters}) == 3


def test_turning_away_fails_those_who_wait_and_no_others():
    turnstile = gate()
    holder = holding_visitor(turnstile)
    waiters = [waiting_visitor(turnstile) for _ in range(5)]

    turnstile.turn_away(lambda: BackendUnavailable("down"))

    for waiter in waiters:
        assert isinstance(waiter.end(), BackendUnavailable)
    late = waiting_visitor(turnstile)
    holder.go()
    assert late.inside.wait(LONG)
    late.go()
    assert_nothing_is_lost(turnstile, 1)


def test_turning_away_and_closing_need_nobody_to_wait():
    turnstile = gate()
    turnstile.turn_away(closed)
    assert_nothing_is_lost(turnstile, 1)
    turnstile.close(closed)
    turnstile.close(closed)
    with pytest.raises(PoolClosed):
        turnstile.enter(NEVER, LONG)


def test_waiting_for_a_closed_gate_to_empty_ends_with_the_last_to_leave():
    turnstile = gate(size=2)
    holders = [holding_visitor(turnstile) for _ in range(2)]
    turnstile.close(closed)

    assert not turnstile.wait_empty(Deadline.after(0.01))
    holders[0].go()
    assert not turnstile.wait_empty(Deadline.after(0.01))
    emptied = Task(turnstile.wait_empty, Deadline.after(LONG))
    holders[1].go()

    assert emptied.result() is True


def test_waiting_for_a_closed_gate_to_empty_may_take_forever():
    turnstile = gate()
    holder = holding_visitor(turnstile)
    turnstile.close(closed)

    emptied = Task(turnstile.wait_empty, NEVER)
    holder.go()

    assert emptied.result() is True


def test_an_unused_gate_is_empty_as_soon_as_it_is_closed():
    turnstile = gate()
    turnstile.close(closed)

    assert turnstile.wait_empty(Deadline.after(0))


# -- resizing ------------------------------------------------------------------------------------------


def test_growing_lets_waiters_through_at_once():
    turnstile = gate(size=1)
    holder = holding_visitor(turnstile)
    waiters = [waiting_visitor(turnstile) for _ in range(3)]

    turnstile.resize(3)

    assert waiters[0].inside.wait(LONG)
    assert waiters[1].inside.wait(LONG)
    assert (turnstile.in_use, turnstile.waiting) == (3, 1)
    for visitor in (holder, *waiters):
        visitor.go()
    assert_nothing_is_lost(turnstile, 3)


def test_shrinking_lets_those_inside_finish_and_nobody_else_in():
    turnstile = gate(size=4)
    holders = [holding_visitor(turnstile) for _ in range(4)]
    turnstile.resize(2)

    assert turnstile.in_use == 4
    for number, holder in enumerate(holders[:2]):
        holder.go()
        assert turnstile.in_use == 3 - number
        with pytest.raises(Waited):
            turnstile.enter(NEVER, 0.0)
    holders[2].go()
    assert turnstile.enter(NEVER, 0.0) == 0.0
    turnstile.leave()
    holders[3].go()
    assert_nothing_is_lost(turnstile, 2)


def test_shrinking_holds_for_those_who_wait_too():
    turnstile = gate(size=4)
    holders = [holding_visitor(turnstile) for _ in range(4)]
    waiters = [waiting_visitor(turnstile) for _ in range(4)]
    turnstile.resize(1)

    for number, holder in enumerate(holders[:3]):
        holder.go()
        assert (turnstile.in_use, turnstile.waiting) == (3 - number, 4)
    holders[3].go()

    for waiter in waiters:
        assert waiter.inside.wait(LONG)
        assert turnstile.in_use == 1
        waiter.go()
    assert_nothing_is_lost(turnstile, 1)


def test_shrinking_an_idle_gate_takes_the_turns_away():
    turnstile = gate(size=5)
    turnstile.resize(2)
    assert_nothing_is_lost(turnstile, 2)
    turnstile.resize(4)
    assert_nothing_is_lost(turnstile, 4)


def test_growing_again_before_the_shrinking_took_effect_gives_back_what_was_taken():
    turnstile = gate(size=4)
    holders = [holding_visitor(turnstile) for _ in range(4)]
    turnstile.resize(1)
    turnstile.resize(3)

    for holder in holders:
        holder.go()

    assert_nothing_is_lost(turnstile, 3)


def test_closing_a_gate_that_is_shrinking_still_empties():
    turnstile = gate(size=4)
    holders = [holding_visitor(turnstile) for _ in range(4)]
    turnstile.resize(1)
    turnstile.close(closed)

    for holder in holders:
        assert not turnstile.wait_empty(Deadline.after(0))
        holder.go()

    assert turnstile.wait_empty(Deadline.after(LONG))
    assert turnstile.in_use == 0


def test_a_closed_gate_that_is_resized_stays_closed():
    turnstile = gate(size=1)
    turnstile.close(closed)
    turnstile.resize(5)

    with pytest.raises(PoolClosed):
        turnstile.enter(NEVER, LONG)


# -- nothing gets lost ---------------------------------------------------------------------------------


def test_waiter_times_out_without_losing_its_turn():
    turnstile = gate()
    outcomes = set()
    for _ in range(300):
        holder_left = threading.Event()
        turnstile.enter(NEVER, LONG)

        def impatient():
            try:
                turnstile.enter(NEVER, 0.001)
            except Waited:
                return "timed out"
            turnstile.leave()
            return "served"

        task = Task(impatient)
        until = monotonic() + random.uniform(0.000_9, 0.001_4)
        while monotonic() < until:  # so that giving up and being served come as close as can be
            pass
        turnstile.leave()
        holder_left.set()
        outcomes.add(task.result())
        assert turnstile.in_use == 0
        assert turnstile.waiting == 0
        assert turnstile.enter(NEVER, 0.0) == 0.0
        turnstile.leave()
    assert outcomes  # which of the two it was is chance; that nothing got lost is not


def test_exception_thrown_into_a_waiting_thread_loses_no_turn():
    turnstile = gate(size=2)
    holders = [holding_visitor(turnstile) for _ in range(2)]
    victim = waiting_visitor(turnstile)
    other = waiting_visitor(turnstile)

    victim.interrupt()

    assert isinstance(victim.end(), Interrupted)
    assert turnstile.waiting == 1
    for visitor in (*holders, other):
        visitor.go()
    assert_nothing_is_lost(turnstile, 2)


def test_exception_thrown_into_a_thread_that_is_just_served_loses_no_turn():
    turnstile = gate()
    for _ in range(100):
        turnstile.enter(NEVER, LONG)
        victim = waiting_visitor(turnstile)
        other = waiting_visitor(turnstile)

        victim.interrupt()
        turnstile.leave()

        assert isinstance(victim.end(), Interrupted)
        other.go()
        assert (turnstile.in_use, turnstile.waiting) == (0, 0)
    assert_nothing_is_lost(turnstile, 1)


def test_ctrl_c_in_the_waiting_main_thread_loses_no_turn():
    turnstile = gate()
    holder = holding_visitor(turnstile)
    main = threading.main_thread()
    assert threading.current_thread() is main

    def press_ctrl_c():
        eventually(lambda: turnstile.waiting == 1)
        signal.pthread_kill(main.ident, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        finger = Task(press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            turnstile.enter(NEVER, LONG)
        finger.result()
    finally:
        signal.signal(signal.SIGINT, before)
    assert turnstile.waiting == 0
    holder.go()
    assert_nothing_is_lost(turnstile, 1)


def test_interrupted_on_taking_again_the_turn_it_left_lying_a_thread_loses_none():
    for point in itertools.count(1):
        turnstile = gate()
        turnstile.enter(NEVER, LONG)
        waiter = waiting_visitor(turnstile)
        with turnstile._lock:  # so that the waiter can't find it
            turnstile.put_down(None)
            with suppress(Struck), Interruption(point) as interruption:
                turnstile.enter(NEVER, LONG)
        if interruption.where is None:
            turnstile.leave()
        waiter.go()
        assert_nothing_is_lost(turnstile, 1)
        if interruption.where is None:
            break

    assert point > 2


def test_a_closed_gate_empties_though_the_last_to_leave_was_interrupted_half_way():
    turnstile = gate()
    turnstile.enter(NEVER, LONG)
    turnstile.close(closed)
    turnstile.put_down(None)

    assert turnstile.wait_empty(Deadline.after(0.0))


def test_a_crowd_with_every_kind_of_luck_leaves_nothing_behind():
    size = 3
    turnstile = gate(size=size, max_waiting=12)
    inside = [0]
    most = [0]
    counting = threading.Lock()

    def work(number):
        luck = random.Random(number)
        served = 0
        for _ in range(60):
            patience = luck.choice([0.0, 0.000_2, 0.002, LONG])
            limit = luck.choice([NEVER, NEVER, Deadline.after(0.001)])
            try:
                turnstile.enter(limit, patience)
            except (Waited, PoolOverloaded, BackendUnavailable):
                continue
            with counting:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            served += 1
            if luck.random() < 0.3:
                time.sleep(luck.choice([0, 0.000_1, 0.001]))  # work of different lengths
            with counting:
                inside[0] -= 1
            turnstile.leave()
            if luck.random() < 0.05:
                turnstile.turn_away(lambda: BackendUnavailable("down"))
        return served

    served = together(16, work)

    assert sum(served) > 0
    assert most[0] <= size
    assert_nothing_is_lost(turnstile, size)


# -- any order of things -------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Compare the gate with a model of it: a list of those inside and a queue, oldest first.

    No thread counts as coming back, so who goes next is certain.
    """

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(gate_module, "COMES_BACK", -1.0)
        self.size = 2
        self.max_waiting = 5
        self.turnstile = gate(self.size, self.max_waiting)
        self.inside = []
        self.queue = []
        self.closed = False

    def teardown(self):
        for visitor in (*self.inside, *self.queue):
            visitor.may_go.set()
        for visitor in (*self.inside, *self.queue):
            visitor.result()
        if not self.closed:
            assert_nothing_is_lost(self.turnstile, self.size)
        else:
            assert self.turnstile.wait_empty(Deadline.after(0))
        self.patch.undo()

    def serve(self):
        """Let the model's oldest through, and see that the gate did the same."""
        while self.queue and len(self.inside) < self.size and not self.closed:
            visitor = self.queue.pop(0)
            assert visitor.inside.wait(LONG)
            self.inside.append(visitor)

    def pick(self, visitors, data):
        return visitors.pop(data % len(visitors))

    @rule()
    def arrive(self):
        if self.closed:
            assert isinstance(Visitor(self.turnstile).end(), PoolClosed)
        elif len(self.inside) < self.size:
            visitor = Visitor(self.turnstile)
            assert visitor.inside.wait(LONG)
            self.inside.append(visitor)
        elif len(self.queue) >= self.max_waiting:
            assert isinstance(Visitor(self.turnstile).end(), PoolOverloaded)
        else:
            self.queue.append(waiting_visitor(self.turnstile))

    @precondition(lambda self: not self.closed and len(self.inside) >= self.size)
    @rule(patience=st.sampled_from([0.0, 0.001]))
    def arrive_in_a_hurry(self, patience):
        error = Visitor(self.turnstile, patience=patience).end()
        full = len(self.queue) >= self.max_waiting
        assert isinstance(error, PoolOverloaded if full else Waited)

    @precondition(lambda self: self.inside)
    @rule(data=st.integers(0, 99))
    def leave(self, data):
        self.pick(self.inside, data).go()
        self.serve()

    @precondition(lambda self: self.queue)
    @rule(data=st.integers(0, 99))
    def interrupt_a_waiter(self, data):
        victim = self.pick(self.queue, data)
        victim.interrupt()
        assert isinstance(victim.end(), Interrupted)

    @precondition(lambda self: self.queue and len(self.inside) == self.size)
    @rule(data=st.integers(0, 99))
    def interrupt_the_next_while_somebody_leaves(self, data):
        victim = self.queue.pop(0)
        victim.interrupt()
        self.pick(self.inside, data).go()
        assert isinstance(victim.end(), Interrupted)
        self.serve()

    @precondition(lambda self: not self.closed)
    @rule(size=st.integers(1, 4))
    def resize(self, size):
        self.size = size
        self.turnstile.resize(size)
        self.serve()

    @rule()
    def turn_away(self):
        self.turnstile.turn_away(lambda: BackendUnavailable("down"))
        for waiter in self.queue:
            assert isinstance(waiter.end(), BackendUnavailable)
        self.queue.clear()

    @precondition(lambda self: len(self.inside) + len(self.queue) > 3)
    @rule()
    def close(self):
        self.closed = True
        self.turnstile.close(closed)
        for waiter in self.queue:
            assert isinstance(waiter.end(), PoolClosed)
        self.queue.clear()

    @invariant()
    def the_gate_agrees_with_the_model(self):
        assert self.turnstile.in_use == len(self.inside)
        assert self.turnstile.waiting == len(self.queue)
        assert all(not waiter.inside.is_set() for waiter in self.queue)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # an order of threads can't be shrunk
    suppress_health_check=list(HealthCheck),
)
