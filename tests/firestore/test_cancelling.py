"""What ends a call to Firestore from another thread: queries, transactions, and bulks of writes."""

from __future__ import annotations

import math
import threading
from time import monotonic

import pytest

from poolkit import (
    Cancellation,
    Cancelled,
    CancelledOutcomeUnknown,
    FirestorePool,
    OutcomeUnknown,
    deadline,
)
from poolkit.core.deadline import PULSE, Deadline
from poolkit.core.housekeeper import housekeeper
from poolkit.firestore.lines import Lines, Turn
from poolkit.firestore.pacing import Pacer
from tests.cancelling import PROMPT, cancelled, under
from tests.core.support import LONG, Task, eventually
from tests.faults.proxy import FaultProxy

from .support import ONE_MORE, SCHEDULING, number_at


@pytest.fixture
def proxy(firestore_server):
    """Give what can freeze the emulator."""
    with FaultProxy("127.0.0.1", firestore_server.port) as proxy:
        yield proxy


@pytest.fixture
def store(proxy, project):
    """Give a pool by way of the proxy, which has some documents."""
    with FirestorePool(
        project, emulator_host=f"127.0.0.1:{proxy.port}", channels=1, rpc_timeout=LONG
    ) as store:
        store.batch_write([("set", f"users/{number}", {"n": number}) for number in range(3)])
        yield store
        proxy.pass_through()


@pytest.fixture
def cancellation():
    """Give what ends the calls of a test."""
    return Cancellation()


def sight(proxy, text):
    """Return what is set when something with *text* in it has been sent."""
    seen = threading.Event()
    # That it is seen does not cut it: set() returns None.
    proxy.cut_after_request(lambda octets: text in octets and seen.set())
    return seen


READS = {
    "stream": lambda store: list(store.stream("users")),
    "batch_get": lambda store: store.batch_get(["users/1", "users/2"]),
    "client": lambda store: list(store.client.collection("users").stream()),
    "count": lambda store: store.count("users"),
}


@pytest.mark.parametrize("way", READS)
def test_a_call_with_many_answers(store, proxy, cancellation, way):
    READS[way](store)
    proxy.stall_replies()
    sent = sight(proxy, b"/documents")
    task = Task(under, cancellation, READS[way], store)
    assert sent.wait(LONG)

    error = cancelled(task, cancellation)

    assert error.stage == "running"
    assert not isinstance(error, OutcomeUnknown)
    proxy.pass_through()
    eventually(lambda: store.stats().in_use == 0)
    assert under(Cancellation(), READS[way], store)


def test_nobody_watches_a_stream_that_has_ended(store):
    assert len(under(Cancellation(), READS["stream"], store)) == 3
    answers = under(Cancellation(), store.stream, "users")
    next(answers)
    answers.close()
    assert not [
        timer for *_, timer in housekeeper()._due if timer.period == PULSE and not timer.cancelled
    ]


def test_a_transaction_that_is_under_way_does_nothing(store, cancellation):
    def work(transaction):
        transaction.get("users/1")
        transaction.update("users/1", {"n": ONE_MORE})
        cancellation.cancel()

    with pytest.raises(Cancelled) as caught:
        under(cancellation, store.run, work)
    assert not isinstance(caught.value, OutcomeUnknown)
    assert number_at(store, "users/1") == 1


def test_a_commit_may_have_taken_effect(store, proxy, cancellation):
    begun: list[threading.Event] = []

    def work(transaction):
        transaction.update("users/1", {"n": ONE_MORE})
        proxy.stall_replies()
        begun.append(sight(proxy, b"users/1"))

    task = Task(under, cancellation, store.run, work)
    eventually(lambda: begun)
    assert begun[0].wait(LONG)

    error = cancelled(task, cancellation)

    assert isinstance(error, CancelledOutcomeUnknown)
    assert error.stage == "running"


def test_each_write_of_a_bulk_is_told_what_became_of_it(store, proxy, cancellation):
    sent = sight(proxy, b"many/")
    proxy.stall_replies()
    writes = [("set", f"many/{number}", {"n": number}) for number in range(1500)]
    task = Task(under, cancellation, lambda: store.bulk_write(writes, rate=600))
    assert sent.wait(LONG)

    began = monotonic()
    cancellation.cancel()
    results = task.result()
    assert monotonic() - began <= PROMPT + SCHEDULING

    assert len(results) == len(writes)
    assert not any(result.ok for result in results)
    unknown = [result for result in results if isinstance(result.error, OutcomeUnknown)]
    assert unknown, "those that were sent"
    assert all(isinstance(result.error, (OutcomeUnknown, Cancelled)) for result in results)
    proxy.pass_through()


def test_a_pause_between_writes_is_cut_short(cancellation):
    slept = []
    pacer = Pacer(10.0, lambda seconds: (slept.append(seconds), cancellation.cancel()))
    assert pacer.take(100, Deadline.after(LONG))
    with deadline(math.inf, cancellation=cancellation) as limit:
        assert not pacer.take(1, limit)
    assert slept == [PULSE]


def test_a_wait_in_a_line_is_cut_short(cancellation):
    lines, first = Lines(), Turn()
    lines.heat(["document"])
    lines.wait(first, ["document"], Deadline.after(LONG))
    with deadline(math.inf, cancellation=cancellation) as limit:
        second = Turn()
        task = Task(lines.wait, second, ["document"], limit)
        eventually(lambda: lines._lines["document"].waiting)

    began = monotonic()
    cancellation.cancel()
    task.result()

    assert monotonic() - began <= PROMPT
    assert second.held == []
    lines.leave(first)
    assert not lines._lines
