"""What the tests of the core share: threads that hand over what became of them, and bounded waiting."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

LONG = 30.0
"""Seconds after which what should have happened never will. Only a failing test waits that long."""


def named(value: object) -> str:
    """Return what a test with *value* is called, in whichever process: without addresses."""
    name = getattr(value, "__name__", None)
    return name if isinstance(name, str) else re.sub(r" at 0x[0-9a-f]+", "", str(value))


class Interrupted(Exception):
    """What is thrown into a thread from outside."""


class Task(threading.Thread):
    """A thread that has begun to run *work*, and hands over what it returned or raised."""

    def __init__(self, work: Callable[..., Any], *args: Any, name: str | None = None) -> None:
        super().__init__(daemon=True, name=name)
        self._work = work
        self._work_args = args
        self.value: Any = None
        self.error: BaseException | None = None
        self.seconds = 0.0
        self.start()

    def run(self) -> None:
        began = time.monotonic()
        try:
            self.value = self._work(*self._work_args)
        except BaseException as error:
            self.error = error
        self.seconds = time.monotonic() - began

    def result(self, timeout: float = LONG) -> Any:
        """Return what it returned, or raise what it raised; fail if it has not ended in *timeout* seconds."""
        self.end(timeout)
        if self.error is not None:
            raise self.error
        return self.value

    def outcome(self, timeout: float = LONG) -> Any:
        """Return what it returned or raised; fail if it has not ended in *timeout* seconds."""
        self.end(timeout)
        return self.value if self.error is None else self.error

    def end(self, timeout: float = LONG) -> BaseException | None:
        """Wait until it has ended, at most *timeout* seconds, and return what it raised."""
        self.join(timeout)
        assert not self.is_alive(), f"{self.name} is stuck"
        return self.error

    def is_in(self, function: str) -> bool:
        """Whether it is in a *function* of that name now, or in what that has called."""
        frame = sys._current_frames().get(self.ident or 0)
        while frame is not None and frame.f_code.co_name != function:
            frame = frame.f_back
        return frame is not None

    def interrupt(self) -> None:
        """Throw :class:`Interrupted` into it; it arrives when the thread next runs Python code."""
        assert self.ident is not None
        hit = ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self.ident), ctypes.py_object(Interrupted)
        )
        assert hit == 1


class Conn:
    """A connection for a shelf, that is as the test says."""

    def __init__(self, *, lifetime: float = 1800.0, idle_timeout: float = 30.0) -> None:
        self.lease: Any = None
        self.born = self.last_used = time.monotonic()
        self.dies = self.born + lifetime if lifetime else 0.0
        self.idle_timeout = idle_timeout
        self.counted = self.retired = False
        self.settled = self.is_connected = self.quiet = self.answering = True
        self.asked = self.disowned = 0

    def is_quiet(self) -> bool:
        return self.quiet

    def hung_up(self) -> bool:
        return not self.is_connected

    def answers(self, until: object, timeout: float) -> bool:
        self.asked += 1
        return self.answering

    def disconnect(self) -> None:
        self.is_connected = self.settled = False

    def disown(self) -> None:
        self.disowned += 1


class Stopwatch:
    """Measures a block: ``seconds``."""

    seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self._began = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.seconds = time.monotonic() - self._began


def eventually(condition: Callable[[], Any], timeout: float = LONG) -> None:
    """Wait until *condition* holds: for what no event tells, such as that a thread waits."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.000_5)


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run ``work(0)`` … ``work(count - 1)`` in threads that begin at the same moment; return the results."""
    line = threading.Barrier(count)

    def begin(number: int) -> Any:
        line.wait(LONG)
        return work(number)

    tasks = [Task(begin, number) for number in range(count)]
    return [task.result() for task in tasks]


def python(script: str) -> str:
    """Run *script* in an interpreter of its own and return what it printed; fail if it fails."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
