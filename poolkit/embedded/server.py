"""A private server with the switches that a test needs: stop, kill, freeze, start again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from signal import Signals
from types import TracebackType

from poolkit.core import checks

from . import guardian
from .process import EmbeddedError, Home, free_port

PORT_ATTEMPTS = 5


class Server(ABC):
    """One server on a loopback port, in a :class:`Home` of its own: what all kinds have in common.

    A kind says how its home is made and filled, what command starts it, and when it is ready. Not for
    several threads at a time. A fork of the owning process can connect to it, but neither control nor
    end it.
    """

    product: str  # its name in messages

    def __init__(self, *, startup_timeout: float) -> None:
        self._startup_timeout = checks.seconds("startup_timeout", startup_timeout, zero=False)
        self._home: Home | None = None
        self._port = 0

    def __repr__(self) -> str:
        if self._home is None:
            return f"<{type(self).__name__}, not started>"
        return f"<{type(self).__name__} on 127.0.0.1:{self._port}>"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start it, and wait until it takes connections; on the same port and data as before, if any.

        Does nothing if it runs.
        """
        if self._home is not None:
            self._boot(self._home)
            return
        self._home = self._make_home()
        try:
            self._create(self._home)
            self._boot(self._home)
        except BaseException:
            self.close()
            raise

    def kill(self) -> None:
        """Kill it and all of its processes with SIGKILL; on return they are gone."""
        home = self._started()
        if (pid := home.pid) is None:
            return
        guardian.kill(pid)
        home.ended(guardian.PATIENCE)

    def pause(self) -> None:
        """Freeze it and all of its processes with SIGSTOP: the kernel still accepts, no one answers."""
        guardian.freeze(self.pid)

    def resume(self) -> None:
        """End the freeze."""
        guardian.thaw(self.pid)

    @property
    def port(self) -> int:
        """The TCP port; it stays the same over a restart."""
        self._started()
        return self._port

    @property
    def pid(self) -> int:
        """The pid of its first process. Raises :class:`EmbeddedError` when it doesn't run."""
        pid = self._started().pid
        if pid is None:
            raise EmbeddedError(f"{self.product} is not running; start() starts it")
        return pid

    @property
    def runs(self) -> bool:
        """Whether it runs, and isn't frozen."""
        pid = self._started().pid
        return pid is not None and not guardian.none_runs(
            [pid], but=guardian.STOPPED + guardian.ENDED
        )

    def log(self, lines: int = 50) -> str:
        """Return the last *lines* of its log."""
        return self._started().log(lines=lines)

    def close(self) -> None:
        """End it and remove its data. Does nothing when that is done, or in a fork of the owner.

        Starting it after that makes an empty one.
        """
        home, self._home, self._port = self._home, None, 0
        if home is not None:
            home.close()

    @abstractmethod
    def _make_home(self) -> Home: ...

    @abstractmethod
    def _create(self, home: Home) -> None:
        """Write what it needs before its first start."""

    @abstractmethod
    def _command(self, home: Home, port: int) -> Sequence[str | Path]: ...

    @abstractmethod
    def _is_ready(self, home: Home) -> bool:
        """Tell whether it takes connections. It may have ended."""

    def _started(self) -> Home:
        if self._home is None:
            raise EmbeddedError(
                f"{self.product} was not started: use it as a context manager, or start() it"
            )
        return self._home

    def _shut_down(self, way: Signals, timeout: float, *, called: str) -> None:
        """Send the signal that makes it end in order, and wait for that."""
        home = self._started()
        if (pid := home.pid) is None:
            return
        guardian.thaw(pid)
        guardian.send([pid], way)
        if not home.ended(timeout):
            raise EmbeddedError(
                f"{self.product} still runs {timeout:g} s after {called}. Its log:\n{home.log()}"
            )

    def _boot(self, home: Home) -> None:
        """Start the server on the port that it has, or on a free one."""
        if home.pid is not None:
            return
        for attempt in range(PORT_ATTEMPTS):
            port = self._port or free_port()
            written = home.log_path.stat().st_size
            home.launch(self._command(home, port))
            if self._wait_ready(home):
                self._port = port
                return
            log = home.log(since=written)
            taken = "address already in use" in log.lower()  # by someone who was quicker
            if self._port or not taken or attempt == PORT_ATTEMPTS - 1:
                raise EmbeddedError(
                    f"{self.product} ended with status {home.reap()} at its start. Its log:\n{log}"
                )

    def _wait_ready(self, home: Home) -> bool:
        """Wait until it takes connections; tell whether it does, or ended instead."""
        if not guardian.wait_for(
            lambda: home.pid is None or self._is_ready(home), self._startup_timeout
        ):
            log = home.log()
            self.kill()
            raise EmbeddedError(
                f"{self.product} was not ready within {self._startup_timeout:g} s. Its log:\n{log}"
            )
        return home.pid is not None
