"""What a pool tells of itself, and that nothing gets lost."""

from __future__ import annotations

import gc
import threading

import pytest
from google.api_core import exceptions

from poolkit import FirestorePool, PoolOverloaded, PoolTimeout
from poolkit.firestore.calls import Caller
from tests.core.support import LONG, Task, eventually, together
from tests.recorder import Recorder

from .support import ONE_MORE, number_at, running_of


def test_counters_are_exact_whatever_threads_do(store):
    store.set("counters/1", {"n": 0})
    before = store.stats()

    def work(number):
        for _ in range(5):
            store.get("counters/1")
            store.batch_get(["counters/1", "counters/2"])
            store.client.document("counters/1").get()
            with pytest.raises(exceptions.NotFound):
                store.update("counters/none", {"a": 1})

    together(20, work)
    stats = store.stats()
    assert stats.operations - before.operations == stats.leases - before.leases == 400
    assert stats.errors == 100
    assert stats.use.count == stats.leases
    assert (stats.in_use, stats.waiting, stats.leaked, stats.retries) == (0, 0, 0, 0)
    assert stats.created == stats.size == stats.create.count == 4


def test_counters_of_the_server_agree(store):
    store.set("counters/1", {"n": 0})
    together(
        4,
        lambda number: [
            store.update("counters/1", {"n": ONE_MORE}, idempotent=False) for _ in range(5)
        ],
    )
    assert number_at(store, "counters/1") == 20


@pytest.fixture
def held(frail_firestore, project):
    """Give a pool of two calls at a time, whose calls hang until its server is resumed."""
    with FirestorePool(
        project, emulator_host=frail_firestore.emulator_host, max_size=2, max_waiting=1, name="small", rpc_timeout=20.0,
    ) as store:  # fmt: skip
        store.get("users/1")
        running_of(store).lender.acquire_timeout = 0.1  # from now on: to connect may take longer
        frail_firestore.pause()
        try:
            yield store
        finally:
            frail_firestore.resume()


def holding(store, count):
    tasks = []
    for number in range(count):
        tasks.append(Task(store.get, f"users/{number}", name=f"caller {number}"))
        eventually(lambda: store.stats().in_use == len(tasks))
    return tasks


def test_who_gets_no_turn_is_told_who_has_them(held, frail_firestore):
    tasks = holding(held, 2)
    for call in (
        lambda: held.get("users/9"),
        lambda: list(held.stream("users")),
        lambda: held.client.document("users/9").get(),
        lambda: held.batch_write([("delete", "users/9")]),
    ):
        with pytest.raises(PoolTimeout) as caught:
            call()
        text = str(caught.value)
        assert "pool 'small': no connection within acquire_timeout (0.1 s)" in text
        assert [holder.thread_name for holder in caught.value.holders] == ["caller 0", "caller 1"]
        assert all("support.py" in holder.call_site for holder in caught.value.holders)
        assert caught.value.stats.in_use == 2
    frail_firestore.resume()
    for task in tasks:
        task.result()
    assert held.stats().timeouts == 4


def test_more_that_wait_than_may_are_refused(held, frail_firestore):
    tasks = holding(held, 2)
    running_of(held).lender.acquire_timeout = LONG
    waiter = Task(held.get, "users/8")
    eventually(lambda: held.stats().waiting == 1)
    with pytest.raises(PoolOverloaded):
        held.get("users/9")
    assert held.stats().refused == 1
    frail_firestore.resume()
    for task in (*tasks, waiter):
        task.result()


def test_leases_say_who_calls_from_where(held, frail_firestore):
    assert held.leases() == []
    tasks = holding(held, 2)
    leases = held.leases()
    assert [lease.thread_name for lease in leases] == ["caller 0", "caller 1"]
    assert leases[0].held_for >= leases[1].held_for > 0
    assert all("next_event" in lease.stack() or "_blocking" in lease.stack() for lease in leases)
    frail_firestore.resume()
    for task in tasks:
        task.result()
    assert held.leases() == []


def test_a_call_through_the_client_names_the_caller_not_the_library(held, frail_firestore):
    task = Task(lambda: held.client.document("users/1").get(), name="of the client")
    eventually(lambda: held.stats().in_use == 1)
    (lease,) = held.leases()
    assert "test_observing.py" in lease.call_site
    frail_firestore.resume()
    task.result()


def test_a_thread_that_dies_with_a_stream_gives_the_turn_back(store):
    store.bulk_write([("set", f"users/{n}", {"n": n}) for n in range(50)], rate=None)
    kept = []

    def die():
        stream = store.stream("users")
        next(stream)
        kept.append(stream)

    Task(die, name="who died").result()
    assert store.stats().in_use == 1
    eventually(lambda: store.stats().leaked == 1)
    assert store.stats().in_use == 0
    kept.clear()
    gc.collect()
    assert store.stats().in_use == 0
    assert len(list(store.stream("users"))) == 50


def test_what_goes_wrong_within_a_call_gives_the_turn_back(store, monkeypatch):
    store.get("users/1")

    def broken(*args):
        raise ZeroDivisionError

    monkeypatch.setattr(Caller, "_left", broken)
    for call in (lambda: store.get("users/1"), lambda: list(store.stream("users"))):
        with pytest.raises(ZeroDivisionError):
            call()
    assert store.stats().in_use == 0
    assert sum(link.busy for link in running_of(store).fleet._links) == 0


def test_events_say_what_happens(make_store):
    recorder = Recorder()
    store = make_store(listeners=[recorder], channels=2, idle_timeout=0.2, name="heard")
    store.get("users/1")
    with pytest.raises(exceptions.NotFound):
        store.update("users/none", {"a": 1})
    eventually(lambda: recorder.kinds().count("removed") == 2)
    assert store.stats().size == 0
    store.get("users/1")
    store.close()
    kinds = recorder.kinds()
    assert (kinds[0], kinds[-1]) == ("opened", "closed")
    assert kinds.count("connected") == kinds.count("removed") == 4
    assert kinds.count("acquired") == kinds.count("released") == 3
    assert (kinds.count("failed"), kinds.count("ready")) == (1, 1)
    reasons = [event.reason for kind, event in recorder.events if kind == "removed"]
    assert reasons == ["was idle for too long"] * 2 + ["closed"] * 2
    assert all(event.pool == "heard" for _, event in recorder.events)


def test_channels_are_replaced_when_they_are_old(make_store):
    recorder = Recorder()
    store = make_store(listeners=[recorder], channels=2, max_lifetime=0.1)
    over = threading.Event()

    def work():
        while not over.is_set():
            store.get("users/1")

    tasks = [Task(work) for _ in range(4)]
    eventually(lambda: recorder.kinds().count("removed") >= 4)
    over.set()
    for task in tasks:
        task.result()
    assert store.stats().errors == 0
    reasons = {event.reason for kind, event in recorder.events if kind == "removed"}
    assert reasons == {"reached its maximum lifetime"}


def test_a_repr_says_how_it_is(store):
    store.get("users/1")
    assert "open: pool 'firestore test-" in repr(store)
    assert "up, 4 channels" in repr(running_of(store).fleet)
