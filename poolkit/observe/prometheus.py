"""Metrics for Prometheus: plain ones, so that they add up under gunicorn's multiprocess mode too.

They cost requests nothing. Pools count by themselves; what was counted since the last time is added to the metrics
when they are scraped, and every few seconds, since in multiprocess mode the scrape may be another process'.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from typing import Any

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge
    from prometheus_client import Histogram as PrometheusHistogram
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    raise ImportError(
        "poolkit.observe.prometheus needs: pip install 'poolkit[prometheus]'"
    ) from error

from ..core import checks
from ..core.housekeeper import Timer, housekeeper
from ..core.stats import Histogram, PoolStats
from ..kit.backends import AnyPool
from ..kit.kit import PoolKit
from .figures import BUCKETS, COUNTED, NOW, POOL_NAME, TAKEN, by_bucket

EVERY = 5.0
"""Seconds between two times that what was counted is added, beside each scrape."""


class Exporter(Collector):
    """Shows pools as metrics of Prometheus. The only label is the pool's name, and the state where there are two."""

    def __init__(
        self,
        pools: PoolKit | Mapping[str, AnyPool] | Iterable[AnyPool],
        *,
        registry: CollectorRegistry = REGISTRY,
        every: float = EVERY,
    ) -> None:
        self._pools = _listed(pools)
        self._every = checks.seconds("every", every, zero=False)
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._pid = 0
        self._timer: Timer | None = None
        self._seen: dict[str, PoolStats] = {}
        registry.register(self)  # before the metrics, so that they are brought up to date first
        self._metrics = _Metrics(registry)
        for pool in self._pools:
            pool.when_opened(self._begin)
        self._begin()

    def publish(self) -> None:
        """Bring the metrics up to date."""
        with self._lock:
            self._notice_fork()
            for pool in self._pools:
                now = pool.stats()
                self._metrics.add(now, self._seen.get(pool.name))
                self._seen[pool.name] = now

    def close(self) -> None:
        """Bring the metrics up to date for the last time. They stay in the registry."""
        self.publish()
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()

    def collect(self) -> Iterable[Metric]:
        """Bring the metrics up to date: they are collected next."""
        self.publish()
        return ()

    def describe(self) -> Iterable[Metric]:
        """Describe nothing: the metrics do that themselves."""
        return ()

    def _begin(self) -> None:
        """Begin to publish in this process, if that is not done yet."""
        with self._lock:
            self._notice_fork()
            if self._timer is None:
                self._timer = housekeeper().every(self._every, self.publish)

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._timer = None
            self._seen = {}


class _Metrics:
    """The metrics themselves."""

    def __init__(self, registry: CollectorRegistry) -> None:
        label = _name(POOL_NAME)
        self._gauges: dict[str, Gauge] = {}
        for figure in NOW:
            name = _name(figure.name)
            if name not in self._gauges:
                labels = [label, "state"] if figure.state else [label]
                self._gauges[name] = Gauge(
                    name, figure.help, labels, registry=registry, multiprocess_mode="livesum"
                )
        self._counters = {
            figure.name: Counter(_name(figure.name), figure.help, [label], registry=registry)
            for figure in COUNTED
        }
        self._durations = {
            duration.name: PrometheusHistogram(
                f"{_name(duration.name)}_seconds",
                duration.help,
                [label],
                buckets=BUCKETS,
                registry=registry,
            )
            for duration in TAKEN
        }

    def add(self, now: PoolStats, before: PoolStats | None) -> None:
        """Show what is so *now*, and add what was counted since *before*."""
        for figure in NOW:
            labels = (now.name, figure.state) if figure.state else (now.name,)
            self._gauges[_name(figure.name)].labels(*labels).set(figure.read(now))
        for figure in COUNTED:
            count = figure.read(now) - (figure.read(before) if before is not None else 0)
            if count > 0:
                self._counters[figure.name].labels(now.name).inc(count)
        for duration in TAKEN:
            _observe(
                self._durations[duration.name].labels(now.name),
                duration.read(now),
                duration.read(before) if before is not None else Histogram(),
            )


def _observe(metric: Any, now: Histogram, before: Histogram) -> None:
    """Add many observations at once, which prometheus_client has no public way for."""
    if now.count <= before.count:
        return
    earlier = by_bucket(before)
    for bucket, count, counted in zip(metric._buckets, by_bucket(now), earlier, strict=True):
        if count > counted:
            bucket.inc(count - counted)
    metric._sum.inc(max(0.0, now.mean * now.count - before.mean * before.count))


def _listed(pools: PoolKit | Mapping[str, AnyPool] | Iterable[AnyPool]) -> list[AnyPool]:
    if isinstance(pools, PoolKit):
        pools = pools.pools
    return list(pools.values()) if isinstance(pools, Mapping) else list(pools)


def _name(name: str) -> str:
    return name.replace(".", "_")
