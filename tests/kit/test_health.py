"""Health: asked of the backends off the path of requests, with reasons, and told once."""

from __future__ import annotations

import logging
import threading
from time import perf_counter

import pytest

from poolkit import ConfigError, PoolOverloaded, PostgresPool, RedisPool, Status
from poolkit.core.deadline import Deadline
from poolkit.kit.health import HealthChecker, Limits

from ..core.support import Task, eventually


class Pool:
    """A pool that is as the test says."""

    class _Stats:
        operations = errors = waiting = in_use = 0
        max_size = 20

    def __init__(self, name: str = "db") -> None:
        self.name = name
        self.figures = self._Stats()
        self.error: Exception | None = None
        self.hangs: threading.Event | None = None
        self.asked = threading.Event()

    def ping(self, timeout: float) -> float:
        self.asked.set()
        if self.hangs is not None:
            self.hangs.wait(30)
        if self.error is not None:
            raise self.error
        return 0.001

    def stats(self) -> _Stats:
        return self.figures


def checker(*pools: Pool, **options: float) -> HealthChecker:
    return HealthChecker({pool.name: pool for pool in pools}, **options)  # type: ignore[misc,arg-type]


def test_real_pools_are_healthy_and_say_how_fast_they_answered(conninfo, redis_url):
    with PostgresPool(conninfo) as db, RedisPool(redis_url) as cache:
        found = HealthChecker({"postgres": db, "redis": cache}).check()

    assert found.status is Status.HEALTHY
    assert found.ready
    assert found.live
    assert set(found.pools) == {"postgres", "redis"}
    assert all(0 < health.latency < 5 for health in found.pools.values() if health.latency)


def test_a_backend_that_is_gone_makes_the_pool_unavailable_with_the_reason(own_redis):
    server = own_redis()
    with RedisPool(server.url, offline_queue=False) as cache:
        watch = HealthChecker({"redis": cache})
        assert watch.check().ready
        server.kill()
        found = watch.check()
        assert found.status is Status.UNAVAILABLE
        assert not found.ready
        assert "refused" in found.pools["redis"].reasons["backend"]
        server.start()
        eventually(lambda: watch.check().ready)


def test_one_check_that_hangs_delays_no_other():
    slow, fast = Pool("slow"), Pool("fast")
    slow.hangs = threading.Event()
    watch = checker(slow, fast, timeout=0.2)

    began = perf_counter()
    found = watch.check()

    assert perf_counter() - began < 5
    assert found.pools["fast"].status is Status.HEALTHY
    assert found.pools["slow"].status is Status.UNAVAILABLE
    assert "has not ended" in found.pools["slow"].reasons["backend"]
    slow.hangs.set()
    watch.stop(Deadline.after(30))


def test_more_than_five_waiting_threads_degrade_a_pool():
    pool = Pool()
    watch = checker(pool)

    pool.figures.waiting = 5
    assert watch.check().status is Status.HEALTHY
    pool.figures.waiting = 6
    found = watch.check()

    assert found.status is Status.DEGRADED
    assert found.ready
    assert "consider a larger pool" in found.pools["db"].reasons["waiting"]


def test_a_check_refused_by_a_pool_that_serves_others_degrades_it_only():
    pool = Pool()
    watch = checker(pool)
    pool.error = PoolOverloaded("2 threads wait already")
    pool.figures.operations = 10
    found = watch.check()

    assert found.pools["db"].reasons == {"waiting": "PoolOverloaded: 2 threads wait already"}
    assert found.ready

    # Nobody was served since: they all hang.
    pool.figures.operations = pool.figures.errors = 20
    assert watch.check().ready is False


def test_errors_count_since_the_last_check_and_not_since_the_start():
    pool = Pool()
    watch = checker(pool)
    pool.figures.operations, pool.figures.errors = 1000, 900
    assert watch.check().status is Status.DEGRADED

    pool.figures.operations = 1100
    assert watch.check().status is Status.HEALTHY
    pool.figures.operations, pool.figures.errors = 1200, 906
    found = watch.check()

    assert found.status is Status.DEGRADED
    assert found.pools["db"].reasons["errors"].startswith("6 of 100 operations")


def test_a_change_is_told_once(caplog):
    caplog.set_level(logging.INFO, "poolkit.health")
    pool = Pool()
    watch = checker(pool)
    for waiting in (0, 6, 7, 8, 0, 0):
        pool.figures.waiting = waiting
        watch.check()

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "6 threads wait" in caplog.messages[0]
    assert caplog.messages[1] == "pool 'db' is healthy"


def test_checks_are_made_by_themselves_and_what_was_found_is_free_to_read():
    pool = Pool()
    watch = checker(pool, every=0.05)
    assert watch.last().pools == {}
    watch.start()
    try:
        assert pool.asked.wait(30)
        pool.asked.clear()
        assert pool.asked.wait(30)  # and again
        eventually(lambda: "db" in watch.last().pools)
    finally:
        watch.stop(Deadline.after(30))
    assert not [thread for thread in threading.enumerate() if "poolkit-health" in thread.name]


def test_stopping_is_bounded_when_a_check_hangs():
    pool = Pool()
    pool.hangs = threading.Event()
    watch = checker(pool)
    task = Task(watch.check)
    assert pool.asked.wait(30)

    began = perf_counter()
    watch.stop(Deadline.after(0.1))
    assert perf_counter() - began < 5

    pool.hangs.set()
    task.result()


def test_what_was_found_can_be_sent_as_json():
    pool = Pool()
    pool.error = OSError("refused")

    found = checker(pool).check().as_dict()

    assert found["status"] == "unavailable"
    assert found["ready"] is False
    assert found["pools"]["db"]["reasons"] == ["OSError: refused"]  # type: ignore[index]


@pytest.mark.parametrize(
    "wrong", [lambda: checker(every=0), lambda: checker(timeout=-1), lambda: Limits(waiting=-1)]
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError):
        wrong()
