"""Whatever a block leaves behind, the next borrower gets a clean connection."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel, sql
from psycopg.rows import dict_row, tuple_row
from psycopg.types.string import StrDumper

from poolkit import PostgresPool
from poolkit.postgres.effects import changes_session
from tests.core.support import Task

from .observing import Watch, unique, until

Conn = psycopg.Connection[Any]
LOCK = 0x706F6F6C  # of our own, lest two runs on one server meet

SESSION_STATE = """
select (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),
       (select count(*) from pg_listening_channels()),
       (select count(*) from pg_prepared_statements where not name like '\\_pg3\\_%'),
       (select count(*) from pg_cursors where is_holdable),
       (select count(*) from pg_class where relpersistence = 't' and pg_table_is_visible(oid)),
       current_setting('work_mem'), nullif(current_setting('app.tenant', true), ''), current_user
"""


def state(db: PostgresPool) -> list[tuple[Any, ...]]:
    """Return what the session of the pool's only connection has that a new one has not."""
    with db.connection() as conn:
        return conn.execute(SESSION_STATE.replace("%", "%%")).fetchall()


CHANGES: dict[str, str] = {
    "set": "set work_mem = '7MB'",
    "set session": "SET SESSION work_mem TO '7MB'",
    "set after a comment": "/* a */ -- b\n set work_mem = '7MB'",
    "set_config": "select set_config('app.tenant', '7', false)",
    "set in a second statement": "select 1; set work_mem = '7MB'",
    "set in a do block": "do $$ begin perform set_config('work_mem', '7MB', false); end $$",
    "set role": "set role pg_monitor",
    "listen": "listen poolkit_news",
    "advisory lock": f"select pg_advisory_lock({LOCK})",
    "shared advisory lock": f"select pg_try_advisory_lock_shared({LOCK})",
    "temporary table": "create temporary table poolkit_scratch (id int)",
    "temp table from a query": "select 1 as id into temp poolkit_scratch",
    "prepare": "prepare poolkit_plan as select 1",
    "cursor with hold": "declare poolkit_held cursor with hold for select 1",
    "insert that sets": "with s as (select set_config('app.tenant', '7', false)) select * from s",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize(
    "how", ["connection", "transaction", "execute", "autocommit", "rolled back"]
)
def test_session_is_as_new_after_a_block_that_changed_it(
    db: PostgresPool, change: str, how: str
) -> None:
    clean = state(db)
    if how == "execute":
        db.execute(change)  # type: ignore[arg-type,unused-ignore]
    elif how == "rolled back":
        with pytest.raises(KeyError):
            with db.connection() as conn:
                conn.execute(change)
                raise KeyError
    else:
        with db.transaction() if how == "transaction" else db.connection() as conn:
            if how == "autocommit":
                conn.autocommit = True
            conn.execute(change)
    assert state(db) == clean


def test_server_cursor_held_over_its_transaction_is_gone(db: PostgresPool) -> None:
    clean = state(db)
    with db.connection() as conn:
        cursor = conn.cursor("poolkit_held", withhold=True)
        cursor.execute("select generate_series(1, 100)")
        conn.commit()
        assert state_of(conn) != clean
        cursor._closed = True  # or psycopg warns that it was not closed
    assert state(db) == clean


def state_of(conn: Conn) -> list[tuple[Any, ...]]:
    return psycopg.Cursor(conn).execute(SESSION_STATE.replace("%", "%%")).fetchall()


def plain_cursor(conn: Conn) -> None:
    psycopg.ClientCursor(conn).execute("set work_mem = '7MB'")


def other_cursor_factory(conn: Conn) -> None:
    conn.cursor_factory = psycopg.ClientCursor
    conn.execute("set work_mem = '7MB'")


def named_cursor(conn: Conn) -> None:
    with conn.cursor("poolkit_c") as cursor:
        cursor.execute("select set_config('app.tenant', '7', false)").fetchall()


def copy_out(conn: Conn) -> None:
    with conn.cursor().copy("copy (select set_config('app.tenant', '7', false)) to stdout") as copy:
        list(copy)


@pytest.mark.parametrize("change", [plain_cursor, other_cursor_factory, named_cursor, copy_out])
def test_session_is_as_new_when_it_was_changed_through_another_kind_of_cursor(
    db: PostgresPool, change: Callable[[Conn], None]
) -> None:
    clean = state(db)
    with db.connection() as conn:
        change(conn)
    assert state(db) == clean


def test_lock_and_channel_are_free_for_others(
    db: PostgresPool, watch: Watch, conninfo: str
) -> None:
    with db.connection() as conn:
        pid = conn.info.backend_pid
        conn.execute(f"select pg_advisory_lock({LOCK})")
        conn.execute("listen poolkit_news")
    locks = "select count(*) from pg_locks where locktype = 'advisory' and pid = %s"
    assert watch.ask(locks, [pid]) == [(0,)]
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute("select pg_notify('poolkit_news', 'for nobody')")
    with db.connection() as conn:
        assert conn.info.backend_pid == pid
        conn.autocommit = True
        conn.execute("select 1")
        assert list(conn.notifies(timeout=0)) == []


def test_statements_that_psycopg_prepared_still_work_after_a_reset(db: PostgresPool) -> None:
    for _ in range(8):
        assert db.query("select %s + 1", [1]) == [(2,)]
    db.execute("set work_mem = '7MB'")
    for _ in range(8):
        assert db.query("select %s + 1", [1]) == [(2,)]


def test_settings_on_the_python_side_are_as_new(db: PostgresPool) -> None:
    class Loud(StrDumper):
        def dump(self, obj: str) -> bytes:
            return super().dump(obj.upper())  # type: ignore[return-value]

    heard: list[object] = []
    with db.connection() as conn:
        conn.row_factory = dict_row  # type: ignore[assignment]
        conn.cursor_factory = psycopg.ClientCursor
        conn.server_cursor_factory = psycopg.ServerCursor
        conn.autocommit = True
        conn.isolation_level = IsolationLevel.SERIALIZABLE
        conn.read_only = True
        conn.deferrable = True
        conn.prepare_threshold = 0
        conn.prepared_max = 1
        conn.adapters.register_dumper(str, Loud)
        conn.add_notice_handler(heard.append)
        conn.add_notify_handler(heard.append)
    with db.connection() as conn:
        assert conn.row_factory is tuple_row
        assert conn.execute("select 'a' as x").fetchall() == [("a",)]
        assert conn.execute("select %s::text", ["quiet"]).fetchall() == [("quiet",)]
        assert conn.autocommit is False
        shown = [
            conn.execute(f"show transaction_{name}").fetchone()
            for name in ("isolation", "read_only", "deferrable")
        ]
        assert shown == [("read committed",), ("off",), ("off",)]
        assert (conn.prepare_threshold, conn.prepared_max) == (5, 100)
        conn.execute("do $$ begin raise notice 'x'; end $$")
        assert heard == []
    assert db.query("select 'b' as x") == [("b",)]


def test_handler_that_raises_does_not_hinder_the_clean_up(db: PostgresPool, conninfo: str) -> None:
    channel = unique("poolkit")

    def fail(notice: object) -> None:
        raise RuntimeError("a handler of the borrower's")

    with pytest.raises(KeyError):
        with db.connection() as conn:
            pid = conn.info.backend_pid
            conn.execute(f"listen {channel}")
            conn.commit()
            conn.add_notify_handler(fail)
            with psycopg.connect(conninfo, autocommit=True) as other:
                other.execute(f"notify {channel}")
            raise KeyError
    assert db.query("select pg_backend_pid()") == [(pid,)]


def test_transaction_left_open_is_rolled_back(
    db: PostgresPool, table: sql.Identifier, watch: Watch
) -> None:
    with pytest.raises(KeyError):
        with db.connection() as conn:
            conn.autocommit = True
            pid = conn.info.backend_pid
            conn.execute("begin")
            conn.execute(sql.SQL("insert into {} values (1, 'a')").format(table))
            raise KeyError
    with db.connection() as conn:
        assert conn.info.backend_pid == pid
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert watch.ask("select count(*) from pg_locks where pid = %s", [pid]) == [(0,)]
    assert watch.ask(sql.SQL("select count(*) from {}").format(table)) == [(0,)]


def test_transaction_that_a_single_statement_opens_is_rolled_back(db: PostgresPool) -> None:
    db.execute("begin read only")
    with db.connection() as conn:
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_transaction_object_left_entered_is_forgotten(db: PostgresPool) -> None:
    with db.connection() as conn:
        pid = conn.info.backend_pid
        left = conn.transaction()
        left.__enter__()
        conn.execute("rollback")
    with db.transaction() as conn:
        assert conn.info.backend_pid == pid
        with conn.transaction():
            assert conn.execute("select 1").fetchall() == [(1,)]
    with contextlib.suppress(psycopg.Error):
        left.__exit__(None, None, None)


def within(seconds: float, work: Callable[[], Any]) -> Any:
    """Return what *work* returns or raises; fail if it takes longer than *seconds*."""
    return Task(work).outcome(seconds)


BLOCKS_LEFT_IN_USE = [
    "connection",
    "transaction",
]


def pid_after(db: PostgresPool, block: str, leave: Callable[[Conn], None]) -> int:
    """Have *leave* leave the connection of a *block* in use, and return the pid that it had."""

    def use() -> int:
        with pytest.raises(psycopg.Error):
            with getattr(db, block)() as conn:
                pid = int(conn.info.backend_pid)
                leave(conn)
        return pid

    pid = within(3, use)
    assert isinstance(pid, int), pid
    return pid


@pytest.mark.parametrize("block", BLOCKS_LEFT_IN_USE)
def test_half_a_copy_in_is_not_lent(
    db: PostgresPool, table: sql.Identifier, watch: Watch, block: str
) -> None:
    kept: list[Any] = []

    def leave(conn: Conn) -> None:
        kept.append(conn.cursor().copy(sql.SQL("copy {} from stdin").format(table)))
        kept[0].__enter__().write_row((1, "a"))

    assert_replaced(db, watch, pid_after(db, block, leave))
    assert db.query(sql.SQL("select count(*) from {}").format(table)) == [(0,)]
    with contextlib.suppress(psycopg.Error):
        kept[0].__exit__(None, None, None)


@pytest.mark.parametrize("block", BLOCKS_LEFT_IN_USE)
def test_half_a_copy_out_is_not_lent(db: PostgresPool, watch: Watch, block: str) -> None:
    kept: list[Any] = []

    def leave(conn: Conn) -> None:
        kept.append(conn.cursor().copy("copy (select generate_series(1, 1000000)) to stdout"))
        kept[0].__enter__().read()

    assert_replaced(db, watch, pid_after(db, block, leave))
    with contextlib.suppress(psycopg.Error):
        kept[0].__exit__(None, None, None)


def test_exception_in_a_copy_leaves_nothing(db: PostgresPool, table: sql.Identifier) -> None:
    with pytest.raises(KeyError):
        with db.connection() as conn:
            with conn.cursor().copy(sql.SQL("copy {} from stdin").format(table)) as copy:
                copy.write_row((1, "a"))
                raise KeyError
    assert db.query(sql.SQL("select count(*) from {}").format(table)) == [(0,)]


def test_pipeline_left_open_is_not_lent(db: PostgresPool, watch: Watch) -> None:
    with contextlib.suppress(psycopg.Error):
        with db.connection() as conn:
            pid = conn.info.backend_pid
            pipeline = conn.pipeline()
            pipeline.__enter__()
            conn.execute("select 1")
    assert_replaced(db, watch, pid)
    with contextlib.suppress(psycopg.Error):
        pipeline.__exit__(None, None, None)


@pytest.mark.parametrize("block", BLOCKS_LEFT_IN_USE)
def test_unfinished_iterator_of_psycopg_does_not_block_the_release(
    db: PostgresPool, watch: Watch, block: str
) -> None:
    kept: list[Iterator[Any]] = []

    def leave(conn: Conn) -> None:
        kept.append(conn.cursor().stream("select generate_series(1, 1000000)"))
        next(kept[0])

    assert_replaced(db, watch, pid_after(db, block, leave))
    drop(kept)


@pytest.mark.parametrize("block", ["connection", "transaction"])
def test_unfinished_iterator_does_not_block_the_release_after_an_exception(
    db: PostgresPool, watch: Watch, block: str
) -> None:
    kept: list[Iterator[Any]] = []

    def use() -> int:
        with pytest.raises(KeyError):
            with getattr(db, block)() as conn:
                pid = conn.info.backend_pid
                kept.append(conn.cursor().stream("select generate_series(1, 1000000)"))
                next(kept[0])
                raise KeyError
        return int(pid)

    pid = within(5, use)
    assert isinstance(pid, int), pid
    assert_replaced(db, watch, pid)
    drop(kept)


def test_iterator_over_notifications_kept_after_the_block_has_no_connection_any_more(
    db: PostgresPool, watch: Watch
) -> None:
    kept: list[Iterator[Any]] = []

    def use() -> int:
        with db.connection() as conn:
            conn.autocommit = True
            conn.execute("listen poolkit_news")
            conn.execute("notify poolkit_news")
            kept.append(conn.notifies())
            next(kept[0])
            return int(conn.info.backend_pid)

    pid = within(5, use)
    assert isinstance(pid, int), pid
    assert_replaced(db, watch, pid)
    drop(kept)


def drop(kept: list[Any]) -> None:
    for iterator in kept:
        with contextlib.suppress(psycopg.Error):
            iterator.close()


def assert_replaced(db: PostgresPool, watch: Watch, pid: int) -> None:
    """Check that the next connection is another one, and that the old one's backend ends."""
    assert db.query("select pg_backend_pid()") != [(pid,)]
    until(lambda: watch.ask("select 1 from pg_stat_activity where pid = %s", [pid]) == [])
    assert db.stats().in_use == 0


def test_stream_dropped_half_way_gives_its_connection_back(db: PostgresPool) -> None:
    rows = db.stream("select generate_series(1, 100000)", size=10)
    assert next(rows) == (1,)
    assert db.stats().in_use == 1
    del rows
    gc.collect()
    assert db.stats().in_use == 0
    assert db.query("select count(*) from pg_cursors") == [(0,)]


HARMLESS = [
    "select 1",
    "(select 1) union (select 2)",
    "  -- a comment\nselect 1",
    "insert into t values (1)",
    "with a as (select 1) select * from a",
    "set local work_mem = '1MB'",
    "begin",
    "copy t from stdin",
    "select 1;",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_statements_cost_no_reset(text: str) -> None:
    assert not changes_session(text)
    assert not changes_session(text.encode())
    assert not changes_session(sql.SQL(text))  # type: ignore[arg-type,unused-ignore]


@pytest.mark.parametrize("text", [*CHANGES.values(), "reset all", "call p()", "discard all", 3])
def test_doubtful_statements_cost_a_reset(text: object) -> None:
    assert changes_session(text)
