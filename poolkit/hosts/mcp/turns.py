"""How many calls have a thread at the same time: as few as keep the process busy, as many as it takes.

In Python one thread computes at a time. When calls are many and their backends quick, that is what they wait for, and
more threads only make them wait for one another. When backends are slow the threads wait for those, and cost nothing.
So there are few at first, and more as long as calls wait for a thread and the process has time for them.
"""

from __future__ import annotations

import math
from collections import deque
from time import perf_counter, process_time

import anyio

from ...core.deadline import Deadline

FEW = 10
"""How many calls always have a thread."""

TICK = 0.02
"""Seconds between looks, while calls wait."""

BUSY = 0.8
"""The share of one core from which on a process is busy."""

LATE = 2 * TICK
"""Seconds from one look to the next from which on it is busy too, or its machine is."""

LONG = 0.25
"""Seconds after which a call is one that waits for its backend: it is not among the few."""


class Turns:
    """Turns for *most* calls at the same time, given in the order in which they were asked for. For one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._few = min(FEW, most)
        self._running: dict[object, float] = {}  # since when; the oldest first
        self._waiting: deque[_Waiter] = deque()
        self._looker: _Waiter | None = None
        """The one of those who wait that looks whether there can be more."""
        self._last = _Look(0.0, 0.0)
        self.limit = self._few
        """How many there are now."""

    @property
    def running(self) -> int:
        """How many calls have a turn."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many calls wait for one."""
        return len(self._waiting)

    async def take(self, turn: object, until: Deadline) -> bool:
        """Wait for a *turn*, which has to be given back; False if there is none *until* then."""
        if len(self._running) < self.limit and not self._waiting:
            self._running[turn] = perf_counter()
            return True
        waiter = _Waiter(turn, until)
        self._waiting.append(waiter)
        if self._looker is None:
            self._looker = waiter
            self._last = self._look()
        try:
            while not await waiter.wait(self._patience(waiter)):
                if until.expired:
                    break
                self._adjust()
        except BaseException:
            if waiter.has_turn:
                self.give_back(turn)
            raise
        finally:
            self._leave(waiter)
        return waiter.has_turn

    def give_back(self, turn: object) -> None:
        """End a turn; the next one begins."""
        del self._running[turn]
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and len(self._running) < self.limit:
            waiter = self._waiting.popleft()
            self._running[waiter.turn] = perf_counter()
            waiter.go()

    def _leave(self, waiter: _Waiter) -> None:
        if not waiter.has_turn:
            self._waiting.remove(waiter)
        if self._looker is waiter:
            self._looker = None
            if self._waiting:
                self._looker = self._waiting[-1]  # who will be there the longest
                self._looker.wake_in(self._patience(self._looker))

    def _patience(self, waiter: _Waiter) -> float:
        """Return how many seconds *waiter* may wait before it has to look."""
        if self._looker is not waiter:
            return math.inf
        return max(0.0, self._last.at + TICK - perf_counter())

    def _adjust(self) -> None:
        """Have more turns if calls wait though the process has time, else fewer."""
        now, last = self._look(), self._last
        self._last = now
        passed = now.at - last.at
        is_busy = now.cpu - last.cpu >= BUSY * passed or passed > LATE
        slow = 0
        for since in self._running.values():
            if now.at - since < LONG:
                break
            slow += 1
        fewer = max(self._few + slow, math.floor(0.9 * self.limit))
        more = math.ceil(1.5 * self.limit)
        self.limit = min(self._most, fewer if is_busy else more)
        self._go_on()

    def _look(self) -> _Look:
        return _Look(perf_counter(), process_time())


class _Look:
    """A moment, and how much this process has computed until then, in seconds."""

    __slots__ = ("at", "cpu")

    def __init__(self, at: float, cpu: float) -> None:
        self.at = at
        self.cpu = cpu


class _Waiter:
    """One who waits for a turn."""

    __slots__ = ("_go", "_scope", "_until", "has_turn", "turn")

    def __init__(self, turn: object, until: Deadline) -> None:
        self.turn = turn
        self.has_turn = False
        self._until = until
        self._go = anyio.Event()
        self._scope = anyio.CancelScope()

    def go(self) -> None:
        """Tell it that it has its turn."""
        self.has_turn = True
        self._go.set()

    def wake_in(self, seconds: float) -> None:
        """Have it wake so many *seconds* from now, if nothing happens before."""
        self._scope.deadline = min(self._scope.deadline, anyio.current_time() + seconds)

    async def wait(self, patience: float) -> bool:
        """Wait, for *patience* seconds or until the deadline, and return whether it has its turn."""
        with anyio.move_on_after(min(patience, self._until.remaining())) as self._scope:
            await self._go.wait()
        return self.has_turn
