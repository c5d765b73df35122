"""A gunicorn that serves one of the apps, and what its processes use."""

from __future__ import annotations

import os
import signal
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from poolkit.embedded import guardian
from poolkit.embedded.process import Home
from poolkit.embedded.server import Server

ROOT = Path(__file__).parents[1]
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Gunicorn(Server):
    """Serves *app* with *workers* of *threads* each, its *env* in their environment. Ready when it answers *probe*."""

    product = "gunicorn"

    def __init__(
        self, app: str, *, workers: int, threads: int, env: Mapping[str, str], probe: str
    ) -> None:
        super().__init__(startup_timeout=30.0)
        self._app = app
        self._workers = workers
        self._threads = threads
        self._env = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), **env}
        self._probe = probe
        self._tried = 0

    def __enter__(self) -> Gunicorn:
        self.start()
        return self

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def cpu_seconds(self) -> float:
        """The CPU time that its processes have used since their start; 0 where the system doesn't say."""
        return sum(sum(map(int, fields[11:13])) for fields in self._stats()) / TICKS

    @property
    def rss_bytes(self) -> int:
        """The resident memory of its workers, what they share counted in each."""
        return sum(int(fields[21]) * PAGE for fields in self._stats()[1:])

    def _stats(self) -> list[list[str]]:
        """Return what /proc/<pid>/stat says after the command, of the arbiter and then of its workers."""
        try:
            return [
                Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                for pid in guardian.family(self.pid)
            ]
        except OSError:
            return []

    def _make_home(self) -> Home:
        return Home("bench-gunicorn", polite=signal.SIGQUIT, demoted=False)

    def _create(self, home: Home) -> None:
        """Nothing is to be written."""

    def _command(self, home: Home, port: int) -> Sequence[str | Path]:  # noqa: ARG002
        self._tried = port
        return [
            *("/usr/bin/env", *(f"{name}={value}" for name, value in self._env.items())),
            *(sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--chdir", ROOT),
            *("--worker-class", "gthread", "--workers", str(self._workers)),
            *("--threads", str(self._threads), "--no-control-socket", self._app),
        ]

    def _is_ready(self, home: Home) -> bool:  # noqa: ARG002
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._tried}{self._probe}", timeout=5):
                return True
        except OSError:
            return False
