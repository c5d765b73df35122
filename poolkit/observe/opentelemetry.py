"""Metrics and spans for OpenTelemetry. Without an SDK that is set up, its API does nothing, and so does this."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

try:
    from opentelemetry import trace
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter
    from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider
except ModuleNotFoundError as error:
    raise ImportError("poolkit.observe.opentelemetry needs: pip install 'poolkit[otel]'") from error

from ..core import events
from ..core.events import Listener
from ..core.version import __version__
from ..kit.backends import AnyPool
from ..kit.kit import PoolKit
from .figures import BUCKETS, COUNTED, NOW, POOL_NAME, Figure

SCOPE = "poolkit"
STATE = "db.client.connection.state"


class OpenTelemetryListener(Listener):
    """A :class:`~poolkit.Listener` that makes a span of each operation, and records how long things took.

    A span is a child of the one that is current in the thread that asked. It has the operation's name, the pool's, and
    the kind of an error; nothing of what was asked.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(SCOPE, __version__, tracer_provider)
        meter = get_meter(SCOPE, __version__, meter_provider)
        self._operation = _duration(
            meter, "db.client.operation.duration", "Duration of operations."
        )
        self._create = _duration(
            meter, "db.client.connection.create_time", "Time to open a connection."
        )
        self._wait = _duration(meter, "db.client.connection.wait_time", "Time to get a connection.")
        self._use = _duration(
            meter, "db.client.connection.use_time", "Time between getting and returning."
        )

    def ended(self, event: events.Ended) -> None:
        attributes = {POOL_NAME: event.pool, "db.operation.name": event.operation}
        if event.error is not None:
            attributes["error.type"] = type(event.error).__qualname__
        self._operation(event.seconds, attributes)
        end = time.time_ns()
        span = self._tracer.start_span(
            event.operation or "operation",
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=end - int(event.seconds * 1e9),
        )
        if event.error is not None:
            span.set_status(Status(StatusCode.ERROR, type(event.error).__name__))
        span.end(end)

    def connected(self, event: events.Connected) -> None:
        self._create(event.seconds, {POOL_NAME: event.pool})

    def acquired(self, event: events.Acquired) -> None:
        self._wait(event.waited, {POOL_NAME: event.pool})

    def released(self, event: events.Released) -> None:
        self._use(event.used, {POOL_NAME: event.pool})


def observe(
    pools: PoolKit | Mapping[str, AnyPool] | Iterable[AnyPool],
    *,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Have the figures of *pools* read whenever metrics are exported. That costs requests nothing."""
    if isinstance(pools, PoolKit):
        pools = pools.pools
    listed = list(pools.values()) if isinstance(pools, Mapping) else list(pools)
    meter = get_meter(SCOPE, __version__, meter_provider)
    by_name: dict[str, list[Figure]] = {}
    for figure in NOW:
        by_name.setdefault(figure.name, []).append(figure)
    for name, figures in by_name.items():
        meter.create_observable_up_down_counter(
            name, [_reader(listed, figures)], figures[0].unit, figures[0].help
        )
    for figure in COUNTED:
        meter.create_observable_counter(
            figure.name, [_reader(listed, [figure])], figure.unit, figure.help
        )


def _reader(
    pools: list[AnyPool], figures: list[Figure]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG001
        for pool in pools:
            stats = pool.stats()
            for figure in figures:
                attributes = {POOL_NAME: pool.name}
                if figure.state:
                    attributes[STATE] = figure.state
                yield Observation(figure.read(stats), attributes)

    return read


def _duration(meter: Meter, name: str, description: str) -> Callable[..., None]:
    histogram = meter.create_histogram(
        name, "s", description, explicit_bucket_boundaries_advisory=BUCKETS
    )
    return histogram.record
