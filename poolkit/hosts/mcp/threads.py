"""Worker threads for calls that block, and what becomes of such a call when its client gives it up.

A thread can't be interrupted; but the waits of pools can, by a :class:`~poolkit.Cancellation`. So a coroutine does not
wait for its thread behind a shield, as is usual with ``anyio.to_thread``: it hears that it is cancelled, ends the waits
of the thread, and goes when the thread has come back.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import anyio
from anyio import from_thread, to_thread

from ...core.deadline import Cancellation, Deadline
from ...core.errors import DeadlineExceeded

logger = logging.getLogger("poolkit.hosts")

GRACE = 5.0
"""Seconds that a cancelled call may take to come back, before it is left to itself."""

ResultT = TypeVar("ResultT")


class NoThread(DeadlineExceeded):
    """No worker thread became free before the deadline of a call: the server has too much to do, not a backend."""


class Threads:
    """The worker threads of one event loop, *most* at a time, in the order in which they were asked for."""

    def __init__(self, most: int) -> None:
        self.limiter = anyio.CapacityLimiter(most)
        """Who has a thread, and who waits for one: ``limiter.statistics()``."""
        self._unlimited = anyio.CapacityLimiter(math.inf)

    async def run(
        self,
        work: Callable[[], ResultT],
        *,
        name: str,
        until: Deadline,
        cancellation: Cancellation,
    ) -> ResultT:
        """Run *work* in a thread, once there is one. *name* is what it is called in errors and logs.

        Raises :class:`NoThread` if there is none *until* then.
        """
        call = object()
        with anyio.move_on_after(until.remaining()) as scope:
            await self.limiter.acquire_on_behalf_of(call)
        if scope.cancelled_caught:
            raise NoThread(
                f"{name}: none of {self.limiter.total_tokens:g} worker threads became free within "
                f"{until.budget:g} s",
                stage="waiting",
            )
        return await self._run(call, work, name, cancellation)

    async def _run(
        self, call: object, work: Callable[[], ResultT], name: str, cancellation: Cancellation
    ) -> ResultT:
        """Run *work* for *call*, which is in the limiter until its thread is free again."""
        claim = deque([None])  # taken by the thread as it begins, or by a cancellation before that
        ended = anyio.Event()
        over = False
        left = False  # to itself

        def begin() -> ResultT | None:
            nonlocal over
            try:
                claim.pop()
            except IndexError:
                return None  # nobody waits for it
            try:
                return work()
            finally:
                # First this, then the look: a cancellation does it the other way round, so one sees the other.
                over = True
                if cancellation.cancelled:
                    with suppress(RuntimeError):  # the loop may be gone
                        from_thread.run_sync(end)

        def end() -> None:
            ended.set()
            if left:
                self.limiter.release_on_behalf_of(call)

        try:
            result = await to_thread.run_sync(
                begin, abandon_on_cancel=True, limiter=self._unlimited
            )
        except anyio.get_cancelled_exc_class():
            cancellation.cancel()
            try:
                claim.pop()
            except IndexError:
                try:
                    with anyio.move_on_after(GRACE, shield=True):
                        if not over:
                            await ended.wait()
                finally:
                    left = not over
                if left:
                    logger.warning("%s was cancelled %g s ago, but runs on", name, GRACE)
            raise
        finally:
            if not left:
                self.limiter.release_on_behalf_of(call)
        return result  # type: ignore[return-value]
