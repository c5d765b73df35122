"""Single statements: what they return, that parameters are bound, and what is logged and counted of them."""

from __future__ import annotations

import logging
import math
import threading

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import class_row, dict_row, scalar_row

from poolkit import ConfigError, PostgresPool

from .observing import Watch

INJECTION = "x'; drop table users; --%s {}\\"


def insert(table: sql.Identifier) -> sql.Composed:
    return sql.SQL("insert into {} values (%s, %s)").format(table)


def test_query_returns_all_rows_as_tuples(db: PostgresPool) -> None:
    assert db.query("select n, n * 2 from generate_series(1, 3) n") == [(1, 2), (2, 4), (3, 6)]


def test_query_returns_an_empty_list_for_no_rows_and_for_no_result(
    db: PostgresPool, table: sql.Identifier
) -> None:
    assert db.query("select 1 where false") == []
    assert db.query(insert(table), [1, "a"]) == []


def test_query_commits_by_itself(db: PostgresPool, table: sql.Identifier, watch: Watch) -> None:
    returned = db.query(sql.SQL("insert into {} values (1, 'a') returning id").format(table))
    assert returned == [(1,)]
    assert watch.ask(sql.SQL("select id from {}").format(table)) == [(1,)]


def test_query_one_returns_the_first_row_or_none(db: PostgresPool) -> None:
    assert db.query_one("select n from generate_series(7, 9) n") == (7,)
    assert db.query_one("select 1 where false") is None


def test_query_one_returns_none_for_a_statement_without_result(
    db: PostgresPool, table: sql.Identifier
) -> None:
    assert db.query_one(insert(table), [1, "a"]) is None


def test_row_factory_makes_the_rows_of_this_call_only(db: PostgresPool) -> None:
    class Point:
        def __init__(self, x: int, y: int) -> None:
            self.x, self.y = x, y

    assert db.query("select 1 as x, 2 as y", row_factory=dict_row) == [{"x": 1, "y": 2}]
    assert db.query_one("select 5", row_factory=scalar_row) == 5
    point = db.query_one("select 1 as x, 2 as y", row_factory=class_row(Point))
    assert point is not None
    assert (point.x, point.y) == (1, 2)
    assert db.query("select 1 as x") == [(1,)]


def test_execute_returns_how_many_rows_it_touched_and_commits(
    db: PostgresPool, table: sql.Identifier, watch: Watch
) -> None:
    assert db.execute(insert(table), [1, "a"]) == 1
    many = sql.SQL("insert into {} select 2 + n from generate_series(0, 3) n").format(table)
    assert db.execute(many) == 4
    assert db.execute(sql.SQL("update {} set name = 'b' where id > 100").format(table)) == 0
    assert db.execute(sql.SQL("delete from {} where id > 1").format(table)) == 4
    assert watch.ask(sql.SQL("select * from {}").format(table)) == [(1, "a")]


def test_execute_returns_0_for_a_statement_that_touches_no_rows(
    db: PostgresPool, table: sql.Identifier
) -> None:
    assert db.execute(sql.SQL("comment on table {} is 'x'").format(table)) == 0


def test_executemany_writes_all(db: PostgresPool, table: sql.Identifier, watch: Watch) -> None:
    assert db.executemany(insert(table), ((n, str(n)) for n in range(100))) == 100
    assert watch.ask(sql.SQL("select count(*) from {}").format(table)) == [(100,)]


def test_executemany_writes_nothing_if_one_fails(
    db: PostgresPool, table: sql.Identifier, watch: Watch
) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        db.executemany(insert(table), [(1, "a"), (2, "b"), (1, "c")])
    assert watch.ask(sql.SQL("select count(*) from {}").format(table)) == [(0,)]


def test_executemany_of_nothing_touches_nothing(db: PostgresPool, table: sql.Identifier) -> None:
    assert db.executemany(insert(table), []) == 0


def test_parameters_come_back_as_they_are(db: PostgresPool, table: sql.Identifier) -> None:
    assert db.query("select %s::text", [INJECTION]) == [(INJECTION,)]
    assert db.query_one("select %(x)s::text", {"x": INJECTION}) == (INJECTION,)
    assert db.execute(insert(table), [1, INJECTION]) == 1
    assert db.executemany(insert(table), [(2, INJECTION)]) == 1
    assert list(db.stream("select %s::text", [INJECTION])) == [(INJECTION,)]
    select = sql.SQL("select name from {} where name = %s order by id").format(table)
    assert db.query(select, [INJECTION]) == [(INJECTION,)] * 2


def test_parameters_are_bound_by_the_server(db: PostgresPool) -> None:
    # Formatted ones would let a second statement through; bound ones can't be many statements.
    with pytest.raises(psycopg.errors.SyntaxError, match="multiple commands"):
        db.query("select %s; select 2", [1])
    with pytest.raises(psycopg.errors.SyntaxError):
        db.query("select * from %s", ["pg_class"])


def test_statement_errors_pass_through_as_psycopg_raised_them(
    db: PostgresPool, table: sql.Identifier
) -> None:
    db.execute(insert(table), [1, "a"])
    before = db.stats()
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        db.execute(insert(table), [1, "b"])
    assert type(caught.value) is psycopg.errors.UniqueViolation
    assert caught.value.__cause__ is None
    assert caught.value.diag.constraint_name is not None
    with pytest.raises(psycopg.errors.DivisionByZero):
        db.query("select 1 / 0")
    with pytest.raises(psycopg.errors.UndefinedTable):
        db.query_one("select * from no_such_table_of_poolkit")
    with pytest.raises(psycopg.ProgrammingError):
        db.query("select %s", [])
    after = db.stats()
    assert after.operations - before.operations == 4
    assert after.errors - before.errors == 4
    assert after.retries == before.retries == 0
    assert after.error_rate == pytest.approx(100 * after.errors / after.operations)


def test_connection_serves_on_after_a_failed_statement(db: PostgresPool) -> None:
    (before,) = db.query("select pg_backend_pid()")
    with pytest.raises(psycopg.errors.DivisionByZero):
        db.query("select 1 / 0")
    assert db.query("select pg_backend_pid()") == [before]


def test_slow_statement_is_logged_with_its_text_cut_and_without_parameters(
    conninfo: str, make_pool: object, caplog: pytest.LogCaptureFixture
) -> None:
    with PostgresPool(conninfo, min_size=1, max_size=1, slow_query=0.05) as db:
        with caplog.at_level(logging.DEBUG):
            db.query("select 1 -- quick")
            db.query(
                "select pg_sleep(0.06), %s::text -- " + "a" * 40 + "\n   \n" + "b" * 100,
                ["topsecret"],
            )
    slow = [r for r in caplog.records if r.levelno == logging.WARNING and "slow" in r.message]
    assert len(slow) == 1
    text = slow[0].message.partition(" s: ")[2]
    assert text.startswith("select pg_sleep(0.06), %s::text -- aaaa")
    assert len(text) == 100
    assert text.endswith("b…")
    assert "topsecret" not in caplog.text


def test_statement_is_not_slow_when_slow_query_is_infinite(
    conninfo: str, caplog: pytest.LogCaptureFixture
) -> None:
    with PostgresPool(conninfo, min_size=1, max_size=1, slow_query=math.inf) as db:
        db.query("select pg_sleep(0.05)")
    assert "slow" not in caplog.text


def test_one_borrow_may_hold_while_another_is_asked_for(
    conninfo: str, make_pool: type[PostgresPool]
) -> None:
    db = make_pool(conninfo, min_size=0, max_size=2, acquire_timeout=10)
    with db.connection() as outer:
        inner = db.query_one("select pg_backend_pid()")
        assert inner != (outer.info.backend_pid,)
        assert [holder.thread_name for holder in db.leases()] == [threading.current_thread().name]


def test_statement_of_the_wrong_type_is_refused_and_harms_nothing(db: PostgresPool) -> None:
    with pytest.raises(TypeError):
        db.query(42)  # type: ignore[call-overload]
    assert db.query("select 1") == [(1,)]
    assert db.stats().in_use == 0


def test_check_size_of_a_stream_before_anything_is_borrowed(db: PostgresPool) -> None:
    with pytest.raises(ConfigError, match="size"):
        next(db.stream("select 1", size=0))
    assert db.stats().leases == 0
