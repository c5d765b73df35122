"""What the demo measures, and what becomes of failures. No server is needed for that."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter

import pytest

from poolkit.cli.demo.workload import Measured, Workload


class Refused(Exception):
    pass


def workload(*, threads=8, requests_per_thread=5):
    return Workload(
        threads=threads, requests_per_thread=requests_per_thread, keys=100, value=lambda key: -key
    )


def run(work, lookup, *, seconds=30.0, tick=lambda over: None):
    return work.run(lookup, seconds=seconds, refusals=(Refused,), tick=tick)


def measured(*latencies):
    return Measured(
        asked=len(latencies),
        latencies=sorted(latencies),
        refused=Counter(),
        broken=Counter(),
        elapsed=2.0,
    )


def test_every_request_is_made_once_and_timed():
    keys = []

    def lookup(key):
        keys.append(key)
        return -key

    result = run(workload(), lookup)

    assert (result.answered, result.errors, result.cut_short) == (40, 0, 0)
    assert len(set(keys)) == 40
    assert list(result.latencies) == sorted(result.latencies)


def test_all_threads_are_in_their_first_request_together():
    work = workload(requests_per_thread=1)
    together = threading.Barrier(work.threads)

    def lookup(key):
        together.wait(timeout=30)
        return -key

    assert run(work, lookup).answered == work.threads


def test_first_requests_are_due_together_however_late_their_threads_run():
    one_at_a_time = threading.Lock()

    def lookup(key):
        with one_at_a_time:
            time.sleep(0.02)
        return -key

    result = run(workload(threads=4, requests_per_thread=1), lookup)

    assert result.latencies[-1] >= 0.08
    assert result.latencies[-1] == pytest.approx(result.elapsed, rel=0.2)


def test_refusals_are_counted_apart_from_faults():
    def lookup(key):
        if key % 2:
            raise Refused("connection failed: FATAL:  sorry, too many clients already")
        raise ZeroDivisionError("division by zero")

    result = run(workload(threads=2, requests_per_thread=50), lookup)

    assert result.refused == {"sorry, too many clients already": 50}
    assert result.broken == {"ZeroDivisionError: division by zero": 50}
    assert result.answered == 0


def test_a_wrong_answer_is_a_fault():
    result = run(workload(threads=1, requests_per_thread=1), lambda key: "another")

    assert result.broken == {"WrongAnswer: asked for key 1, got 'another'": 1}


def test_when_time_is_up_what_was_not_made_is_cut_short():
    stopped = threading.Event()

    def lookup(key):
        stopped.wait(timeout=0.05)
        return -key

    result = run(workload(threads=2, requests_per_thread=10_000), lookup, seconds=0.2)

    assert 0 < result.answered < 20_000
    assert result.answered + result.cut_short == 20_000


def test_a_thread_that_hangs_is_left_behind(monkeypatch):
    monkeypatch.setattr("poolkit.cli.demo.workload._GRACE", 0.1)
    release = threading.Event()

    def lookup(key):
        if key == 1:
            release.wait(timeout=30)
        return -key

    result = run(workload(threads=2, requests_per_thread=1), lookup, seconds=0.1)
    release.set()

    assert (result.answered, result.cut_short) == (1, 1)


def test_progress_ends_with_all_requests():
    told = []

    run(workload(), lambda key: -key, tick=told.append)

    assert told[-1] == 40
    assert told == sorted(told)


@pytest.mark.parametrize(("percent", "expected"), [(50, 2.0), (99, 4.0), (100, 4.0), (1, 1.0)])
def test_percentiles_are_latencies_that_were_measured(percent, expected):
    assert measured(4.0, 1.0, 3.0, 2.0).percentile(percent) == expected


def test_without_an_answer_there_is_no_percentile():
    assert math.isnan(measured().percentile(50))
    assert measured().throughput == 0
