"""What the tests of RedisPool share."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from types import FrameType, TracebackType
from typing import Any
from urllib.parse import urlsplit

from poolkit import Listener, PoolTimeout, RedisPool
from poolkit.embedded import RedisServer
from poolkit.redis.node import RedisNode
from tests.faults.proxy import FaultProxy

SCHEDULING = 0.15
"""Seconds that a busy machine may add to what is promised."""


def through(proxy: FaultProxy, server: RedisServer) -> str:
    """Return the address of *server*, by way of *proxy*."""
    parts = urlsplit(server.url)
    return parts._replace(netloc=f":{server.password}@127.0.0.1:{proxy.port}").geturl()


class Stopwatch:
    """Measures a block: ``seconds``."""

    seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self._began = monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.seconds = monotonic() - self._began


class Recorder(Listener):
    """Remembers the kinds of events, and the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []

    def kinds(self) -> list[str]:
        """Return what was heard, in order."""
        return [kind for kind, _ in self.events]


def _record(name: str) -> object:
    def method(self: Recorder, event: object) -> None:
        self.events.append((name, event))

    return method


for _name in (
    "opened",
    "connected",
    "ready",
    "reconnecting",
    "acquired",
    "released",
    "removed",
    "timed_out",
    "retried",
    "failed",
    "leaked",
    "closed",
):
    setattr(Recorder, _name, _record(_name))


LIMIT_OF_A_CHILD = 20
"""Seconds after which a forked child that hangs is killed by its own alarm."""


class Child:
    """A fork of this process that does *work*, sends back what became of it, and ends at once."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LIMIT_OF_A_CHILD)
            try:
                message = pickle.dumps(("result", work()))
            except BaseException:
                message = pickle.dumps(("error", traceback.format_exc()))
            with os.fdopen(write, "wb") as pipe:
                pipe.write(message)
            os._exit(0)
        os.close(write)

    def outcome(self) -> Any:
        """Return what *work* returned; fail if it raised or hung."""
        with os.fdopen(self._read, "rb") as pipe:
            message = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        assert status == 0, f"the child ended with status {status} (14: it hung)"
        kind, value = pickle.loads(message)
        assert kind == "result", value
        return value


class Struck(BaseException):
    """What an interruption raises."""


class Interruption:
    """Raises :class:`Struck` at the n-th point of a block where the interpreter looks for signals.

    That is on entering a function, and when one written in C has returned (CPython's "eval breaker");
    only points in files count whose path has one of *within*. ``where`` says which it was; None if there are fewer.
    """

    def __init__(
        self, at: int, *, within: Sequence[str] = ("/poolkit/", "/site-packages/redis/")
    ) -> None:
        self._left = at
        self._within = within
        self.where: str | None = None

    def __enter__(self) -> Interruption:
        sys.setprofile(self._look)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, called: object) -> None:
        if event not in ("call", "c_return"):
            return
        file = frame.f_code.co_filename
        if not any(part in file for part in self._within):
            return
        if "/tests/" in file or frame.f_code.co_name == "__del__":  # can't be raised in a finalizer
            return
        self._left -= 1
        if self._left == 0:
            what = f"after {called.__name__}" if event == "c_return" else "on entry"  # type: ignore[attr-defined]
            self.where = (
                f"{file.rpartition('/')[2]}:{frame.f_lineno} {frame.f_code.co_name}, {what}"
            )
            raise Struck


def node_of(cache: RedisPool) -> RedisNode:
    """Return the one node of a pool that is open."""
    running = cache._lifecycle.running
    assert running is not None
    (node,) = running.topology.nodes()
    return node


def turns_left(cache: RedisPool, most: int) -> int:
    """Return how many connections can be held at once, *most* at most."""
    held = []
    try:
        for _ in range(most):
            block = cache.connection()
            with suppress(PoolTimeout):
                block.__enter__()
                held.append(block)
        return len(held)
    finally:
        for block in held:
            block.__exit__(None, None, None)
