"""What can't be written is refused before anything is sent, by name and with the remedy."""

from __future__ import annotations

import collections
from datetime import date, datetime, timezone
from decimal import Decimal

import pytest
from google.api_core import exceptions
from google.cloud import firestore

from poolkit import ConfigError, FirestorePool

NOWHERE = "127.0.0.1:1"

BAD_PATHS = {
    "an odd number of parts": ("users", "has 1 parts, so it names a collection"),
    "three parts": ("users/1/letters", "has 3 parts"),
    "nothing": ("", "empty part"),
    "an empty id": ("users/", "empty part"),
    "a slash before": ("/users/1", "empty part"),
    "two slashes": ("users//1/x", "empty part"),
    "a dot": ("users/.", "is no ID"),
    "two dots": ("users/..", "is no ID"),
    "a way up": ("users/../secrets/1", "is no ID"),
    "a reserved id": ("users/__id__", "Firestore's own"),
    "a long id": ("users/" + "x" * 1501, "longer than 1500 bytes"),
    "a long id of long letters": ("users/" + "ä" * 751, "longer than 1500 bytes"),
    "half a letter": ("users/\ud800", "not valid Unicode"),
    "none": (None, "must be a string such as 'users/1', or a DocumentReference, not None"),
    "bytes": (b"users/1", "not a value of type bytes"),
    "a tuple": (("users", "1"), "not a value of type tuple"),
    "too many parts": ("/".join(["a"] * 202), "has 202 parts"),
}

BAD_VALUES = {
    "a set": ({"tags": {1, 2}}, "field 'tags' is a set"),
    "a set within": ({"a": {"b": [1, {"c": frozenset()}]}}, r"field 'a.b\[1\].c' is a set"),
    "no time zone": ({"at": datetime(2026, 1, 1)}, "field 'at' is a datetime without a time zone"),  # noqa: DTZ001
    "a date": ({"on": date(2026, 1, 1)}, "field 'on' is a value of type date"),
    "a decimal": ({"price": Decimal("1.5")}, "field 'price' is a value of type Decimal"),
    "an object": ({"it": object()}, "field 'it' is a value of type object"),
    "a function": ({"it": print}, "field 'it'"),
    "a number of 65 bits": (
        {"n": [2**63]},
        r"field 'n\[0\]' is a whole number of more than 64 bits",
    ),
    "a number as a name": ({1: "a"}, "the names of fields must be strings"),
    "an empty name": ({"a": {"": 1}}, "not empty, also in a"),
    "half a letter": (
        {"a": "\ud800"},
        "set 'users/1': a text in it is not valid Unicode|create 'users/1'",
    ),
    "another mapping": ({"a": collections.UserDict()}, "make it a dict"),
    "a set in a transform": ({"a": firestore.ArrayUnion([{1}])}, "is a set"),
    "no dict": ([1], "the data must be a dict, not a value of type list"),
    "none": (None, "the data must be a dict, not None"),
}

BAD_OPERATIONS = {
    "an unknown one": (("upsert", "users/1", {}), "'upsert' is none of set, create, update, delete"),
    "none": ((None, "users/1", {}), "None is none of"),
    "no tuple": ("set", "must be a tuple"),
    "an empty one": ((), "must be a tuple"),
    "a dict": ({"set": "users/1"}, "must be a tuple"),
    "no data": (("set", "users/1"), r"set takes \('set', document, data\)"),
    "data to delete": (("delete", "users/1", {"a": 1}), "delete has no option 'a'"),
    "too much": (("create", "users/1", {}, {}, 1), "there are 5 parts"),
    "an unknown option": (("set", "users/1", {}, {"exists": True}), "it has merge"),
    "an option of no kind": (("set", "users/1", {}, True), "must be a dict, not a value of type bool"),
    "an empty update": (("update", "users/1", {}), "at least one field"),
    "two conditions": (
        ("delete", "users/1", {"exists": True, "last_update_time": datetime.now(timezone.utc)}),
        "delete 'users/1'",
    ),
    "a condition of no kind": (("delete", "users/1", {"last_update_time": "now"}), "update_time"),
    "a field twice": (("update", "users/1", {"a": 1, "a.b": 2}), "update 'users/1'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def unsent():
    """Give a pool that can't send anything."""
    with FirestorePool("p", emulator_host=NOWHERE) as store:
        yield store
        assert store.stats().leases == 0


@pytest.mark.parametrize(("path", "said"), BAD_PATHS.values(), ids=BAD_PATHS)
def test_a_bad_path_is_refused(unsent, path, said):
    for call in (
        lambda: unsent.get(path),
        lambda: unsent.set(path, {}),
        lambda: unsent.delete(path),
        lambda: unsent.batch_get(["users/1", path]),
        lambda: unsent.batch_write([("delete", path)]),
        lambda: unsent.bulk_write([("delete", path)]),
    ):
        with pytest.raises(ConfigError, match=said):
            call()


def test_a_bad_path_of_a_collection_is_refused(unsent):
    for path, said in (("users/1", "names a document"), ("", "empty part"), ("a/../b", "no ID")):
        with pytest.raises(ConfigError, match=said):
            unsent.count(path)


@pytest.mark.parametrize(("data", "said"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_value_that_would_not_be_stored_as_meant_is_refused(unsent, data, said):
    for call in (
        lambda: unsent.set("users/1", data),
        lambda: unsent.create("users/1", data),
        lambda: unsent.bulk_write([("set", "users/1", data)]),
    ):
        with pytest.raises(ConfigError, match=said):
            call()


def test_what_is_deeper_than_firestore_takes_is_refused(unsent):
    data: dict = {}
    for _ in range(30):
        data = {"a": data}
    with pytest.raises(ConfigError, match="more than 20 levels"):
        unsent.set("users/1", data)


@pytest.mark.parametrize(("operation", "said"), BAD_OPERATIONS.values(), ids=BAD_OPERATIONS)
def test_a_bad_operation_is_refused_by_its_number(unsent, operation, said):
    good = ("set", "users/1", {"secret": "s3cret"})
    for write in (unsent.batch_write, unsent.bulk_write):
        with pytest.raises(ConfigError, match=said) as caught:
            write([good, operation])
        assert "operation 1: " in str(caught.value)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("operations", ["set", b"set", {"set": 1}, None, 7])
def test_what_is_no_list_of_operations_is_refused(unsent, operations):
    with pytest.raises(ConfigError, match="operations must be a list of tuples"):
        unsent.batch_write(operations)


def test_values_are_never_quoted(unsent):
    for data in ({"n": 2**70, "password": "s3cret"}, {"s3cret" * 2: {1}}):
        with pytest.raises(ConfigError) as caught:
            unsent.set("users/1", data)
        assert str(2**70) not in str(caught.value)


def test_too_many_for_one_commit_are_refused(unsent):
    with pytest.raises(ConfigError, match=r"501 writes are too many for one commit.*bulk_write"):
        unsent.batch_write([("delete", f"users/{n}") for n in range(501)])
    with pytest.raises(ConfigError, match="bytes; Firestore takes 10,485,760"):
        unsent.batch_write([("set", f"users/{n}", {"a": "x" * 1_000_000}) for n in range(11)])


def test_a_document_that_is_too_large_is_refused_by_the_server(store):
    too_large = {"text": "x" * 1_048_600}
    with pytest.raises(exceptions.InvalidArgument):
        store.set("users/1", too_large)
    with pytest.raises(exceptions.InvalidArgument):
        store.batch_write([("set", "users/2", {}), ("set", "users/1", too_large)])
    assert not store.get("users/2").exists
    assert store.stats().retries == 0


def test_a_mapping_and_a_tuple_are_taken_for_what_they_are(store):
    store.set("users/1", collections.OrderedDict(a=(1, 2), b=collections.Counter("aa")))
    assert store.get("users/1").to_dict() == {"a": [1, 2], "b": {"a": 2}}
