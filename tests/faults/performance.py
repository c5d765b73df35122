"""One cell: a fault, on a pool, in a state, and what its callers, the server and this process have to show for it."""

from __future__ import annotations

import gc
import math
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from poolkit import PoolKitError, deadline
from tests.faults.bookkeeper import Bookkeeper, Evidence, Fate, Violation
from tests.faults.control import Control
from tests.faults.crew import AT_LEISURE, BLOCKS, MIXED, Crew
from tests.faults.ears import Ears
from tests.faults.faults import Fault, Stage
from tests.faults.proxy import FaultProxy
from tests.faults.subjects import HOST, SIZE, Subject, until
from tests.http.dns import ScriptedDns

STATES = ("idle", "loaded", "in a block")
CREWS = {"idle": 2, "loaded": 8, "in a block": 6}

WARM_UP = 0.3
AFTERWARDS = 0.2
RECOVERY_LIMIT = 5.0
SETTLE = 2.0


@dataclass(frozen=True)
class Cell:
    """One fault, on one subject, in one state."""

    fault: Fault
    subject: str
    state: str

    def __str__(self) -> str:
        return f"{self.fault.name}/{self.subject}/{self.state}"

    @property
    def unfit(self) -> str:
        """Why it can't be played; empty if it can."""
        return self.fault.unfit.get(self.subject, "")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came out of one cell. Seconds, and counts of calls."""

    cell: Cell
    violations: Sequence[Violation]
    fates: Counter[Fate]
    errors: Counter[str]
    overshoot: float
    measured: float
    """The overshoot with what the machine took."""
    recovered: float
    stalled: float
    seconds: float
    interruptions: Sequence[str] = ()
    """Where callers were interrupted."""


class Performance:
    """One cell, once, by a *name* that no other has; the fault *lasts* so many seconds."""

    def __init__(
        self, cell: Cell, subject: Subject, name: str, dice: random.Random, lasts: float
    ) -> None:
        self._cell = cell
        self._subject = subject
        self._name = name
        self._dice = dice
        self._lasts = lasts
        self._facts: dict[str, Any] = {}

    def play(self) -> Result:
        """Play it, and return what came out."""
        began = time.monotonic()
        subject = self._subject
        with (
            Ears(subject.secrets) as ears,
            Control() as control,
            FaultProxy("127.0.0.1", subject.server.port) as proxy,
            named(proxy.host) as names,
        ):
            book = Bookkeeper(control)
            crew = Crew(subject, book, self._name, self._dice, see=ears.see)
            stage = Stage(subject, proxy, crew, names, self._dice)
            threads = set(threading.enumerate())
            subject.open(self._name, HOST if subject.looks_names_up else proxy.host, proxy.port)
            try:
                subject.pool.open()
                self._warm_up()
                back = self._strike(stage)
                recovered = self._recovery(crew, back)
                time.sleep(AFTERWARDS)
                stuck = crew.stop()
                self._settle()
                ears.see(f"{subject.pool!r} {subject.pool.config!r} {subject.pool.stats()!r}")
            finally:
                crew.stop()
                subject.pool.close()
            effects = self._effects()  # before what follows: to ask for them takes connections, too
            until(lambda: not subject.connections(), SETTLE)
            until(lambda: not _new_threads(threads), SETTLE)
            evidence = Evidence(
                effects=effects,
                forgot=stage.forgot if subject.forgets else -math.inf,
                recovered=recovered - control.lost(back, back + recovered),
                afterwards=subject.connections(),
                stuck=stuck,
                threads=_new_threads(threads),
                spilled=ears.spilled,
                **self._facts,
            )
            violations = book.judge(evidence)
            measured, overshoot = book.overshoot()
            return Result(
                cell=self._cell,
                violations=violations,
                fates=book.fates(),
                errors=book.errors(),
                overshoot=overshoot,
                measured=measured,
                recovered=evidence.recovered,
                stalled=control.worst,
                seconds=time.monotonic() - began,
                interruptions=crew.interruptions,
            )

    def _warm_up(self) -> None:
        """Have connections there that are idle."""
        with ExitStack() as held, deadline(5):
            for _ in range(2):
                held.enter_context(self._subject.hold())

    def _strike(self, stage: Stage) -> float:
        """Play the fault in the state; return the moment at which the server was back."""
        state, crew = self._cell.state, stage.crew
        kinds = BLOCKS if state == "in a block" else MIXED
        if state != "in a block":
            crew.go_on()
        if state != "idle":
            crew.start(CREWS[state], kinds)
            if state == "in a block":
                crew.inside.wait(1)
            else:
                time.sleep(WARM_UP)
        with self._cell.fault.within(stage):
            if state == "idle":
                crew.start(CREWS[state], kinds, AT_LEISURE)
            crew.go_on()
            time.sleep(self._lasts)
        self._subject.seed()
        self._subject.answers()
        return time.monotonic()

    def _recovery(self, crew: Crew, back: float) -> float:
        """Return the seconds until a caller was served, after the server was back."""
        while time.monotonic() - back < RECOVERY_LIMIT:
            call = crew.call("read", 1.0)
            if call.fate is Fate.ACKNOWLEDGED:
                return call.ended - back
            time.sleep(0.005)
        return math.inf

    def _settle(self) -> None:
        """Look at what is left when all callers have ended."""
        subject, pool = self._subject, self._subject.pool
        # A connection and its cursor know each other: one that an interruption let fall waits for Python's collector.
        gc.collect()
        until(lambda: pool.stats().in_use == pool.stats().waiting == 0, SETTLE)
        stats = pool.stats()
        turns = self._turns()
        until(lambda: subject.connections() <= pool.stats().size, SETTLE)
        self._facts = {
            "in_use": stats.in_use,
            "waiting": stats.waiting,
            "turns": turns,
            "most": SIZE,
            "connections": subject.connections(),
            "known": pool.stats().size,
        }

    def _turns(self) -> int:
        """Return how many connections can be held at a time."""
        with ExitStack() as held, deadline(3):
            for number in range(SIZE):
                try:
                    held.enter_context(self._subject.hold())
                except PoolKitError:
                    return number
        return SIZE

    def _effects(self) -> dict[str, int]:
        """Return what the server holds when that changes no more."""
        before = None
        while before != (now := dict(self._subject.effects())):
            before = now
            time.sleep(0.05)
        return now


@contextmanager
def named(host: str) -> Iterator[ScriptedDns]:
    """Give a hold on what the name of the server leads to: to *host*, at first."""
    names = ScriptedDns()
    names.answers(HOST, host)
    with mock.patch.object(socket, "getaddrinfo", names.getaddrinfo):
        try:
            yield names
        finally:
            names.release()


def _new_threads(before: set[threading.Thread]) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread not in before]
