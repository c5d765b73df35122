"""Leaks: what is held for too long is named once, and again when it ends; so is a pool that fills up."""

from __future__ import annotations

import logging
import threading

import pytest

from poolkit import PostgresPool
from poolkit.kit.leaks import LeakDetector

from ..core.support import Task


@pytest.fixture(autouse=True)
def _heard(caplog):
    caplog.set_level(logging.WARNING, "poolkit.leaks")


def test_a_lease_beyond_the_threshold_is_named_once_and_again_when_it_ends(conninfo, caplog):
    with PostgresPool(conninfo, min_size=1, leak_threshold=0.01) as db:
        detector = LeakDetector({"postgres": db})
        held, done = threading.Event(), threading.Event()

        def forget() -> None:
            with db.connection():
                held.set()
                done.wait(30)

        task = Task(forget, name="forgetful")
        assert held.wait(30)
        threading.Event().wait(0.02)  # the threshold
        detector.look()
        detector.look()
        done.set()
        task.result()
        detector.look()
        detector.look()

    named, ended = caplog.messages
    assert "held for longer than leak_threshold (0.01 s) by thread 'forgetful'" in named
    assert "in forget" in named.replace("<locals>.", "")
    assert "done.wait(30)" in named  # where the thread is now
    assert "by thread 'forgetful' was given back after" in ended


def test_a_lease_within_the_threshold_is_not_named(conninfo, caplog):
    with PostgresPool(conninfo, min_size=1) as db, db.connection():
        LeakDetector({"postgres": db}).look()

    assert not caplog.messages


def test_two_leases_of_one_thread_one_after_the_other_are_two(conninfo, caplog):
    with PostgresPool(conninfo, min_size=1, leak_threshold=1e-6) as db:
        detector = LeakDetector({"postgres": db})
        with db.connection():
            detector.look()
        with db.connection():
            detector.look()

    assert ["held for longer" in message for message in caplog.messages] == [True, True, False]


class Filling:
    """A pool with the figures of the test."""

    name = "db"

    def __init__(self) -> None:
        self.size = self.idle = 0

    def stats(self) -> Filling:
        return self

    def leases(self) -> list[object]:
        return []


@pytest.mark.parametrize(
    ("before", "after", "warns"),
    [
        ((5, 4), (8, 1), True),
        ((5, 4), (8, 4), False),
        ((5, 4), (5, 1), False),
        ((5, 4), (4, 3), False),
    ],
)
def test_more_connections_and_fewer_idle_are_warned_of(caplog, before, after, warns):
    pool = Filling()
    detector = LeakDetector({"db": pool})  # type: ignore[dict-item]
    for pool.size, pool.idle in (before, after):
        detector.look()

    assert bool(caplog.messages) is warns
    if warns:
        assert "8 connections are open, 3 more" in caplog.messages[0]
        assert "1 are idle, 3 fewer" in caplog.messages[0]


def test_the_report_is_for_a_human(conninfo):
    with PostgresPool(conninfo, min_size=1, leak_threshold=1e-6) as db, db.connection():
        said = LeakDetector({"postgres": db}).report()

    assert "1 of at most 20 connections open, 1 in use" in said
    assert "held by thread 'MainThread'" in said
    assert said.endswith("(too long)")
