"""What a FirestorePool does, on the emulator."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from google.api_core import exceptions
from google.cloud import firestore

from poolkit import ConfigError, PoolClosed

from .support import ONE_MORE


def test_what_was_set_is_got(store):
    at = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone.utc)
    data = {
        "none": None, "yes": True, "number": 7, "float": 1.5, "text": "ä", "bytes": b"\0\xff", "at": at,
        "list": [1, "a", {"b": None}], "map": {"a": {"b": [2]}}, "empty": {},
        "where": firestore.GeoPoint(1.5, 2.5),
    }  # fmt: skip
    written = store.set("users/1", data)

    snapshot = store.get("users/1")
    assert snapshot.exists
    assert snapshot.to_dict() == data
    assert snapshot.id == "1"
    assert snapshot.reference.path == "users/1"
    assert snapshot.update_time == written.update_time
    assert snapshot.create_time == snapshot.update_time
    assert snapshot.get("map.a.b") == [2]


def test_a_snapshot_is_as_the_librarys_own(store):
    store.set("users/1", {"name": "Ada", "friend": store.client.document("users/2")})
    ours, theirs = store.get("users/1"), store.client.document("users/1").get()
    (batched,) = store.batch_get(["users/1"])
    assert ours == batched == theirs
    assert (ours.create_time, ours.update_time) == (theirs.create_time, theirs.update_time)
    assert batched.read_time is not None
    assert ours.get("friend").path == "users/2"


def test_a_missing_document_is_present_as_missing(store):
    snapshot = store.get("users/none")
    assert not snapshot.exists
    assert snapshot.to_dict() is None
    assert snapshot.id == "none"
    assert store.stats().errors == 0


def test_only_the_fields_that_are_wanted(store):
    store.set("users/1", {"a": 1, "b": {"c": 2, "d": 3}})
    assert store.get("users/1", fields=["b.c"]).to_dict() == {"b": {"c": 2}}
    (snapshot,) = store.batch_get(["users/1"], fields=["a"])
    assert snapshot.to_dict() == {"a": 1}
    assert store.get("users/1", fields=[]).to_dict() == {}
    with pytest.raises(ConfigError, match="fields must be a list"):
        store.get("users/1", fields="a")


def test_set_replaces_and_merges(store):
    store.set("users/1", {"a": 1, "b": {"c": 2}})
    store.set("users/1", {"b": {"d": 3}}, merge=True)
    assert store.get("users/1").to_dict() == {"a": 1, "b": {"c": 2, "d": 3}}
    store.set("users/1", {"a": 9, "b": {"d": 4}}, merge=["b.d"])
    assert store.get("users/1").to_dict() == {"a": 1, "b": {"c": 2, "d": 4}}
    store.set("users/1", {})
    assert store.get("users/1").to_dict() == {}


def test_create_only_where_there_is_none(store):
    store.create("users/1", {"a": 1})
    with pytest.raises(exceptions.AlreadyExists):
        store.create("users/1", {"a": 2})
    assert store.get("users/1").to_dict() == {"a": 1}


def test_update_changes_fields_of_one_that_there_is(store):
    with pytest.raises(exceptions.NotFound):
        store.update("users/1", {"a": 1})
    assert not store.get("users/1").exists
    store.set("users/1", {"a": 1, "b": {"c": 2, "d": 3}, "n": 1})
    store.update("users/1", {"b.c": 4, "a": firestore.DELETE_FIELD, "n": ONE_MORE})
    assert store.get("users/1").to_dict() == {"b": {"c": 4, "d": 3}, "n": 2}


def test_update_and_delete_only_what_has_not_changed(store):
    store.set("users/1", {"a": 1})
    seen = store.get("users/1").update_time
    store.update("users/1", {"a": 2}, last_update_time=seen)
    with pytest.raises(exceptions.FailedPrecondition):
        store.update("users/1", {"a": 3}, last_update_time=seen)
    with pytest.raises(exceptions.FailedPrecondition):
        store.delete("users/1", last_update_time=seen)
    store.delete("users/1", last_update_time=store.get("users/1").update_time)
    assert not store.get("users/1").exists


def test_delete_does_not_mind_one_that_there_is_not(store):
    store.delete("users/none")


def test_batch_get_keeps_order_duplicates_and_missing_ones(store):
    store.bulk_write([("set", f"users/{n}", {"n": n}) for n in range(5)], rate=None)
    wanted = ["users/3", "users/none", "users/0", "users/3", store.client.document("users/1")]
    snapshots = store.batch_get(wanted)
    assert [each.reference.path for each in snapshots] == [
        "users/3", "users/none", "users/0", "users/3", "users/1",
    ]  # fmt: skip
    assert [each.exists for each in snapshots] == [True, False, True, True, True]
    assert [each.get("n") for each in snapshots if each.exists] == [3, 0, 3, 1]
    assert store.batch_get([]) == []


def test_batch_get_of_any_number_goes_in_chunks(store):
    store.bulk_write([("set", f"users/{n}", {"n": n}) for n in range(0, 1300, 2)], rate=None)
    before = store.stats()
    snapshots = store.batch_get(f"users/{n}" for n in range(1300))
    assert [each.id for each in snapshots] == [str(n) for n in range(1300)]
    assert [each.exists for each in snapshots] == [not n % 2 for n in range(1300)]
    assert store.stats().leases - before.leases == 3


def test_batch_write_does_all_or_none(store):
    results = store.batch_write(
        [
            ("create", "users/1", {"a": 1}),
            ("set", "users/2", {"a": 2}),
            ("update", "users/2", {"b": 3}),
            ("set", "users/2", {"c": 4}, {"merge": True}),
            ("delete", "users/3"),
        ]
    )
    assert len(results) == 5
    assert results[0].update_time is not None
    assert store.get("users/2").to_dict() == {"a": 2, "b": 3, "c": 4}

    with pytest.raises(exceptions.NotFound):
        store.batch_write([("set", "users/4", {}), ("update", "users/none", {"a": 1})])
    assert not store.get("users/4").exists
    with pytest.raises(exceptions.AlreadyExists):
        store.batch_write([("delete", "users/2"), ("create", "users/1", {})])
    assert store.get("users/2").exists
    assert store.batch_write([]) == []


def test_batch_write_is_one_call(store):
    store.get("users/1")
    before = store.stats()
    store.batch_write([("set", f"users/{n}", {"n": n}) for n in range(400)])
    after = store.stats()
    assert (after.leases - before.leases, after.operations - before.operations) == (1, 1)
    assert store.count("users") == 400


def test_queries_stream_and_count(store):
    store.bulk_write([("set", f"users/{n:03}", {"n": n}) for n in range(300)], rate=None)
    users = store.client.collection("users")
    found = users.where(filter=firestore.FieldFilter("n", ">=", 290)).order_by("n")

    assert [snapshot.get("n") for snapshot in store.stream(found)] == list(range(290, 300))
    assert [snapshot.id for snapshot in store.stream("users")] == [f"{n:03}" for n in range(300)]
    assert (store.count(found), store.count("users"), store.count("nobody")) == (10, 300, 0)
    assert store.count(users) == 300
    assert list(store.stream("users/001/letters")) == []


def test_a_stream_lends_a_channel_until_it_is_closed(store):
    store.bulk_write([("set", f"users/{n}", {"n": n}) for n in range(50)], rate=None)
    stream = store.stream("users")
    next(stream)
    assert store.stats().in_use == 1
    stream.close()
    assert store.stats().in_use == 0
    stream = store.stream("users")
    next(stream)
    del stream
    assert store.stats().in_use == 0
    for _ in store.stream("users"):
        break
    assert (store.stats().in_use, store.stats().leaked) == (0, 0)


def test_a_query_of_another_client_is_refused(store, make_store):
    with pytest.raises(ConfigError, match="made by another client"):
        store.count(make_store().client.collection("users"))
    with pytest.raises(ConfigError, match="query must be"):
        store.count(7)


def test_the_client_does_the_rest_over_the_pool(store):
    client = store.client
    assert client is store.client
    client.document("users/1").set({"n": 1})
    client.collection("users").add({"n": 2}, "2")
    batch = client.batch()
    batch.update(client.document("users/1"), {"n": firestore.Increment(5)})
    batch.commit()
    assert client.document("users/1").get().to_dict() == {"n": 6}
    assert sorted(each.id for each in client.collection("users").list_documents()) == ["1", "2"]
    assert [each.id for each in client.collections()] == ["users"]
    writer = client.bulk_writer()
    writer.set(client.document("users/3"), {"n": 3})
    writer.close()

    @firestore.transactional
    def add(transaction):
        n = client.document("users/3").get(transaction=transaction).get("n")
        transaction.update(client.document("users/3"), {"n": n + 1})

    add(client.transaction())
    assert store.get("users/3").to_dict() == {"n": 4}
    with pytest.raises(exceptions.AlreadyExists):
        client.document("users/1").create({})
    stats = store.stats()
    assert stats.leases == stats.operations
    assert (stats.errors, stats.in_use) == (1, 0)


def test_the_client_listens(store):
    import threading

    seen, changed = [], threading.Condition()

    def heard(snapshots, changes, at):
        with changed:
            seen.append([each.to_dict() for each in snapshots])
            changed.notify_all()

    watch = store.client.document("users/1").on_snapshot(heard)
    try:
        store.set("users/1", {"n": 1})
        with changed:
            assert changed.wait_for(lambda: [{"n": 1}] in seen, 30)
        assert store.stats().in_use == 0  # it is no lease, since it may last for days
    finally:
        watch.unsubscribe()


def test_other_databases_are_apart(store, make_store):
    other = make_store(database="other")
    other.set("users/1", {"n": 1})
    assert not store.get("users/1").exists
    with pytest.raises(ConfigError, match="another database"):
        store.get(other.client.document("users/1"))
    assert "other" in other.name


def test_a_closed_pool_refuses(make_store):
    store = make_store()
    client = store.client
    store.get("users/1")
    store.close()
    for call in (
        lambda: store.get("users/1"),
        lambda: store.set("users/1", {}),
        lambda: store.run(lambda transaction: None),
        lambda: list(store.stream("users")),
        lambda: client.document("users/1").get(),
        lambda: store.bulk_write([("delete", "users/1")]),
    ):
        with pytest.raises(PoolClosed):
            call()


def test_health(store):
    assert store.health_check() is True
    store.close()
    assert store.health_check() is False
