"""The embedded standby follows its primary, and takes over when it is told to."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from poolkit.core.errors import ConfigError
from poolkit.embedded import EmbeddedError, PostgresServer, PostgresStandby, guardian
from poolkit.embedded import postgres_standby as make_standby
from tests.embedded.owners import SOON, gone, owner, told


def ask(conninfo: str, text: Any, **options: Any) -> Any:
    """Return the one value that a statement has for its answer; None if it has none."""
    with psycopg.connect(conninfo, autocommit=True, connect_timeout=5, **options) as conn:
        cursor = conn.execute(text)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def port_of(conninfo: str) -> Any:
    return ask(conninfo, "select inet_server_port()")


@pytest.fixture
def table(postgres_standby: PostgresStandby) -> str:
    ask(postgres_standby.conninfo, "drop table if exists noted")
    ask(postgres_standby.conninfo, "create table noted (id int)")
    return "noted"


def note(group: PostgresStandby, id: int) -> None:
    ask(group.conninfo, f"insert into noted values ({id})")


def noted(server: PostgresServer) -> Any:
    return ask(server.conninfo, "select array_agg(id order by id) from noted")


class TestFromTheStart:
    def test_the_address_of_both_leads_to_the_primary(
        self, postgres_standby: PostgresStandby
    ) -> None:
        assert port_of(postgres_standby.conninfo) == postgres_standby.primary.port
        hosts = {str(postgres_standby.primary.port), str(postgres_standby.standby.port)}
        assert all(port in postgres_standby.conninfo for port in hosts)

    def test_what_was_committed_is_on_the_standby(
        self, postgres_standby: PostgresStandby, table: str
    ) -> None:
        note(postgres_standby, 1)
        assert guardian.wait_for(lambda: noted(postgres_standby.standby) == [1], SOON)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            ask(postgres_standby.standby.conninfo, "insert into noted values (2)")

    def test_a_commit_waits_for_a_standby_that_is_frozen(
        self, postgres_standby: PostgresStandby, table: str
    ) -> None:
        primary = postgres_standby.primary.conninfo
        postgres_standby.standby.pause()  # on its way through the address of both, a driver may wait for it
        with psycopg.connect(primary, autocommit=True) as conn:
            told: list[str] = []
            conn.add_notice_handler(lambda notice: told.append(notice.message_detail or ""))
            waiting = (
                "select true from pg_stat_activity"
                f" where wait_event = 'SyncRep' and pid = {conn.info.backend_pid}"
            )
            stop = threading.Thread(
                target=lambda: (
                    guardian.wait_for(lambda: ask(primary, waiting), SOON),
                    conn.cancel_safe(timeout=SOON),
                )
            )
            stop.start()
            conn.execute("insert into noted values (1)")
            stop.join()
        assert "not have been replicated" in "".join(told)

    def test_one_that_is_not_synchronous_keeps_nobody_waiting(self) -> None:
        with make_standby(synchronous=False, max_connections=20) as group:
            assert ask(group.conninfo, "show max_connections") == "20"
            primary = group.primary.conninfo
            group.standby.pause()
            ask(primary, "create table noted (id int)", options="-c statement_timeout=5000")
            assert ask(primary, "show synchronous_standby_names") == ""

    def test_the_password_is_asked_for_and_not_shown(
        self, postgres_standby: PostgresStandby
    ) -> None:
        for server in (postgres_standby.primary, postgres_standby.standby):
            with pytest.raises(psycopg.OperationalError, match="password"):
                ask(server.conninfo, "select 1", password="wrong")
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    assert postgres_standby.password.encode() not in process.read_bytes()
                except (FileNotFoundError, ProcessLookupError):
                    continue
            shown = repr(postgres_standby) + repr(server) + server.log()
            assert postgres_standby.password not in shown

    @pytest.mark.parametrize(
        "options",
        [
            {"max_connections": 0},
            {"startup_timeout": 0},
            {"settings": {"primary_conninfo": "x"}},
            {"settings": {"Synchronous_Standby_Names": "x"}},
            {"settings": {"port": "1"}},
        ],
    )
    def test_what_makes_no_sense_is_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            make_standby(**options)


class TestFailover:
    @pytest.mark.parametrize("failure", ["kill", "pause", None])
    def test_what_was_committed_outlives_it(
        self, postgres_standby: PostgresStandby, table: str, failure: str | None
    ) -> None:
        primary, standby = postgres_standby.primary, postgres_standby.standby
        note(postgres_standby, 1)
        if failure is not None:
            getattr(primary, failure)()

        postgres_standby.promote()

        assert (postgres_standby.primary, postgres_standby.standby) == (standby, primary)
        if failure == "pause":
            primary.kill()  # the frozen one would keep a driver waiting
        assert port_of(postgres_standby.conninfo) == standby.port
        note(postgres_standby, 2)
        assert noted(standby) == [1, 2]

    def test_the_old_primary_follows_the_new_one_and_may_become_it_again(
        self, postgres_standby: PostgresStandby, table: str
    ) -> None:
        for id in range(3):
            primary = postgres_standby.primary
            port = primary.port
            note(postgres_standby, id)
            primary.kill()
            postgres_standby.promote()
            postgres_standby.start()
            assert postgres_standby.standby is primary
            assert primary.port == port
            assert ask(postgres_standby.conninfo, "show synchronous_standby_names") == "*"
            assert ask(primary.conninfo, "select pg_is_in_recovery()") is True
        assert guardian.wait_for(lambda: noted(postgres_standby.standby) == [0, 1, 2], SOON)

    def test_by_a_standby_that_is_dead_is_refused(self, postgres_standby: PostgresStandby) -> None:
        postgres_standby.standby.kill()
        with pytest.raises(EmbeddedError, match="can't take over"):
            postgres_standby.promote()
        assert postgres_standby.primary.runs


class TestStarting:
    @pytest.mark.parametrize("which", [["primary"], ["standby"], ["primary", "standby"]])
    def test_what_was_killed_is_as_it_was(
        self, postgres_standby: PostgresStandby, table: str, which: list[str]
    ) -> None:
        before = [(s, s.port) for s in (postgres_standby.primary, postgres_standby.standby)]
        note(postgres_standby, 1)
        for name in which:
            getattr(postgres_standby, name).kill()
        postgres_standby.start()
        after = [(s, s.port) for s in (postgres_standby.primary, postgres_standby.standby)]
        assert after == before
        note(postgres_standby, 2)
        assert guardian.wait_for(lambda: noted(postgres_standby.standby) == [1, 2], SOON)


class TestItsEnd:
    def test_with_an_owner_that_is_killed(self) -> None:
        script = """
            from poolkit.embedded import postgres_standby
            with postgres_standby() as group:
                for server in (group.primary, group.standby):
                    tell(server.pid, server._home.path)
                time.sleep(60)
        """
        with owner(script) as owning:
            homes = [told(owning).split() for _ in range(2)]
            owning.kill()
        for pid, folder in homes:
            assert guardian.wait_for(lambda at=(int(pid), Path(folder)): gone(*at), SOON)
