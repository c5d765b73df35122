"""Metrics for Prometheus: exact, under gunicorn's multiprocess mode too, and free for requests."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from poolkit import PoolKit, RedisPool
from poolkit.core.stats import Durations
from poolkit.observe.figures import BUCKETS, by_bucket
from poolkit.observe.prometheus import Exporter

from ..core.support import Task

POOL = "db_client_connection_pool_name"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def scraped(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    """Return the samples by name and state or bucket."""
    text = generate_latest(registry).decode()
    return {
        (sample.name, sample.labels.get("state", sample.labels.get("le", ""))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_shows_what_the_pool_counted(registry, redis_url):
    with RedisPool(redis_url, combine=False) as cache:
        Exporter([cache], registry=registry)
        for _ in range(7):
            cache.set("a", "b")
        found = scraped(registry)
        assert found["poolkit_operations_total", ""] == 7
        assert found["db_client_connection_count", "idle"] == 1
        assert found["db_client_connection_count", "used"] == 0
        assert found["db_client_connection_max", ""] == 20
        assert found["db_client_connection_use_time_seconds_count", ""] == 7
        assert found["db_client_connection_use_time_seconds_sum", ""] == pytest.approx(
            cache.stats().use.mean * 7
        )
        cache.get("a")
        assert scraped(registry)["poolkit_operations_total", ""] == 8


def test_figures_are_exact_after_many_threads(registry, redis_url):
    with RedisPool(redis_url) as cache:
        exporter = Exporter([cache], registry=registry)

        def work() -> None:
            for _ in range(200):
                cache.get("a")

        tasks = [Task(work) for _ in range(20)]
        for _ in range(20):
            exporter.publish()
        for task in tasks:
            task.result()
        found = scraped(registry)

    assert found["poolkit_operations_total", ""] == 4000
    assert found["poolkit_leases_total", ""] == 4000
    assert found["db_client_connection_wait_time_seconds_count", ""] == 4000


def test_what_was_counted_up_to_the_close_is_shown_after_it(registry, redis_url):
    kit = PoolKit(redis=redis_url, http=False, watch=None)
    exporter = Exporter(kit, registry=registry)
    kit.redis.set("a", "b")
    kit.close()
    exporter.close()

    assert scraped(registry)["poolkit_operations_total", ""] == 1


def test_a_scrape_while_pools_close_does_no_harm(registry, redis_url):
    kit = PoolKit(redis=redis_url, http=False, watch=None)
    Exporter(kit, registry=registry)
    kit.redis.get("a")
    stop = threading.Event()

    def scrape() -> None:
        while not stop.is_set():
            scraped(registry)

    task = Task(scrape)
    kit.close()
    stop.set()
    task.result()
    assert scraped(registry)["poolkit_operations_total", ""] == 1


def test_labels_are_the_pools_names_and_nothing_else(registry, redis_url):
    with RedisPool(redis_url, name="cache") as cache:
        Exporter([cache], registry=registry)
        for number in range(50):
            cache.get(f"key-{number}")
        text = generate_latest(registry).decode()

    labels = {
        tuple(sorted(set(sample.labels) - {"le"}))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert labels == {(POOL,), (POOL, "state")}
    assert "key-" not in text


def test_durations_fall_into_the_buckets_of_the_conventions():
    taken = Durations()
    for seconds in (0.0, 0.0005, 0.003, 0.02, 0.7, 30.0):
        taken.add(seconds)

    counts = dict(zip((*BUCKETS, "more"), by_bucket(taken.snapshot()), strict=True))

    assert counts == {
        0.001: 2, 0.005: 1, 0.01: 0, 0.05: 1, 0.1: 0, 0.5: 0, 1.0: 1, 5.0: 0, 10.0: 0, "more": 1,
    }  # fmt: skip


WORKERS = """
    import os, sys
    from poolkit import PoolKit
    from poolkit.observe.prometheus import Exporter

    kit = PoolKit(redis={"url": sys.argv[1], "combine": False}, http=False, watch=None)
    exporter = Exporter(kit)
    kit.redis.get("before the fork")
    children = []
    for worker in range(2):
        pid = os.fork()
        if pid == 0:
            for _ in range(10 * (worker + 1)):
                kit.redis.get("a")
            kit.close()
            exporter.close()
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    exporter.close()
    kit.close()
"""


def test_workers_of_gunicorn_add_up(tmp_path, redis_url):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    program = [sys.executable, "-c", textwrap.dedent(WORKERS), redis_url]
    done = subprocess.run(
        program, env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr

    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(tmp_path))
    found = scraped(registry)

    assert found["poolkit_operations_total", ""] == 1 + 10 + 20
    assert found["db_client_connection_use_time_seconds_count", ""] == 1 + 10 + 20


def test_an_exporter_that_raises_is_logged_and_harms_nobody(
    registry, redis_url, caplog, monkeypatch
):
    with RedisPool(redis_url, combine=False) as cache:
        exporter = Exporter([cache], registry=registry, every=0.01)
        failed = threading.Event()

        def fail(*_: object) -> None:
            failed.set()
            raise RuntimeError("the disk of the metrics is full")

        monkeypatch.setattr(exporter._metrics, "add", fail)
        cache.get("a")
        assert failed.wait(30)
        assert cache.set("a", "b")
        monkeypatch.undo()
        exporter.close()

    assert scraped(registry)["poolkit_operations_total", ""] == 2
