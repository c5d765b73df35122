"""A disk that is full for the tables that are made to need room on it: PostgreSQL really gets ENOSPC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

NEEDS_ROOM = """
create or replace function needs_room() returns trigger language plpgsql as $$
begin
    if to_regclass('ballast') is not null then
        insert into ballast values (1);
    end if;
    return new;
end $$
"""


def needing_room(table: str) -> Sequence[Any]:
    """Return the statements after which each row that comes into *table* wants a page while there is no room."""
    return (
        NEEDS_ROOM,
        f"create or replace trigger room before insert on {table} for each row execute function needs_room()",
    )


@contextmanager
def full(conninfo: str) -> Iterator[None]:
    """Have no room for the length of a block."""
    # The ballast's file leads to where there is no room before any backend can have opened it.
    with psycopg.connect(conninfo, application_name="bookkeeper") as conn:
        conn.execute("create table ballast (n int)")
        found = conn.execute(
            "select current_setting('data_directory'), pg_relation_filepath('ballast')"
        ).fetchone()
        assert found is not None
        file = Path(*found)
        aside = file.with_name(f"{file.name}.aside")
        file.rename(aside)
        file.symlink_to("/dev/full")
    try:
        yield
    finally:
        aside.replace(file)
        with psycopg.connect(conninfo, application_name="bookkeeper") as conn:
            conn.execute("drop table ballast")
