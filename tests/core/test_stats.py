"""Counters are exact, histograms near enough, and the snapshot is frozen."""

from __future__ import annotations

import math
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolkit import Histogram, PoolStats
from poolkit.core.stats import BOUNDS, Durations, Tally

from .support import LONG, Task, together

COUNTERS = [
    "leases",
    "operations",
    "errors",
    "timeouts",
    "refused",
    "retries",
    "created",
    "closed",
    "leaked",
]


def histogram(values):
    durations = Durations()
    for value in values:
        durations.add(value)
    return durations.snapshot()


def snapshot(tally, **state):
    return PoolStats.of(tally, **{"name": "db", "max_size": 20, "in_use": 0, "waiting": 0, **state})


# -- histograms ----------------------------------------------------------------------------------------


def test_an_empty_histogram_is_all_zero():
    empty = histogram([])
    assert (empty.count, empty.mean, empty.p50, empty.p99, empty.max) == (0, 0, 0, 0, 0)
    assert empty.quantile(0.5) == 0
    assert Histogram() == Histogram(0, 0.0, 0.0, 0.0, 0.0)


def test_count_mean_and_max_are_exact():
    durations = histogram([0.001, 0.002, 0.006])
    assert durations.count == 3
    assert durations.mean == pytest.approx(0.003)
    assert durations.max == 0.006


@given(
    st.lists(st.floats(1.1e-6, 99.0), min_size=1, max_size=200),
    st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]),
)
def test_quantiles_are_within_six_percent(values, q):
    exact = sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
    assert histogram(values).quantile(q) == pytest.approx(exact, rel=0.0601)


def test_p50_and_p99_are_the_quantiles():
    rng = random.Random(1)
    values = histogram([rng.expovariate(100) for _ in range(5000)])
    assert values.p50 == values.quantile(0.5) == pytest.approx(math.log(2) / 100, rel=0.12)
    assert values.p99 == values.quantile(0.99) == pytest.approx(math.log(100) / 100, rel=0.25)


def test_what_took_no_time_counts_as_zero():
    values = histogram([0.0, 0.0, 0.0, 1.0])
    assert (values.count, values.p50, values.max) == (4, 0.0, 1.0)


def test_quantiles_never_exceed_the_maximum():
    values = histogram([0.010_001] * 10)
    assert values.p50 <= values.p99 <= values.max == 0.010_001


def test_bounds_rise():
    assert list(BOUNDS) == sorted(set(BOUNDS))


def test_histograms_add_up():
    first, second, both = Durations(), Durations(), Durations()
    for number in range(1, 100):
        (first if number % 3 else second).add(number / 1000)
        both.add(number / 1000)

    first.absorb(second)

    summed, expected = first.snapshot(), both.snapshot()
    assert summed.buckets == expected.buckets
    assert summed.mean == pytest.approx(expected.mean)
    assert (summed.max, summed.p50, summed.p99) == (expected.max, expected.p50, expected.p99)


# -- counters ------------------------------------------------------------------------------------------


def test_a_thread_counts_in_one_shard_of_its_own():
    tally = Tally()
    mine = tally.mine()

    assert tally.mine() is mine
    assert Task(tally.mine).result() is not mine
    assert Tally().mine() is not mine


def test_counters_are_exact_with_fifty_threads_that_come_and_go():
    tally = Tally()
    rounds = 2000

    def work(number):
        for _ in range(rounds):
            shard = tally.mine()
            for name in COUNTERS:
                setattr(shard, name, getattr(shard, name) + 1)
            shard.use.add(0.001)

    stop = threading.Event()

    def read():
        seen = 0
        while not stop.is_set():
            now = snapshot(tally).operations
            assert seen <= now  # a counter never goes back, also when a thread ends
            seen = now

    reader = Task(read)
    together(50, work)
    stop.set()
    reader.result()

    total = snapshot(tally)
    for name in COUNTERS:
        assert getattr(total, name) == 50 * rounds
    assert total.use.count == 50 * rounds
    assert total.use.mean == pytest.approx(0.001)


def test_counters_of_hundreds_of_ended_threads_are_kept():
    tally = Tally()

    def count():
        tally.mine().operations += 1
        tally.mine().create.add(0.5)

    for _ in range(300):
        Task(count).result()

    total = snapshot(tally)
    assert total.operations == 300
    assert (total.create.count, total.create.max) == (300, 0.5)
    assert snapshot(tally) == total


def test_counters_stay_exact_while_threads_come_and_go_and_others_read():
    tally = Tally()
    stop = threading.Event()

    def count():
        tally.mine().operations += 1

    def come_and_go(number):
        for _ in range(80):
            Task(count).result()

    def read():
        while not stop.is_set():
            snapshot(tally)

    readers = [Task(read) for _ in range(2)]
    together(6, come_and_go)
    stop.set()
    for reader in readers:
        reader.result()

    assert snapshot(tally).operations == 480


def test_threads_that_still_run_are_counted_too():
    tally = Tally()
    counted = threading.Barrier(101)
    done = threading.Event()

    def count():
        tally.mine().operations += 1
        counted.wait(LONG)
        assert done.wait(LONG)
        tally.mine().operations += 1

    tasks = [Task(count) for _ in range(100)]
    counted.wait(LONG)
    assert snapshot(tally).operations == 100
    done.set()
    for task in tasks:
        task.result()
    assert snapshot(tally).operations == 200


def test_counting_needs_nothing_of_the_thread_module_to_be_exact():
    """A thread that Python did not start is known by a stand-in, and may end unnoticed."""
    import _thread

    tally = Tally()
    counted = [threading.Event() for _ in range(5)]

    def count(event):
        tally.mine().operations += 1
        event.set()

    for event in counted:
        _thread.start_new_thread(count, (event,))
        assert event.wait(LONG)

    for _ in range(3):
        assert snapshot(tally).operations == 5


# -- the snapshot --------------------------------------------------------------------------------------


def test_a_snapshot_does_not_change_afterwards():
    tally = Tally()
    tally.mine().operations += 1
    before = snapshot(tally)
    tally.mine().operations += 1
    tally.mine().use.add(1.0)

    assert before.operations == 1
    assert before.use.count == 0
    with pytest.raises(AttributeError):
        before.operations = 5


def test_size_and_idle_follow_from_what_was_created_closed_and_lent():
    tally = Tally()
    tally.mine().created += 7
    tally.mine().closed += 2

    stats = snapshot(tally, in_use=3, waiting=4)

    assert (stats.size, stats.in_use, stats.idle, stats.waiting) == (5, 3, 2, 4)
    assert stats.summary() == (
        "pool 'db': 5 of at most 20 connections open, 3 in use, 2 idle, 4 waiting"
    )


def test_sizes_are_never_negative():
    tally = Tally()
    tally.mine().closed += 2
    stats = snapshot(tally, in_use=3)
    assert stats.size == stats.idle == 0


def test_the_error_rate_is_in_percent():
    tally = Tally()
    assert snapshot(tally).error_rate == 0.0
    tally.mine().operations += 200
    tally.mine().errors += 3
    assert snapshot(tally).error_rate == 1.5


def test_every_lease_has_its_place_in_the_histogram_of_waits():
    tally = Tally()
    shard = tally.mine()
    shard.leases += 10
    shard.wait.add(0.5)
    shard.wait.add(0.5)

    waits = snapshot(tally).wait

    assert waits.count == 10  # the other eight did not wait
    assert (waits.p50, waits.max) == (0.0, 0.5)
    assert waits.mean == pytest.approx(0.1)


# -- between two snapshots -----------------------------------------------------------------------------


@given(
    st.lists(st.floats(0, 200), max_size=30),
    st.lists(st.floats(0, 200), max_size=30),
)
def test_what_was_counted_since_is_what_was_added_since(before, after):
    durations, alone = Durations(), Durations()
    for seconds in before:
        durations.add(seconds)
    earlier = durations.snapshot()
    for seconds in after:
        durations.add(seconds)
        alone.add(seconds)

    since, only = durations.snapshot().since(earlier), alone.snapshot()

    assert (since.count, since.buckets) == (only.count, only.buckets)
    assert since.mean == pytest.approx(only.mean, abs=1e-6)
    for found, exact in [(since.p50, only.p50), (since.p99, only.p99), (since.max, only.max)]:
        assert found == pytest.approx(exact, rel=0.13, abs=1e-6) or exact > BOUNDS[-1]


def test_since_the_beginning_is_all():
    durations = Durations()
    durations.add(0.25)
    whole = durations.snapshot()
    assert whole.since(Histogram()) == whole
    assert whole.since(whole).count == 0
