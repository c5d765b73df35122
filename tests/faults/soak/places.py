"""Where a soak takes place: each pool behind a proxy, all of them in one kit that is watched and measured."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest

from poolkit import PoolKit, deadline
from poolkit.kit.watching import WatchSettings
from poolkit.observe.opentelemetry import OpenTelemetryListener
from poolkit.observe.prometheus import Exporter
from tests.faults.bookkeeper import Bookkeeper
from tests.faults.crew import Crew
from tests.faults.ears import Ears
from tests.faults.faults import Stage
from tests.faults.performance import named
from tests.faults.proxy_apart import ProxyApart
from tests.faults.soak.counting import Told
from tests.faults.subjects import HOST, SIZE, Subject, until
from tests.http.dns import ScriptedDns

POOLS = ["postgres", "redis", "http", "firestore"]
"""The subjects: one of each pool."""

CELL = "soak"
"""What all that is written belongs to."""

WATCH = WatchSettings(health_every=5.0, leaks_every=5.0)
"""More often than usual, to take part more often."""

MEASURED = ("http", "firestore")
"""Whose operations OpenTelemetry hears of: it takes longer than a combined read, of which there are to be many."""

PATIENCE = 20.0

HOUSEKEEPER = "poolkit-housekeeper"


@dataclass(frozen=True)
class Place:
    """A subject, the way to it, and where faults are played."""

    subject: Subject
    proxy: ProxyApart
    stage: Stage

    @property
    def name(self) -> str:
        """What its pool is called here."""
        return self.subject.name

    def is_at_rest(self) -> bool:
        """Whether nobody uses the pool, and the server has no connections that the pool doesn't know."""
        stats = self.subject.pool.stats()
        return (
            stats.in_use == stats.waiting == 0
            and self.subject.connections() <= stats.size
            and self.proxy.live <= stats.size
        )

    def turns(self) -> int:
        """Have all connections held at once; return how many that are."""
        with ExitStack() as held, deadline(PATIENCE):
            for number in range(SIZE):
                try:
                    held.enter_context(self.subject.hold())
                except self.subject.errors:
                    return number
        return SIZE


class Scene:
    """All places, with their pools in one kit, and those who listen to it."""

    def __init__(
        self,
        places: Sequence[Place],
        kit: PoolKit,
        told: Told,
        ears: Ears,
        reader: InMemoryMetricReader,
    ) -> None:
        self.places = places
        self.kit = kit
        self.told = told
        self.ears = ears
        self._reader = reader
        self._registry = CollectorRegistry()
        self._exporter = Exporter(kit, registry=self._registry)

    def look(self) -> None:
        """Read everything that can be read of the kit, as a dashboard and a scrape do."""
        generate_latest(self._registry)
        self._reader.get_metrics_data()
        for text in (
            repr(self.kit),
            self.kit.leak_report(),
            str(self.kit.health()),
            str(self.kit.leases()),
            str(self.kit.events()),
        ):
            self.ears.see(text)
        for place in self.places:
            place.stage.names.asked.clear()  # which would grow

    def close(self) -> None:
        """Close what measures it."""
        self._exporter.close()


@contextmanager
def scene(subjects: Mapping[str, Subject], dice: random.Random) -> Iterator[Scene]:
    """Give all of these subjects, whose servers run, in one kit that is open."""
    secrets = [secret for subject in subjects.values() for secret in subject.secrets]
    with ExitStack() as stack:
        ears = stack.enter_context(Ears(secrets))
        proxies = [
            stack.enter_context(ProxyApart("127.0.0.1", subject.server.port))
            for subject in subjects.values()
        ]
        names = stack.enter_context(named(proxies[0].host))  # which all have the same address
        places = [
            _place(subject, proxy, names, dice)
            for subject, proxy in zip(subjects.values(), proxies, strict=True)
        ]
        told = Told()
        reader = InMemoryMetricReader()
        provider = MeterProvider(metric_readers=[reader])
        stack.callback(provider.shutdown)
        kit = _kit(places, told, OpenTelemetryListener(meter_provider=provider))
        with kit:
            found = Scene(places, kit, told, ears, reader)
            try:
                yield found
            finally:
                found.close()


def _place(subject: Subject, proxy: ProxyApart, names: ScriptedDns, dice: random.Random) -> Place:
    # Faults have callers go on; those of a soak never stop.
    crew = Crew(subject, Bookkeeper(), CELL, dice, see=lambda _: None)
    subject.open(CELL, HOST if subject.looks_names_up else proxy.host, proxy.port)
    return Place(subject, proxy, Stage(subject, proxy, crew, names, dice))


def _kit(places: Sequence[Place], told: Told, metrics: OpenTelemetryListener) -> PoolKit:
    """Return a kit whose pools take the place of those that the subjects have made, which were not used yet."""
    configs: dict[str, Any] = {
        place.name: dataclasses.replace(
            place.subject.pool.config,
            name=place.name,
            listeners=[metrics] if place.name in MEASURED else [],
        )
        for place in places
    }
    kit = PoolKit(**{"http": False, **configs}, name=CELL, watch=WATCH, listeners=[told])
    for place in places:
        place.subject.pool = kit.pools[place.name]
    return kit


def settle(places: Sequence[Place]) -> list[str]:
    """Wait until all places are at rest, and no check or probe is under way; return what is not so in the end."""
    restless = [place.name for place in places if not until(place.is_at_rest, PATIENCE)]
    until(lambda: not _passing_threads(), PATIENCE)
    return restless + _passing_threads()


def _passing_threads() -> list[str]:
    """Return the names of poolkit's threads but the one that stays."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("poolkit-") and name != HOUSEKEEPER]
