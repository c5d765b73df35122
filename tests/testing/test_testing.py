"""What poolkit gives to the tests of its users."""

from __future__ import annotations

import threading
from time import perf_counter

import pytest

from poolkit import (
    ConfigError,
    HttpPool,
    OutcomeUnknown,
    PoolKit,
    PoolTimeout,
    RedisPool,
    RetryPolicy,
)
from poolkit.core import events
from poolkit.core.retry import Retrier
from poolkit.core.stats import Tally
from poolkit.core.verdict import Again, Verdict
from poolkit.testing import Faulty, Recorder, assert_nothing_held, no_pauses

from ..core.support import Task

pytest_plugins = ["pytester"]


def retrier() -> Retrier:
    return Retrier(
        RetryPolicy(attempts=3, base=20.0, cap=20.0),
        classify=lambda error, phase: Verdict(Again.SAFE, wait=20.0),
        sleep=slept.append,
        tally=Tally(),
        events=events.Events("db", []),
    )


slept: list[float] = []


def fail(state: object) -> None:
    raise OSError


def test_without_pauses_retries_follow_at_once_and_with_them_again_after_the_block():
    from poolkit import Deadline

    slept.clear()
    with no_pauses(), pytest.raises(OSError):
        retrier().call(fail, idempotent=True, deadline=Deadline.after(60))
    assert slept == [0.0, 0.0]

    slept.clear()
    with pytest.raises(OSError):
        retrier().call(fail, idempotent=True, deadline=Deadline.after(60))
    assert min(slept) >= 20.0


def test_a_recorder_keeps_every_kind_of_event_in_order(redis_url):
    recorder = Recorder()
    with RedisPool(redis_url, combine=False, listeners=[recorder]) as cache:
        cache.get("a")

    assert [type(event).__name__ for event in recorder.events] == [
        "Opened", "Connected", "Ready", "Acquired", "Released", "Ended", "Removed", "Closed",
    ]  # fmt: skip
    assert recorder.of(events.Acquired)[0].pool == cache.name
    recorder.clear()
    assert recorder.events == []


def test_a_recorder_hears_all_that_a_listener_can_hear():
    heard = {name for name in vars(events.Listener) if not name.startswith("_")}

    assert heard <= set(vars(Recorder))


def test_a_faulty_pool_fails_as_often_as_it_was_told(redis_url):
    with Faulty(RedisPool(redis_url)) as cache:
        cache.fail(PoolTimeout("none"), calls=2, on="get")
        cache.set("a", "b")
        for _ in range(2):
            with pytest.raises(PoolTimeout):
                cache.get("a")
        assert cache.get("a") == "b"

        cache.fail(OutcomeUnknown("lost"))
        with pytest.raises(OutcomeUnknown):
            cache.set("a", "c")
        assert cache.get("a") == "b"


def test_a_faulty_pool_dawdles_until_it_is_healed(redis_url):
    with Faulty(RedisPool(redis_url)) as cache:
        cache.delay(0.05)
        began = perf_counter()
        cache.get("a")
        assert perf_counter() - began >= 0.05

        cache.fail(OSError())
        cache.heal()
        cache.get("a")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda pool: pool.fail("no error"),
        lambda pool: pool.fail(OSError(), calls=0),
        lambda pool: pool.fail(OSError(), on="gte"),
        lambda pool: pool.delay(-1),
    ],
)
def test_a_faulty_pool_refuses_what_makes_no_sense(wrong):
    with pytest.raises(ConfigError):
        wrong(Faulty(HttpPool()))


def test_what_is_held_is_named(redis_url):
    with PoolKit(redis=redis_url, http=False) as kit:
        with kit.redis.connection(), pytest.raises(AssertionError, match="in test_what_is_held"):
            assert_nothing_held(kit, timeout=0)
        assert_nothing_held(kit, kit.redis)


def test_what_comes_back_in_time_is_not_named(redis_url):
    with RedisPool(redis_url) as cache:
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with cache.connection():
                held.set()
                done.wait(30)

        task = Task(hold)
        assert held.wait(30)
        threading.Timer(0.05, done.set).start()
        assert_nothing_held(cache, timeout=30)
        task.result()


def test_the_fixtures_give_real_servers(pytester):
    pytester.makeconftest('pytest_plugins = ["poolkit.testing.plugin"]')
    pytester.makepyfile(
        """
        from poolkit import FirestorePool, HttpPool, PostgresPool, RedisPool

        def test_postgres(poolkit_postgres):
            with PostgresPool(poolkit_postgres) as db:
                assert db.query_one("select 1") == (1,)

        def test_redis(poolkit_redis, poolkit_no_pauses):
            with RedisPool(poolkit_redis) as cache:
                assert cache.set("a", "b")

        def test_firestore(poolkit_firestore):
            with FirestorePool("p", emulator_host=poolkit_firestore) as store:
                assert not store.get("users/1").exists

        def test_http(poolkit_http):
            with HttpPool(poolkit_http) as http:
                assert http.get("/json").status == 200
        """
    )

    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider")

    result.assert_outcomes(passed=4)
