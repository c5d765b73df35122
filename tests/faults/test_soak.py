"""The judge of a soak sees what grows, and a very short soak shows nothing that does."""

from __future__ import annotations

import random
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from poolkit.embedded import FirestoreServer
from tests.core.support import LONG, Task, eventually
from tests.faults.bookkeeper import GRACE
from tests.faults.faults import FAULTS
from tests.faults.soak import judge, samples, weather
from tests.faults.soak.callers import Gate
from tests.faults.soak.findings import Findings
from tests.faults.soak.judge import MIB, Bounds
from tests.faults.soak.lateness import Lateness
from tests.faults.soak.places import POOLS
from tests.faults.soak.run import Outcome, Soak
from tests.faults.soak.samples import Rest, Sample
from tests.faults.subjects import Subject, every
from tests.faults.subjects.firestore import Firestore
from tests.faults.test_campaign import SCHEDULING, SEED

FILLING = 5000
"""Objects of a kind by which a bounded memory may still fill up in a few seconds: HttpPool knows the last URLs."""

BASE = 100 * MIB
BOUNDS = Bounds(threads=50, descriptors=200, connections=30)
SAMPLE = Sample(
    at=0.0,
    operations=0,
    faults=0,
    rss=BASE,
    threads=40,
    natives=46,
    descriptors=60,
    connections=10,
    objects=9000,
)


def course(
    *, count: int = 100, each: int = 100_000, grows: float = 0.0, noise: int = 0
) -> list[Sample]:
    """Return samples of a process whose memory *grows* by so many bytes an operation, and jumps about by *noise*."""
    dice = random.Random(1)
    return [
        replace(
            SAMPLE,
            operations=number * each,
            rss=BASE + int(number * each * grows) + dice.randint(-noise, noise),
        )
        for number in range(count)
    ]


@pytest.fixture
def tcp_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def promises(violations: object) -> list[str]:
    assert isinstance(violations, list)
    return [violation.promise for violation in violations]


# -- memory --------------------------------------------------------------------------------------------


def test_memory_that_goes_up_and_down_is_flat() -> None:
    assert judge.tendency(course(noise=2 * MIB)) == []
    assert judge.tendency(course(grows=0.2, noise=MIB)) == []


def test_a_byte_or_two_an_operation_are_told_through_the_noise() -> None:
    assert promises(judge.tendency(course(grows=2.0, noise=2 * MIB))) == ["memory stays flat"]


def test_growth_by_a_twentieth_is_told_however_slow() -> None:
    (found,) = judge.tendency(course(each=10_000_000, grows=0.01))
    assert "0.01 bytes an operation" in str(found)


def test_one_peak_is_no_tendency() -> None:
    peak = course()
    peak[50] = replace(peak[50], rss=2 * BASE)
    assert judge.tendency(peak) == []


def test_few_samples_show_no_tendency() -> None:
    assert judge.tendency(course(count=judge.FEWEST - 1, grows=100.0)) == []


def test_the_slope_is_that_of_most_pairs() -> None:
    points = [(float(x), 3.0 * x) for x in range(1000)]
    points[500] = (500.0, 1e9)
    assert judge.theil_sen(points) == pytest.approx(3.0)


# -- what can be counted -------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["threads", "descriptors", "connections"])
def test_more_than_there_may_be_is_told(what: str) -> None:
    highest = {what: getattr(BOUNDS, what) + 1}
    assert judge.heights([SAMPLE], BOUNDS) == []
    assert promises(judge.heights([SAMPLE, replace(SAMPLE, **highest), SAMPLE], BOUNDS)) == [
        f"{what} stay bounded"
    ]


class Kept:
    """What a pool might keep of each fault."""


def at_rest(faults: int = 0) -> Rest:
    sample = samples.take(began=time.monotonic(), operations=0, faults=faults, connections=0)
    return samples.rest(sample)


def test_a_list_that_grows_is_told_with_what_it_holds() -> None:
    first = at_rest()
    assert judge.rests(first, at_rest()) == []
    kept = [Kept() for _ in range(1000)]
    (found,) = judge.rests(first, at_rest(faults=1000))
    assert found.promise == "objects stay the same"
    assert f"1000 more of {Kept.__module__}.Kept (0)" in found.detail
    del kept
    assert judge.rests(first, at_rest(faults=1000)) == []


def test_a_thread_that_stays_is_told_by_its_name() -> None:
    first = at_rest()
    over = threading.Event()
    task = Task(over.wait, LONG, name="left over")
    try:
        assert judge.rests(first, at_rest())[0].detail == "1 more of left over (0)"
    finally:
        over.set()
        task.result()


def test_a_descriptor_that_stays_is_told_with_what_it_leads_to() -> None:
    first = at_rest()
    with open("/dev/null") as left_open:
        (found,) = judge.rests(first, at_rest())
        assert found.promise == "descriptors stay the same"
        assert f"1 more of {left_open.name}" in found.detail


def test_connections_to_the_servers_are_no_descriptors_that_stay(tcp_port: int) -> None:
    """A pool may have more of them at one time than at another, and change them between two looks."""
    first = samples.descriptors([tcp_port])
    with socket.create_connection(("127.0.0.1", tcp_port)):
        assert samples.descriptors([tcp_port]) == first
        assert (samples.descriptors() - first)["socket"] == 1


# -- callers -------------------------------------------------------------------------------------------


def test_a_call_that_is_late_is_told_unless_it_was_queued() -> None:
    findings = Findings()
    with Lateness(findings, grace=0.1) as lateness:
        now = time.monotonic() + 60  # when nothing was lost yet
        lateness.note(now, now + 0.09, 0.0, "in time")
        lateness.note(now, now + 0.25, 0.2, "queued")
        lateness.turn()
        assert findings.violations() == []
        lateness.note(now, now + 0.25, 0.0, "late")
        lateness.turn()
        lateness.note(now, now + 0.25, 0.0, "late at the end")
    (found,) = findings.violations()
    assert found.promise == "no wait past the deadline"
    assert "late; " in found.detail
    assert "late at the end" in found.detail


def test_what_is_broken_often_is_told_with_few_examples() -> None:
    findings = Findings()
    for number in range(1000):
        findings.add("a promise", f"number {number}")
    (found,) = findings.violations()
    assert str(found) == "a promise: number 0; number 1; number 2; and 997 more"


def test_callers_wait_while_the_gate_is_closed_and_end_when_it_is_over() -> None:
    gate, passed = Gate(), threading.Semaphore(0)

    def work() -> None:
        while gate.pass_through():
            passed.release()

    tasks = [Task(work) for _ in range(3)]
    gate.open()
    assert passed.acquire(timeout=LONG)
    gate.close()
    eventually(lambda: gate.waiting == len(tasks))
    gate.end()
    for task in tasks:
        task.result()


def test_faults_that_would_take_the_process_or_too_long_are_left_out() -> None:
    known = {fault.name for fault in FAULTS}
    for name in POOLS:
        apart = weather.APART | weather.LONG.get(name, frozenset())
        assert apart <= known
        chosen = {fault.name for fault in weather.fit(name)}
        assert not chosen & apart
        assert chosen >= {"reset", "refused", "frozen", "exhausted", "threads that die holding"}


# -- a soak --------------------------------------------------------------------------------------------


@contextmanager
def started(*names: str) -> Iterator[Mapping[str, Subject]]:
    subjects = {name: every()[name]() for name in names}
    with ExitStack() as servers:
        for subject in subjects.values():
            servers.callback(subject.server.close)
            subject.server.start()
        yield subjects


def soak(subjects: Mapping[str, Subject], operations: int) -> Outcome:
    outcome = Soak(
        subjects,
        seed=SEED,
        operations=operations,
        seconds=8.0,
        every=0.5,
        grace=GRACE + SCHEDULING,
        objects=FILLING,
    ).run(lambda _: None)
    sys.stdout.write(f"{outcome.answered} {outcome.errors} {outcome.played} {outcome.counted}\n")
    assert [str(violation) for violation in outcome.violations] == []
    assert set(outcome.answered) == set(subjects)
    assert sum(outcome.played.values()) > 0
    return outcome


def test_a_short_soak_leaves_nothing_behind() -> None:
    with started("postgres", "redis", "http") as subjects:
        outcome = soak(subjects, 4000)
    for said, counted in outcome.counted.values():
        assert said == counted > 0


def test_a_short_soak_of_firestore_leaves_nothing_behind(frail_firestore: FirestoreServer) -> None:
    soak({"firestore": Firestore(frail_firestore)}, 500)
