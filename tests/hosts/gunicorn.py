"""Run a real gunicorn: its arbiter and its workers, with what they tell of themselves."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from poolkit.embedded import guardian
from poolkit.embedded.process import Home
from poolkit.embedded.server import Server
from tests.core.support import LONG

ROOT = Path(__file__).parents[2]
JOURNAL = "journal"

NOTES = """
import os

control_socket_disable = True
accesslog = None

_journal = os.open({journal!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def _note(*words):
    os.write(_journal, " ".join(map(str, words)).encode() + b"\\n")

def post_worker_init(worker):
    _note("ready", worker.pid)

def pre_request(worker, request):
    _note("took", worker.pid, request.uri)

def child_exit(server, worker):
    _note("ended", worker.pid)
"""
EXIT = """
def worker_exit(server, worker):
    worker.wsgi.extensions["poolkit"].kit.close()
"""


class Gunicorn(Server):
    """One gunicorn that serves *app*; every process of it is gone when it is closed, or when we are.

    The *settings* are gunicorn's own, as in its configuration file; *env* is what the processes find in
    their environment. *base* is a configuration file that is in force before them, *hooks* is the source of
    such a file's functions. It is ready once each worker is.
    """

    product = "gunicorn"

    def __init__(
        self,
        app: str,
        *,
        env: Mapping[str, str],
        workers: int = 1,
        base: Path | None = None,
        hooks: str = "",
        startup_timeout: float = 30.0,
        **settings: object,
    ) -> None:
        super().__init__(startup_timeout=startup_timeout)
        self._app = app
        self._env = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), **env}
        self._workers = workers
        self._base = base
        self._hooks = hooks
        self._settings = settings

    def __enter__(self) -> Gunicorn:
        self.start()
        return self

    def tell(self, number: signal.Signals) -> None:
        """Send a signal to the arbiter."""
        os.kill(self.pid, number)

    def reload(self) -> None:
        """Have it replace all workers (HUP), and wait until the old ones are gone."""
        old = set(self.workers)
        self.tell(signal.SIGHUP)
        self.wait(lambda: len(self.workers) == self._workers and not old & set(self.workers))

    def stop(self, *, timeout: float = 30.0) -> None:
        """Have it end in order (TERM), and wait until every process of it is gone."""
        members = guardian.family(self.pid)
        self._shut_down(signal.SIGTERM, timeout, called="TERM")
        assert guardian.wait_for(lambda: guardian.none_runs(members), 5.0), "workers were left over"

    @property
    def workers(self) -> list[int]:
        """The pids of the workers that are ready, the oldest first."""
        told = self._told()
        ended = {words[1] for words in told if words[0] == "ended"}
        return [int(words[1]) for words in told if words[0] == "ready" and words[1] not in ended]

    @property
    def ended(self) -> int:
        """How many workers have ended since its start."""
        return sum(words[0] == "ended" for words in self._told())

    @property
    def taken(self) -> dict[str, int]:
        """The paths of the requests that were taken in since its start, each with the pid of its worker."""
        return {words[2]: int(words[1]) for words in self._told() if words[0] == "took"}

    def took(self, path: str) -> int:
        """Return the pid of the worker that takes in the request for *path*, as soon as one has."""
        self.wait(lambda: path in self.taken)
        return self.taken[path]

    def wait(self, condition: Callable[[], bool], timeout: float = LONG) -> None:
        """Wait until *condition* holds; a test's processes share two cores, so it looks seldom."""
        assert guardian.wait_for(condition, timeout, poll=0.02), f"it did not happen:\n{self.log()}"

    def _told(self) -> list[list[str]]:
        journal = self._started().path / JOURNAL
        if not journal.exists():
            return []
        whole, _, _ = journal.read_text().rpartition("\n")
        return [line.split() for line in whole.splitlines()]

    def _make_home(self) -> Home:
        return Home("gunicorn", polite=signal.SIGQUIT, demoted=False)

    def _create(self, home: Home) -> None:
        base = self._base.read_text() if self._base is not None else ""
        settings = {"workers": self._workers, **self._settings}
        own = "".join(f"{name} = {value!r}\n" for name, value in settings.items())
        journal = NOTES.format(journal=str(home.path / JOURNAL))
        home.write("gunicorn.conf.py", "\n".join([base, journal, own, self._hooks]))

    def _command(self, home: Home, port: int) -> Sequence[str | Path]:
        env = [f"{name}={value}" for name, value in self._env.items()]
        return [
            *("/usr/bin/env", *env, sys.executable, "-m", "gunicorn"),
            *("--config", home.path / "gunicorn.conf.py", "--bind", f"127.0.0.1:{port}"),
            *("--chdir", ROOT, self._app),
        ]

    def _is_ready(self, home: Home) -> bool:
        return len(self.workers) >= self._workers
