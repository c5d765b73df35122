"""Bad days: a server that is killed, frozen, slow or gone, answers that are lost, pools that are closed."""

from __future__ import annotations

import threading
from time import monotonic

import pytest
from google.api_core import exceptions

from poolkit import (
    BackendUnavailable,
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
    FirestorePool,
    OutcomeUnknown,
    PoolClosed,
    RetryPolicy,
    deadline,
)
from poolkit.embedded.process import free_port
from tests.core.support import LONG, Stopwatch, Task, eventually
from tests.faults.proxy import FaultProxy
from tests.recorder import Recorder

from .support import ONE_MORE, SCHEDULING, number_at, running_of

QUICK = RetryPolicy(attempts=3, base=0.01, cap=0.05)


@pytest.fixture
def frail(frail_firestore, project):
    """Give a pool over an emulator that may be broken."""
    with FirestorePool(
        project, emulator_host=frail_firestore.emulator_host, rpc_timeout=5.0, retry=QUICK
    ) as store:
        yield store


@pytest.fixture
def proxy(firestore_server):
    """Give a proxy before the shared emulator."""
    with FaultProxy("127.0.0.1", firestore_server.port) as proxy:
        yield proxy


@pytest.fixture
def proxied(make_store, proxy):
    """Give a pool with one channel, through the proxy."""
    return make_store(emulator_host=f"127.0.0.1:{proxy.port}", channels=1, retry=QUICK)


# -- away -----------------------------------------------------------------------------------------------


def test_nobody_there_is_told_at_once_with_the_cause(project):
    with FirestorePool(project, emulator_host=f"127.0.0.1:{free_port()}") as store:
        for call in (
            lambda: store.get("users/1"),
            lambda: store.set("users/1", {}),
            lambda: store.run(lambda transaction: None),
            lambda: list(store.stream("users")),
            lambda: store.client.document("users/1").get(),
        ):
            with pytest.raises(BackendUnavailable, match="Connection refused") as caught:
                call()
            assert caught.value.retry_after is not None
        assert store.health_check() is False
        assert store.stats().size == 0


def test_killed_and_restarted_under_load(frail, frail_firestore):
    frail.get("users/1")
    over, failures, successes = threading.Event(), [], []

    def work(number):
        while not over.is_set():
            began = monotonic()
            try:
                frail.get(f"users/{number}")
            except Exception as error:
                failures.append((error, monotonic() - began))
                over.wait(0.01)
            else:
                successes.append(monotonic())

    tasks = [Task(work, number) for number in range(8)]
    eventually(lambda: len(successes) > 50)
    frail_firestore.kill()
    eventually(lambda: len(failures) > 50)
    frail_firestore.start()
    back = monotonic()
    eventually(lambda: successes and successes[-1] > back)
    over.set()
    for task in tasks:
        task.result()

    allowed = (BackendUnavailable, exceptions.ServiceUnavailable)
    assert not [error for error, _ in failures if not isinstance(error, allowed)]
    assert isinstance(failures[-1][0], BackendUnavailable)
    # Its first calls take long: Java is not warm yet.
    assert next(at for at in successes if at > back) - back < 3.0
    for number in range(8):
        frail.get(f"users/{number}")
    stats = frail.stats()
    assert (stats.in_use, stats.waiting, stats.leaked) == (0, 0, 0)
    assert stats.created - stats.closed == stats.size


def test_while_it_is_away_one_probe_looks_not_a_herd(proxy, make_store):
    recorder = Recorder()
    store = make_store(emulator_host=f"127.0.0.1:{proxy.port}", retry=QUICK, listeners=[recorder])
    store.get("users/1")
    proxy.refuse()
    proxy.cut()
    accepted = proxy.connections_total
    tasks = [Task(store.get, "users/1") for _ in range(50)]
    for task in tasks:
        assert isinstance(task.end(), (BackendUnavailable, exceptions.ServiceUnavailable))
    assert running_of(store).fleet.outage.cause is not None
    proxy.accept()
    eventually(lambda: running_of(store).fleet.outage.cause is None)
    assert proxy.connections_total - accepted == 1  # the probe's own
    store.get("users/1")
    assert recorder.kinds().count("ready") == 2
    assert "reconnecting" in recorder.kinds()


def test_a_lost_connection_is_replaced_unseen(proxied, proxy):
    proxied.set("users/1", {"n": 1})
    for number in range(5):
        proxy.cut()
        assert number_at(proxied, "users/1") == 1, number
    stats = proxied.stats()
    assert (stats.errors, stats.size) == (0, 1)


# -- frozen, and slow ---------------------------------------------------------------------------------


def test_a_frozen_server_costs_no_more_than_the_deadline(frail, frail_firestore):
    frail.set("users/1", {"n": 1})
    frail.run(lambda transaction: transaction.get("users/1"))
    frail_firestore.pause()
    try:
        for call, kind in (
            (lambda: frail.get("users/1"), DeadlineExceeded),
            (lambda: frail.batch_get(["users/1", "users/2"]), DeadlineExceeded),
            (lambda: list(frail.stream("users")), DeadlineExceeded),
            (lambda: frail.client.document("users/1").get(), DeadlineExceeded),
            (lambda: frail.run(lambda transaction: transaction.get("users/1")), DeadlineExceeded),
            (lambda: frail.set("users/1", {"n": 2}), DeadlineOutcomeUnknown),
            (lambda: frail.client.document("users/1").delete(), DeadlineOutcomeUnknown),
        ):
            with Stopwatch() as watch, pytest.raises(kind) as caught, deadline(0.2):
                call()
            assert caught.value.stage == "running"
            assert 0.18 <= watch.seconds < 0.25 + SCHEDULING
            assert isinstance(caught.value, OutcomeUnknown) == (kind is DeadlineOutcomeUnknown)
        results = None
        with Stopwatch() as watch, deadline(0.2):
            results = frail.bulk_write([("delete", f"users/{n}") for n in range(150)])
        assert watch.seconds < 0.25 + SCHEDULING
        assert len(results) == 150
        assert all(isinstance(each.error, OutcomeUnknown) for each in results)
    finally:
        frail_firestore.resume()
    assert frail.get("users/1").to_dict() in ({"n": 1}, {"n": 2}, None)
    assert frail.stats().in_use == 0


def test_without_a_deadline_the_rpc_timeout_holds(frail_firestore, project):
    with FirestorePool(
        project, emulator_host=frail_firestore.emulator_host, rpc_timeout=0.1, retry=QUICK
    ) as store:
        eventually(store.health_check)
        frail_firestore.pause()
        try:
            with Stopwatch() as watch, pytest.raises(exceptions.DeadlineExceeded):
                store.get("users/1")
            assert 0.28 <= watch.seconds < 0.5 + SCHEDULING  # a read is tried three times
            with Stopwatch() as watch, pytest.raises(OutcomeUnknown):
                store.set("users/1", {})
            assert watch.seconds < 0.15 + SCHEDULING
            with pytest.raises(exceptions.DeadlineExceeded):
                store.client.document("users/1").get()
        finally:
            frail_firestore.resume()


def test_the_deadline_bounds_connecting_too(proxy, make_store):
    proxy.blackhole()
    store = make_store(emulator_host=f"127.0.0.1:{proxy.port}")
    with Stopwatch() as watch, pytest.raises(DeadlineExceeded) as caught, deadline(0.2):
        store.get("users/1")
    assert caught.value.stage == "connecting"
    assert watch.seconds < 0.25 + SCHEDULING


def test_connecting_takes_no_longer_than_its_timeout(proxy, make_store):
    proxy.blackhole()
    store = make_store(emulator_host=f"127.0.0.1:{proxy.port}", connect_timeout=0.2)
    with Stopwatch() as watch, pytest.raises(BackendUnavailable, match=r"within 0\.2 s"):
        store.get("users/1")
    assert watch.seconds < 0.3 + SCHEDULING
    proxy.pass_through()
    eventually(store.health_check)


# -- answers that are lost ------------------------------------------------------------------------------


def lose_answer(proxy, mark=b"lost-mark"):
    """Have the proxy cut the connection instead of giving the answer to a request with *mark* in it."""
    return proxy.cut_after_request(lambda sent: mark in sent)


def test_a_commit_whose_answer_is_lost_is_unknown_and_not_sent_again(proxied, proxy):
    proxied.set("counters/lost-mark", {"n": 0})
    for call in (
        lambda: proxied.update("counters/lost-mark", {"n": ONE_MORE}),
        lambda: proxied.batch_write([("update", "counters/lost-mark", {"n": ONE_MORE})]),
        lambda: proxied.client.document("counters/lost-mark").update({"n": ONE_MORE}),
    ):
        before, retries = number_at(proxied, "counters/lost-mark"), proxied.stats().retries
        sprung = lose_answer(proxy)
        with pytest.raises(OutcomeUnknown, match="may have taken effect or not"):
            call()
        assert sprung.wait(LONG)
        assert proxied.stats().retries == retries
        assert number_at(proxied, "counters/lost-mark") - before in (0, 1)


def test_a_transaction_whose_commits_answer_is_lost_is_unknown(proxied, proxy):
    proxied.set("counters/c", {"n": 0})
    calls = []

    def add(transaction):
        calls.append(1)
        transaction.update("counters/c", {"n": ONE_MORE, "by": "lost-mark"})

    sprung = lose_answer(proxy)
    with pytest.raises(OutcomeUnknown):
        proxied.run(add)
    assert sprung.wait(LONG)
    assert len(calls) == 1
    assert number_at(proxied, "counters/c") in (0, 1)

    lose_answer(proxy)
    proxied.run(add, idempotent=True)
    assert len(calls) == 3


def test_a_transaction_whose_read_is_lost_begins_anew(proxied, proxy):
    proxied.set("counters/lost-mark", {"n": 0})
    calls = []

    def add(transaction):
        calls.append(1)
        n = transaction.get("counters/lost-mark").get("n")
        transaction.update("counters/lost-mark", {"n": n + 1})

    sprung = lose_answer(proxy)
    proxied.run(add)
    assert sprung.wait(LONG)
    assert number_at(proxied, "counters/lost-mark") == 1


def test_reads_whose_answers_are_lost_are_repeated(proxied, proxy):
    proxied.set("users/lost-mark", {"n": 1})
    for call in (
        lambda: proxied.get("users/lost-mark").get("n"),
        lambda: proxied.batch_get(["users/lost-mark"])[0].get("n"),
        lambda: proxied.client.document("users/lost-mark").get().get("n"),
    ):
        sprung = lose_answer(proxy)
        assert call() == 1
        assert sprung.wait(LONG)


def test_what_is_called_idempotent_is_repeated(proxied, proxy):
    for call in (
        lambda: proxied.set("users/lost-mark", {"n": 1}, idempotent=True),
        lambda: proxied.batch_write([("set", "users/lost-mark", {"n": 1})], idempotent=True),
        lambda: proxied.bulk_write([("set", "users/lost-mark", {"n": 1})], idempotent=True),
    ):
        sprung = lose_answer(proxy)
        call()
        assert sprung.wait(LONG)
        assert number_at(proxied, "users/lost-mark") == 1
        proxied.delete("users/lost-mark")


def written_or_unknown(call, refusal):
    """Make the call, and fail if it says what can't be known."""
    error = Task(call).end()
    if error is not None:
        assert isinstance(error, OutcomeUnknown)
        assert "precondition" in str(error)
        assert isinstance(error.__cause__, refusal)


def test_a_precondition_makes_it_safe_to_repeat(proxied, proxy):
    for number in range(4):
        path = f"users/lost-mark-{number}"
        sprung = lose_answer(proxy, path.encode())
        written_or_unknown(
            lambda path=path: proxied.create(path, {"n": 1}), exceptions.AlreadyExists
        )
        assert sprung.wait(LONG)
        # It is there whether the first was lost on its way there or back: so it was sent again.
        assert number_at(proxied, path) == 1

    seen = proxied.get("users/lost-mark-0").update_time
    sprung = lose_answer(proxy, b"lost-mark-0")
    written_or_unknown(
        lambda: proxied.update("users/lost-mark-0", {"n": ONE_MORE}, last_update_time=seen),
        exceptions.FailedPrecondition,
    )
    assert sprung.wait(LONG)
    assert number_at(proxied, "users/lost-mark-0") == 2


def test_a_bulk_whose_answers_are_lost_accounts_for_each_write(proxied, proxy):
    sprung = lose_answer(proxy, b"n/lost-mark")
    operations = [("create", f"n/lost-mark-{n}", {"n": n}) for n in range(100)]
    operations += [("update", "n/lost-mark-0", {"n": ONE_MORE})]
    results = proxied.bulk_write(operations, rate=None)
    assert sprung.wait(LONG)
    assert len(results) == 101
    assert {type(each.error) for each in results[:100]} <= {type(None), OutcomeUnknown}
    assert proxied.count("n") == 100
    assert results[100].error is None  # it comes after the others, and so was not among the lost


# -- close -----------------------------------------------------------------------------------------------


def test_close_during_calls_ends_them(frail_firestore, project):
    store = FirestorePool(project, emulator_host=frail_firestore.emulator_host, rpc_timeout=20.0)
    store.set("users/1", {"n": 1})
    frail_firestore.pause()
    try:
        reads = [
            Task(store.get, "users/1"),
            Task(lambda: list(store.stream("users"))),
            Task(lambda: store.client.document("users/1").get()),
        ]
        write = Task(store.set, "users/1", {"n": 2})
        eventually(lambda: store.stats().in_use == 4)
        with Stopwatch() as watch:
            store.close(timeout=0.1)
        assert watch.seconds < 1.0 + SCHEDULING
        for task in reads:
            assert isinstance(task.end(), PoolClosed)
        assert isinstance(write.end(), OutcomeUnknown)
    finally:
        frail_firestore.resume()


def test_close_waits_for_calls_under_way(frail, frail_firestore):
    frail.set("users/1", {"n": 1})
    frail_firestore.pause()
    task = Task(frail.get, "users/1")
    eventually(lambda: frail.stats().in_use == 1)
    closing = Task(frail.close)
    eventually(lambda: frail._lifecycle.state == "closed")
    frail_firestore.resume()
    assert task.result().get("n") == 1
    closing.result()
    with pytest.raises(PoolClosed):
        frail.get("users/1")


def half_a_stream(store):
    documents = store.stream("users")
    next(documents)
    return documents


def test_streams_that_are_left_half_way_keep_no_connection_open(proxied, proxy):
    for number in range(3):
        proxied.set(f"users/{number}", {"n": number})
    half_a_stream(proxied).close()
    forgotten = Task(half_a_stream, proxied).result()  # by a thread that has ended
    eventually(lambda: proxied.stats().in_use == 0)
    assert proxy.live == 1
    proxied.close()
    eventually(lambda: proxy.live == 0)
    forgotten.close()


def test_a_pool_closed_while_it_connects(proxy, make_store):
    proxy.blackhole()
    store = make_store(
        emulator_host=f"127.0.0.1:{proxy.port}", connect_timeout=20.0, acquire_timeout=20.0
    )
    task = Task(store.get, "users/1")
    eventually(lambda: proxy.live > 0)
    with Stopwatch() as watch:
        store.close(timeout=0.2)
    assert isinstance(task.end(), PoolClosed)
    assert watch.seconds < 1.0 + SCHEDULING
