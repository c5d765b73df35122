"""Who holds a connection is known, told to those who wait in vain, and a holder that can't return it loses it."""

from __future__ import annotations

import gc
import inspect
import logging
import re
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from poolkit import PoolTimeout, PostgresPool
from poolkit.core.events import Leaked, Listener
from tests.core.support import Task

from .observing import Watch, assert_whole, until

MakePool = Callable[..., PostgresPool]


class Leaks(Listener):
    def __init__(self) -> None:
        self.heard: list[Leaked] = []

    def leaked(self, event: Leaked) -> None:
        self.heard.append(event)


def line_of(function: Callable[..., Any], text: str) -> int:
    """Return the number of the line of *function* that has *text* in it."""
    lines, first = inspect.getsourcelines(function)
    return first + next(number for number, line in enumerate(lines) if text in line)


def hold_until(db: PostgresPool, held: threading.Event, let_go: threading.Event) -> None:
    with db.connection():
        held.set()
        let_go.wait(30)  # here it stands


def test_timeout_names_thread_call_site_time_and_where_the_holder_is(
    conninfo: str, make_pool: MakePool
) -> None:
    db = make_pool(conninfo, min_size=1, max_size=1, acquire_timeout=0.2)
    held, let_go = threading.Event(), threading.Event()
    culprit = Task(lambda: hold_until(db, held, let_go), name="culprit")
    assert held.wait(10)
    with pytest.raises(PoolTimeout) as caught:
        db.query("select 1")
    let_go.set()
    assert culprit.outcome() is None

    error = caught.value
    (holder,) = error.holders
    assert holder.thread_name == "culprit"
    where = f"{__file__}:{line_of(hold_until, 'db.connection()')} in hold_until"
    assert holder.call_site == where
    assert 0.2 <= holder.held_for < 5
    assert error.stats is not None
    assert (error.stats.in_use, error.stats.size, error.stats.waiting) == (1, 1, 0)
    text = str(error)
    now = f"{__file__}:{line_of(hold_until, 'let_go.wait')} in hold_until"
    assert "acquire_timeout (0.2 s)" in text
    assert re.search(r"'culprit' for 0\.\d{3} s, acquired at " + re.escape(where), text)
    assert f"now at {now}" in text
    assert "1 of at most 1 connections open, 1 in use" in text


def test_leases_lists_the_holders_the_longest_first(conninfo: str, make_pool: MakePool) -> None:
    db = make_pool(conninfo, min_size=2, max_size=2)
    assert db.leases() == []
    with db.connection():
        with db.transaction():
            first, second = db.leases()
            assert first.held_for >= second.held_for > 0
            assert {first.thread_name} == {threading.current_thread().name}
            here = "test_leases_lists_the_holders_the_longest_first"
            assert first.call_site.endswith(here)
            assert first.call_site != second.call_site
            assert here in first.stack()
    assert db.leases() == []


@pytest.mark.parametrize("use", ["query", "stream", "run", "transaction"])
def test_call_site_is_the_callers_whatever_it_calls(db: PostgresPool, use: str) -> None:
    sites: list[str] = []

    def look(*_: object) -> None:
        sites.extend(holder.call_site for holder in db.leases())

    def call() -> None:
        if use == "query":
            db.query("select 1", row_factory=lambda cursor: look() or tuple)
        elif use == "stream":
            for _ in db.stream("select 1"):
                look()
        elif use == "run":
            db.run(look)
        else:
            with db.transaction():
                look()

    call()
    assert sites
    assert all(site.startswith(__file__) and site.endswith("call") for site in sites), sites


def test_lease_of_a_thread_that_died_is_reclaimed_and_reported(
    conninfo: str, make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    leaks = Leaks()
    db = make_pool(conninfo, min_size=1, max_size=1, acquire_timeout=15, listeners=[leaks])
    kept: list[Any] = []

    def die_holding() -> None:
        kept.append(db.connection())
        kept.append(kept[0].__enter__())
        kept.append(kept[1].info.backend_pid)

    with caplog.at_level(logging.WARNING, logger="poolkit"):
        assert Task(die_holding, name="mortal").outcome() is None
        assert db.query("select pg_backend_pid()") != [(kept[2],)]
    (leaked,) = leaks.heard
    assert leaked.holder.thread_name == "mortal"
    assert "die_holding" in leaked.holder.call_site
    assert "ended" in leaked.reason
    assert any("mortal" in r.message and "die_holding" in r.message for r in caplog.records)
    assert kept[1].closed, "what was taken back must not be usable any more"
    kept[0].__exit__(None, None, None)
    stats = db.stats()
    assert (stats.leaked, stats.in_use, stats.size) == (1, 0, 1)
    assert db.query("select 1") == [(1,)]


@pytest.mark.parametrize("block", ["connection", "transaction"])
def test_connection_dropped_unreleased_is_reclaimed_and_reported(
    conninfo: str, make_pool: MakePool, watch: Watch, caplog: pytest.LogCaptureFixture, block: str
) -> None:
    leaks = Leaks()
    db = make_pool(conninfo, min_size=1, max_size=1, acquire_timeout=15, listeners=[leaks])
    conn = getattr(db, block)().__enter__()
    conn.execute("select 1")
    pid = conn.info.backend_pid
    with caplog.at_level(logging.WARNING, logger="poolkit"):
        del conn
        gc.collect()
        assert db.query("select pg_backend_pid()") != [(pid,)]
    assert [event.holder.thread_name for event in leaks.heard] == [threading.current_thread().name]
    assert any("garbage-collected" in record.message for record in caplog.records)
    until(lambda: watch.ask("select 1 from pg_stat_activity where pid = %s", [pid]) == [])
    assert db.stats().leaked == 1
    assert_whole(db, 1)


def test_timeout_blames_who_died_holding_too_and_reclaims(
    conninfo: str, make_pool: MakePool
) -> None:
    db = make_pool(conninfo, min_size=2, max_size=2, acquire_timeout=0.05)
    db.open()
    until(lambda: db.stats().size == 2)  # to connect may take longer than a caller waits
    kept: list[Any] = []
    with db.connection():
        assert Task(lambda: kept.append(db.connection().__enter__())).outcome() is None
        told: PoolTimeout | None = None
        try:
            db.query("select 1")  # in time only if the sweep was quicker
        except PoolTimeout as error:
            told = error
        if told is not None:
            mine, its = told.holders
            assert mine.thread_name == threading.current_thread().name
            assert its.call_site != mine.call_site
            assert "it has ended" in str(told)
        assert db.stats().leaked == 1
    until(lambda: db.stats().size == 2)  # the other one, too
    assert_whole(db, 2)


def test_many_leaks_cost_the_pool_nothing(conninfo: str, make_pool: MakePool) -> None:
    db = make_pool(conninfo, min_size=4, max_size=4, acquire_timeout=20)
    for _ in range(3):
        dead = [Task(lambda: db.connection().__enter__()) for _ in range(4)]
        for thread in dead:
            thread.outcome()
            thread.value = None  # the last reference to its connection
        del dead, thread
    until(lambda: db.stats().leaked == 12)
    assert_whole(db, 4)
    assert db.stats().size == 4


def test_lease_reclaimed_is_not_returned_twice(conninfo: str, make_pool: MakePool) -> None:
    db = make_pool(conninfo, min_size=1, max_size=1, acquire_timeout=15)
    blocks: list[Any] = []

    def die_holding() -> None:
        blocks.append(db.transaction())
        blocks[0].__enter__()

    assert Task(die_holding).outcome() is None
    with db.connection():
        with pytest.raises(psycopg.OperationalError, match="nothing of it was committed"):
            blocks[0].__exit__(None, None, None)
        assert db.stats().in_use == 1
    assert db.stats().in_use == 0
    assert_whole(db, 1)
