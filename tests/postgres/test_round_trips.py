"""What each use costs, counted on the wire."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql

from poolkit import PostgresPool
from tests.faults.proxy import FaultProxy

Counted = tuple[PostgresPool, FaultProxy]


def cost(counted: Counted, use: Callable[[PostgresPool], object]) -> int:
    pool, proxy = counted
    before = proxy.round_trips
    use(pool)
    return proxy.round_trips - before


def test_query_is_one(counted: Counted) -> None:
    assert cost(counted, lambda db: db.query("select %s::int", [1])) == 1
    assert cost(counted, lambda db: db.query_one("select 2")) == 1


def test_execute_is_one(counted: Counted, table: sql.Identifier) -> None:
    insert = sql.SQL("insert into {} values (%s, %s)").format(table)
    assert cost(counted, lambda db: db.execute(insert, [1, "a"])) == 1


def test_failed_query_is_one(counted: Counted) -> None:
    def fail(db: PostgresPool) -> None:
        with pytest.raises(psycopg.errors.DivisionByZero):
            db.query("select 1 / 0")

    assert cost(counted, fail) == 1


@pytest.mark.parametrize("statements", [0, 1, 4])
def test_transaction_of_n_is_at_most_n_plus_2(counted: Counted, statements: int) -> None:
    def use(db: PostgresPool) -> None:
        with db.transaction() as conn:
            for number in range(statements):
                conn.execute("select 1" + " " * number)

    assert cost(counted, use) <= statements + 2


def test_run_of_n_is_at_most_n_plus_2(counted: Counted) -> None:
    assert cost(counted, lambda db: db.run(lambda conn: conn.execute("select 1"))) <= 3


def test_rolled_back_transaction_of_n_is_at_most_n_plus_2(counted: Counted) -> None:
    def use(db: PostgresPool) -> None:
        with pytest.raises(KeyError):
            with db.transaction() as conn:
                conn.execute("select 1")
                raise KeyError

    assert cost(counted, use) <= 3


def test_connection_without_a_statement_is_none(counted: Counted) -> None:
    def use(db: PostgresPool) -> None:
        with db.connection():
            pass

    assert cost(counted, use) == 0


def test_connection_costs_its_statements_and_the_transaction_they_are_in(counted: Counted) -> None:
    def use(db: PostgresPool) -> None:
        with db.connection() as conn:
            conn.execute("select 1")
            conn.execute("select 2")

    assert cost(counted, use) == 4  # BEGIN, two statements, COMMIT: releasing adds none


def test_connection_set_to_autocommit_costs_its_statements_only(counted: Counted) -> None:
    def use(db: PostgresPool) -> None:
        with db.connection() as conn:
            conn.autocommit = True
            conn.execute("select 1")

    assert cost(counted, use) == 1


def test_changed_session_costs_one_more_and_only_once(counted: Counted) -> None:
    assert cost(counted, lambda db: db.execute("set work_mem = '5MB'")) == 2
    assert cost(counted, lambda db: db.query("select 1")) == 1


def test_stream_costs_one_for_each_page(counted: Counted) -> None:
    def use(db: PostgresPool) -> None:
        assert len(list(db.stream("select generate_series(1, 2500)", size=1000))) == 2500

    # BEGIN, DECLARE, three pages, CLOSE, COMMIT, and one for psycopg to learn the columns.
    assert cost(counted, use) <= 8


def test_executemany_does_not_cost_one_for_each_row(
    counted: Counted, table: sql.Identifier
) -> None:
    insert = sql.SQL("insert into {} values (%s, %s)").format(table)
    assert cost(counted, lambda db: db.executemany(insert, [(n, "") for n in range(50)])) <= 6


def test_health_check_is_one(counted: Counted) -> None:
    assert cost(counted, lambda db: db.health_check()) == 1
