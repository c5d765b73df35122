"""Callers of a pool, and what becomes of their calls."""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

from poolkit import deadline
from tests.core.support import Interrupted, Task
from tests.faults.bookkeeper import Bookkeeper, Call, Fate
from tests.faults.control import queued
from tests.faults.subjects import UNKNOWN, Subject
from tests.forks import Child
from tests.interruptions import Interruption, Struck

PAUSE = 0.002
"""Seconds between two calls of one caller: enough are under way, and the machine has time for what it does else."""

AT_LEISURE = 0.02

AFTER_FAILURE = 0.02
"""Nobody who is turned away at once comes back at once."""

BUDGETS = (0.1, 0.3, 1.0)
"""Deadlines of the calls, in seconds."""

PATIENCE = 10.0
POINTS = 100
"""Of a call, at most, at which it may be interrupted in poolkit's own code."""

MIDWAY = 0.6  # of its budget may have passed when a caller goes on that was midway in a block

OURS = str(Path(__file__).parents[1])
"""The folder of the tests: their lines don't say where poolkit was."""

MIXED = ("write", "write", "write", "read", "read", "upsert", "block")
BLOCKS = ("block",)


class Crew:
    """Threads that call a pool again and again, as *kinds* of calls, until they are stopped.

    While it has not been told to :meth:`go_on`, each stops midway in its block, for a part of its time: ``inside`` is
    set when one has.
    """

    def __init__(
        self,
        subject: Subject,
        book: Bookkeeper,
        cell: str,
        dice: random.Random,
        *,
        see: Callable[[str], object],
    ) -> None:
        self.inside = threading.Event()
        self.interruptions: list[str] = []
        """Where callers were interrupted: the thread, then the lines, the innermost first."""
        self._subject = subject
        self._book = book
        self._cell = cell
        self._dice = dice
        self._see = see
        self._numbers = itertools.count(1)
        self._names = itertools.count(1)
        self._gone_on = threading.Event()
        self._over = threading.Event()
        self._tasks: list[Task] = []
        self._forks = threading.Event()
        self._kinds: Sequence[str] = MIXED
        self._pause = PAUSE
        self._share = 0.0

    def start(self, size: int, kinds: Sequence[str], pause: float = PAUSE) -> None:
        """Have so many threads begin."""
        self._kinds = kinds
        self._pause = pause
        for _ in range(size):
            self._add()

    def go_on(self) -> None:
        """Stop midway no more."""
        self._gone_on.set()

    def call(self, kind: str, budget: float) -> Call:
        """Make one call, and return what is known of it."""
        return self._make(self._plan(kind, budget, 3 if kind == "block" else 1))

    def interrupt(self) -> None:
        """Throw an exception into one of the threads, wherever it is."""
        with suppress(AssertionError, IndexError):  # it has ended, or nobody has begun
            self._dice.choice(self._tasks).interrupt()

    def strike(self, share: float) -> None:
        """Have a share of the calls interrupted somewhere in poolkit's own code."""
        self._share = share

    def fork(self) -> None:
        """Have a child of this process use the pool."""
        plans = [self._plan(kind, 1.0, 1) for kind in ("write", "read", "upsert")]

        def work() -> list[Call]:
            return [self._make(plan) for plan in plans]

        child = Child(work)
        try:
            for plan, done in zip(plans, child.outcome(), strict=True):
                vars(plan).update(vars(done))
        except AssertionError as error:
            plans[0].error, plans[0].expected = f"the child: {error}", False

    def fork_midway(self) -> None:
        """Have the next caller that is midway in a block do so."""
        self._forks.set()

    def stop(self) -> list[str]:
        """Have all threads end; return where those are that don't."""
        self._over.set()
        self.go_on()
        limit = time.monotonic() + PATIENCE
        for task in self._tasks:
            task.join(max(0.0, limit - time.monotonic()))
        return [_where(task) for task in self._tasks if task.is_alive()]

    # -- private -----------------------------------------------------------------------------------------

    def _add(self) -> None:
        dice = random.Random(self._dice.random())
        self._tasks.append(Task(self._work, dice, name=f"caller-{next(self._names)}"))

    def _work(self, dice: random.Random) -> None:
        while not self._over.is_set():
            # Twice: one that comes between two calls may fall on what would have caught it.
            with suppress(Interrupted, Struck):
                self._call_on(dice)

    def _call_on(self, dice: random.Random) -> None:
        while not self._over.is_set():
            try:
                call = self.call(dice.choice(self._kinds), dice.choice(BUDGETS))
                failed = call.fate is not Fate.ACKNOWLEDGED
                self._over.wait(max(self._pause, AFTER_FAILURE) if failed else self._pause)
            except (Interrupted, Struck):
                continue

    def _plan(self, kind: str, budget: float, count: int) -> Call:
        if kind == "block":
            kind = self._subject.block
        return self._book.begin(
            Call(
                kind=kind,
                ids=tuple(f"{self._cell}.{next(self._numbers)}" for _ in range(count)),
                budget=budget,
                writes=kind != "read",
                thread=threading.current_thread().name,
            )
        )

    def _make(self, call: Call) -> Call:
        interruption: Interruption | None = None
        waited = queued()
        call.began = time.monotonic()
        try:
            with deadline(call.budget), self._struck() as interruption:
                call.answer = self._ask(call)
            call.ended = time.monotonic()
            call.fate = Fate.ACKNOWLEDGED
        except BaseException as error:
            call.ended = time.monotonic()
            call.error = f"{type(error).__name__}: {error}"
            if isinstance(error, Struck) and interruption is not None:
                call.error += f" {interruption.where}"
            # What may be asked for again can fail though it was done.
            sure = call.kind != "upsert" and not isinstance(error, UNKNOWN)
            call.fate = Fate.FAILED if sure else Fate.UNKNOWN
            call.expected = isinstance(error, (*self._subject.errors, *UNKNOWN))
            if not call.expected:
                call.error = "".join(traceback.format_exception(error))
            self._see(f"{error!r} {error} {error.__cause__!r} {error.__context__!r}")
            if place := _struck_at(error):
                self.interruptions.append(f"{call.thread} at {place}")
            if not isinstance(error, Exception):
                raise
        finally:
            call.queued = queued() - waited
        return call

    def _ask(self, call: Call) -> tuple[str, ...] | None:
        subject = self._subject
        if call.kind == subject.block:
            answer = subject.in_block(call.ids, lambda: self._midway(call))
            return None if answer is None else tuple(answer)
        ask = {"write": subject.write, "upsert": subject.upsert, "read": subject.read}[call.kind]
        return (ask(call.ids[0]),)

    def _struck(self) -> AbstractContextManager[Interruption | None]:
        if self._dice.random() >= self._share:
            return nullcontext()
        return Interruption(self._dice.randrange(1, POINTS), within=("/poolkit/",))

    def _midway(self, call: Call) -> None:
        if self._forks.is_set():
            self._forks.clear()
            self.fork()
        if not self._gone_on.is_set():
            self.inside.set()
            self._gone_on.wait(max(0.0, call.began + MIDWAY * call.budget - time.monotonic()))


def _struck_at(error: BaseException | None) -> str:
    """Return where the interruption fell that *error* is, or came of; empty if there was none."""
    while error is not None and not isinstance(error, (Interrupted, Struck)):
        error = error.__cause__ or error.__context__
    if error is None:
        return ""
    lines = [
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(OURS)
    ]
    return " < ".join(reversed(lines)) or "a line of the campaign's own"


def _where(task: threading.Thread) -> str:
    """Return where a thread is."""
    frame = sys._current_frames().get(task.ident or 0)
    calls = traceback.format_stack(frame)[-8:] if frame else []
    return f"{task.name}, at\n{''.join(calls)}"
