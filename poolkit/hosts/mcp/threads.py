"""Worker threads for calls that block, and what becomes of such a call when its client gives it up.

A thread can't be interrupted; but the waits of pools can, by a :class:`~poolkit.Cancellation`. So a coroutine does not
wait for its thread behind a shield, as is usual with ``anyio.to_thread``: it hears that it is cancelled, ends the waits
of the thread, and goes when the thread has come back.

A thread that has ended one call takes the next by itself, and what several threads tell the event loop, it hears at
once: where hundreds of calls wait, handing each one over by way of the loop took as long as what the tools do.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

import anyio
from anyio import to_thread
from anyio.lowlevel import checkpoint_if_cancelled

from ...core.deadline import Cancellation, Deadline
from ...core.errors import DeadlineExceeded
from .loops import Alarm, Tasks, teller
from .work import Work

logger = logging.getLogger("poolkit.hosts")

GRACE = 5.0
"""Seconds that a cancelled call may take to come back, before it is left to itself."""

IDLE = 10.0
"""Seconds that a thread waits for a call, before it ends; as anyio's do."""

ResultT = TypeVar("ResultT")


class NoThread(DeadlineExceeded):
    """No worker thread became free before the deadline of a call, or could be started: the server has too much to do,
    not a backend.
    """


class Threads:
    """The worker threads of the event loop that runs, *most* at a time; calls get them in the order they came in.

    They are threads of anyio's: what ``anyio.from_thread`` has is there for tools.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        # Between the event loop and the threads.
        self._queue: SimpleQueue[Work | None] = SimpleQueue()  # None: a thread may end
        self._reports: deque[Work | None] = deque()  # what is over; None: a thread has ended
        self._told = False  # that there are reports
        self._tell = teller()
        # The event loop's.
        self._calls: set[Work] = set()  # that wait or run
        self._alive = 0
        self._unlimited = anyio.CapacityLimiter(math.inf)
        self._tasks = Tasks()
        self._alarm = Alarm(self._tasks, self._turn_away)

    @property
    def busy(self) -> int:
        """How many calls have a thread."""
        return len(self._calls) - self.waiting

    @property
    def waiting(self) -> int:
        """How many calls wait for one."""
        return sum(call.waits for call in self._calls)

    async def run(
        self,
        body: Callable[[], ResultT],
        *,
        name: str,
        until: Deadline,
        cancellation: Cancellation,
    ) -> ResultT:
        """Run *body* in a thread, once there is one. *name* is what it is called in errors and logs.

        Raises :class:`NoThread` if there is none *until* then, or none can be started.
        """
        await checkpoint_if_cancelled()
        call = Work(body, name=name, until=until)
        self._calls.add(call)
        self._queue.put(call)
        self._hire()
        self._alarm.by(until.at)
        try:
            await call.over.wait()
        except anyio.get_cancelled_exc_class():
            cancellation.cancel()
            if not self._withdrawn(call):
                await _come_back(call)
            raise
        result: ResultT = call.outcome()
        return result

    def dismiss(self) -> None:
        """Have the threads end that have nothing to do. There are others as soon as there is."""
        for _ in range(self._alive):
            self._queue.put(None)

    # -- in the event loop ---------------------------------------------------------------------------

    def _withdrawn(self, call: Work) -> bool:
        """Whether *call* has not begun, and now never will."""
        withdrawn = call.withdraw()
        if withdrawn:
            self._calls.discard(call)
        return withdrawn

    def _refuse(self, call: Work, why: str) -> None:
        if self._withdrawn(call):
            call.fail(NoThread(f"{call.name}: {why}", stage="waiting"))

    def _turn_away(self) -> float:
        """Fail the calls that have waited until their deadline; return that of the next."""
        for call in list(self._calls):
            if call.until.expired:
                budget = f"{call.until.budget:g} s"
                self._refuse(
                    call, f"none of {self.most} worker threads became free within {budget}"
                )
        return min((call.until.at for call in self._calls if call.waits), default=math.inf)

    def _hire(self) -> None:
        while self._alive < min(self.most, len(self._calls)):
            self._alive += 1
            self._tasks.start(self._employ)

    async def _employ(self) -> None:
        """Have a thread until it ends, or a call in it is interrupted; *scope* is what ``from_thread`` finds there."""
        scope = anyio.CancelScope()
        try:
            with scope:
                await to_thread.run_sync(
                    self._serve, scope, abandon_on_cancel=True, limiter=self._unlimited
                )
        except RuntimeError as error:  # of the system's threads there are no more
            self._alive -= 1
            why = f"no worker thread could be started: {error}"
            logger.warning("%s", why)
            if not self._alive:  # nobody would ever take them
                for call in list(self._calls):
                    self._refuse(call, why)
        except anyio.get_cancelled_exc_class():  # the event loop ends
            self._queue.put(None)
            raise

    def _hear(self) -> None:
        self._told = False  # first this, then the look: a thread does it the other way round
        while self._reports:
            call = self._reports.popleft()
            if call is None:
                self._alive -= 1
            else:
                self._calls.discard(call)
                call.over.set()
        self._hire()

    # -- in a worker thread --------------------------------------------------------------------------

    def _serve(self, scope: anyio.CancelScope) -> None:
        """Run one call after the other, while there are any, until one is interrupted."""
        try:
            while (call := self._next()) is not None:
                if call.begin(scope):
                    stays = call.run()
                    self._report(call)
                    if not stays:
                        break
                del call  # and its result, while the thread waits
        finally:
            self._report(None)

    def _next(self) -> Work | None:
        try:
            return self._queue.get(timeout=IDLE)
        except Empty:
            return None

    def _report(self, call: Work | None) -> None:
        self._reports.append(call)
        if not self._told:
            self._told = True
            with suppress(RuntimeError):  # the loop may be gone
                self._tell(self._hear)


async def _come_back(call: Work) -> None:
    """Wait for a cancelled call that runs, as long as it may take."""
    call.interrupt()
    with anyio.move_on_after(GRACE, shield=True):
        await call.over.wait()
    if not call.over.is_set():
        logger.warning("%s was cancelled %g s ago, but runs on", call.name, GRACE)
