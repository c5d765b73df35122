"""Calls are spread, so that what a server allows on one connection does not hold them up."""

from __future__ import annotations

import pytest

from benchmarks.stream_limited import SECONDS, stream_limited
from poolkit import FirestorePool, PoolTimeout
from tests.core.support import Stopwatch, Task, eventually, together


@pytest.fixture
def limited():
    """Give a server that takes five calls at a time on a connection, each of 0.3 s."""
    with stream_limited() as server:
        yield server


def test_twenty_calls_at_once_run_side_by_side(limited):
    with FirestorePool("p", emulator_host=limited.host) as store, Stopwatch() as watch:
        found = together(20, lambda number: store.get(f"users/{number}"))
        stats = store.stats()
    assert all(snapshot.exists for snapshot in found)
    assert watch.seconds < 2 * SECONDS  # on one connection: four times as long
    assert (limited.calls, stats.retries, stats.errors) == (20, 0, 0)
    assert sorted(limited.by_connection.values()) == [5, 5, 5, 5]


def test_more_calls_than_there_are_streams_are_not_refused(limited):
    with FirestorePool("p", emulator_host=limited.host, max_size=20) as store:
        with Stopwatch() as watch:
            found = together(60, lambda number: store.get(f"users/{number}").exists)
        stats = store.stats()
    assert all(found)
    assert watch.seconds < 5 * SECONDS
    assert (limited.calls, stats.errors) == (60, 0)  # what was refused is sent again, and runs once
    assert stats.wait.max > SECONDS  # it is the pool that they wait for, where it can be seen


def test_so_they_are_if_the_limit_is_not_known(limited):
    with FirestorePool("p", emulator_host=limited.host) as store:
        found = together(60, lambda number: store.get(f"users/{number}").exists)
        assert all(found)
        assert (limited.calls, store.stats().errors) == (60, 0)


def test_one_channel_takes_turns(limited):
    with FirestorePool("p", emulator_host=limited.host, channels=1) as store:
        with Stopwatch() as watch:
            together(20, lambda number: store.get(f"users/{number}"))
    assert watch.seconds >= 4 * SECONDS
    assert list(limited.by_connection.values()) == [20]


def test_who_waits_too_long_is_told_who_calls():
    with stream_limited(seconds=2.0) as server, FirestorePool(
        "p", emulator_host=server.host, max_size=2, acquire_timeout=0.1, name="small"
    ) as store:  # fmt: skip
        store_tasks = [Task(store.get, f"users/{n}", name=f"caller {n}") for n in range(2)]
        eventually(lambda: store.stats().in_use == 2)
        with pytest.raises(PoolTimeout) as caught:
            store.get("users/3")
        text = str(caught.value)
        assert "pool 'small': no connection within acquire_timeout (0.1 s)" in text
        assert sorted(held.thread_name for held in caught.value.holders) == ["caller 0", "caller 1"]
        assert "core/support.py" in text
        assert store.stats().timeouts == 1
        for task in store_tasks:
            task.result()
