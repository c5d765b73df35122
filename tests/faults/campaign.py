"""A campaign: cells in an order from a seed, until its time is over."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from fnmatch import fnmatch

from poolkit.embedded import EmbeddedError
from poolkit.embedded.server import Server
from tests.faults.faults import FAULTS
from tests.faults.performance import STATES, Cell, Performance, Result
from tests.faults.subjects import Subject

FAULT_LASTS = 0.8

_numbers = itertools.count(1)  # of all campaigns: some share a server


def cells(subjects: Sequence[str], only: Sequence[str] = ()) -> list[Cell]:
    """Return the cells that one of *only* means: a name, a pattern with ``*``, a part of names; if none, all."""
    every = [
        Cell(fault, subject, state) for fault in FAULTS for subject in subjects for state in STATES
    ]
    return [cell for cell in every if not only or any(_means(each, str(cell)) for each in only)]


def _means(pattern: str, name: str) -> bool:
    whole = all(pattern.split("/")) and pattern.count("/") == 2
    return fnmatch(name, pattern) or (pattern in name and not whole)


class Campaign:
    """Plays cells with subjects whose servers it starts when they are first needed. A context manager."""

    def __init__(
        self,
        make: Mapping[str, Callable[[], Subject]],
        seed: int,
        *,
        lasts: float = FAULT_LASTS,
    ) -> None:
        self._make = make
        self._seed = seed
        self._lasts = lasts
        self._subjects: dict[str, Subject] = {}
        self._servers = ExitStack()
        self._times: Counter[Cell] = Counter()

    def __enter__(self) -> Campaign:
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.close()

    def rounds(self, cells: Sequence[Cell], seconds: float) -> Iterator[Cell]:
        """Yield all cells that can be played in random order, again and again, until so many seconds are over."""
        dice = random.Random(self._seed)
        over = time.monotonic() + seconds
        fit = [cell for cell in cells if not cell.unfit]
        while fit and time.monotonic() < over:
            for cell in dice.sample(fit, len(fit)):
                if time.monotonic() > over:
                    return
                yield cell

    def play(self, cell: Cell) -> Result:
        """Play one cell, and return what came out. Raises :class:`EmbeddedError` if its server can't be had."""
        subject = self._subject(cell.subject)
        self._times[cell] += 1
        dice = random.Random(f"{self._seed} {cell} {self._times[cell]}")
        return Performance(cell, subject, f"c{next(_numbers)}", dice, self._lasts).play()

    def _subject(self, name: str) -> Subject:
        subject = self._subjects.get(name)
        if subject is None:
            subject = self._subjects[name] = self._make[name]()
            if not _is_started(subject.server):
                self._servers.callback(subject.server.close)
                subject.server.start()
        with suppress(EmbeddedError):  # one that does not run can't be frozen
            subject.server.resume()
        subject.server.start()
        return subject


def _is_started(server: Server) -> bool:
    """Whether a server is somebody else's, who has started it, and will close it."""
    try:
        return server.port > 0
    except EmbeddedError:
        return False
