"""Lending, in any order of borrowing, returning, forgetting and dying: each connection lent once, each use counted."""

from __future__ import annotations

import gc
import logging
from time import perf_counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from poolkit import Deadline, DeadlineExceeded, Listener, PoolClosed, PoolTimeout
from poolkit.core.deadline import NEVER
from tests.core import test_lending
from tests.core.support import LONG, eventually
from tests.generated import examples

from .actors import Actor

ACTORS = 4
MOST = 3


class Loan:
    """What one has borrowed: the lease, and the connection unless it is forgotten."""

    def __init__(self, actor, lease, connection):
        self.actor = actor
        self.lease = lease
        self.connection = connection


class AnyOrder(RuleBasedStateMachine):
    """Compare a lender with a model of it: who has borrowed what, and how often each thing has happened."""

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(logging.getLogger("poolkit"), "disabled", True)  # so many leaks
        self.size = 2
        self.heard = {"acquired": 0, "released": 0, "leaked": 0, "timed_out": 0}
        self.pool = test_lending.Pool(
            self.size, acquire_timeout=LONG, max_waiting=ACTORS, listeners=[hearing(self.heard)]
        )
        self.lender = self.pool.lender
        self.actors = [Actor(f"actor {number}") for number in range(ACTORS)]
        self.loans = []
        self.waiting = []  # actors, the oldest first
        self.leases = self.returned = self.leaked = self.timeouts = 0
        self.closed = False

    def teardown(self):
        gc.collect()
        while self.loans:
            self.give_back(0)
        self.lender.reclaim()
        assert not self.pool.book
        assert self.lender.gate.in_use == 0
        if not self.closed:
            self.pool.size = self.size
            self.pool.assert_all_there()
        for actor in self.actors:
            actor.go_home()
        self.patch.undo()

    # -- the model -----------------------------------------------------------------------------------

    @property
    def idle_actors(self):
        return [actor for actor in self.actors if actor not in self.waiting]

    @property
    def gone(self):
        """The loans that nobody can give back any more."""
        return [
            loan
            for loan in self.loans
            if loan.connection is None or not loan.actor.thread.is_alive()
        ]

    def lent(self, actor):
        lease, connection = actor.outcome.result()
        actor.outcome.value = None  # the loan alone refers to it
        assert connection.lease is lease
        assert all(connection is not loan.connection for loan in self.loans), "it is lent twice"
        self.loans.append(Loan(actor, lease, connection))
        self.leases += 1

    def serve(self):
        """See that those who wait get what has become free, the oldest first."""
        while self.waiting and len(self.loans) < self.size and not self.closed:
            self.lent(self.waiting.pop(0))

    # -- what borrowers do ---------------------------------------------------------------------------

    @precondition(lambda self: self.idle_actors)
    @rule(number=st.integers(0, ACTORS))
    def borrow(self, number):
        actor = self.idle_actors[number % len(self.idle_actors)]
        actor.begin(lambda: self.lender.lend(NEVER))
        if self.closed:
            assert isinstance(actor.outcome.end(), PoolClosed)
        elif len(self.loans) < self.size:
            self.lent(actor)
        else:
            self.waiting.append(actor)
            eventually(lambda: self.lender.waiting == len(self.waiting))

    @precondition(lambda self: self.idle_actors and not self.closed)
    @precondition(lambda self: len(self.loans) >= self.size)
    @rule(late=st.booleans())
    def borrow_in_a_hurry(self, late):
        actor = self.idle_actors[0]
        if late:
            actor.begin(lambda: self.lender.lend(Deadline.after(0)))
        else:
            actor.begin(lambda: self.lender.lend(NEVER, LONG))  # it has waited as long as it may
        error = actor.outcome.end()
        assert isinstance(error, DeadlineExceeded if late else PoolTimeout)
        if not late:
            assert len(error.holders) == len(self.loans)
        self.timeouts += 1
        actor.outcome.error = None
        # The housekeeper takes back what was dropped, in a moment.
        eventually(lambda: self.heard["leaked"] == self.leaked + len(self.gone))
        self.note_forgotten()

    @precondition(lambda self: self.idle_actors and not self.closed)
    @precondition(lambda self: len(self.loans) < self.size)
    @rule()
    def fail_to_connect(self):
        actor = self.idle_actors[0]
        self.pool.store.next_error = OSError("refused")
        actor.begin(lambda: self.lender.lend(NEVER))
        assert isinstance(actor.outcome.end(), OSError)

    @precondition(lambda self: self.loans)
    @rule(number=st.integers(0, MOST))
    def give_back(self, number):
        loan = self.loans.pop(number % len(self.loans))
        if loan.connection is None:
            self.take_forgotten_back([loan])
            return
        self.lender.take_back(loan.lease, loan.connection)
        self.returned += 1
        self.lender.take_back(loan.lease, loan.connection)  # a second time has no effect
        assert loan.connection.lease is None
        self.serve()

    # -- what goes wrong -----------------------------------------------------------------------------

    @precondition(lambda self: self.loans and not self.waiting)
    @rule(number=st.integers(0, MOST))
    def forget(self, number):
        """Drop a connection without giving it back: nobody has noticed yet."""
        self.loans[number % len(self.loans)].connection = None
        gc.collect(0)

    @precondition(lambda self: self.loans)
    @rule(number=st.integers(0, MOST))
    def die_holding(self, number):
        actor = self.loans[number % len(self.loans)].actor
        if actor in self.idle_actors:
            actor.go_home()
            self.actors[self.actors.index(actor)] = Actor(actor.name)

    @rule()
    def reclaim(self):
        self.lender.reclaim()
        self.note_forgotten()

    @precondition(lambda self: self.idle_actors)
    @rule(number=st.integers(0, ACTORS), recent=st.booleans())
    def recall(self, number, recent):
        actor = self.idle_actors[number % len(self.idle_actors)]
        since = perf_counter() if recent else 0.0
        mine = [loan for loan in self.loans if loan.actor is actor and not recent]
        held = actor.do(
            lambda: self.lender.recall(actor.thread, since=since, reason="the end of a request")
        )
        assert len(held) == len(mine)
        for loan in mine:
            self.loans.remove(loan)
            if loan.connection is not None:
                assert loan.connection.lease is None
        self.leaked += len(mine)
        self.serve()

    def note_forgotten(self):
        """What nobody can give back any more has been taken back."""
        gone = self.gone
        for loan in gone:
            self.loans.remove(loan)
        self.leaked += len(gone)
        self.serve()

    def take_forgotten_back(self, loans):
        self.loans += loans
        self.lender.reclaim()
        self.note_forgotten()

    # -- what owners do ------------------------------------------------------------------------------

    @precondition(lambda self: not self.closed)
    @rule(size=st.integers(1, MOST))
    def resize(self, size):
        self.lender.resize(size)
        self.size = size
        self.serve()

    @precondition(lambda self: not self.closed and self.leases > 6)
    @rule()
    def stop(self):
        self.closed = True
        before = len(self.loans)
        holders = self.lender.stop(Deadline.after(0))
        for actor in self.waiting:
            assert isinstance(actor.outcome.end(), PoolClosed)
        self.waiting.clear()
        self.note_forgotten()
        assert len(holders) == len(self.loans) <= before

    # -- what holds ----------------------------------------------------------------------------------

    @invariant()
    def the_lender_agrees_with_the_model(self):
        stats = self.lender.stats()
        assert stats.in_use == len(self.lender.holders()) == len(self.loans)
        assert stats.waiting == len(self.waiting)
        assert self.lender.gate.in_use == len(self.loans)
        assert (stats.leases, stats.use.count) == (self.leases, self.returned)
        assert (stats.leaked, stats.timeouts) == (self.leaked, self.timeouts)
        assert stats.wait.count == stats.leases
        assert self.heard == {
            "acquired": self.leases,
            "released": self.returned,
            "leaked": self.leaked,
            "timed_out": self.timeouts,
        }

    @invariant()
    def nothing_is_both_lent_and_kept(self):
        lent = {id(loan.connection) for loan in self.loans if loan.connection is not None}
        kept = [id(connection) for connection in self.pool.store.idle]
        assert not lent.intersection(kept)
        assert len(set(kept)) == len(kept)
        assert self.pool.store.put_back == self.returned


def hearing(heard):
    """Return a listener that counts in *heard*."""

    def count(name):
        def hear(self, event):
            heard[name] += 1

        return hear

    return type("Hearing", (Listener,), {name: count(name) for name in heard})()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = examples(40, stateful_step_count=30)
