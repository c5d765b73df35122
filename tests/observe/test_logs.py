"""Log records: what a production server wants to know at INFO, structured, and with no secrets."""

from __future__ import annotations

import logging

import pytest

from poolkit import BackendUnavailable, PoolKit, PoolTimeout, RedisPool
from poolkit.core import events
from poolkit.observe.logs import LeaseLogListener, LogListener, logger_of


def test_at_info_a_pools_life_is_told_and_nothing_more(caplog, redis_url):
    caplog.set_level(logging.INFO, "poolkit.pool")
    with RedisPool(redis_url, name="cache", listeners=[LogListener()]) as cache:
        for _ in range(3):
            cache.set("a", "b")

    said = [record for record in caplog.records if record.name == "poolkit.pool.cache"]
    assert [record.event for record in said] == ["Opened", "Ready", "Closed"]
    assert all(record.pool == "cache" for record in said)
    assert all(record.levelno == logging.INFO for record in said)


def test_at_debug_connections_are_told_and_with_leases_each_use(caplog, redis_url):
    caplog.set_level(logging.DEBUG, "poolkit.pool")
    listener = LeaseLogListener()
    with RedisPool(redis_url, name="cache", combine=False, listeners=[listener]) as cache:
        cache.get("a")

    told = [record.event for record in caplog.records if record.name == "poolkit.pool.cache"]
    assert told == ["Opened", "Connected", "Ready", "Acquired", "Released", "Removed", "Closed"]
    (lent,) = [record for record in caplog.records if getattr(record, "event", "") == "Acquired"]
    assert "test_logs.py" in lent.call_site


def test_no_lease_is_told_of_where_nobody_asked(redis_url):
    assert LogListener.acquired is events.Listener.acquired
    assert LogListener.released is events.Listener.released


def test_a_timeout_is_warned_of_with_what_was_waited(caplog, redis_url):
    listener = LogListener()
    with (
        RedisPool(
            redis_url, name="cache", max_size=1, acquire_timeout=0.01, listeners=[listener]
        ) as cache,
        cache.connection(),
        pytest.raises(PoolTimeout),
    ):
        cache.get("a")

    (said,) = [r for r in caplog.records if getattr(r, "event", "") == "TimedOut"]
    assert said.levelno == logging.WARNING
    assert said.error == "PoolTimeout"


def test_an_outage_with_a_thousand_errors_fills_no_log(caplog):
    listener = LogListener()
    for _ in range(1000):
        listener.failed(events.Failed(pool="cache", error=OSError("secret")))
    listener.failed(events.Failed(pool="other", error=OSError("secret")))

    assert [record.name for record in caplog.records] == [
        "poolkit.pool.cache",
        "poolkit.pool.other",
    ]
    assert "secret" not in caplog.text


def test_how_many_were_not_logged_is_told_later(caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("poolkit.observe.logs.monotonic", lambda: now[0])
    listener = LogListener()
    for now[0] in (10.0, 10.1, 10.2, 11.5):
        listener.failed(events.Failed(pool="cache", error=OSError()))

    first, second = caplog.records
    assert (first.kept_back, second.kept_back) == (0, 2)
    assert "2 more before that were not logged" in second.getMessage()


def test_no_password_is_logged(caplog, own_redis):
    caplog.set_level(logging.DEBUG)
    server = own_redis()
    server.kill()
    with (
        PoolKit(
            redis={"url": server.url, "offline_queue": False},
            http=False,
            watch=None,
            listeners=[LeaseLogListener()],
        ) as kit,
        pytest.raises(BackendUnavailable),
    ):
        kit.redis.get("a")

    password = server.url.split(":")[2].split("@")[0]
    assert "can't be reached" in caplog.text
    assert password not in caplog.text


def test_a_dot_in_a_pools_name_makes_no_hierarchy():
    assert logger_of("db.example.com/app").name == "poolkit.pool.db_example_com/app"
