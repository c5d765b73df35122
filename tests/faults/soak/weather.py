"""A fault a second, on one pool or another, as chance has it."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence

from tests.core.support import Task
from tests.faults.faults import FAULTS, Fault
from tests.faults.soak.findings import Findings
from tests.faults.soak.places import Place

EVERY = 1.0
LASTS = (0.1, 0.4)
"""Seconds, from and to."""

APART = frozenset(
    {"none", "interrupted anywhere", "interrupted within poolkit", "forked", "clock jumps"}
)
"""Faults that take this process itself apart, and with it those who measure it; and the one that is none."""


LONG = {"firestore": frozenset({"killed and restarted", "shut down and restarted"})}
"""Faults that a pool's server takes seconds to come back from: there could not be one a second."""


def fit(name: str) -> Sequence[Fault]:
    """Return the faults that can be played on the pool of that name."""
    apart = APART | LONG.get(name, frozenset())
    return [fault for fault in FAULTS if fault.name not in apart and name not in fault.unfit]


class Weather:
    """Plays faults in a thread of its own, one after the other, until it is over; in pauses there are none."""

    def __init__(self, places: Sequence[Place], dice: random.Random, findings: Findings) -> None:
        self.played: Counter[str] = Counter()
        self._pairs = [(fault, place) for place in places for fault in fit(place.name)]
        self._dice = dice
        self._findings = findings
        self._playing = ""
        self._over = threading.Event()
        self._turn = threading.Lock()
        """Who has it may play; others wait."""
        self._turn.acquire()
        self._paused = True
        self._task = Task(self._work, name="weather")

    def go_on(self) -> None:
        """Begin, or go on."""
        if self._paused:
            self._paused = False
            self._turn.release()

    def pause(self, within: float) -> list[str]:
        """Play no more; return what does not end *within* so many seconds."""
        if self._turn.acquire(timeout=within):
            self._paused = True
            return []
        return [f"{self._task.name}, with {self._playing},"]

    def stop(self, within: float) -> list[str]:
        """End; return its name if it does not *within* so many seconds."""
        self._over.set()
        self.go_on()
        self._task.join(within)
        if self._task.is_alive():
            return [self._task.name]
        return [] if self._task.error is None else [repr(self._task.error)]

    def _work(self) -> None:
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            with self._turn:
                if not self._over.is_set():
                    self._play()
            due = max(due + EVERY, time.monotonic())

    def _play(self) -> None:
        fault, place = self._dice.choice(self._pairs)
        name = self._playing = f"{fault.name}/{place.name}"
        try:
            with fault.within(place.stage):
                time.sleep(self._dice.uniform(*LASTS))
            place.subject.seed()
            place.subject.answers()
        except Exception as error:
            self._findings.add("the soak itself", f"{name}: {error!r}")
        self.played[name] += 1
