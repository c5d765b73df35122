"""The promises, judged by somebody who knows only what callers saw and what the servers hold.

Nothing of poolkit is used here: a promise that poolkit breaks can't hide behind its own idea of it.
"""

from __future__ import annotations

import enum
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

GRACE = 0.050
"""Seconds after its deadline within which each call has ended."""

RECOVERY = 1.0
"""Seconds after the server is back within which a caller is served."""


class Fate(enum.Enum):
    """What a caller was told of what it asked for."""

    ACKNOWLEDGED = "acknowledged"
    FAILED = "failed"  # and surely did not happen
    UNKNOWN = "unknown"  # or nothing was told, as to one that was interrupted


@dataclass
class Call:
    """One call as its caller saw it. Moments are on the monotonic clock.

    ``ids`` are what it writes, each of which is written by no other call, or what it asks for. ``answer`` is what it
    was given, to be compared with the ids. ``ended`` is infinite while nothing is known of its end. ``expected``:
    whether the error is one that is documented. ``queued``: the seconds for which its thread waited for a core.
    """

    kind: str
    ids: tuple[str, ...]
    budget: float
    writes: bool
    began: float = field(default_factory=time.monotonic)
    ended: float = math.inf
    fate: Fate = Fate.UNKNOWN
    answer: tuple[str, ...] | None = None
    error: str = ""
    expected: bool = True
    queued: float = 0.0
    thread: str = ""

    @property
    def overshoot(self) -> float:
        """Seconds past its deadline at which it ended; negative if it ended before."""
        return self.ended - (self.began + self.budget)

    def __str__(self) -> str:
        took = self.ended - self.began
        said = f", {self.error}" if self.error else ""
        return (
            f"{self.kind} {' '.join(self.ids)} by {self.thread} "
            f"({self.fate.value} after {took:.3f} s of {self.budget:g} s{said})"
        )


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was found when all callers had ended, at the servers and in this process.

    ``effects``: how often each id took effect. ``forgot``: up to when what the server held may be gone, as it keeps
    nothing over its end. ``recovered``: seconds until a caller was served after the server was back; infinite if none
    was. ``turns`` of ``most``: connections that could be held at a time. ``connections`` that the server had
    of the pool, of which the pool knew ``known``, and ``afterwards``, when the pool was closed.
    """

    effects: Mapping[str, int]
    forgot: float = -math.inf
    recovered: float = 0.0
    in_use: int = 0
    waiting: int = 0
    turns: int = 0
    most: int = 0
    connections: int = 0
    known: int = 0
    afterwards: int = 0
    stuck: Sequence[str] = ()
    threads: Sequence[str] = ()
    spilled: Sequence[str] = ()


@dataclass(frozen=True)
class Violation:
    """A promise that was broken, and what shows it."""

    promise: str
    detail: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.detail}"


class Losses(Protocol):
    """What a busy machine takes from everybody."""

    def lost(self, since: float, until: float) -> float:
        """Return how many seconds between two moments were lost to those who want nothing but to wake up."""

    def contended(self, since: float, until: float) -> float:
        """Return how many of these were lost not for want of a core, but of the interpreter."""


class NoLosses:
    """A machine that is always there."""

    def lost(self, since: float, until: float) -> float:
        """Return 0."""
        return 0.0

    contended = lost


AT_MOST = 3
"""Examples to show of one kind."""


class Bookkeeper:
    """Notes what callers are told, and judges it in the end."""

    def __init__(self, losses: Losses | None = None) -> None:
        self.calls: list[Call] = []
        self._losses = losses or NoLosses()

    def begin(self, call: Call) -> Call:
        """Note a call before it is made: one that is interrupted can't be noted after it."""
        self.calls.append(call)
        return call

    def judge(self, evidence: Evidence) -> list[Violation]:
        """Return all promises that were broken."""
        calls = list(self.calls)
        found: list[Violation] = []
        for promise, details in (
            ("nothing crossed", _crossed(calls, evidence)),
            ("nothing acknowledged lost", _missing(calls, evidence)),
            ("nothing doubled", _doubled(calls, evidence)),
            ("what failed did not happen", _happened(calls, evidence)),
            ("all of a block or nothing", _torn(calls, evidence)),
            ("no wait past the deadline", self._late(calls, evidence)),
            ("no errors but those known", _strange(calls)),
            ("healthy soon after the server", _ill(evidence)),
            ("nothing leaked", _leaked(evidence)),
            ("threads joined", _left_behind(evidence)),
            ("no secret told", iter(evidence.spilled)),
        ):
            every = list(details)
            shown = "; ".join(every[:AT_MOST])
            if every:
                more = f"; and {len(every) - AT_MOST} more" if len(every) > AT_MOST else ""
                found.append(Violation(promise, shown + more))
        return found

    def overshoot(self) -> tuple[float, float]:
        """Return by how many seconds the worst call was late: as measured, and less what the machine took."""
        ended = [call for call in list(self.calls) if call.ended < math.inf]
        return (
            max((call.overshoot for call in ended), default=-math.inf),
            max((self._overshoot(call) for call in ended), default=-math.inf),
        )

    def fates(self) -> Counter[Fate]:
        """Return how many calls came to which end."""
        return Counter(call.fate for call in list(self.calls))

    def errors(self) -> Counter[str]:
        """Return how many calls ended with which error."""
        return Counter(call.error.partition(":")[0] for call in list(self.calls) if call.error)

    def _overshoot(self, call: Call) -> float:
        """Return by how much it is late, less what the machine took from it after its deadline."""
        late = call.overshoot
        if late <= 0:
            return late
        span = call.began + call.budget, call.ended
        return late - max(self._losses.lost(*span), self._losses.contended(*span) + call.queued)

    def _late(self, calls: Sequence[Call], evidence: Evidence) -> Iterator[str]:
        for name in evidence.stuck:
            yield f"{name} is stuck"
        for call in calls:
            if call.ended < math.inf and (late := self._overshoot(call)) > GRACE:
                yield f"{late * 1000:.0f} ms (measured {call.overshoot * 1000:.0f}) late: {call}"


def _crossed(calls: Sequence[Call], evidence: Evidence) -> Iterator[str]:
    for call in calls:
        if call.answer is not None and call.answer != call.ids:
            yield f"{call} was answered {call.answer!r}"
    asked = {each for call in calls if call.writes for each in call.ids}
    for stranger in evidence.effects.keys() - asked:
        yield f"the server holds {stranger!r}, which nobody wrote"


def _missing(calls: Sequence[Call], evidence: Evidence) -> Iterator[str]:
    for call in calls:
        if call.writes and call.fate is Fate.ACKNOWLEDGED and call.began > evidence.forgot:
            gone = [each for each in call.ids if not evidence.effects.get(each)]
            if gone:
                yield f"{gone} of {call}"


def _doubled(calls: Sequence[Call], evidence: Evidence) -> Iterator[str]:
    by_id = {each: call for call in calls if call.writes for each in call.ids}
    for each, times in evidence.effects.items():
        if times > 1:
            yield f"{each!r} took effect {times} times: {by_id.get(each)}"


def _happened(calls: Sequence[Call], evidence: Evidence) -> Iterator[str]:
    for call in calls:
        if call.writes and call.fate is Fate.FAILED:
            done = [each for each in call.ids if evidence.effects.get(each)]
            if done:
                yield f"{done} of {call}"


def _torn(calls: Sequence[Call], evidence: Evidence) -> Iterator[str]:
    for call in calls:
        if call.writes and len(call.ids) > 1 and call.kind == "transaction":
            done = [each for each in call.ids if evidence.effects.get(each)]
            if 0 < len(done) < len(call.ids):
                yield f"only {done} of {call}"


def _strange(calls: Sequence[Call]) -> Iterator[str]:
    for call in calls:
        if not call.expected:
            yield str(call)


def _ill(evidence: Evidence) -> Iterator[str]:
    if evidence.recovered > RECOVERY:
        yield f"the first caller was served {evidence.recovered:.2f} s after the server was back"


def _leaked(evidence: Evidence) -> Iterator[str]:
    if evidence.in_use or evidence.waiting:
        yield f"{evidence.in_use} in use and {evidence.waiting} waiting when all callers had ended"
    if evidence.turns < evidence.most:
        yield f"only {evidence.turns} connections can be held, of {evidence.most}"
    if evidence.connections > evidence.known:
        yield f"the server has {evidence.connections} connections, the pool knows {evidence.known}"
    if evidence.afterwards:
        yield f"the server has {evidence.afterwards} connections of a pool that is closed"


def _left_behind(evidence: Evidence) -> Iterator[str]:
    for name in evidence.threads:
        yield f"{name} still runs when the pool is closed"
