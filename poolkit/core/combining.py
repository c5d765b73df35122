"""Combining: the requests of many threads in few round trips, each with an answer of its own.

A few threads at a time lead (``lanes`` of them). A leader borrows a connection like anybody else; by then
others have left their requests in the queue, and it sends these together with its own, which comes last. It
reads the answers, hands each to the thread that waits for it, gives the connection back, and passes its turn
to the oldest request that has gathered meanwhile. So a lone thread has a connection to itself, and under
contention a request costs one wake-up instead of a connection's way from thread to thread (flat combining:
Hendler, Incze, Shavit, Tzafrir, SPAA 2010).

What becomes of a batch then is in reading.py. A leader that hears nothing for a while lets one more lead, so that
a slow request holds up only what was sent behind it; and batches become smaller, so that this is little.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from .batch import AnswerT, Batch, Flight, Request, ResourceT, Turn
from .deadline import Deadline
from .errors import PoolOverloaded
from .lease import caller
from .lending import Lender
from .pace import Pace
from .reading import Reading
from .retry import Try
from .stats import Tally
from .verdict import Phase

KEEP = 0.020
"""Seconds for which a connection goes from leader to leader before it is given back, to be looked at."""

LOOK = 0.5
"""Seconds after which one who waits looks whether there is still somebody to wait for."""

ResourceT_contra = TypeVar("ResourceT_contra", contravariant=True)
AskedT = TypeVar("AskedT", bound="Asked[Any]")


class Asked(Protocol[ResourceT_contra]):
    """What a thread asks. A backend brings it."""

    def alone(self, conn: ResourceT_contra, silence: Callable[[], None]) -> Any:
        """Do it on *conn*, by itself.

        Calls *silence* once if the server has not answered for :data:`~poolkit.core.reading.SILENCE`.
        """

    def pack(self) -> bool:
        """Get ready to be sent with others; return whether that can be. Raises what its owner did wrong."""


class Combiner(Generic[ResourceT, AskedT, AnswerT]):
    """Sends the requests of many threads over the connections of one lender.

    *launch* makes the :class:`Flight` of a batch. At most *lanes* threads lead at a time, to begin with; then as many
    as help (:class:`Pace`). Slow ones don't count.
    """

    def __init__(
        self,
        lender: Lender[ResourceT],
        *,
        lanes: int,
        launch: Callable[[ResourceT, list[AskedT]], Flight[AnswerT]],
        tally: Tally,
    ) -> None:
        self._lender = lender
        self._launch = launch
        self._tally = tally
        self._lock = threading.RLock()  # a collection in here may end a turn
        # Guarded by _lock:
        self._queue: deque[Request[AskedT, AnswerT]] = deque()
        self._leading = 0  # turns, without the slow ones
        self._pace = Pace(lanes, lambda: lender.gate.size)
        self._reading: Reading[ResourceT, AskedT, AnswerT] = Reading(
            lender.name, self._lock, self._pace, tally
        )
        self._read, self._lose = self._reading.read, self._reading.lose  # looked up once
        self._first_look = min(LOOK, lender.acquire_timeout)
        lender.gathered = self._queue.__len__

    def __repr__(self) -> str:
        return f"<Combiner of {self._lender.name!r}: {self._leading} lead, {len(self._queue)} wait>"

    def ask(self, asked: AskedT, state: Try, deadline: Deadline) -> Any:
        """Return the answer that *asked* got from a flight, or what it returned alone; *state* is kept up to date.

        Raises the answer if it is an error, what :meth:`Lender.lend` raises while it waits, and what the flight
        makes of a connection that is lost or a deadline that passes.
        """
        if not self._queue and self._leading < self._pace.lanes:
            turn = None
            try:
                with self._lock:
                    turn = self._grant_locked()
                if turn is not None:
                    return self._apart(asked, state, deadline, turn)
            finally:
                if turn is not None:
                    try:
                        turn.pass_on(clean=False)
                    except BaseException:  # an interruption, before it could
                        turn.pass_on(clean=False)
                        raise
        state.phase = Phase.RUNNING  # what its owner did wrong has nothing to do with connecting
        fits = asked.pack()
        state.phase = Phase.CONNECTING
        if not fits:
            return self._apart(asked, state, deadline)
        while True:
            mine: Request[AskedT, AnswerT] = Request(asked, state, deadline)
            try:
                self._queue_up(mine)
                self._wait(mine)
                if mine.turn is not None:
                    self._lead(mine)
                elif mine.duty is not None:
                    self._read(mine)
            except BaseException:
                self._leave(mine)
                raise
            if mine.again:
                state.phase = Phase.CONNECTING
                continue
            answer = mine.answer
            return mine.fail() if isinstance(answer, Exception) else answer

    # -- alone -----------------------------------------------------------------------------------------

    def _apart(
        self,
        asked: AskedT,
        state: Try,
        deadline: Deadline,
        turn: Turn[ResourceT] | None = None,
    ) -> Any:
        """Have a connection for *asked* alone; until the server is slow with it, that may be a *turn*."""
        lease, conn = self._lender.lend(deadline)
        try:
            state.phase = Phase.RUNNING
            return asked.alone(conn, _nothing if turn is None else turn.slow_down)
        finally:
            self._lender.take_back(lease, conn)

    # -- lead ------------------------------------------------------------------------------------------

    def _lead(self, mine: Request[AskedT, AnswerT]) -> None:
        """Send what has gathered, and *mine* behind it, and read the answers."""
        turn, mine.turn = mine.turn, None
        assert turn is not None
        clean = turn.lease is not None  # until something is sent
        try:
            if turn.lease is None:
                turn.lease, turn.conn = self._lender.lend(mine.deadline, monotonic() - mine.since)
                turn.since = monotonic()
                clean = True
            else:
                turn.lease.pass_to(threading.current_thread(), caller())
                self._count_shared(monotonic() - mine.since)
            if mine.deadline.expired:
                raise mine.deadline.exceeded(f"pool {self._lender.name!r}", stage="running")
            mine.duty = Batch(mine, turn, self._lose)
        except BaseException:
            turn.pass_on(clean=clean)
            raise
        self._read(mine, self._gather)

    def _gather(
        self, batch: Batch[ResourceT, AskedT, AnswerT], mine: Request[AskedT, AnswerT]
    ) -> None:
        """Put the oldest requests into *batch*, and *mine* behind them."""
        requests, queue = batch.requests, self._queue
        if queue:
            with self._lock:
                for _ in range(min(len(queue), self._pace.largest - 1)):
                    if not queue:  # a collection may have appointed somebody
                        break
                    request = queue[0]  # not popleft(): an interruption must find it here or there
                    del queue[0]
                    requests.append(request)
                self._pace.note_gathered()
        requests.append(mine)
        conn = batch.turn.conn
        assert conn is not None
        batch.flight = self._launch(conn, [request.asked for request in requests])
        batch.sent_at = now = monotonic()
        reference = weakref.ref(batch) if len(requests) > 1 else None
        for request in requests:
            request.batch = reference
            request.taken = now
            request.state.phase = Phase.RUNNING

    # -- follow ----------------------------------------------------------------------------------------

    def _queue_up(self, mine: Request[AskedT, AnswerT]) -> None:
        heir = None
        with self._lock:
            waiting = len(self._queue)
            if waiting + self._leading >= self._lender.max_waiting:  # those who lead may wait too
                waiting = self._lender.waiting
            if waiting < self._lender.max_waiting:
                mine.since = monotonic()
                self._queue.append(mine)
                if self._leading < self._pace.lanes:  # a turn has become free a moment ago
                    heir = self._appoint_locked()
        if heir is not None:
            heir.wake()
        if not mine.since:
            raise self._lender.refused(
                PoolOverloaded(
                    f"pool {self._lender.name!r}: {waiting} threads wait already, "
                    f"max_waiting is {self._lender.max_waiting}"
                )
            )

    def _wait(self, mine: Request[AskedT, AnswerT]) -> None:
        """Wait until there is an answer, a turn or a duty."""
        try:
            deadline = mine.deadline
            left = min(deadline.at - mine.since, self._first_look, deadline.pulse)
            if not mine.signal.acquire(True, left if left > 0 else 0.0):
                self._wait_on(mine)
        finally:
            if mine.next is not None:
                mine.next.wake()
        if mine.taken:
            self._count_shared(mine.taken - mine.since)

    def _wait_on(self, mine: Request[AskedT, AnswerT]) -> None:
        """Look now and then whether there is still somebody to wait for, and time to do it."""
        deadline = mine.deadline
        bound = mine.since + self._lender.acquire_timeout
        while self._look(mine, bound):
            left = (deadline.at if mine.taken else min(deadline.at, bound)) - monotonic()
            left = max(0.001, left)  # none is left to one that is just being sent
            if mine.signal.acquire(True, min(left, LOOK, deadline.pulse)):
                return

    def _look(self, mine: Request[AskedT, AnswerT], bound: float) -> bool:
        """Say whether to wait on. Raises when *mine* got no turn by *bound*, or no answer by its deadline."""
        heir = None
        now = monotonic()
        over = now >= mine.deadline.at
        late = over or now >= bound
        with self._lock:
            if mine.done or mine.turn is not None or mine.duty is not None:
                return False
            queued = not mine.taken and mine in self._queue
            if queued and late:
                self._queue.remove(mine)
            elif queued:
                heir = self._appoint_locked()
        if heir is not None:
            heir.wake()  # a turn had got lost
        if queued and late:
            raise self._lender.timed_out(now - mine.since, mine.deadline, "waiting")
        if mine.taken and over:
            self._reading.overdue(mine, mine.batch() if mine.batch is not None else None)
            return False
        return True

    def _leave(self, mine: Request[AskedT, AnswerT]) -> None:
        """Leave because of an interruption: what falls to *mine* goes to others."""
        with self._lock:
            mine.withdrawn = True
            if mine.since and not mine.taken:
                with suppress(ValueError):
                    self._queue.remove(mine)
        turn, mine.turn = mine.turn, None
        if turn is not None:
            turn.pass_on(clean=turn.lease is not None)
        self._reading.pass_duty(mine)

    def _count_shared(self, waited: float) -> None:
        """Count a use of a connection that another thread leased."""
        shard = self._tally.mine()
        shard.shared += 1
        shard.wait.add(waited)

    # -- hand on ---------------------------------------------------------------------------------------

    def pass_on(self, turn: Turn[ResourceT], clean: bool) -> None:
        """End *turn*, and have the oldest request lead next: on the same connection if that is in order."""
        heir = None
        if clean and turn.lease is not None and self._queue and self._may_keep(turn):
            with self._lock:
                if self._queue:
                    turn.lease.passing = True
                    heir = self._queue[0]
                    heir.turn = turn
                    turn.leaders += 1
                    del self._queue[0]
        if heir is None:
            turn.over = True
            lease, turn.lease = turn.lease, None
            try:
                if lease is not None and turn.conn is not None:
                    # The store keeps it only if it is clean.
                    self._lender.take_back(lease, turn.conn)
            finally:
                turn.conn = None
                with self._lock:
                    if not turn.slow:
                        self._leading -= 1
                    heir = self._appoint_locked()
        if heir is not None:
            heir.wake()

    def slow_down(self, turn: Turn[ResourceT]) -> None:
        """Let one more thread lead beside the one that has *turn*, and make batches smaller."""
        heir = None
        with self._lock:
            if not turn.slow:
                turn.slow = True
                self._leading -= 1
                self._pace.note_slow()
                heir = self._appoint_locked()
        if heir is not None:
            heir.wake()

    def _may_keep(self, turn: Turn[ResourceT]) -> bool:
        """Whether nothing but this combiner needs the turn's connection now."""
        lender = self._lender
        return (
            not turn.slow
            and monotonic() - turn.since < KEEP
            and not lender.gate.waiting
            and not lender.stopping
        )

    def _grant_locked(self) -> Turn[ResourceT] | None:
        """Return a turn to lead, if one more is of use."""
        if self._leading >= self._pace.lanes:
            return None
        turn = Turn(self)  # before it is counted: an interruption may hit its making
        self._leading += 1
        return turn

    def _appoint_locked(self) -> Request[AskedT, AnswerT] | None:
        """Have the oldest request lead, if one more is of use; return it, to be woken."""
        turn = self._grant_locked() if self._queue else None
        if turn is None or not self._queue:  # a collection may have appointed the last one
            return None
        heir = self._queue[0]  # not popleft(): after no call no interruption comes in between
        heir.turn = turn
        del self._queue[0]
        return heir


def _nothing() -> None:
    """Let nobody lead beside one who has no turn."""
