"""Transactions: all or nothing, done over when others were in the way, in no more time than needed."""

from __future__ import annotations

import threading

import pytest
from google.api_core import exceptions
from google.cloud import firestore

from poolkit import ConfigError, DeadlineExceeded, FirestorePool, RetryPolicy, deadline
from poolkit.firestore.calls import Caller
from poolkit.firestore.methods import BEGIN, COMMIT, ROLLBACK
from tests.core.support import Stopwatch, Task, eventually, together

from .support import SCHEDULING, number_at, running_of

PATH = "counters/1"


def add_one(transaction):
    n = transaction.get(PATH).get("n")
    transaction.update(PATH, {"n": n + 1})
    return n


@pytest.fixture
def counted(store):
    """Give a pool with a counter at 0."""
    store.set(PATH, {"n": 0})
    return store


def test_what_the_work_returns_is_returned(counted):
    assert [counted.run(add_one) for _ in range(3)] == [0, 1, 2]
    assert number_at(counted, PATH) == 3
    assert counted.stats().in_use == 0


def test_it_is_the_librarys_transaction(counted):
    client = counted.client

    def work(transaction):
        assert isinstance(transaction, firestore.Transaction)
        reference = client.document(PATH)
        n = reference.get(transaction=transaction).get("n")
        (same,) = transaction.get(reference)
        (found,) = client.collection("counters").stream(transaction=transaction)
        assert same == found == transaction.get(PATH)
        transaction.set(reference, {"n": n + 10})
        transaction.set("counters/2", {"n": 1}, merge=True)
        transaction.create("counters/3", {})
        transaction.delete(client.document("counters/none"))

    counted.run(work)
    assert number_at(counted, PATH) == 10
    assert [each.exists for each in counted.batch_get(["counters/2", "counters/3"])] == [True, True]


def test_batch_get_within(counted):
    paths = [PATH, "counters/none", PATH]
    found = counted.run(lambda transaction: transaction.batch_get(paths))
    assert [(each.id, each.exists) for each in found] == [("1", True), ("none", False), ("1", True)]
    assert counted.run(lambda transaction: transaction.batch_get([])) == []


def test_an_exception_undoes_it_and_is_raised_as_it_is(counted):
    class Mine(Exception):
        pass

    def work(transaction):
        transaction.get(PATH)
        transaction.set(PATH, {"n": 99})
        raise Mine

    with pytest.raises(Mine):
        counted.run(work)
    with deadline(1.0):  # it holds nothing any more
        counted.update(PATH, {"n": 1})
    assert number_at(counted, PATH) == 1


def test_what_is_refused_at_the_commit_is_raised(counted):
    calls = []

    def work(transaction):
        calls.append(1)
        transaction.update("counters/none", {"n": 1})
        transaction.set(PATH, {"n": 99})

    with pytest.raises(exceptions.NotFound):
        counted.run(work)
    assert (len(calls), number_at(counted, PATH)) == (1, 0)


def test_bad_input_within_is_refused(counted):
    for work in (
        lambda transaction: transaction.get("counters"),
        lambda transaction: transaction.set("counters/../1", {}),
        lambda transaction: transaction.set(PATH, {"n": {1}}),
        lambda transaction: [transaction.delete(f"c/{n}") for n in range(501)],
    ):
        with pytest.raises(ConfigError):
            counted.run(work)
    with pytest.raises(ConfigError, match="read_only"):
        counted.run(add_one, read_only=1)


def test_read_only_reads_and_refuses_to_write(counted):
    assert counted.run(lambda transaction: transaction.get(PATH).get("n"), read_only=True) == 0
    with pytest.raises(ValueError, match="read-only"):
        counted.run(add_one, read_only=True)
    with pytest.raises(Exception, match="read after write"):
        counted.run(lambda transaction: (transaction.delete("a/b"), transaction.get(PATH)))


def test_a_transaction_can_not_be_used_after_its_end(counted):
    kept = []
    counted.run(kept.append)
    with pytest.raises(ValueError, match="not in progress"):
        kept[0].get(PATH)


def test_a_contended_counter_counts_everything(counted):
    with Stopwatch() as watch:
        together(8, lambda number: [counted.run(add_one) for _ in range(25)])
    assert number_at(counted, PATH) == 200
    # The library's own takes minutes: each collision costs the emulator's lock time-out of two seconds.
    assert watch.seconds < 15.0
    lines = running_of(counted).transactions.lines
    assert lines._lines == {}
    assert counted.stats().in_use == 0


def test_several_documents_in_any_order(store):
    paths = [f"accounts/{n}" for n in range(4)]
    store.batch_write([("set", path, {"n": 100}) for path in paths])

    def move(source, target):
        def work(transaction):
            a, b = transaction.get(source).get("n"), transaction.get(target).get("n")
            transaction.update(source, {"n": a - 1})
            transaction.update(target, {"n": b + 1})

        store.run(work)

    def work(number):
        for step in range(5):
            move(paths[number], paths[(number + 1 + step % 3) % 4])

    together(4, work)
    assert sum(number_at(store, path) for path in paths) == 400


def test_others_are_not_kept_waiting_by_what_they_only_read(counted):
    counted.set("settings/1", {"limit": 1})
    inside = threading.Barrier(4)

    def work(number):
        def read_and_write(transaction):
            transaction.get("settings/1")
            inside.wait(10)  # all of them are in their transactions at once
            transaction.set(f"users/{number}", {"n": 1})

        counted.run(read_and_write)

    together(4, work)
    assert counted.count("users") == 4


# -- aborted, as no emulator can be made to ---------------------------------------------------------------


class Storm:
    """Makes calls of some methods end as told; the others go through."""

    def __init__(self, monkeypatch, error, methods, times):
        self.left = times
        self.seen = []
        self._unary = Caller.unary
        storm = self

        def unary(caller, method, request, **options):
            storm.seen.append(method)
            if method in methods and storm.left > 0:
                storm.left -= 1
                options["state"].phase = options.get("phase", options["state"].phase)
                raise error
            return storm._unary(caller, method, request, **options)

        monkeypatch.setattr(Caller, "unary", unary)


QUICK = RetryPolicy(attempts=3, base=0.001, cap=0.01)


def test_an_aborted_storm_is_weathered(make_store, monkeypatch):
    store = make_store(retry=QUICK)
    store.set(PATH, {"n": 0})
    storm = Storm(monkeypatch, exceptions.Aborted("too much contention"), {COMMIT}, 9)
    calls = []

    def work(transaction):
        calls.append(1)
        transaction.set(PATH, {"n": len(calls)})

    store.run(work)
    assert (len(calls), storm.left) == (10, 0)
    assert number_at(store, PATH) == 10
    assert store.stats().retries == 9


def test_a_storm_that_does_not_end_is_raised_in_the_end(make_store, monkeypatch):
    store = make_store(retry=QUICK)
    Storm(monkeypatch, exceptions.Aborted("too much contention"), {COMMIT}, 1000)
    with pytest.raises(exceptions.Aborted, match="too much contention"):
        store.run(lambda transaction: transaction.set(PATH, {"n": 1}))
    assert store.stats().retries == 9


def test_a_storm_lasts_no_longer_than_the_deadline(make_store, monkeypatch):
    store = make_store(retry=RetryPolicy(attempts=100, base=0.05, cap=0.05))
    store.get(PATH)
    Storm(monkeypatch, exceptions.Aborted("too much contention"), {COMMIT}, 1000)
    with Stopwatch() as watch, pytest.raises((exceptions.Aborted, DeadlineExceeded)), deadline(0.3):
        store.run(lambda transaction: transaction.set(PATH, {"n": 1}))
    assert watch.seconds < 0.35 + SCHEDULING


def test_each_attempt_keeps_the_place_of_the_one_before(make_store, monkeypatch):
    store = make_store(retry=QUICK)
    begun = []
    unary = Caller.unary

    def spy(caller, method, request, **options):
        if method is BEGIN:
            begun.append(request.options.read_write.retry_transaction)
        answer = unary(caller, method, request, **options)
        if method is BEGIN:
            begun.append(answer.transaction)
        return answer

    Storm(monkeypatch, exceptions.Aborted("x"), {COMMIT}, 1)
    unary = Caller.unary
    monkeypatch.setattr(Caller, "unary", spy)
    store.run(lambda transaction: transaction.set(PATH, {"n": 1}))
    assert begun[0] == b""
    assert begun[2] == begun[1] != b""


def test_one_that_is_given_up_is_rolled_back(make_store, monkeypatch):
    store = make_store(retry=QUICK)
    storm = Storm(monkeypatch, ValueError(), set(), 0)

    def work(transaction):
        raise KeyError

    with pytest.raises(KeyError):
        store.run(work)
    assert storm.seen == [BEGIN, ROLLBACK]


def test_a_rollback_that_fails_hides_nothing(make_store, monkeypatch):
    store = make_store(retry=QUICK)
    Storm(monkeypatch, exceptions.ServiceUnavailable("x"), {ROLLBACK}, 10)

    def work(transaction):
        raise KeyError

    with pytest.raises(KeyError):
        store.run(work)


def test_a_transaction_waits_for_its_turn_without_a_channel(counted):
    lines = running_of(counted).transactions.lines
    name = f"{running_of(counted).database}/documents/{PATH}"
    lines.heat([name])
    inside, leave = threading.Event(), threading.Event()

    def hold(transaction):
        add_one(transaction)
        inside.set()
        leave.wait(10)

    first = Task(counted.run, hold)
    assert inside.wait(10)
    second = Task(counted.run, add_one)
    eventually(lambda: lines._lines[name].waiting)
    assert counted.stats().in_use == 0
    with Stopwatch() as watch, pytest.raises((DeadlineExceeded, exceptions.Aborted)), deadline(0.2):
        counted.run(add_one)
    assert watch.seconds < 0.25 + SCHEDULING
    leave.set()
    first.result()
    assert second.result() == 1
    assert number_at(counted, PATH) == 2


def test_other_processes_get_their_turn_too(counted, make_store):
    """Another pool knows nothing of this one's lines."""
    others = [counted, make_store()]
    together(4, lambda number: [others[number % 2].run(add_one) for _ in range(2)])
    assert number_at(counted, PATH) == 8
    assert isinstance(others[1], FirestorePool)
