"""Streams read rows page by page, and hold a connection no longer than they are read."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import warnings
from collections.abc import Callable

import psycopg
import pytest
from psycopg.rows import dict_row

from poolkit import PostgresPool, deadline
from tests.core.support import Task

from .observing import Watch, until

MakePool = Callable[..., PostgresPool]


def test_yields_all_rows_in_order(db: PostgresPool) -> None:
    rows = list(db.stream("select generate_series(1, %s)", [2500], size=100))
    assert rows == [(n,) for n in range(1, 2501)]


def test_yields_nothing_for_no_rows(db: PostgresPool) -> None:
    assert list(db.stream("select 1 where false")) == []


def test_makes_rows_with_the_row_factory(db: PostgresPool) -> None:
    assert list(db.stream("select 1 as x", row_factory=dict_row)) == [{"x": 1}]


def test_asks_for_a_page_at_a_time(db: PostgresPool, watch: Watch) -> None:
    rows = db.stream("select pg_backend_pid(), n from generate_series(1, 1000000) n", size=7)
    (pid, _) = next(rows)
    (query,) = watch.ask("select query from pg_stat_activity where pid = %s", [pid])[0]
    assert query.startswith("FETCH FORWARD 7 ")
    rows.close()  # type: ignore[attr-defined]


def test_memory_does_not_grow_with_the_rows(db: PostgresPool) -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        for _ in db.stream(
            "select n, repeat('x', 100) from generate_series(1, %s) n", [count], size=100
        ):
            pass
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1000)
    assert peak(20_000) < 2 * peak(1000) + 100_000


def test_borrows_at_the_first_row_and_gives_back_after_the_last(db: PostgresPool) -> None:
    rows = db.stream("select generate_series(1, 2)")
    assert db.stats().leases == 0
    assert next(rows) == (1,)
    assert db.stats().in_use == 1
    assert list(rows) == [(2,)]
    assert db.stats().in_use == 0


def test_gives_back_when_closed_when_its_loop_is_left_and_when_its_reader_fails(
    db: PostgresPool,
) -> None:
    pid = db.query("select pg_backend_pid()")
    rows = db.stream("select generate_series(1, 100000)")
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert db.stats().in_use == 0
    for _ in db.stream("select generate_series(1, 100000)"):
        break
    assert db.stats().in_use == 0
    with pytest.raises(KeyError):
        for _ in db.stream("select generate_series(1, 100000)"):
            raise KeyError
    assert db.stats().in_use == 0
    assert db.query("select pg_backend_pid()") == pid


def test_error_in_the_query_passes_through_and_gives_back(db: PostgresPool) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        next(db.stream("select * from no_such_table_of_poolkit"))
    with pytest.raises(psycopg.errors.DivisionByZero):
        list(db.stream("select 10 / (5 - n) from generate_series(1, 9) n", size=2))
    assert db.stats().in_use == 0
    assert db.query("select 1") == [(1,)]


def test_two_streams_may_be_read_in_turn(conninfo: str, make_pool: MakePool) -> None:
    db = make_pool(conninfo, min_size=2, max_size=2)
    query = "select generate_series(1, 100)"
    pairs = list(zip(db.stream(query, size=3), db.stream(query, size=5), strict=True))
    assert pairs == [((n,), (n,)) for n in range(1, 101)]


def test_may_be_finished_by_another_thread_while_the_first_lives(db: PostgresPool) -> None:
    rows = db.stream("select generate_series(1, 100)", size=10)
    next(rows)
    assert Task(lambda: len(list(rows))).outcome() == 99
    assert db.stats().in_use == 0


def test_left_after_its_deadline_ends_quietly(
    db: PostgresPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)
    with deadline(0.1) as limit:
        for _ in db.stream("select generate_series(1, 100000)"):
            until(lambda: limit.expired)
            break
    assert db.stats().in_use == 0
    assert db.query("select 1") == [(1,)]
    assert unraisable == []


def test_one_whose_server_is_lost_after_the_last_row_leaves_no_open_cursor(
    db: PostgresPool, watch: Watch
) -> None:
    rows = db.stream("select pg_backend_pid()")
    (backend,) = next(rows)
    watch.terminate({backend})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(psycopg.Error):
            next(rows)
        gc.collect()
    assert [str(each.message) for each in told] == []


def test_stream_of_an_abandoned_thread_is_reclaimed(conninfo: str, make_pool: MakePool) -> None:
    db = make_pool(conninfo, min_size=1, max_size=1, acquire_timeout=15)
    rows = db.stream("select generate_series(1, 100000)", size=10)
    assert Task(lambda: next(rows)).outcome() == (1,)
    assert db.query("select 1") == [(1,)]
    with pytest.raises(psycopg.OperationalError):
        list(rows)
    assert threading.active_count() >= 1
    assert db.stats().in_use == 0
