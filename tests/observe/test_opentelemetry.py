"""OpenTelemetry: spans beneath the caller's, metrics with the names of the conventions, nothing without an SDK."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from poolkit import PostgresPool, RedisPool
from poolkit.observe.opentelemetry import OpenTelemetryListener, observe

POOL = "db.client.connection.pool.name"
SECRET = "geheim"


@pytest.fixture
def spans():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


@pytest.fixture
def meters():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    yield provider, reader
    provider.shutdown()


def points(reader: InMemoryMetricReader) -> dict[str, list]:
    data = reader.get_metrics_data()
    return {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_each_operation_is_a_span_beneath_the_callers(spans, redis_url, conninfo):
    provider, exporter = spans
    listener = OpenTelemetryListener(tracer_provider=provider)
    tracer = provider.get_tracer("test")
    with (
        RedisPool(redis_url, name="cache", listeners=[listener]) as cache,
        PostgresPool(conninfo, name="db", listeners=[listener]) as db,
        tracer.start_as_current_span("request") as outer,
    ):
        cache.set("a", SECRET)
        db.query("select %s::text", [SECRET])

    found = {span.name: span for span in exporter.get_finished_spans()}
    assert set(found) == {"SET", "select", "request"}
    for name, pool in (("SET", "cache"), ("select", "db")):
        span = found[name]
        assert span.parent.span_id == outer.get_span_context().span_id
        assert span.attributes[POOL] == pool
        assert span.start_time < span.end_time
        assert SECRET not in str(span.to_json())


def test_an_error_is_on_the_span_by_its_kind(spans, redis_url):
    provider, exporter = spans
    listener = OpenTelemetryListener(tracer_provider=provider)
    with RedisPool(redis_url, listeners=[listener]) as cache:
        cache.set("a", SECRET)
        with pytest.raises(Exception, match="integer"):
            cache.incr("a")

    span = exporter.get_finished_spans()[-1]
    assert span.name == "INCRBY"
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.attributes["error.type"] == "ResponseError"
    assert SECRET not in span.to_json()


def test_durations_have_the_names_and_buckets_of_the_conventions(meters, redis_url):
    provider, reader = meters
    listener = OpenTelemetryListener(meter_provider=provider)
    with RedisPool(redis_url, combine=False, listeners=[listener]) as cache:
        for _ in range(3):
            cache.get("a")

    found = points(reader)
    assert {name: found[name][0].count for name in found} == {
        "db.client.operation.duration": 3,
        "db.client.connection.create_time": 1,
        "db.client.connection.wait_time": 3,
        "db.client.connection.use_time": 3,
    }
    bounds = found["db.client.operation.duration"][0].explicit_bounds
    assert bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)


def test_figures_are_read_when_they_are_exported(meters, redis_url):
    provider, reader = meters
    with RedisPool(redis_url, name="cache", combine=False) as cache:
        observe([cache], meter_provider=provider)
        cache.get("a")
        with cache.connection():
            found = points(reader)

    count = {
        point.attributes["db.client.connection.state"]: point.value
        for point in found["db.client.connection.count"]
    }
    assert count == {"used": 1, "idle": 0}
    assert found["db.client.connection.max"][0].value == 20
    assert found["poolkit.operations"][0].value == 1
    assert found["poolkit.operations"][0].attributes == {POOL: "cache"}


def test_without_an_sdk_nothing_happens(redis_url):
    with RedisPool(redis_url, listeners=[OpenTelemetryListener()]) as cache:
        observe([cache])
        assert cache.set("a", "b")
