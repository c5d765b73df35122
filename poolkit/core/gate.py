"""The gate: who may use a connection now, and who goes next.

Drivers keep the connections; the gate keeps the turns. It is fair (the oldest waiter goes first), bounded
(at most ``max_waiting``), closable, and refuses on arrival a wait that can't fit the deadline.

Handing each turn to another thread costs two switches of the interpreter lock a request, more than a short
statement itself. So a thread that comes back at once may take the turn it has just given up, a few times in a
row, as long as the oldest waiter has waited less than ``FAIR_AFTER`` (the same idea as the two modes of Go's
sync.Mutex). At most one turn is left lying like that, and a waiter that finds it takes it.
"""

from __future__ import annotations

import _thread
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

from .deadline import Deadline
from .errors import PoolOverloaded

FAIR_AFTER = 0.150
"""Seconds after which the oldest waiter is served before a thread that comes back."""

IN_A_ROW = 16
"""Turns that a thread may take in a row while others wait."""

COMES_BACK = 0.000_5
"""Seconds between giving up a turn and asking for the next one, of a thread that counts as coming back."""

_LOOK = 0.010
"""Seconds, times the rounds of waiters ahead, after which a waiter looks for a turn that was left lying."""

_SAMPLES = 16
"""Turns to observe before the pace is trusted; also the weight of the moving average."""


class Waited(Exception):
    """The wait at the gate was longer than allowed. The pool knows how to say it to the caller."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class _Waiter:
    __slots__ = ("error", "granted", "queued", "signal", "since")

    def __init__(self, since: float) -> None:
        self.signal = _thread.allocate_lock()
        self.signal.acquire()
        self.since = since
        self.queued = False
        self.granted = False
        self.error: Callable[[], BaseException] | None = None


class _Habit(threading.local):
    """What is known of a thread: when it last gave up a turn, and whether it tends to come back."""

    left_at = 0.0
    comes_back = False
    in_a_row = 0


class Gate:
    """Lets at most ``size`` threads through at a time; the others wait their turn.

    The free turns are tokens in a deque, so that without waiters entering and leaving are one atomic
    operation each. Whoever leaves puts the token down first and looks for waiters then; whoever waits
    queues up first and looks for tokens then: one of the two sees the other.

    An interruption, which comes on entering a function or after one written in C, loses no turn on the way
    in or out: see :attr:`put_down`.
    """

    def __init__(self, name: str, size: int, *, max_waiting: int) -> None:
        self._name = name
        self._max_waiting = max_waiting
        self._habit = _Habit()
        self._empty = threading.Event()
        # Changed by single atomic operations:
        self._free: deque[None] = deque([None] * size)
        self.put_down: Callable[[None], None] = self._free.append
        """The first half of :meth:`leave`. Being written in C, it is done before an interruption can come."""
        # Reentrant, since a collection may close an abandoned generator in here, which leaves the gate.
        self._lock = threading.RLock()
        # Changed under _lock, but read without it:
        self._waiters: deque[_Waiter] = deque()
        self._owed = 0  # turns to take away as soon as they are free: the gate shrank or closed
        # Guarded by _lock:
        self._size = size
        self._turns = size  # tokens there are, free or not
        self._closed: Callable[[], BaseException] | None = None
        self._pace = 0.0  # seconds between turns while somebody waits, a moving average
        self._paced = 0  # how many turns it was made of
        self._last_turn = 0.0

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return (
            f"<Gate {self._name!r} {state}: {self.in_use}/{self._size} in use, "
            f"{len(self._waiters)} waiting>"
        )

    @property
    def size(self) -> int:
        """How many threads may be through at a time."""
        return self._size

    @property
    def in_use(self) -> int:
        """How many threads are through."""
        return self._turns - len(self._free)

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        return len(self._waiters)

    def enter(self, deadline: Deadline, patience: float) -> float:
        """Wait for a turn until *deadline*, at most *patience* seconds; return the seconds waited.

        Raises :class:`Waited` when that was not enough, :class:`~poolkit.PoolOverloaded` when waiting
        can't help, and the error the gate was closed with.
        """
        if not self._take_free():
            return self._enter_slowly(deadline, patience)
        if self._owed:  # the gate shrank or closed a moment ago
            self.put_down(None)
            self.pass_on()
            return self._enter_slowly(deadline, patience)
        if self._waiters:
            try:
                self._note_return()
            except BaseException:  # an interruption
                self.leave()
                raise
        return 0.0

    def leave(self) -> None:
        """Give up a turn. Exactly once for each :meth:`enter` that returned."""
        self.put_down(None)
        self.pass_on()

    def pass_on(self) -> None:
        """See to it that a turn that was put down is used: the second half of :meth:`leave`.

        When that is interrupted, who waits finds the turn after a moment.
        """
        if self._waiters:
            self._pass_to_waiters()
        elif self._owed:
            self._settle()

    def resize(self, size: int) -> None:
        """Let *size* threads through from now on; those above it finish first."""
        with self._lock:
            if self._closed is not None:
                return
            more = size - self._size
            self._size = size
            if more < 0:
                self._owed -= more
            else:
                paid = min(self._owed, more)
                self._owed -= paid
                self._turns += more - paid
                self._free.extend([None] * (more - paid))
        self._settle()

    def turn_away(self, error: Callable[[], BaseException]) -> None:
        """Fail everybody who waits now with what *error* returns; the gate stays open."""
        with self._lock:
            waiters = self._dismiss_locked(error)
        _wake(waiters)

    def close(self, error: Callable[[], BaseException]) -> None:
        """Let nobody in any more; those who wait and those who come get what *error* returns."""
        with self._lock:
            self._closed = error
            self._owed = self._turns
            waiters = self._dismiss_locked(error)
        _wake(waiters)
        self._settle()

    def wait_empty(self, deadline: Deadline) -> bool:
        """Wait until everybody has left a closed gate, at most until *deadline*; return whether they have."""
        self._settle()  # somebody may have been interrupted between the two halves of leaving
        return deadline.wait(self._empty)

    def _enter_slowly(self, deadline: Deadline, patience: float) -> float:
        waiter = _Waiter(monotonic())
        try:
            with self._lock:
                look = self._queue_up_locked(waiter, deadline)
                served = self._serve_locked()
            _wake(served)
            return self._wait(waiter, deadline, waiter.since + patience, look)
        except BaseException:
            if waiter.queued:
                try:
                    self._give_up(waiter)
                except BaseException:  # an interruption: what it kept from being done is done now
                    self._give_up(waiter)
                    raise
            raise

    def _pass_to_waiters(self) -> None:
        """Hand the turn to the oldest waiter, or leave it lying for a moment if we tend to come back."""
        with self._lock:
            self._pay_locked()
            served: list[_Waiter] = []
            if self._waiters:
                now = monotonic()
                self._keep_pace_locked(now)
                habit = self._habit
                habit.left_at = now
                habit.in_a_row += 1
                stays = (
                    habit.comes_back
                    and habit.in_a_row < IN_A_ROW
                    and now - self._waiters[0].since < FAIR_AFTER
                )
                served = self._serve_locked(keep=1 if stays else 0)
        _wake(served)

    def _settle(self) -> None:
        """Bring turns that are free, turns that are owed and waiters together."""
        with self._lock:
            self._pay_locked()
            served = self._serve_locked()
        _wake(served)

    def _take_free(self) -> bool:
        """Take a free turn, if there is one."""
        try:
            del self._free[0]  # not pop(): an interruption after a call would lose the turn
        except IndexError:
            return False
        return True

    def _pay_locked(self) -> None:
        while self._owed and self._take_free():
            self._owed -= 1
            self._turns -= 1
        if self._closed is not None and self._turns == 0:
            self._empty.set()

    def _serve_locked(self, keep: int = 0) -> list[_Waiter]:
        """Give the free turns but *keep* to the oldest waiters; return whom to wake after the lock."""
        served: list[_Waiter] = []
        while self._waiters and len(self._free) > keep and self._take_free():
            waiter = self._waiters[0]
            waiter.granted = True
            del self._waiters[0]  # not popleft(): an interruption after a call would lose the turn
            served.append(waiter)
        return served

    def _queue_up_locked(self, waiter: _Waiter, deadline: Deadline) -> float:
        """Queue *waiter* up; return after how many seconds to look."""
        if self._closed is not None:
            raise self._closed()
        ahead = len(self._waiters)
        now = waiter.since
        if not ahead:
            self._pace, self._paced, self._last_turn = 0.0, 0, 0.0
        if ahead >= self._max_waiting:
            raise PoolOverloaded(
                f"pool {self._name!r}: {ahead} threads wait already, max_waiting is {self._max_waiting}"
            )
        expected = self._pace * (ahead + 1)
        if self._paced >= _SAMPLES and now + expected > deadline.at > now:
            raise PoolOverloaded(
                f"pool {self._name!r}: at the present pace the wait would be {expected:.3f} s, "
                f"and the deadline is in {deadline.at - now:.3f} s"
            )
        waiter.queued = True
        self._waiters.append(waiter)
        self._note_return()
        self._habit.in_a_row = 0
        return min(deadline.pulse, max(_LOOK * (1 + ahead / self._size), 4 * expected))

    def _wait(self, waiter: _Waiter, deadline: Deadline, bound: float, look: float) -> float:
        """Wait until served or failed, looking now and then for a turn that was left lying."""
        while True:
            left = min(deadline.at, bound) - monotonic()
            if waiter.signal.acquire(timeout=max(0.0, min(left, look))):
                break
            self._settle()
            if waiter.granted or waiter.error is not None:
                break  # whoever was to wake us may have been interrupted just then
            if left <= look:
                raise Waited(monotonic() - waiter.since)
        if waiter.error is not None:
            raise waiter.error()
        return monotonic() - waiter.since

    def _give_up(self, waiter: _Waiter) -> None:
        """Leave the queue; a turn that came at the same moment goes to the next. Done once, however often called."""
        with self._lock:
            if waiter in self._waiters:  # else it was served or dismissed
                self._waiters.remove(waiter)
            if not waiter.granted:
                return
            waiter.granted = False
            self.put_down(None)  # an interruption does not come between these two
        self.pass_on()

    def _dismiss_locked(self, error: Callable[[], BaseException]) -> list[_Waiter]:
        waiters = list(self._waiters)
        self._waiters.clear()
        for waiter in waiters:
            waiter.error = error
        return waiters

    def _note_return(self) -> None:
        habit = self._habit
        habit.comes_back = monotonic() - habit.left_at < COMES_BACK

    def _keep_pace_locked(self, now: float) -> None:
        if self._last_turn:
            self._paced += 1
            gap = now - self._last_turn
            self._pace += (gap - self._pace) / min(self._paced, _SAMPLES)
        self._last_turn = now


def _wake(waiters: list[_Waiter]) -> None:
    for waiter in waiters:
        waiter.signal.release()
