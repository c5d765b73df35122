"""A borrowed connection: psycopg's own, with psycopg_pool's meaning of the block."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from poolkit import PostgresPool

from .observing import Watch


def test_block_commits_at_its_end(db: PostgresPool, table: sql.Identifier, watch: Watch) -> None:
    with db.connection() as conn:
        assert isinstance(conn, psycopg.Connection)
        conn.execute(sql.SQL("insert into {} values (1, 'a')").format(table))
        assert watch.ask(sql.SQL("select count(*) from {}").format(table)) == [(0,)]
    assert watch.ask(sql.SQL("select count(*) from {}").format(table)) == [(1,)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_block_rolls_back_on_any_exception(
    db: PostgresPool, table: sql.Identifier, watch: Watch, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        with db.connection() as conn:
            conn.execute(sql.SQL("insert into {} values (1, 'a')").format(table))
            pid = conn.info.backend_pid
            raise error
    assert watch.ask(sql.SQL("select count(*) from {}").format(table)) == [(0,)]
    assert db.query("select pg_backend_pid()") == [(pid,)]
    assert db.stats().in_use == 0


def test_block_may_commit_several_times(
    db: PostgresPool, table: sql.Identifier, watch: Watch
) -> None:
    with pytest.raises(ValueError, match="later"):
        with db.connection() as conn:
            conn.execute(sql.SQL("insert into {} values (1, 'a')").format(table))
            conn.commit()
            conn.execute(sql.SQL("insert into {} values (2, 'b')").format(table))
            raise ValueError("later")
    assert watch.ask(sql.SQL("select id from {}").format(table)) == [(1,)]


def test_block_may_hold_transactions_of_psycopg(
    db: PostgresPool, table: sql.Identifier, watch: Watch
) -> None:
    with db.connection() as conn:
        conn.autocommit = True
        with conn.transaction():
            conn.execute(sql.SQL("insert into {} values (1, 'a')").format(table))
        assert watch.ask(sql.SQL("select id from {}").format(table)) == [(1,)]


def test_block_that_ends_with_a_failed_transaction_leaves_nothing(
    db: PostgresPool, table: sql.Identifier, watch: Watch
) -> None:
    with db.connection() as conn:
        conn.execute(sql.SQL("insert into {} values (1, 'a')").format(table))
        with pytest.raises(psycopg.errors.DivisionByZero):
            conn.execute("select 1 / 0")
    assert watch.ask(sql.SQL("select count(*) from {}").format(table)) == [(0,)]
    assert db.query("select 1") == [(1,)]


def test_block_may_close_its_connection(db: PostgresPool) -> None:
    with db.connection() as conn:
        pid = conn.info.backend_pid
        conn.close()
    assert db.query("select pg_backend_pid()") != [(pid,)]
    stats = db.stats()
    assert (stats.size, stats.created, stats.closed) == (1, 2, 1)


def test_block_can_be_entered_again_after_its_end_but_not_within(db: PostgresPool) -> None:
    block = db.connection()
    for _ in range(2):
        with block as conn:
            assert conn.execute("select 1").fetchall() == [(1,)]
            with pytest.raises(RuntimeError, match="entered"):
                block.__enter__()
    assert db.stats().leases == 2


def test_nothing_is_borrowed_before_the_block_is_entered(db: PostgresPool) -> None:
    db.connection()
    db.transaction()
    assert db.stats().leases == 0


def test_connection_lost_in_the_block_is_replaced(db: PostgresPool, watch: Watch) -> None:
    with pytest.raises(psycopg.OperationalError):
        with db.connection() as conn:
            pid = conn.info.backend_pid
            watch.terminate({pid})
            conn.execute("select 1")
    assert db.query("select pg_backend_pid()") != [(pid,)]
    assert db.stats().in_use == 0
