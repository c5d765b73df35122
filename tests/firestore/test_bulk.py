"""Any number of writes, each with a result of its own."""

from __future__ import annotations

import itertools
import threading

import grpc
import pytest
from google.api_core import exceptions
from google.cloud.firestore_v1 import types

from poolkit import BulkResult, ConfigError, OutcomeUnknown, RetryPolicy, deadline
from poolkit.core.deadline import NEVER, Deadline
from poolkit.firestore.calls import Caller
from poolkit.firestore.methods import BATCH_WRITE
from poolkit.firestore.pacing import PHASE, Pacer
from poolkit.firestore.side_by_side import side_by_side
from tests.core.support import Stopwatch

from .support import ONE_MORE, SCHEDULING, number_at

QUICK = RetryPolicy(attempts=3, base=0.001, cap=0.01)
OK = grpc.StatusCode.OK


def test_thousands_are_written_and_accounted_for(store):
    operations = [("set", f"n/{n}", {"n": n}) for n in range(2000)]
    results = store.bulk_write(operations, rate=None)
    assert [each.path for each in results] == [f"n/{n}" for n in range(2000)]
    assert all(each.ok and each.error is None and each.attempts == 1 for each in results)
    assert results[7].update_time == store.get("n/7").update_time
    assert store.count("n") == 2000
    assert store.stats().leases >= 20
    assert store.bulk_write([]) == []


def test_each_write_fails_alone(store):
    store.set("n/1", {"n": 1})
    results = store.bulk_write(
        [
            ("create", "n/1", {}),
            ("update", "n/none", {"a": 1}),
            ("set", "n/2", {"n": 2}),
            ("delete", "n/none"),
            ("delete", "n/1", {"exists": True}),
        ]
    )
    assert [type(each.error) for each in results] == [
        exceptions.AlreadyExists, exceptions.NotFound, type(None), type(None), type(None),
    ]  # fmt: skip
    assert [each.ok for each in results] == [False, False, True, True, True]
    assert [each.exists for each in store.batch_get(["n/1", "n/2"])] == [False, True]


def test_writes_to_one_document_keep_their_order(store):
    operations = []
    for step in range(5):
        for n in range(3):
            operations.append(("set", f"n/{n}", {"n": step * 100}))
            operations.append(("update", f"n/{n}", {"n": ONE_MORE}))
    assert all(each.ok for each in store.bulk_write(operations, rate=None))
    assert [number_at(store, f"n/{n}") for n in range(3)] == [401] * 3


def test_a_generator_will_do_and_bad_input_sends_nothing(store):
    assert len(store.bulk_write(("set", f"n/{n}", {}) for n in range(3))) == 3
    with pytest.raises(ConfigError, match="operation 1: "):
        store.bulk_write([("set", "n/9", {}), ("set", "n", {})])
    assert not store.get("n/9").exists
    for rate in (0, -1, "fast", float("nan")):
        with pytest.raises(ConfigError, match="rate"):
            store.bulk_write([("set", "n/9", {})], rate=rate)


def test_the_deadline_is_kept_and_the_rest_accounted_for(store):
    store.get("n/1")
    with Stopwatch() as watch, deadline(0.5):
        results = store.bulk_write([("set", f"n/{n}", {"n": n}) for n in range(400)], rate=100)
    assert watch.seconds < 0.55 + SCHEDULING
    written = sum(each.ok for each in results)
    assert 100 <= written < 400
    assert len(results) == 400
    assert store.count("n") == written
    assert "deadline of 0.5 s" in str(results[-1].error)


def answering(monkeypatch, statuses):
    """Have the server's answers to chunks be as scripted: for each a list of codes, or an error."""
    left, sent, lock = list(statuses), [], threading.Lock()
    unary = Caller.unary

    def scripted(caller, method, request, **options):
        if method is not BATCH_WRITE:
            return unary(caller, method, request, **options)
        with lock:
            sent.append(len(request.writes))
            told = left.pop(0) if left else [OK] * len(request.writes)
        if isinstance(told, Exception):
            raise told
        answer = types.BatchWriteResponse.pb()()
        for code in told:
            answer.status.add(code=code.value[0], message="as told")
            answer.write_results.add()
        return answer

    monkeypatch.setattr(Caller, "unary", scripted)
    return sent


def test_only_those_that_were_not_run_are_sent_again(make_store, monkeypatch):
    store = make_store(retry=QUICK)
    code = grpc.StatusCode
    sent = answering(
        monkeypatch,
        [[OK, code.ABORTED, code.NOT_FOUND, code.RESOURCE_EXHAUSTED], [code.ABORTED, OK], [OK]],
    )
    results = store.bulk_write([("set", f"n/{n}", {}) for n in range(4)])
    assert sent == [4, 2, 1]
    assert [(type(each.error), each.attempts) for each in results] == [
        (type(None), 1), (type(None), 3), (exceptions.NotFound, 1), (type(None), 2),
    ]  # fmt: skip


def test_a_lost_answer_is_unknown_but_for_those_that_may_be_repeated(make_store, monkeypatch):
    store = make_store(retry=QUICK)
    lost = exceptions.ServiceUnavailable("connection reset")
    sent = answering(monkeypatch, [lost, [grpc.StatusCode.ALREADY_EXISTS, OK]])
    results = store.bulk_write([("set", "n/0", {}), ("create", "n/1", {}), ("create", "n/2", {})])
    assert sent == [3, 2]
    assert [type(each.error) for each in results] == [OutcomeUnknown, OutcomeUnknown, type(None)]
    sent = answering(monkeypatch, [lost, [OK, OK, OK]])
    results = store.bulk_write([("set", f"n/{n}", {}) for n in range(3)], idempotent=True)
    assert sent == [3, 3]
    assert all(each.ok for each in results)


def test_what_fails_again_and_again_is_told(make_store, monkeypatch):
    store = make_store(retry=QUICK)
    answering(monkeypatch, [[grpc.StatusCode.ABORTED]] * 9)
    (result,) = store.bulk_write([("set", "n/0", {})])
    assert isinstance(result, BulkResult)
    assert isinstance(result.error, exceptions.Aborted)
    assert result.attempts == 3


# -- the pace ----------------------------------------------------------------------------------------


class Clock:
    """A clock that sleeping moves on."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_a_seconds_worth_goes_at_once_then_at_the_rate():
    clock = Clock()
    pacer = Pacer(500.0, clock.sleep, clock)
    times = []
    for _ in range(50):
        pacer.take(100, NEVER)
        times.append(clock.now - 100.0)
    assert times[:6] == [0.0] * 6
    assert times[-1] == pytest.approx((5000 - 500 - 100) / 500)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times[5:])]
    assert gaps == pytest.approx([0.2] * len(gaps))


def test_the_rate_grows_by_half_every_five_minutes():
    clock = Clock()
    pacer = Pacer(500.0, clock.sleep, clock)
    granted = [0] * 4
    while (phase := int((clock.now - 100.0) / PHASE)) < 4:
        pacer.take(100, NEVER)
        granted[phase] += 100
    per_second = [total / PHASE for total in granted]
    assert per_second == pytest.approx([500, 750, 1125, 1687], rel=0.01)


def test_what_rested_does_not_save_up_more_than_a_second():
    clock = Clock()
    pacer = Pacer(10.0, clock.sleep, clock)
    clock.now += 60
    for _ in range(3):
        pacer.take(10, NEVER)
    assert clock.now - 160.0 == pytest.approx(1.0)


def test_a_wait_beyond_the_deadline_is_refused_at_once():
    pacer = Pacer(1.0, lambda seconds: pytest.fail("it waited"))
    assert pacer.take(100, Deadline.after(5.0))
    assert not pacer.take(1, Deadline.after(5.0))


# -- side by side --------------------------------------------------------------------------------------


def test_results_are_in_order_and_so_many_run_at_a_time():
    barrier = threading.Barrier(3)

    def work(number):
        barrier.wait(10)
        return number * 2

    assert side_by_side(work, range(6), 3) == [0, 2, 4, 6, 8, 10]
    assert side_by_side(str, [], 3) == []
    assert side_by_side(str, [1], 3) == ["1"]


def test_the_first_error_ends_it():
    done = []

    def work(number):
        done.append(number)
        raise KeyError(number)

    with pytest.raises(KeyError):
        side_by_side(work, range(100), 2)
    assert len(done) <= 2
    assert not [each for each in threading.enumerate() if each.name == "poolkit-worker"]


def test_helpers_have_the_callers_deadline():
    from poolkit.core.deadline import ambient

    barrier = threading.Barrier(2)
    with deadline(5.0) as mine:
        found = side_by_side(lambda _: (barrier.wait(10), ambient())[1], range(2), 2)
    assert found == [mine, mine]
