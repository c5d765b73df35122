"""One soak, from its warm-up to what is left at its end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.faults.bookkeeper import GRACE, Violation
from tests.faults.soak import judge, samples
from tests.faults.soak.callers import Callers
from tests.faults.soak.findings import Findings
from tests.faults.soak.judge import Bounds
from tests.faults.soak.lateness import PROMISE, Lateness
from tests.faults.soak.places import scene, settle
from tests.faults.soak.samples import Rest, Sample
from tests.faults.soak.weather import Weather
from tests.faults.subjects import SIZE, Subject, until

WARM_UP = 0.2
"""The share of a run after which everything is there that a pool ever makes: connections, statements, memories."""

STUCK = 5.0
"""Seconds after its deadline at which a call is given up."""

PATIENCE = 20.0

OURS = 7
"""Threads beside callers: poolkit's housekeeper and its advice, the weather and its helper, and three controls."""

ASIDE = 40
"""Descriptors that faults and looks past the pool use for a moment: the full server of a fault has 20 connections."""

UNTOLD = ("postgres",)
"""Pools whose blocks are no operations, and yet count the errors that they end with: nobody else can count those."""

Show = Callable[[Sample], object]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came out of a soak."""

    seed: int
    seconds: float
    samples: Sequence[Sample]
    warm: int
    """How many of the samples belong to the warm-up."""
    answered: Mapping[str, int]
    errors: Mapping[str, int]
    played: Mapping[str, int]
    counted: Mapping[str, tuple[int, int]]
    """Operations of each pool: as it says, and as was counted."""
    rests: Sequence[Rest]
    bounds: Bounds
    violations: Sequence[Violation]


class Soak:
    """Has *operations* answered by all subjects together, in *seconds* at most, and takes a sample *every* few."""

    def __init__(
        self,
        subjects: Mapping[str, Subject],
        *,
        seed: int,
        operations: int,
        seconds: float,
        every: float,
        grace: float = GRACE,
        objects: int = judge.OBJECTS,
    ) -> None:
        self._subjects = subjects
        self._seed = seed
        self._operations = operations
        self._seconds = seconds
        self._every = every
        self._findings = Findings()
        self._grace = grace
        self._objects = objects
        self._samples: list[Sample] = []
        self._rests: list[Rest] = []
        self._warm = 0

    def run(self, show: Show) -> Outcome:
        """Run it, *show* each sample, and return what came out."""
        dice = random.Random(self._seed)
        threads, self._descriptors = threading.active_count(), samples.descriptors().total()
        self._began = time.monotonic()
        with (
            scene(self._subjects, dice) as where,
            Lateness(self._findings, self._grace) as self._lateness,
        ):
            self._where = where
            callers = Callers(where.places, dice, where.told, self._findings, self._lateness)
            weather = Weather(where.places, dice, self._findings)
            self._callers, self._weather = callers, weather
            bounds = self._bounds(threads)
            try:
                for share in (WARM_UP, 1.0):
                    callers.go_on()
                    weather.go_on()
                    self._soak(share, show)
                    self._rest()
                    self._warm = self._warm or len(self._samples)
            finally:
                self._join(weather.stop(PATIENCE) + callers.stop(PATIENCE))
            for text in where.ears.spilled:
                self._findings.add("no secret told", text)
        counted = self._compare()  # now that nobody, not even a health check, is under way
        self._judge(bounds)
        return Outcome(
            seed=self._seed,
            seconds=time.monotonic() - self._began,
            samples=self._samples,
            warm=self._warm,
            answered=dict(callers.answered()),
            errors=dict(callers.errors()),
            played=dict(weather.played),
            counted=counted,
            rests=self._rests,
            bounds=bounds,
            violations=self._findings.violations(),
        )

    # -- private -----------------------------------------------------------------------------------------

    def _soak(self, share: float, show: Show) -> None:
        """Take samples until that share of the operations is answered, or of the time over."""
        while True:
            time.sleep(self._every)
            self._lateness.turn()
            self._where.look()
            sample = self._sample()
            self._samples.append(sample)
            show(sample)
            for name in self._callers.stuck(STUCK):
                self._findings.add(PROMISE, f"{name} is stuck")
                return
            if sample.operations >= share * self._operations or sample.at >= share * self._seconds:
                return

    def _sample(self) -> Sample:
        return samples.take(
            began=self._began,
            operations=self._callers.answered().total(),
            faults=self._weather.played.total(),
            connections=sum(place.proxy.live for place in self._where.places),
        )

    def _rest(self) -> None:
        """Have everybody pause and all pools have all connections, and look what there is."""
        self._join(self._weather.pause(PATIENCE) + self._callers.pause(PATIENCE))
        for place in self._where.places:
            turns = place.turns()
            if turns < SIZE:
                self._findings.add(
                    "nothing leaked", f"only {turns} connections of {place.name} can be held"
                )
        for name in settle(self._where.places):
            self._findings.add("nothing leaked", f"{name} does not come to rest")
        ports = {place.proxy.port for place in self._where.places}
        self._rests.append(samples.rest(self._sample(), ports))

    def _join(self, stuck: Sequence[str]) -> None:
        for name in stuck:
            self._findings.add("threads joined", f"{name} does not stop")

    def _compare(self) -> dict[str, tuple[int, int]]:
        """Return what each pool has counted, and what was counted of it; note where that is not the same."""
        compared = {}
        for place in self._where.places:
            counted = self._callers.count(place.name)
            counted.add(self._where.told.of(place.subject.pool.name))
            stats = place.subject.pool.stats()
            compared[place.name] = stats.operations, counted.operations
            until(lambda: not place.subject.connections(), PATIENCE)  # noqa: B023
            if left := place.subject.connections():
                self._findings.add(
                    "nothing leaked", f"{left} connections of {place.name}, which is closed"
                )
            for what, said, known in (
                ("operations", stats.operations, counted.operations),
                *([] if place.name in UNTOLD else [("errors", stats.errors, counted.errors)]),
                ("leases that were used", stats.use.count, stats.leases - stats.leaked),
            ):
                if said != known:
                    self._findings.add(
                        "exact numbers", f"{place.name} says {said} {what}, {known} were counted"
                    )
        return compared

    def _bounds(self, threads: int) -> Bounds:
        """Return what may be there: a pool may have as many connections again on their way out, and for cancelling."""
        pools = len(self._where.places)
        connections = 3 * SIZE * pools
        return Bounds(
            # Of each pool a health check, a probe, and for each connection a cancellation or a lookup; and the threads
            # of a fault that die holding.
            threads=threads + len(self._callers) + pools * (2 + SIZE) + SIZE + OURS,
            # Each proxy is told things over one; callers look at their queue.
            descriptors=self._descriptors + connections + pools + len(self._callers) + ASIDE,
            connections=connections,
        )

    def _judge(self, bounds: Bounds) -> None:
        first, last = self._rests
        warm = self._samples[self._warm :]
        for violation in (
            *judge.tendency(warm),
            *judge.heights(self._samples, bounds),
            *judge.rests(first, last, objects=self._objects),
        ):
            self._findings.add(violation.promise, violation.detail)
