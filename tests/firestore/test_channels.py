"""What poolkit takes for granted of the inside of grpc and of the library."""

from __future__ import annotations

import sys
from time import monotonic

import grpc
import pytest
from google.api_core import exceptions
from google.api_core.retry import Retry
from google.cloud import firestore

from poolkit import FirestoreConfig
from poolkit.core.deadline import Deadline
from poolkit.embedded.process import free_port
from poolkit.firestore import channels
from poolkit.firestore.channels import State
from poolkit.firestore.config import identity_of
from poolkit.firestore.fleet import Slot
from tests.core.support import eventually
from tests.faults.proxy import FaultProxy

from .support import running_of


def opened(host: str, **settings):
    config = FirestoreConfig(project="p", emulator_host=host, **settings)
    return channels.open_channel(config, identity_of(config))


def test_each_channel_has_a_connection_of_its_own(firestore_server, make_store):
    with FaultProxy("127.0.0.1", firestore_server.port) as proxy:
        store = make_store(emulator_host=f"127.0.0.1:{proxy.port}", channels=3)
        store.get("users/1")
        assert proxy.connections_total == proxy.live == 3
        for _ in range(20):
            store.get("users/1")
        assert proxy.connections_total == 3
        store.close()
        eventually(lambda: proxy.live == 0)  # closing really closes them


def test_a_channel_says_what_it_is_at(firestore_server):
    with opened(firestore_server.emulator_host) as channel:
        assert channels.state(channel) is State.IDLE
        assert channels.wait_ready(channel, Deadline.after(10)) is State.READY
        assert channels.state(channel) is State.READY
        assert channels.why(channel) == ""
    channels.connect(channel)
    assert channels.state(channel) is State.CLOSED
    assert channels.wait_ready(channel, Deadline.after(10)) is State.CLOSED
    assert "closed" in channels.why(channel)


def test_a_channel_that_can_not_connect_says_why():
    with opened(f"127.0.0.1:{free_port()}") as channel:
        assert channels.wait_ready(channel, Deadline.after(10)) is State.FAILING
        assert "Connection refused" in channels.why(channel)


def test_waiting_ends_with_the_deadline(firestore_server):
    with FaultProxy("127.0.0.1", firestore_server.port) as proxy:
        proxy.blackhole()
        with opened(f"127.0.0.1:{proxy.port}") as channel:
            began = monotonic()
            assert channels.wait_ready(channel, Deadline.after(0.3)) is State.CONNECTING
            assert 0.3 <= monotonic() - began < 0.45


def test_the_options_are_the_configs(monkeypatch):
    seen = {}
    monkeypatch.setattr(grpc, "insecure_channel", lambda host, options: seen.update(options))
    opened("127.0.0.1:1", keepalive_time=31, keepalive_timeout=11)
    assert seen["grpc.keepalive_time_ms"] == 31_000
    assert seen["grpc.keepalive_timeout_ms"] == 11_000
    assert seen["grpc.keepalive_permit_without_calls"] == 1
    assert seen["grpc.http2.max_pings_without_data"] == 0


def test_without_an_emulator_the_channel_is_to_google_with_tls(monkeypatch):
    monkeypatch.delenv("FIRESTORE_EMULATOR_HOST", raising=False)
    seen = {}

    def create(target, **options):
        seen.update(options, target=target)
        return object()

    monkeypatch.setattr(channels.grpc_helpers, "create_channel", create)
    from google.auth.credentials import AnonymousCredentials

    mine = AnonymousCredentials()
    config = FirestoreConfig(project="p", credentials=mine)
    channels.open_channel(config, identity_of(config))
    assert seen["target"] == "firestore.googleapis.com:443"
    assert seen["credentials"] is mine


def test_the_librarys_own_retries_are_off(store):
    transport = store.client._firestore_api.transport
    assert len(transport._wrapped_methods) > 15
    for wrapped in transport._wrapped_methods.values():
        call = wrapped.__wrapped__ if hasattr(wrapped, "__wrapped__") else wrapped
        assert not isinstance(getattr(call, "_retry", None), Retry)
        assert getattr(call, "_timeout", None) is None


def test_the_client_asks_as_often_as_the_pool_says_and_no_more(store, monkeypatch):
    calls = []

    def unary(self, method, request, **options):
        calls.append(method)
        raise exceptions.ServiceUnavailable("as told")

    monkeypatch.setattr(type(running_of(store.open()).caller), "unary", unary)
    monkeypatch.setattr(running_of(store).lender, "sleep", lambda seconds: None)
    with pytest.raises(exceptions.ServiceUnavailable):
        list(store.client.collections())
    assert len(calls) == 3


def test_what_a_batch_has_gathered(store):
    batch = store.client.batch()
    batch.set(store.client.document("users/1"), {"a": 1})
    batch.delete(store.client.document("users/2"))
    one, two = channels.writes_of(batch)
    assert one.update.name == channels.name_of(store.client.document("users/1"))
    assert one.update.fields["a"].integer_value == 1
    assert two.delete.endswith("/documents/users/2")


def test_plain_writes_are_what_the_library_makes_of_them(store):
    reference = store.client.document("users/1")
    name = channels.name_of(reference)
    for data in (
        {},
        {"a": 1, "b": True, "c": 1.5, "d": None, "e": "ä", "f": b"\xff", "a.b": 1, "": {}}
        | {"l": [1, [], {"x": ()}, None], "m": {"n": {"o": [{}]}, "p": {}}},
    ):
        data.pop("", None)
        for create in (False, True):
            batch = store.client.batch()
            (batch.create if create else batch.set)(reference, data)
            (theirs,) = channels.writes_of(batch)
            assert channels.plain_write(name, data, create=create) == theirs
    for value in (firestore.SERVER_TIMESTAMP, reference, firestore.GeoPoint(1, 2), [reference]):
        assert channels.plain_write(name, {"a": {"b": value}}, create=False) is None


def test_a_transaction_begins_and_ends(store):
    transaction = store.client.transaction()
    channels.begin(transaction, b"1")
    assert transaction.in_progress
    assert transaction.id == b"1"
    channels.end(transaction)
    assert not transaction.in_progress


def test_transforms_and_their_values():
    assert channels.is_transform(firestore.SERVER_TIMESTAMP)
    assert channels.is_transform(firestore.DELETE_FIELD)
    assert channels.transformed(firestore.ArrayUnion([1, 2])) == [1, 2]
    assert channels.transformed(firestore.ArrayRemove([3])) == [3]
    assert channels.transformed(firestore.Increment(4)) == [4]
    assert channels.transformed(firestore.Maximum(5)) == [5]
    assert channels.transformed(firestore.SERVER_TIMESTAMP) == []
    assert not channels.is_transform({})


def test_whose_a_query_is(store):
    users = store.client.collection("users")
    for query in (
        users,
        users.limit(1),
        store.client.collection_group("users"),
        users.order_by("a"),
    ):
        assert channels.belongs_to(query, store.client)
    assert not channels.belongs_to(
        users, firestore.Client("p", credentials=store.client._credentials)
    )


def test_a_slot_whose_making_was_interrupted_is_dropped_without_a_word(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    Slot.__new__(Slot)
    assert heard == []
