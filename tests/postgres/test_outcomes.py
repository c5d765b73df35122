"""Nobody is told that something was committed that was not, or that it did not run when it did in part."""

from __future__ import annotations

import logging

import psycopg
import pytest
from psycopg import sql

from poolkit import DeadlineOutcomeUnknown, OutcomeUnknown, PostgresPool, deadline
from poolkit.core.verdict import Again, Phase
from poolkit.postgres.effects import changes_session, takes_effect_in_parts
from poolkit.postgres.failures import classify
from poolkit.postgres.statement import shorten


def test_transaction_whose_error_was_caught_does_not_pass_for_committed(
    db: PostgresPool, table: sql.Identifier
) -> None:
    insert = sql.SQL("insert into {} values (1, 'one')").format(table)
    with pytest.raises(psycopg.errors.InFailedSqlTransaction, match="savepoint"):
        with db.transaction() as conn:
            conn.execute(insert)
            with pytest.raises(psycopg.errors.DivisionByZero):
                conn.execute("select 1 / 0")
    assert db.query(sql.SQL("select count(*) from {}").format(table)) == [(0,)]


def test_transaction_whose_connection_was_lost_unnoticed_does_not_pass_for_committed(
    db: PostgresPool, table: sql.Identifier
) -> None:
    insert = sql.SQL("insert into {} values (1, 'one')").format(table)
    with pytest.raises(psycopg.OperationalError, match="nothing of it was committed"):
        with db.transaction() as conn:
            conn.execute(insert)
            with pytest.raises(psycopg.OperationalError):
                conn.execute("select pg_terminate_backend(pg_backend_pid())")
    assert db.query(sql.SQL("select count(*) from {}").format(table)) == [(0,)]


@pytest.mark.parametrize(
    ("text", "in_parts"),
    [
        ("call archive()", True),
        ("/* nightly */ DO $$ begin end $$", True),
        ("insert into t values (1); commit", True),
        ("insert into t values (1);", False),
        ("update t set call = 1", False),
    ],
)
def test_what_may_take_effect_in_parts_is_known(text: str, in_parts: bool) -> None:
    assert takes_effect_in_parts(text) is in_parts


def test_procedure_that_met_a_deadlock_is_not_sent_again() -> None:
    deadlock = psycopg.errors.DeadlockDetected("deadlock detected")
    assert classify(deadlock, Phase.RUNNING).again is Again.SAFE
    verdict = classify(deadlock, Phase.IN_PARTS)
    assert (verdict.again, verdict.unknown) == (Again.IF_IDEMPOTENT, True)


def test_procedure_that_commits_and_fails_to_serialize_runs_once(
    db: PostgresPool, table: sql.Identifier
) -> None:
    name = sql.Identifier("poolkit_halfway")
    with db.connection() as conn:
        conn.execute(
            sql.SQL(
                "create or replace procedure {}() language plpgsql as $$ begin "
                "insert into {} values (1, 'half'); commit; "
                "raise exception using errcode = '40001'; end $$"
            ).format(name, table)
        )
    try:
        with pytest.raises(OutcomeUnknown):
            db.execute("call poolkit_halfway()")
        assert db.query(sql.SQL("select count(*) from {}").format(table)) == [(1,)]
    finally:
        db.execute("drop procedure poolkit_halfway()")


def test_cancelled_procedure_may_have_taken_effect_in_part(
    db: PostgresPool, table: sql.Identifier
) -> None:
    block = sql.SQL(
        "do $$ begin insert into {} values (1, 'half'); commit; perform pg_sleep(40); end $$"
    ).format(table)
    text = block.as_string(None)
    with pytest.raises(DeadlineOutcomeUnknown), deadline(0.3):
        db.execute(text)  # type: ignore[arg-type, unused-ignore]
    assert db.query(sql.SQL("select count(*) from {}").format(table)) == [(1,)]


@pytest.mark.parametrize(
    "text",
    [
        "update pg_settings set setting = 'off' where name = 'enable_seqscan'",
        "select \"set_config\"('a.b', '1', false)",
        "select set_config/**/('a.b', '1', false)",
    ],
)
def test_settings_changed_by_another_name_are_seen(text: str) -> None:
    assert changes_session(text)


def test_literals_composed_into_a_statement_are_not_logged(
    conninfo: str, caplog: pytest.LogCaptureFixture
) -> None:
    query = sql.SQL("select {}, {}").format(sql.Literal("s3cret"), sql.Placeholder())
    assert shorten(query) == "select …, %s"
    with PostgresPool(conninfo, min_size=1, max_size=1, slow_query=0.0) as db:
        with caplog.at_level(logging.DEBUG, "poolkit"):
            db.query(query, ["hidden"])
    assert "slow statement" in caplog.text
    assert "s3cret" not in caplog.text
    assert "hidden" not in caplog.text


def test_a_longer_statement_timeout_of_the_block_holds(conninfo: str) -> None:
    with PostgresPool(conninfo, min_size=1, max_size=1, statement_timeout=0.2) as db:
        with db.transaction() as conn:
            conn.execute("set local statement_timeout = '5s'")
            assert conn.execute("select pg_sleep(0.9)::text").fetchone() == ("",)
        with pytest.raises(psycopg.errors.QueryCanceled):
            db.query("select pg_sleep(5)")


@pytest.mark.parametrize(
    ("conninfo", "secured"),
    [
        ("host=db.example,b hostaddr=,127.0.0.1", True),
        ("host=a,b hostaddr=127.0.0.1,127.0.0.1", False),
    ],
)
def test_hosts_and_addresses_are_judged_in_pairs(conninfo: str, secured: bool) -> None:
    from poolkit.postgres.address import parse

    assert parse(conninfo).secured is secured


def test_an_address_in_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from poolkit.postgres.address import parse

    monkeypatch.setenv("PGHOSTADDR", "10.0.0.7")
    assert parse("host=localhost").secured
