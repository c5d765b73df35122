"""Which calls went on past their deadlines, by more than the machine has taken from them."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from tests.faults.bookkeeper import GRACE
from tests.faults.control import Control
from tests.faults.soak.findings import Findings

PROMISE = "no wait past the deadline"


@dataclass(frozen=True)
class _Late:
    due: float
    ended: float
    queued: float
    what: str


class Lateness:
    """Judges calls that ended late once it is known what the machine took from everybody. A context manager.

    What a :class:`Control` notes grows with time: so there is a new one at each turn, and the one before it, for calls
    that began then.
    """

    def __init__(self, findings: Findings, grace: float = GRACE) -> None:
        self._findings = findings
        self._grace = grace
        self._controls: list[Control] = []
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._late: list[_Late] = []

    def __enter__(self) -> Lateness:
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.turn()
        for control in self._controls:
            control.__exit__(None, None, None)
        self._controls.clear()

    def note(self, due: float, ended: float, queued: float, what: str) -> None:
        """Note a call that *ended*, with how long its thread was *queued* for a core; most are not late at all."""
        if ended - due > self._grace:
            with self._lock:
                self._late.append(_Late(due, ended, queued, what))

    def turn(self) -> None:
        """Judge those that were noted since the last turn."""
        with self._lock:
            late, self._late = self._late, []
        for each in late:
            excess = each.ended - each.due - self._taken(each)
            if excess > self._grace:
                measured = each.ended - each.due
                self._findings.add(
                    PROMISE,
                    f"{excess * 1000:.0f} ms (measured {measured * 1000:.0f}) late: {each.what}",
                )
        self._begin()
        while len(self._controls) > 2:
            self._controls.pop(0).__exit__(None, None, None)

    def _begin(self) -> None:
        control = Control()
        control.__enter__()
        self._controls.append(control)

    def _taken(self, late: _Late) -> float:
        span = late.due, late.ended
        return max(
            max(control.lost(*span), control.contended(*span) + late.queued)
            for control in self._controls
        )
