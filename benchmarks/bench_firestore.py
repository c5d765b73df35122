"""FirestorePool beside the client library that it is built on: on the emulator, and on a server that limits streams."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any
from unittest import mock

from google.api_core import exceptions
from google.cloud import firestore
from google.cloud.firestore_v1.bulk_writer import BulkWriterOptions

from benchmarks import answers
from benchmarks.answers import Answer
from benchmarks.asks import Ask, Expected, asking
from benchmarks.crew import Contender
from benchmarks.harness import Plan, Race
from benchmarks.progress import Watcher
from benchmarks.stream_limited import stream_limited
from benchmarks.targets import Target
from poolkit.embedded import FirestoreServer

QUESTIONS = ("get_by_threads", "batch_get", "batch_write", "bulk_write", "streams", "counter")
PACKAGES = ("google-cloud-firestore", "grpcio")

PROJECT = "bench"
DOCUMENTS = 1000
BATCH = 100
WRITES = 400
BULK = 5000
THREADS = (1, 8, 50)

POOL = "FirestorePool"
PLAIN = "firestore.Client"
OVER_POOL = "FirestorePool.client"
GETS = f"FirestorePool, {BATCH} gets"
PLAIN_GETS = f"firestore.Client, {BATCH} gets"
BULK_WRITER = "firestore.BulkWriter"
ONE_CHANNEL = "FirestorePool, 1 channel"

GET_TARGETS = tuple(
    Target(name="get", contender=POOL, peer=PLAIN, threads=threads, at_least=at_least)
    for threads, at_least in ((1, 0.95), (50, 1.0))
)
BATCH_GET_TARGETS = tuple(
    Target(name=f"batch_get of {BATCH}", contender=POOL, peer=GETS, threads=threads, at_least=10.0)
    for threads in (1,)
)
BULK_TARGETS = (
    Target(name=f"bulk of {BULK:,}", contender=POOL, peer=BULK_WRITER, threads=1, at_least=1.0),
)
STREAM_TARGETS = (
    Target(name="20 calls", contender=POOL, peer=ONE_CHANNEL, threads=20, at_least=3.0),
)
COUNTER_TARGETS = (
    Target(name="contended counter", contender=POOL, peer=PLAIN, threads=8, at_least=2.0),
)

Way = tuple[str, Callable[[], AbstractContextManager[Any]], Callable[[Any], Ask], bool]

_NUMBERS = random.Random(2).sample(range(DOCUMENTS), DOCUMENTS)
VALUES: Expected = [(f"users/{n}", n) for n in _NUMBERS]
BATCHES: Expected = [
    tuple(zip(*VALUES[start : start + BATCH], strict=True)) for start in range(0, DOCUMENTS, BATCH)
]


def answered(plan: Plan, wanted: Collection[str], watcher: Watcher) -> Iterator[Answer]:
    """Start the servers, race, and answer the wanted questions; first what needs no emulator."""
    if "streams" in wanted:
        with stream_limited() as server:
            yield _streams_answered(server.host, plan, watcher)
    if set(wanted) - {"streams"}:
        with FirestoreServer() as host:
            _fill(host)
            for name, answer in _ANSWERS.items():
                if name in wanted:
                    yield answer(host, plan, watcher)


def _gets_answered(host: str, plan: Plan, watcher: Watcher) -> Answer:
    ways: list[Way] = [
        (POOL, partial(_pool, host), _get, True),
        (OVER_POOL, partial(_client_of_pool, host), _client_get, True),
        (PLAIN, partial(_plain, host), _client_get, False),
    ]
    question = "Firestore: how many documents a second, one a request?"
    return _raced(
        "get_by_threads", question, ways, VALUES, THREADS, 36.0, PLAIN, GET_TARGETS, plan, watcher
    )


def _batch_gets_answered(host: str, plan: Plan, watcher: Watcher) -> Answer:
    ways: list[Way] = [
        (POOL, partial(_pool, host), _batch_get, True),
        (GETS, partial(_pool, host), _gets, True),
        (f"{PLAIN}.get_all", partial(_plain, host), _get_all, False),
        (PLAIN_GETS, partial(_plain, host), _client_gets, False),
    ]
    question = f"Firestore: {BATCH} documents in one call, or one by one?"
    return _raced(
        "batch_get", question, ways, BATCHES, (1, 8), 24.0, GETS, BATCH_GET_TARGETS, plan, watcher
    )


def _batch_writes_answered(host: str, plan: Plan, watcher: Watcher) -> Answer:
    ways: list[Way] = [
        (f"{POOL}.batch_write", partial(_pool, host), _batch_write, True),
        (f"{POOL}.bulk_write", partial(_pool, host), partial(_bulk_write, WRITES), True),
        (f"{PLAIN}, batch", partial(_plain, host), _client_batch, False),
        (BULK_WRITER, partial(_plain, host), partial(_bulk_writer, WRITES), False),
    ]
    question = f"Firestore: how long do {WRITES} writes take?"
    slow = _with_seconds(plan, 1.5)
    name, expected = "batch_write", [("w", WRITES)]
    return _raced(name, question, ways, expected, (1,), 24.0, f"{PLAIN}, batch", (), slow, watcher)


def _bulks_answered(host: str, plan: Plan, watcher: Watcher) -> Answer:
    ways: list[Way] = [
        (POOL, partial(_pool, host), partial(_bulk_write, BULK), True),
        (BULK_WRITER, partial(_plain, host), partial(_bulk_writer, BULK), False),
    ]
    question = f"Firestore: how long do {BULK:,} writes take that need not be atomic?"
    slow = _with_seconds(plan, 8.0)
    name, expected = "bulk_write", [("b", BULK)]
    return _raced(
        name, question, ways, expected, (1,), 48.0, BULK_WRITER, BULK_TARGETS, slow, watcher
    )


def _streams_answered(host: str, plan: Plan, watcher: Watcher) -> Answer:
    ways: list[Way] = [
        (POOL, partial(_pool, host), _exists, True),
        (ONE_CHANNEL, partial(_pool, host, channels=1), _exists, True),
    ]
    question = (
        "Firestore: 20 calls at a time of 0.3 s, where a connection carries 5: how many a second?"
    )
    expected = [(f"users/{n}", True) for n in range(20)]
    slow = _with_seconds(plan, 3.0)
    return _raced(
        "streams", question, ways, expected, (20,), 24.0, ONE_CHANNEL, STREAM_TARGETS, slow, watcher
    )


def _counter_answered(host: str, plan: Plan, watcher: Watcher) -> Answer:
    ways: list[Way] = [
        (POOL, partial(_pool, host), _increment, True),
        (PLAIN, partial(_plain, host), _client_increment, False),
    ]
    question = "Firestore: how often do 8 threads add to one document, in transactions?"
    slow = _with_seconds(plan, 8.0)
    expected = [(f"c{n}", True) for n in range(8)]
    return _raced(
        "counter", question, ways, expected, (8,), 60.0, PLAIN, COUNTER_TARGETS, slow, watcher
    )


_ANSWERS: dict[str, Callable[[str, Plan, Watcher], Answer]] = {
    "get_by_threads": _gets_answered,
    "batch_get": _batch_gets_answered,
    "batch_write": _batch_writes_answered,
    "bulk_write": _bulks_answered,
    "counter": _counter_answered,
}


def _raced(
    name: str,
    question: str,
    ways: Sequence[Way],
    expected: Expected,
    threads: Sequence[int],
    budget: float,
    reference: str,
    targets: Sequence[Target],
    plan: Plan,
    watcher: Watcher,
) -> Answer:
    contenders = [_contender(*way, expected) for way in ways]
    name = f"firestore.{name}"
    race = Race(name=name, contenders=contenders, threads=threads, budget=budget)
    return answers.speed(name, question, race.run(plan, watcher), reference, targets)


def _with_seconds(plan: Plan, seconds: float) -> Plan:
    """Return the plan with rounds long enough for turns of seconds; quick ones are as long, but fewer."""
    patience = dataclasses.replace(plan.timing, seconds=seconds, patience=60.0)
    return dataclasses.replace(plan, timing=patience)


# The contenders ------------------------------------------------------------------------------------


def _contender(
    name: str,
    opened: Callable[[], AbstractContextManager[Any]],
    ask_of: Callable[[Any], Ask],
    ours: bool,
    expected: Expected,
) -> Contender:
    return Contender(name, partial(asking, partial(_asks, opened, ask_of), expected), ours)


@contextmanager
def _asks(
    opened: Callable[[], AbstractContextManager[Any]], ask_of: Callable[[Any], Ask], threads: int
) -> Iterator[Sequence[Ask]]:
    with opened() as client:
        yield [ask_of(client)] * threads


@contextmanager
def _pool(host: str, **settings: Any) -> Iterator[Any]:
    from poolkit import FirestorePool

    with FirestorePool(PROJECT, emulator_host=host, acquire_timeout=30.0, **settings) as store:
        store.get("users/0")
        yield store


@contextmanager
def _client_of_pool(host: str) -> Iterator[Any]:
    with _pool(host) as store:
        yield store.client


@contextmanager
def _plain(host: str) -> Iterator[Any]:
    """The library's client as it comes: one channel, retries of its own."""
    with mock.patch.dict(os.environ, FIRESTORE_EMULATOR_HOST=host):
        client = firestore.Client(project=PROJECT)
    client.document("users/0").get()
    try:
        yield client
    finally:
        client._firestore_api.transport.close()


def _fill(host: str) -> None:
    with _pool(host) as store:
        people = [("set", f"users/{n}", _person(n)) for n in range(DOCUMENTS)]
        store.bulk_write(people, rate=None)
        store.set("counters/1", {"n": 0})
        for _ in range(3):  # Java gets faster with use
            store.batch_get([f"users/{n}" for n in range(DOCUMENTS)])
            for n in range(300):
                store.get(f"users/{n}")


def _person(n: int) -> dict[str, Any]:
    return {"n": n, "name": f"name {n}", "score": n / 7, "tags": ["a", "b"], "at": {"city": "x"}}


# What they are asked -------------------------------------------------------------------------------


def _get(store: Any) -> Ask:
    return lambda path: store.get(path).get("n")


def _exists(store: Any) -> Ask:
    return lambda path: store.get(path).exists


def _client_get(client: Any) -> Ask:
    return lambda path: client.document(path).get().get("n")


def _batch_get(store: Any) -> Ask:
    return lambda paths: tuple(each.get("n") for each in store.batch_get(paths))


def _gets(store: Any) -> Ask:
    return lambda paths: tuple(store.get(path).get("n") for path in paths)


def _get_all(client: Any) -> Ask:
    def ask(paths: Sequence[str]) -> Any:
        found = client.get_all([client.document(path) for path in paths])
        by_path = {each.reference.path: each.get("n") for each in found}
        return tuple(by_path[path] for path in paths)

    return ask


def _client_gets(client: Any) -> Ask:
    return lambda paths: tuple(client.document(path).get().get("n") for path in paths)


def _batch_write(store: Any) -> Ask:
    return lambda name: len(store.batch_write(_sets(name, WRITES)))


def _bulk_write(count: int, store: Any) -> Ask:
    return lambda name: sum(each.ok for each in store.bulk_write(_sets(name, count), rate=None))


def _client_batch(client: Any) -> Ask:
    def ask(name: str) -> int:
        batch = client.batch()
        for _, path, data in _sets(name, WRITES):
            batch.set(client.document(path), data)
        return len(batch.commit())

    return ask


def _bulk_writer(count: int, client: Any) -> Ask:
    """BulkWriter without its ramp, as ours is without."""

    def ask(name: str) -> int:
        written: list[object] = []
        fast = BulkWriterOptions(initial_ops_per_second=10**9, max_ops_per_second=10**9)
        writer = client.bulk_writer(options=fast)
        writer.on_write_result(lambda reference, _result, _writer: written.append(reference))
        for _, path, data in _sets(name, count):
            writer.set(client.document(path), data)
        writer.close()
        return len(written)

    return ask


def _sets(name: str, count: int) -> list[tuple[str, str, dict[str, Any]]]:
    return [("set", f"{name}/{n}", {"n": n, "name": "x"}) for n in range(count)]


def _increment(store: Any) -> Ask:
    def add(transaction: Any) -> None:
        n = transaction.get("counters/1").get("n")
        transaction.update("counters/1", {"n": n + 1})

    def ask(_: str) -> bool:
        store.run(add)
        return True

    return ask


def _client_increment(client: Any) -> Ask:
    """As the library's documentation has it, and again when it gives up."""
    reference = client.document("counters/1")

    def add(transaction: Any) -> None:
        n = reference.get(transaction=transaction).get("n")
        transaction.update(reference, {"n": n + 1})

    def ask(_: str) -> bool:
        while True:
            try:
                firestore.transactional(add)(client.transaction())
            except (ValueError, exceptions.Aborted):
                continue
            return True

    return ask
