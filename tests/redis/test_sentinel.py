"""Sentinels: whoever they call the master is the master."""

from __future__ import annotations

import threading
from time import monotonic

import pytest

from poolkit import BackendUnavailable, OutcomeUnknown, RedisPool
from tests.core.support import Task, eventually

from .support import SCHEDULING


@pytest.fixture
def settings(redis_sentinel):
    """Give what a pool has to know."""
    return {
        "sentinels": redis_sentinel.sentinels,
        "service": redis_sentinel.service,
        "password": redis_sentinel.password,
        "sentinel_password": redis_sentinel.sentinel_password,
    }


def test_the_master_is_found(settings, redis_sentinel):
    with RedisPool(**settings) as cache:
        assert cache.set("k", "v")
        assert cache.execute("ROLE")[0] == "master"
        assert cache.client.get("k") == "v"
        assert cache.name == f"redis {redis_sentinel.service}"


def test_a_dead_sentinel_is_passed_over(settings):
    with RedisPool(**{**settings, "sentinels": ["127.0.0.1:1", *settings["sentinels"]]}) as cache:
        assert cache.set("k", "v")


def test_if_no_sentinel_answers_each_cause_is_told(settings):
    nobody = {**settings, "sentinels": ["127.0.0.1:1", "127.0.0.1:2"], "acquire_timeout": 0.2}
    with RedisPool(**nobody) as cache, pytest.raises(BackendUnavailable) as caught:
        cache.get("k")

    assert "127.0.0.1:1" in str(caught.value)
    assert "127.0.0.1:2" in str(caught.value)


def test_an_unknown_service_is_told(settings):
    strangers = {**settings, "service": "nobody", "acquire_timeout": 0.2}
    with (
        RedisPool(**strangers) as cache,
        pytest.raises(BackendUnavailable, match="no master 'nobody'"),
    ):
        cache.get("k")


def test_a_wrong_sentinel_password_is_told_and_not_shown(settings):
    wrong = {**settings, "sentinel_password": "s3cret", "acquire_timeout": 0.2}
    with RedisPool(**wrong) as cache, pytest.raises(BackendUnavailable) as caught:
        cache.get("k")

    assert "password" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["failover", "kill"])
def test_threads_go_on_with_the_new_master(settings, redis_sentinel, how):
    threads = 20
    last = [0.0] * threads
    unknown = [0] * threads
    stop = threading.Event()

    def work(number):
        while not stop.is_set():
            try:
                cache.incr(f"counter {number}")
                cache.pipeline([("SET", f"k {number}", 1), ("GET", f"k {number}")])
                last[number] = monotonic()
            except OutcomeUnknown:
                unknown[number] += 1

    with RedisPool(**settings) as cache:
        tasks = [Task(work, number) for number in range(threads)]
        try:
            eventually(lambda: min(last) > 0)
            before = redis_sentinel.master.port
            if how == "kill":
                redis_sentinel.master.kill()
                eventually(lambda: redis_sentinel.master.port != before)
            else:
                redis_sentinel.failover()
            changed = monotonic()
            eventually(lambda: min(last) > changed)
            healthy = monotonic() - changed
        finally:
            stop.set()
        for task in tasks:
            task.result()

        assert healthy < 1.0 + SCHEDULING
        assert sum(unknown) <= 3 * threads
        assert cache.execute("ROLE")[0] == "master"
        assert cache.stats().in_use == 0
