"""Threads that use all pools at once, and check that each answer is their own."""

from __future__ import annotations

import itertools
import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from poolkit import deadline
from tests.core.support import LONG, Task
from tests.faults.control import queued
from tests.faults.crew import AFTER_FAILURE, BUDGETS
from tests.faults.soak.counting import Count, Told
from tests.faults.soak.findings import Findings
from tests.faults.soak.lateness import Lateness
from tests.faults.soak.places import CELL, Place
from tests.faults.subjects import UNKNOWN

THREADS = {"redis": 24, "postgres": 16, "http": 1, "firestore": 1}
"""Callers that use one pool only; a pool that a fault keeps busy stops nobody else's.

Most use the pools that combine: an operation of the others takes ten times as long, and millions are wanted.
"""

ROVERS = 2
"""Callers that go from pool to pool."""

RARELY = ("write", "upsert", "upsert", "upsert", "block")

OFTEN = 0.95
"""The share of calls that read: what a server keeps costs it time, and is not what is soaked."""

UPSERTED = 100
"""What a thread asks for again and again is one of so many."""

SAMPLED = 50
"""Of so many calls, one is judged by its deadline: to ask for how long a thread was queued takes longer than a read."""


class Caller:
    """One thread, and what it has counted. *places* are those that it goes to."""

    def __init__(
        self,
        number: int,
        places: Sequence[Place],
        dice: random.Random,
        gate: Gate,
        told: Told,
        findings: Findings,
        lateness: Lateness,
    ) -> None:
        self.counts = {place.name: Count() for place in places}
        """Calls that are one operation, by pool."""
        self.answered: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.due = float("inf")
        """The moment at which the present call has to end."""
        self._number = number
        self._places = places
        self._dice = dice
        self._gate = gate
        self._told = told
        self._findings = findings
        self._lateness = lateness
        self._numbers = itertools.count(1)
        self._budgets = itertools.cycle(BUDGETS)
        self.task = Task(self._work, name=f"caller-{number}")

    def _work(self) -> None:
        dice, places = self._dice, self._places
        while self._gate.pass_through():
            place = places[0] if len(places) == 1 else dice.choice(places)
            kind = "read" if dice.random() < OFTEN else dice.choice(RARELY)
            if not self._call(place, kind, next(self._budgets)):
                self._gate.over.wait(AFTER_FAILURE)

    def _call(self, place: Place, kind: str, budget: float) -> bool:
        """Make one call; return whether it was answered."""
        number = next(self._numbers)
        ask, ids = self._plan(place, kind, number)
        mine = self._told.mine
        count = self.counts[place.name]
        sampled = number % SAMPLED == 0
        waited = queued() if sampled else 0.0
        error: Exception | None = None
        mine.counted = kind != "block"
        self.due = time.monotonic() + budget
        try:
            with deadline(budget):
                answer = ask()
        except Exception as failure:
            error = failure
        ended, due, self.due = time.monotonic(), self.due, float("inf")
        mine.counted = False
        if kind != "block":
            count.operations += 1
            count.errors += error is not None
        if sampled:
            self._lateness.note(due, ended, queued() - waited, f"{kind} {ids} of {place.name}")
        if error is not None:
            self._failed(place, kind, error)
            return False
        if answer is not None and tuple(answer) != ids:
            self._findings.add("nothing crossed", f"{kind} {ids} was answered {answer!r}")
        self.answered[place.name] += 1
        return True

    def _plan(
        self, place: Place, kind: str, number: int
    ) -> tuple[Callable[[], Any], tuple[str, ...]]:
        """Return what makes the call, and the ids that it is to be answered."""
        subject = place.subject
        if kind == "block":
            ids = tuple(f"{CELL}.block-{self._number}-{part}.{number}" for part in range(3))
            return lambda: subject.in_block(ids, _nothing), ids
        if kind == "upsert":
            id = f"{CELL}.once-{self._number}.{number % UPSERTED}"
            return lambda: (subject.upsert(id),), (id,)
        id = f"{CELL}.{self._number}.{number}"
        if kind == "write":
            return lambda: (subject.write(id),), (id,)
        return lambda: (subject.read(id),), (id,)

    def _failed(self, place: Place, kind: str, error: Exception) -> None:
        self.errors[f"{place.name} {type(error).__name__}"] += 1
        if not isinstance(error, (*place.subject.errors, *UNKNOWN)):
            told = "".join(traceback.format_exception(error))
            self._findings.add("no errors but those known", f"{kind} of {place.name}: {told}")


def _nothing() -> None:
    """There is nothing to do midway in a block."""


class Gate:
    """Where callers pass between two calls, and wait while it is closed."""

    def __init__(self) -> None:
        self.over = threading.Event()
        """Set when all callers are to end."""
        self._open = threading.Event()
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """How many callers wait here."""
        with self._lock:
            return self._waiting

    def pass_through(self) -> bool:
        """Wait while it is closed; return whether to go on."""
        if self.over.is_set():
            return False
        if not self._open.is_set():
            with self._lock:
                self._waiting += 1
            while not self._open.wait(LONG):
                pass
            with self._lock:
                self._waiting -= 1
        return not self.over.is_set()

    def open(self) -> None:
        """Have callers go on."""
        self._open.set()

    def close(self) -> None:
        """Have callers wait, each when its call has ended."""
        self._open.clear()

    def end(self) -> None:
        """Have callers end."""
        self.over.set()
        self._open.set()


class Callers:
    """All of them."""

    def __init__(
        self,
        places: Sequence[Place],
        dice: random.Random,
        told: Told,
        findings: Findings,
        lateness: Lateness,
    ) -> None:
        self._gate = Gate()
        numbers = itertools.count(1)
        ways = [[place] for place in places for _ in range(THREADS.get(place.name, 2))]
        ways += [list(places)] * ROVERS
        self._callers = [
            Caller(
                next(numbers),
                way,
                random.Random(dice.random()),
                self._gate,
                told,
                findings,
                lateness,
            )
            for way in ways
        ]

    def __len__(self) -> int:
        return len(self._callers)

    def go_on(self) -> None:
        """Have all begin, or go on."""
        self._gate.open()

    def pause(self, within: float) -> list[str]:
        """Have all wait; return the names of those who don't *within* so many seconds."""
        self._gate.close()
        limit = time.monotonic() + within
        while self._gate.waiting < len(self._callers):
            if time.monotonic() > limit:
                return self.stuck(0.0) or ["a caller"]
            time.sleep(0.005)
        return []

    def stop(self, within: float) -> list[str]:
        """Have all end; return the names of those who don't *within* so many seconds."""
        self._gate.end()
        limit = time.monotonic() + within
        for each in self._callers:
            each.task.join(max(0.0, limit - time.monotonic()))
        return [each.task.name for each in self._callers if each.task.is_alive()]

    def stuck(self, after: float) -> list[str]:
        """Return the names of those whose call should have ended so many seconds ago."""
        limit = time.monotonic() - after
        return [each.task.name for each in self._callers if each.due < limit] + self._ended()

    def answered(self) -> Counter[str]:
        """Return how many calls were answered so far, by pool."""
        return sum((each.answered for each in self._callers), Counter())

    def errors(self) -> Counter[str]:
        """Return how many calls ended with which error of which pool."""
        return sum((each.errors for each in self._callers), Counter())

    def count(self, name: str) -> Count:
        """Return what all have counted of a pool."""
        total = Count()
        for each in self._callers:
            total.add(each.counts.get(name, Count()))
        return total

    def _ended(self) -> list[str]:
        """Return what has ended a caller that should be there."""
        return [
            f"{each.task.name}: {each.task.error!r}"
            for each in self._callers
            if not each.task.is_alive() and each.task.error is not None
        ]
