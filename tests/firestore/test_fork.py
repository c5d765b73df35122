"""A pool works in a forked child and in its parent, whenever it was opened."""

from __future__ import annotations

import gc
import os
import sys
import threading

import pytest

from poolkit import FirestorePool
from tests.core.support import LONG, Task, eventually, python
from tests.faults.proxy import FaultProxy
from tests.forks import Child

from .support import running_of


def test_a_pool_made_before_the_fork_opens_in_each_process(firestore_server, project):
    store = FirestorePool(project, emulator_host=firestore_server.emulator_host)
    child = Child(
        lambda: (store.set("users/child", {}).update_time is not None, store.stats().size)
    )
    assert store._lifecycle.state == "new"  # nothing of grpc was opened before
    assert child.outcome() == (True, 4)
    with store:
        store.set("users/parent", {})
        paths = ["users/child", "users/parent"]
        assert [each.exists for each in store.batch_get(paths)] == [True, True]


def test_a_pool_used_before_the_fork_works_in_both(store):
    store.set("users/1", {"n": 1})
    client = store.client

    def work():
        seen = store.get("users/1").get("n"), client.document("users/1").get().get("n")
        store.run(lambda transaction: transaction.update("users/1", {"n": 2}))
        return seen, [each.id for each in store.stream("users")], store.stats().created

    child = Child(work)
    assert child.outcome() == ((1, 1), ["1"], 4)
    assert store.get("users/1").get("n") == 2
    assert client.document("users/1").get().get("n") == 2
    assert store.stats().created == 4


def test_neither_touches_the_others_connections(firestore_server, make_store):
    with FaultProxy("127.0.0.1", firestore_server.port) as proxy:
        store = make_store(emulator_host=f"127.0.0.1:{proxy.port}", channels=2)
        store.set("users/1", {"n": 1})
        assert proxy.connections_total == 2

        def work():
            before = store.get("users/1").get("n")
            store.close()
            gc.collect()
            return before

        child = Child(work)
        assert child.outcome() == 1
        assert proxy.connections_total == 4
        eventually(lambda: proxy.live == 2)
        for _ in range(10):
            store.get("users/1")
        assert (proxy.connections_total, store.stats().closed) == (4, 0)


def test_a_fork_during_calls(store):
    store.set("users/1", {"n": 1})
    over = threading.Event()
    counts = [0] * 4

    def work(number):
        while not over.is_set():
            store.get("users/1")
            counts[number] += 1

    tasks = [Task(work, number) for number in range(4)]
    eventually(lambda: min(counts) > 5)
    children = [Child(lambda: store.get("users/1").get("n")) for _ in range(3)]
    assert [child.outcome() for child in children] == [1, 1, 1]
    before = list(counts)
    eventually(lambda: all(now > then for now, then in zip(counts, before, strict=True)))
    over.set()
    for task in tasks:
        task.result()
    assert store.stats().errors == 0


def test_a_child_that_ends_in_order_harms_nobody(firestore_server, project):
    """A whole interpreter ends in the child, with everything that grpc does then."""
    script = f"""
import os, sys
from poolkit import FirestorePool
store = FirestorePool({project!r}, emulator_host={firestore_server.emulator_host!r})
store.set("users/1", {{"n": 1}})
store.client
child = os.fork()
if child == 0:
    assert store.get("users/1").get("n") == 1
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
for _ in range(20):
    assert store.get("users/1").get("n") == 1
print(store.stats().closed, store.stats().errors)
"""
    assert python(script).split() == ["0", "0"]


def test_a_child_of_a_closed_pool_finds_it_closed(store):
    store.get("users/1")
    store.close()

    def work():
        try:
            store.get("users/1")
        except Exception as error:
            return type(error).__name__
        return None

    assert Child(work).outcome() == "PoolClosed"


def test_leases_of_the_parent_are_nothing_to_the_child(store):
    store.bulk_write([("set", f"users/{n}", {"n": n}) for n in range(20)], rate=None)
    stream = store.stream("users")
    next(stream)

    def work():
        nonlocal stream
        found = len(store.leases()), store.get("users/1").exists
        del stream
        gc.collect()
        return found, store.stats().in_use

    assert Child(work).outcome() == ((0, True), 0)
    assert len(list(stream)) == 19
    assert running_of(store).lender.book is not None


def test_nothing_of_grpc_is_loaded_by_importing_poolkit():
    script = """
import sys
import poolkit
poolkit.PoolKitError
print([name for name in ("grpc", "google.cloud.firestore") if name in sys.modules])
"""
    assert python(script).strip() == "[]"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_closed_pool_leaves_no_thread(make_store):
    before = threading.active_count()
    store = make_store()
    store.get("users/1")
    list(store.stream("users"))
    store.close()
    eventually(lambda: threading.active_count() <= before, LONG)
    assert os.getpid()
