"""Whole programs that end without care: each ends at once, and says nothing but what is its own to say."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from textwrap import dedent

import psycopg
import pytest

import poolkit
from poolkit.embedded.process import free_port

from .observing import Watch, unique, until

AT_ONCE = 2.0
"""Seconds within which a program ends."""

REPOSITORY = Path(poolkit.__file__).parents[1]
SITE_PACKAGES = Path(psycopg.__file__).parents[1]
VERSIONS = ("3.10", "3.11", "3.12", "3.13")


@lru_cache
def environment() -> dict[str, str]:
    path = os.pathsep.join([str(REPOSITORY), str(SITE_PACKAGES)])
    # Compiled once a run for each Python, and out of the way of the others.
    cache = tempfile.mkdtemp(prefix="poolkit-pycache-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": path, "PYTHONPYCACHEPREFIX": cache}


def candidates() -> list[str]:
    """Return the Pythons that may be here besides the present one, as paths."""
    found = [sys.executable]
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in VERSIONS:
        if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
            continue
        paths = [
            REPOSITORY / f".venv-{version}" / "bin" / "python",
            *sorted(root.glob(f"{version}.*/bin/python{version}")),
            Path(f"/usr/local/bin/python{version}"),
            Path(f"/usr/bin/python{version}"),
        ]
        found += [str(path) for path in paths if path.exists()][:1]
    return found


@pytest.fixture(scope="module", params=candidates(), ids=lambda path: Path(path).name)
def python(request: pytest.FixtureRequest) -> str:
    """Give the path of a Python that can import poolkit and its driver."""
    path: str = request.param
    check = "import psycopg, psycopg_pool, tenacity, poolkit.postgres.pool"
    done = subprocess.run(
        [path, "-c", check],
        check=False,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=50,
    )
    if done.returncode:
        pytest.skip(f"{path} can't import poolkit: {done.stderr.splitlines()[-1:]}")
    return path


class Ended:
    """What a program left: its status, what it printed, and how long it took to end."""

    def __init__(self, process: subprocess.Popen[str], since: float | None = None) -> None:
        try:
            self.out, self.err = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        self.status = process.returncode
        stamps = [line.split()[1] for line in self.out.splitlines() if line.startswith("END ")]
        began = since if since is not None else float(stamps[-1])
        self.seconds = time.time() - began


Script = Callable[..., "subprocess.Popen[str]"]

PRELUDE = """
import sys, time, threading
from poolkit import PostgresPool, BackendUnavailable
db = PostgresPool(sys.argv[1], min_size=2)
def end():
    print("END", time.time(), flush=True)
"""


def starter(python: str, conninfo: str, folder: Path) -> Script:
    def start(text: str, address: str = conninfo) -> subprocess.Popen[str]:
        file = folder / "program.py"
        file.write_text(PRELUDE + dedent(text))
        return subprocess.Popen(
            [python, "-X", "faulthandler", str(file), address],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def script(conninfo: str, tmp_path: Path) -> Script:
    """Give a starter of programs that have a pool named ``db``, and call ``end()`` when they are done."""
    return starter(sys.executable, conninfo, tmp_path)


@pytest.fixture
def script_on_each(python: str, conninfo: str, tmp_path: Path) -> Script:
    """Give the same for each Python there is."""
    return starter(python, conninfo, tmp_path)


def test_never_calls_close(script_on_each: Script) -> None:
    ended = Ended(
        script_on_each("""
            print(db.query("select 42"))
            end()
        """)
    )
    assert ended.out.startswith("[(42,)]")
    assert ended.err == ""
    assert ended.status == 0
    assert ended.seconds < AT_ONCE


def test_is_imported_and_opened_but_never_used(script: Script) -> None:
    ended = Ended(script("db.open(); end()"))
    assert ended.err == ""
    assert ended.status == 0
    assert ended.seconds < AT_ONCE


def test_ends_with_an_exception(script_on_each: Script) -> None:
    ended = Ended(
        script_on_each("""
            db.query("select 42")
            with db.transaction() as conn:
                conn.execute("select 1")
                end()
                raise RuntimeError("its own")
        """)
    )
    assert ended.status == 1
    assert ended.err.startswith("Traceback")
    assert ended.err.count("Traceback") == 1
    assert ended.err.strip().endswith("RuntimeError: its own")
    assert ended.seconds < AT_ONCE


@pytest.mark.parametrize("way", ["sys.exit(3)", "raise SystemExit(3)"])
def test_exits_inside_a_block(script: Script, way: str) -> None:
    ended = Ended(
        script(f"""
            with db.connection() as conn:
                conn.execute("select 1")
                end()
                {way}
        """)
    )
    assert ended.err == ""
    assert ended.status == 3
    assert ended.seconds < AT_ONCE


def test_ctrl_c_while_a_query_runs(script_on_each: Script, watch: Watch) -> None:
    interrupt(script_on_each, "db.query(text)", watch)


@pytest.mark.parametrize("opener", ["db.connection", "db.transaction"])
def test_ctrl_c_while_a_block_runs_a_statement(script: Script, watch: Watch, opener: str) -> None:
    interrupt(script, f"block({opener})", watch)


def interrupt(script: Script, call: str, watch: Watch) -> None:
    """Interrupt a program in *call*, which runs a long statement; it has to end at once, and the statement too."""
    mark = unique("ctrl_c")
    process = script(f"""
        text = "select /* {mark} */ pg_sleep(60)"
        def block(opener):
            with opener() as conn:
                conn.execute(text)
        {call}
    """)
    until(lambda: watch.running(mark), within=20)
    began = time.time()
    process.send_signal(signal.SIGINT)
    ended = Ended(process, began)

    assert ended.status == -signal.SIGINT
    assert ended.err.count("Traceback") == 1
    assert ended.err.strip().endswith("KeyboardInterrupt")
    assert ended.seconds < AT_ONCE
    until(lambda: not watch.running(mark), within=5)


def test_leaks_a_connection(script_on_each: Script) -> None:
    ended = Ended(
        script_on_each("""
            conn = db.connection().__enter__()
            conn.execute("select 1")
            end()
        """)
    )
    assert "Traceback" not in ended.err
    assert ended.status == 0
    assert ended.seconds < AT_ONCE


def test_a_daemon_thread_still_works_when_it_ends(script_on_each: Script) -> None:
    ended = Ended(
        script_on_each("""
            working = threading.Event()
            def work():
                while True:
                    try:
                        db.query("select pg_sleep(0.01)")
                    except Exception:
                        return
                    working.set()
            for _ in range(8):
                threading.Thread(target=work, daemon=True).start()
            working.wait(10)
            end()
        """)
    )
    assert "Traceback" not in ended.err
    assert "Fatal" not in ended.err
    assert ended.status == 0
    assert ended.seconds < AT_ONCE


def test_a_daemon_thread_is_in_a_long_query_when_it_ends(script: Script, watch: Watch) -> None:
    text = f"select /* daemon_{os.getpid()} */ pg_sleep(60)"
    ended = Ended(
        script(f"""
            def work():
                try:
                    db.query("{text}")
                except Exception:
                    pass
            threading.Thread(target=work, daemon=True).start()
            while db.stats().in_use != 1:
                time.sleep(0.01)
            end()
        """)
    )
    assert "Traceback" not in ended.err
    assert ended.status == 0
    assert ended.seconds < AT_ONCE


def test_the_server_is_down(script: Script) -> None:
    address = f"postgresql://u:sEcReT@127.0.0.1:{free_port()}/d"
    ended = Ended(
        script(
            """
            began = time.time()
            try:
                db.query("select 1")
            except BackendUnavailable as error:
                print("unavailable", time.time() - began, error.__cause__ is not None)
            end()
            """,
            address,
        )
    )
    assert ended.out.startswith("unavailable 0.")
    assert "Traceback" not in ended.err
    assert "sEcReT" not in ended.err + ended.out
    assert ended.status == 0
    assert ended.seconds < AT_ONCE


def test_the_server_is_down_and_nobody_catches_it(script_on_each: Script) -> None:
    address = f"postgresql://u:sEcReT@127.0.0.1:{free_port()}/d"
    ended = Ended(script_on_each("end(); db.query('select 1')", address))
    assert ended.status == 1
    assert ended.err.startswith("Traceback")
    assert ended.err.splitlines()[-1].startswith("poolkit.core.errors.BackendUnavailable")
    assert "sEcReT" not in ended.err
    assert ended.seconds < AT_ONCE


def test_the_server_never_answers_while_it_ends(script: Script) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/d"
        ended = Ended(script("db.open(); time.sleep(0.2); end()", address))
    assert "Traceback" not in ended.err
    assert ended.status == 0
    assert ended.seconds < AT_ONCE


def test_a_forked_child_that_exits_in_the_parents_block_disturbs_nothing(
    script_on_each: Script,
) -> None:
    ended = Ended(
        script_on_each("""
            import os, warnings
            warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads: meant
            with db.transaction() as conn:
                first = conn.execute("select pg_backend_pid()").fetchone()
                for way in (lambda: sys.exit(0), lambda: os._exit(0)):
                    if (pid := os.fork()) == 0:
                        way()
                    assert os.waitpid(pid, 0)[1] == 0
                assert conn.execute("select pg_backend_pid()").fetchone() == first
            for row in db.stream("select generate_series(1, 50)", size=5):
                if row == (7,) and (pid := os.fork()) == 0:
                    sys.exit(0)
                if row == (7,):
                    assert os.waitpid(pid, 0)[1] == 0
            print("fine", row)
            end()
        """)
    )
    assert ended.err == ""
    assert ended.out.startswith("fine (50,)")
    assert ended.status == 0
    assert ended.seconds < AT_ONCE
