"""Whether a process grows: judged from its samples, by nothing that could grow with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from tests.faults.bookkeeper import Violation
from tests.faults.soak.samples import Rest, Sample

MIB = 1024 * 1024

SLOPE = 1.0
"""Bytes an operation, so about a MiB a million. The smallest thing that Python can leave behind takes 16 to 32 bytes:
one at each twentieth operation is seen. What leaks less often, at a fault or a connection, is seen by its kind."""

SHARE = 1.05
"""Of the first quarter after the warm-up, what the last may have."""

NOISE = 2 * MIB
"""By which memory goes up and down without a reason: two of the arenas that Python's allocator takes and gives back."""

FEWEST = 16
"""Samples after the warm-up from which on a tendency can be told."""

MOST_PAIRS = 120
"""Samples of which the slopes of all pairs are taken; of more, as many are picked."""

OBJECTS_EACH = 0.5
"""Objects of a kind that may be left for each fault. Whatever leaks one for each leaves twice as many."""

OBJECTS = 250
"""Objects of a kind by which bounded memories may still fill up, such as that of the last 200 events."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What there may be at any moment, as it follows from the sizes of the pools."""

    threads: int
    descriptors: int
    connections: int


def tendency(samples: Sequence[Sample]) -> list[Violation]:
    """Return whether memory grows from sample to sample, all of them taken after the warm-up."""
    if len(samples) < FEWEST:
        return []
    quarter = len(samples) // 4
    first = median(each.rss for each in samples[:quarter])
    last = median(each.rss for each in samples[-quarter:])
    slope = theil_sen([(each.operations, each.rss) for each in samples])
    told = (
        f"{slope:.2f} bytes an operation; from {first / MIB:.1f} MiB in the first quarter "
        f"to {last / MIB:.1f} MiB in the last"
    )
    if last > first * SHARE or (slope > SLOPE and last - first > NOISE):
        return [Violation("memory stays flat", told)]
    return []


def theil_sen(points: Sequence[tuple[float, float]]) -> float:
    """Return the median of the slopes between all pairs of points (Sen 1968): a few outliers do not move it."""
    step = -(-len(points) // MOST_PAIRS)
    slopes = [
        (y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points[::step], 2) if x2 > x1
    ]
    return median(slopes) if slopes else 0.0


def heights(samples: Sequence[Sample], bounds: Bounds) -> list[Violation]:
    """Return what there was more of than there may be."""
    found = []
    for what in ("threads", "descriptors", "connections"):
        highest = max((getattr(each, what) for each in samples), default=0)
        most = getattr(bounds, what)
        if highest > most:
            found.append(Violation(f"{what} stay bounded", f"{highest}, of at most {most}"))
    return found


def rests(first: Rest, last: Rest, *, objects: int = OBJECTS) -> list[Violation]:
    """Return what there is more of at rest in the end than after the warm-up."""
    found = []
    for what in ("threads", "descriptors"):
        more = _more(getattr(first, what), getattr(last, what), 0)
        if more:
            found.append(Violation(f"{what} stay the same", more))
    faults = last.sample.faults - first.sample.faults
    more = _more(first.objects, last.objects, max(objects, OBJECTS_EACH * faults))
    if more:
        found.append(Violation("objects stay the same", more))
    return found


def _more(first: Mapping[str, int], last: Mapping[str, int], by: float) -> str:
    """Return of which kinds there are more than *by*, the most first."""
    growth = {kind: count - first.get(kind, 0) for kind, count in last.items()}
    grown = sorted(
        (kind for kind, more in growth.items() if more > by), key=growth.__getitem__, reverse=True
    )
    return ", ".join(f"{growth[kind]} more of {kind} ({first.get(kind, 0)})" for kind in grown[:8])
