"""The gate: who may use a connection now, and who goes next.

Drivers keep the connections; the gate keeps the turns. It is fair (the oldest waiter goes first), bounded
(at most ``max_waiting``), closable, and refuses on arrival a wait that can't fit the deadline.

Handing each turn to another thread costs two switches of the interpreter lock a request, more than a short
statement itself. So a thread that comes back at once may take the turn it has just given up, as long as
the oldest waiter has waited less than ``FAIR_AFTER`` (the same idea as the two modes of Go's sync.Mutex).
At most one turn is left lying like that, and a waiter that finds it takes it.
"""

from __future__ import annotations

import _thread
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

from .deadline import Deadline
from .errors import PoolOverloaded

FAIR_AFTER = 0.010
"""Seconds after which the oldest waiter is served before a thread that comes back."""

COMES_BACK = 0.000_5
"""Seconds between giving up a turn and asking for the next one, of a thread that counts as coming back."""

_LOOK = 0.005
"""Seconds after which a waiter looks whether a turn was left lying."""

_SAMPLES = 16
"""Turns to observe before the pace is trusted; also the weight of the moving average."""


class Waited(Exception):
    """The wait at the gate was longer than allowed. The pool knows how to say it to the caller."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class _Waiter:
    __slots__ = ("error", "granted", "signal", "since")

    def __init__(self, since: float) -> None:
        self.signal = _thread.allocate_lock()
        self.signal.acquire()
        self.since = since
        self.granted = False
        self.error: Callable[[], BaseException] | None = None


class _Habit(threading.local):
    """What is known of a thread: when it last gave up a turn, and whether it tends to come back."""

    left_at = 0.0
    comes_back = False


class Gate:
    """Lets at most ``size`` threads through at a time; the others wait their turn."""

    def __init__(self, name: str, size: int, *, max_waiting: int) -> None:
        self._name = name
        self._max_waiting = max_waiting
        self._habit = _Habit()
        self._empty = threading.Event()
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._size = size
        self._in_use = 0
        self._waiters: deque[_Waiter] = deque()
        self._closed: Callable[[], BaseException] | None = None
        self._pace = 0.0  # seconds between turns while somebody waits, a moving average
        self._paced = 0  # how many turns it was made of
        self._last_turn = 0.0

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Gate {self._name!r} {state}: {self._in_use}/{self._size} in use, {len(self._waiters)} waiting>"

    @property
    def in_use(self) -> int:
        """How many threads are through."""
        return self._in_use

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        return len(self._waiters)

    def enter(self, deadline: Deadline, patience: float) -> float:
        """Wait for a turn until *deadline*, at most *patience* seconds; return the seconds waited.

        Raises :class:`Waited` when that was not enough, :class:`~poolkit.PoolOverloaded` when waiting
        can't help, and the error the gate was closed with.
        """
        with self._lock:
            if self._closed is None and self._in_use < self._size:
                self._in_use += 1
                if self._waiters:
                    self._note_return_locked()
                return 0.0
            waiter, bound, look = self._queue_up_locked(deadline, patience)
        try:
            return self._wait(waiter, bound, look)
        except BaseException:
            self._give_up(waiter)
            raise

    def leave(self) -> None:
        """Give up a turn. Exactly once for each :meth:`enter` that returned."""
        with self._lock:
            self._in_use -= 1
            if not self._waiters:
                self._last_turn = 0.0
                if self._closed is not None and self._in_use == 0:
                    self._empty.set()
                return
            now = monotonic()
            self._keep_pace_locked(now)
            habit = self._habit
            habit.left_at = now
            keep = 1 if habit.comes_back and now - self._waiters[0].since < FAIR_AFTER else 0
            served = self._serve_locked(keep)
        for waiter in served:
            waiter.signal.release()

    def resize(self, size: int) -> None:
        """Let *size* threads through from now on; those above it finish first."""
        with self._lock:
            self._size = size
            served = self._serve_locked(0)
        for waiter in served:
            waiter.signal.release()

    def turn_away(self, error: Callable[[], BaseException]) -> None:
        """Fail everybody who waits now with what *error* returns; the gate stays open."""
        with self._lock:
            waiters = self._dismiss_locked(error)
        for waiter in waiters:
            waiter.signal.release()

    def close(self, error: Callable[[], BaseException]) -> None:
        """Let nobody in any more; those who wait and those who come get what *error* returns."""
        with self._lock:
            self._closed = error
            waiters = self._dismiss_locked(error)
            if self._in_use == 0:
                self._empty.set()
        for waiter in waiters:
            waiter.signal.release()

    def wait_empty(self, deadline: Deadline) -> bool:
        """Wait until everybody has left a closed gate, at most until *deadline*; return whether they have."""
        return self._empty.wait(max(0.0, deadline.remaining()))

    def _queue_up_locked(self, deadline: Deadline, patience: float) -> tuple[_Waiter, float, float]:
        if self._closed is not None:
            raise self._closed()
        ahead = len(self._waiters)
        now = monotonic()
        if ahead >= self._max_waiting:
            raise PoolOverloaded(
                f"pool {self._name!r}: {ahead} threads wait already, max_waiting is {self._max_waiting}"
            )
        expected = self._pace * (ahead + 1)
        if self._paced >= _SAMPLES and now + expected > deadline.at:
            raise PoolOverloaded(
                f"pool {self._name!r}: at the present pace the wait would be {expected:.3f} s, "
                f"and the deadline is in {deadline.at - now:.3f} s"
            )
        waiter = _Waiter(now)
        self._waiters.append(waiter)
        self._note_return_locked()
        return waiter, min(deadline.at, now + patience), _LOOK * (1 + ahead / self._size)

    def _wait(self, waiter: _Waiter, bound: float, look: float) -> float:
        """Wait until served or failed, looking now and then for a turn that was left lying."""
        while True:
            left = bound - monotonic()
            if waiter.signal.acquire(timeout=max(0.0, min(left, look))):
                break
            with self._lock:
                served = self._serve_locked(0)
            for other in served:
                other.signal.release()
            if left <= look and not waiter.granted and waiter.error is None:
                raise Waited(monotonic() - waiter.since)
        if waiter.error is not None:
            raise waiter.error()
        return monotonic() - waiter.since

    def _give_up(self, waiter: _Waiter) -> None:
        """Leave the queue; a turn that came at the same moment goes to the next."""
        with self._lock:
            if not waiter.granted:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                return
        self.leave()

    def _serve_locked(self, keep: int) -> list[_Waiter]:
        """Give the free turns but *keep* to the oldest waiters; return whom to wake after the lock."""
        served = []
        while self._waiters and self._in_use < self._size - keep:
            waiter = self._waiters.popleft()
            waiter.granted = True
            self._in_use += 1
            served.append(waiter)
        return served

    def _dismiss_locked(self, error: Callable[[], BaseException]) -> list[_Waiter]:
        waiters = list(self._waiters)
        self._waiters.clear()
        for waiter in waiters:
            waiter.error = error
        return waiters

    def _note_return_locked(self) -> None:
        habit = self._habit
        habit.comes_back = monotonic() - habit.left_at < COMES_BACK

    def _keep_pace_locked(self, now: float) -> None:
        if self._last_turn:
            gap = now - self._last_turn
            self._paced += 1
            self._pace += (gap - self._pace) / min(self._paced, _SAMPLES)
        else:
            self._pace, self._paced = 0.0, 0
        self._last_turn = now
