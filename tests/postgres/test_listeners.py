"""Listeners hear of everything that happens in a pool, and can't harm it."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from poolkit import PoolTimeout, PostgresPool
from poolkit.core import events
from poolkit.core.events import Event, Listener
from tests.core.support import Task

from .observing import Watch, at, until

MakePool = Callable[..., PostgresPool]
KINDS = ["opened", "connected", "acquired", "released", "removed"]
KINDS += ["timed_out", "retried", "failed", "leaked", "closed"]


def recorder(
    kinds: list[str], then: Callable[[Event], None] | None = None
) -> tuple[Listener, list[Event]]:
    """Return a listener for *kinds*, and the list that it fills."""
    heard: list[Event] = []

    def hear(self: Listener, event: Any) -> None:
        heard.append(event)
        if then is not None:
            then(event)

    return type("Recorder", (Listener,), dict.fromkeys(kinds, hear))(), heard


def of(heard: list[Event], kind: type[Any]) -> list[Any]:
    return [event for event in heard if type(event) is kind]


def test_every_kind_is_told_with_its_details(
    conninfo: str, make_pool: MakePool, watch: Watch
) -> None:
    listener, heard = recorder(KINDS)
    db = make_pool(
        conninfo, name="ear", min_size=1, max_size=1, acquire_timeout=0.2, listeners=[listener]
    )
    db.open()
    assert [type(event) for event in of(heard, events.Opened)] == [events.Opened]
    with db.connection() as conn:
        (acquired,) = of(heard, events.Acquired)
        assert acquired.holder.thread_name == threading.current_thread().name
        assert "test_every_kind_is_told" in acquired.holder.call_site
        with pytest.raises(PoolTimeout) as timeout:
            db.query("select 1")
        conn.execute("select 1")
    (connected,) = of(heard, events.Connected)
    assert connected.seconds > 0
    (released,) = of(heard, events.Released)
    assert released.used >= 0.2
    (timed_out,) = of(heard, events.TimedOut)
    assert timed_out.waited >= 0.2
    assert timed_out.error is timeout.value
    assert [event.error for event in of(heard, events.Failed)] == [timeout.value]

    with pytest.raises(psycopg.errors.SerializationFailure) as failure:
        db.run(lambda c: c.execute("do $$ begin raise exception using errcode = '40001'; end $$"))
    retried = of(heard, events.Retried)
    assert [event.attempt for event in retried] == [1, 2]
    assert all(event.delay >= 0 for event in retried)
    assert of(heard, events.Failed)[-1].error is failure.value

    # The errors that were heard keep their frames, and those the connection: so it needs another one.
    db.resize(min_size=2, max_size=2)
    with db.connection():
        lost = db.connection().__enter__()
    pid = lost.info.backend_pid
    del lost
    until(lambda: of(heard, events.Leaked))
    (leaked,) = of(heard, events.Leaked)
    assert "garbage-collected" in leaked.reason
    assert "test_every_kind_is_told" in leaked.holder.call_site
    until(lambda: of(heard, events.Removed))
    assert db.query("select count(*) from pg_stat_activity where pid = %s", [pid]) == [(0,)]
    db.close()
    (closed,) = of(heard, events.Closed)
    assert closed.held == 0
    assert {event.pool for event in heard} == {"ear"}
    assert {type(event).__name__ for event in heard} == {
        "".join(word.title() for word in kind.split("_")) for kind in KINDS
    }


def test_acquired_and_released_are_told_for_every_lease(conninfo: str, make_pool: MakePool) -> None:
    listener, heard = recorder(["acquired", "released", "connected", "removed"])
    db = make_pool(conninfo, min_size=1, max_size=2, listeners=[listener])
    for _ in range(5):
        db.query("select 1")
    with db.transaction():
        pass
    list(db.stream("select 1"))
    stats = db.stats()
    assert len(of(heard, events.Acquired)) == len(of(heard, events.Released)) == stats.leases == 7
    db.close()
    assert len(of(heard, events.Connected)) == len(of(heard, events.Removed)) >= 1


def test_failed_attempt_to_connect_is_told(conninfo: str, make_pool: MakePool) -> None:
    listener, heard = recorder(["failed"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    db = make_pool(at(conninfo, port=port), min_size=1, listeners=[listener])
    db.open()
    until(lambda: heard)
    assert isinstance(heard[0].error, psycopg.OperationalError)  # type: ignore[attr-defined]


def test_closed_tells_how_many_are_still_held(conninfo: str, make_pool: MakePool) -> None:
    listener, heard = recorder(["closed"])
    db = make_pool(conninfo, min_size=1, max_size=1, listeners=[listener])
    with db.connection():
        db.close(0.1)
    assert [event.held for event in of(heard, events.Closed)] == [1]


def test_listener_that_raises_is_logged_once_and_harms_nobody(
    conninfo: str, make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Event) -> None:
        raise RuntimeError("a bad listener")

    bad, bad_heard = recorder(KINDS, fail)
    good, heard = recorder(KINDS)
    db = make_pool(conninfo, min_size=1, max_size=1, listeners=[bad, good])
    with caplog.at_level(logging.ERROR, logger="poolkit"):
        for _ in range(3):
            assert db.query("select 1") == [(1,)]
        db.close()
    assert [type(event) for event in heard] == [type(event) for event in bad_heard]
    per_kind = [r for r in caplog.records if "logged once" in r.message]
    told = {type(event) for event in bad_heard}
    assert 1 <= len(per_kind) <= len(told), "once for each method at most"
    assert all(record.exc_info for record in per_kind)
    assert db.stats().in_use == 0


def test_listener_may_ask_the_pool_from_within(conninfo: str, make_pool: MakePool) -> None:
    pools: list[PostgresPool] = []

    def look(event: Event) -> None:
        if pools:
            pools[0].stats()
            pools[0].leases()

    listener, heard = recorder(KINDS, look)
    pools.append(make_pool(conninfo, min_size=1, max_size=1, listeners=[listener]))
    assert pools[0].query("select 1") == [(1,)]
    pools[0].close()
    assert of(heard, events.Closed)


@pytest.mark.parametrize("kind", ["opened", "closed"])
def test_listener_may_use_the_pool_when_it_opens_and_when_it_is_closed(
    conninfo: str, make_pool: MakePool, kind: str
) -> None:
    pools: list[PostgresPool] = []

    def use(event: Event) -> None:
        if kind == "opened":
            pools[0].query("select 1")
        else:
            pools[0].close()

    listener, heard = recorder([kind], use)
    db = PostgresPool(conninfo, min_size=1, max_size=2, listeners=[listener])
    pools.append(db)

    def life() -> None:
        db.query("select 1")
        db.close()

    assert Task(life).outcome(3) is None
    assert heard
