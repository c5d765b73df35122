"""What event loops have and anyio does not offer: a task that belongs to nobody, a word to the loop from a thread, and
one timer for many instants.
"""

from __future__ import annotations

import asyncio
import math
import sys
import weakref
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from time import monotonic
from typing import Any, TypeVar

import anyio

Told = Callable[[Callable[[], None]], object]
ResultT = TypeVar("ResultT")


def teller() -> Told:
    """Return what has the running loop call a function soon, from any thread, and does not wait for it.

    It raises RuntimeError once the loop is over.
    """
    try:
        loop = weakref.ref(asyncio.get_running_loop())
    except RuntimeError:
        import trio

        token = weakref.ref(trio.lowlevel.current_trio_token())
        return lambda what: _alive(token).run_sync_soon(what)
    return lambda what: _alive(loop).call_soon_threadsafe(what)


def _alive(it: weakref.ref[ResultT]) -> ResultT:
    """Return what is there. A loop that is over is kept by nobody, least of all by what was made for it."""
    there = it()
    if there is None:
        raise RuntimeError("the event loop is over")
    return there


class Tasks:
    """Tasks that run until they end, or their loop does: none is the child of the task that has started it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself keeps weak references

    def start(self, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start one, with no context variables of the one that runs."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            import trio

            trio.lowlevel.spawn_system_task(body, context=Context())
            return
        nothing = Context()
        task = nothing.run(loop.create_task, body())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard, context=nothing)


class Alarm:
    """Calls *ring* at the earliest of the instants that it was given, in seconds of :func:`time.monotonic`.

    That returns the next one, infinity for none. For calls that are hardly ever late: a timer for each of them would
    cost more than the rest of its way to a thread.
    """

    def __init__(self, tasks: Tasks, ring: Callable[[], float]) -> None:
        self._tasks = tasks
        self._ring = ring
        self._at = math.inf
        self._set = False
        self._scope = anyio.CancelScope()

    def by(self, at: float) -> None:
        """Ring at *at*, or before."""
        if at >= self._at:
            return
        self._at = at
        self._scope.deadline = _on_this_clock(at)
        if not self._set:
            self._set = True
            self._tasks.start(self._wait)

    async def _wait(self) -> None:
        while self._at != math.inf:
            self._scope = anyio.CancelScope(deadline=_on_this_clock(self._at))
            with self._scope:
                await anyio.sleep_forever()
            self._at = math.inf
            self._at = self._ring()
        self._set = False


def _on_this_clock(at: float) -> float:
    """Return *at* as the time of the running loop, which may have a clock of its own."""
    return anyio.current_time() + at - monotonic()


def context_for_thread() -> Context:
    """Return a copy of the context variables, in which no event loop is said to run."""
    context = copy_context()
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, None)
    return context
