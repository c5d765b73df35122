"""Ctrl-C and its like at any point: no connection is lost, and no statement runs twice."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg
import pytest

from poolkit import OutcomeUnknown, PoolKitError, PostgresPool, RetryPolicy, deadline
from poolkit.core.housekeeper import Housekeeper
from poolkit.postgres.driver_pool import DriverPool
from poolkit.postgres.generation import Generation
from poolkit.postgres.lanes import PostgresFlight
from tests.interruptions import Interruption, Struck

from .gathering import begin
from .observing import Watch, assert_whole, at, unique, until

MakePool = Callable[..., PostgresPool]

OURS = ("/poolkit/postgres/", "/poolkit/core/")


def interrupted(work: Callable[[], Any], point: int) -> str | None:
    """Interrupt *work* at its point number *point*; return which that was, None if it has not so many."""
    with (
        suppress(Struck, psycopg.Error, PoolKitError),  # it may be the cause of another
        Interruption(point, within=OURS) as interruption,
    ):
        work()
    return interruption.where


def end_lost(pool: PostgresPool, watch: Watch) -> Callable[[], object]:
    """Have a block whose connection was lost end."""
    block = pool.connection()
    watch.terminate({block.__enter__().info.backend_pid})
    return lambda: block.__exit__(None, None, None)


def end_closed(pool: PostgresPool, watch: Watch) -> Callable[[], object]:
    """Have a block whose connection was closed in it end."""
    block = pool.connection()
    block.__enter__().close()
    return lambda: block.__exit__(None, None, None)


def find_dead(pool: PostgresPool, watch: Watch) -> Callable[[], object]:
    """Have the idle connection be found dead."""
    pool.query("select 1")
    running = pool._lifecycle.running
    assert running is not None
    watch.terminate({_pid(pool)})
    running.supply._current.suspect()
    return lambda: pool.query("select 1")


def _pid(pool: PostgresPool) -> int:
    with pool.connection() as conn:
        return conn.info.backend_pid


@pytest.mark.parametrize("scene", [end_lost, end_closed, find_dead])
# One that falls into a finalizer is swallowed by Python, which says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_at_any_point_of_giving_one_up_has_it_replaced(
    scene: Callable[[PostgresPool, Watch], Callable[[], object]], conninfo: str, watch: Watch
) -> None:
    lost = []
    for point in itertools.count(1):
        name = unique()
        with PostgresPool(
            at(conninfo, application_name=name), min_size=1, max_size=1, acquire_timeout=10
        ) as pool:
            where = interrupted(scene(pool, watch), point)
            gc.collect()
            try:
                with deadline(5):
                    assert_whole(pool, 1)
                until(lambda: len(watch.backends(name)) == 1)  # noqa: B023
            except Exception as error:
                lost.append((where, repr(error)))
        if where is None:
            break

    assert lost == []
    assert point > 10


@pytest.mark.parametrize("scene", [end_lost, end_closed, find_dead])
def test_only_a_thread_that_nobody_interrupts_has_the_driver_replace_a_connection(
    scene: Callable[[PostgresPool, Watch], Callable[[], object]],
    conninfo: str,
    make_pool: MakePool,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The driver takes it back in several steps: who is interrupted between them leaves it one short for good."""
    threads = set()
    putconn = DriverPool.putconn

    def noted(pool: DriverPool, conn: Any) -> None:
        threads.add(threading.current_thread().name)
        putconn(pool, conn)

    pool = make_pool(conninfo, min_size=1, max_size=1, acquire_timeout=10)
    give_up = scene(pool, watch)
    monkeypatch.setattr(DriverPool, "putconn", noted)
    with suppress(psycopg.Error):
        give_up()
    assert_whole(pool, 1)

    assert threads == {"poolkit-housekeeper"}


def test_who_misses_a_connection_has_it_brought_back_if_an_interrupted_thread_did_not_say_so(
    conninfo: str, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Generation, "sweep", lambda *_, **__: None)  # which would find it, later
    pool = make_pool(conninfo, min_size=1, max_size=1)
    block = pool.connection()
    block.__enter__().close()

    def struck(*_: object) -> None:
        raise Struck

    with monkeypatch.context() as patch, pytest.raises(Struck):
        patch.setattr(Housekeeper, "soon", struck)
        block.__exit__(None, None, None)

    with deadline(5):
        assert pool.query_one("select 1") == (1,)


def test_a_statement_that_an_interrupted_thread_has_sent_is_not_sent_again(
    conninfo: str, make_pool: MakePool, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = unique("t")
    watch.ask(f"create table {table} (tag text)")
    insert: Any = f"insert into {table} values (%s)"
    pool = make_pool(conninfo, min_size=1, max_size=1, retry=RetryPolicy(base=0.01))
    send = PostgresFlight.send
    strikes = iter([True])

    class Striking:
        """Strikes the thread that has sent a statement, before it can count that."""

        def __init__(self, pgconn: Any) -> None:
            self._pgconn = pgconn

        def __getattr__(self, name: str) -> Any:
            return getattr(self._pgconn, name)

        def pipeline_sync(self) -> None:
            self._pgconn.pipeline_sync()
            if next(strikes, False):
                raise Struck

    def send_struck(flight: PostgresFlight) -> None:
        flight._pgconn = Striking(flight._pgconn)  # type: ignore[assignment]
        send(flight)

    pool.query("select 1")
    monkeypatch.setattr(PostgresFlight, "send", send_struck)

    first, second, leader = begin(
        pool,
        lambda: pool.execute(insert, ["first"]),
        lambda: pool.execute(insert, ["second"]),
        lambda: pool.execute(insert, ["leader's"]),
    )

    assert isinstance(first.outcome(), OutcomeUnknown)
    assert second.outcome() == 1
    assert isinstance(leader.outcome(), Struck)
    counts = dict(watch.ask(f"select tag, count(*) from {table} group by tag"))
    assert counts in ({"first": 1, "second": 1}, {"second": 1})


def test_one_who_is_interrupted_while_queueing_in_the_driver_leaves_no_trace(
    conninfo: str, make_pool: MakePool
) -> None:
    wrong = []
    for point in itertools.count(1):
        pool = make_pool(conninfo, min_size=0, max_size=1)
        where = interrupted(partial(pool.query, "select 1"), point)
        running = pool._lifecycle.running
        if running is not None and running.supply._current._in_queue:
            wrong.append(where)
        pool.close()
        if where is None:
            break

    assert wrong == []
    assert point > 10
