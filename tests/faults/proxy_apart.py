"""A fault proxy in a process of its own: what it does takes neither time nor memory of those whom it is between."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from tests.faults.proxy import PATIENCE, FaultProxy, Tamper

STARTS_WITHIN = 30.0


class ProxyApart:
    """Does what a :class:`FaultProxy` does, elsewhere. A context manager; usable by many threads."""

    def __init__(self, target_host: str, target_port: int) -> None:
        self.target = (target_host, target_port)
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                (
                    *(sys.executable, "-m", __name__),
                    *(str(theirs.fileno()), target_host, str(target_port)),
                ),
                pass_fds=[theirs.fileno()],
            )
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._wire = Connection(ours.detach())
        self.host, self.port = self._answer(STARTS_WITHIN)

    def __repr__(self) -> str:
        return f"<ProxyApart, process {self._process.pid}>"

    def __enter__(self) -> ProxyApart:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def pass_through(self) -> None:
        self._tell(FaultProxy.pass_through)

    def blackhole(self) -> None:
        self._tell(FaultProxy.blackhole)

    def stall_replies(self) -> None:
        self._tell(FaultProxy.stall_replies)

    def delay(self, seconds: float, *, jitter: float = 0.0) -> None:
        self._tell(FaultProxy.delay, seconds, jitter=jitter)

    def limit(self, rate: float) -> None:
        self._tell(FaultProxy.limit, rate)

    def tamper(self, tamper: Tamper) -> None:
        """Forward what *tamper* makes of each piece. It is called over there, so it must be one that can be pickled."""
        self._tell(FaultProxy.tamper, tamper)

    def half_close(self) -> int:
        return int(self._tell(FaultProxy.half_close))

    def refuse(self) -> None:
        self._tell(FaultProxy.refuse)

    def accept(self) -> None:
        self._tell(FaultProxy.accept)

    def cut(self) -> int:
        return int(self._tell(FaultProxy.cut))

    @property
    def live(self) -> int:
        """The number of connections open now."""
        return int(self._tell(live))

    def close(self) -> None:
        """Reset all connections, and wait for the process' end."""
        with self._lock:
            self._wire.close()
        self._process.wait(PATIENCE)

    def _tell(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Have the proxy do something, and return what it says."""
        with self._lock:
            try:
                self._wire.send((method, args, options))
                return self._answer(PATIENCE)
            except (EOFError, OSError) as error:
                raise RuntimeError(f"{self!r} has ended") from error

    def _answer(self, within: float) -> Any:
        if not self._wire.poll(within):
            raise RuntimeError(f"{self!r} doesn't answer")
        return self._wire.recv()


def live(proxy: FaultProxy) -> int:
    """Return how many connections a proxy has."""
    return proxy.live


def main(descriptor: int, host: str, port: int) -> None:
    """Do what is told over *descriptor*, until nobody is there any more."""
    with Connection(descriptor) as wire, FaultProxy(host, port) as proxy:
        wire.send((proxy.host, proxy.port))
        while True:
            try:
                method, args, options = wire.recv()
            except EOFError:
                return
            wire.send(method(proxy, *args, **options))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
