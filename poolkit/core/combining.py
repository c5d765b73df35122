"""Combining: the requests of many threads in few round trips, each with an answer of its own.

A few threads at a time lead (``lanes`` of them). A leader borrows a connection like anybody else; by then
others have left their requests in the queue, and it sends these together with its own, which comes last. It
reads the answers, hands each to the thread that waits for it, gives the connection back, and passes its turn
to the oldest request that has gathered meanwhile. So a lone thread has a connection to itself, and under
contention a request costs one wake-up instead of a connection's way from thread to thread (flat combining:
Hendler, Incze, Shavit, Tzafrir, SPAA 2010).

Fates are apart. A thread whose time is up leaves; what it was owed is read and thrown away, and if it was the
one that read, another one of the batch reads on. A leader that hears nothing for a while lets one more lead,
so that a slow request holds up only what was sent behind it; and batches become smaller, so that this is little.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from .batch import AnswerT, Batch, Flight, Request, ResourceT, Turn
from .deadline import Deadline
from .errors import OutcomeUnknown, PoolOverloaded
from .lease import caller
from .lending import Lender
from .pace import LARGEST, Pace
from .retry import Phase, Try
from .stats import Tally

SILENCE = 0.010
"""Seconds without an answer after which a batch counts as slow, and one more thread may lead."""

SLOW_LOOK = 0.050
"""Seconds between looks of one who reads a slow batch whether anybody still waits for what is run."""

GRACE = 0.040
"""Seconds past a deadline for the server to confirm that it has stopped, within the 50 ms that are promised."""

KEEP = 0.020
"""Seconds for which a connection goes from leader to leader before it is given back, to be looked at."""

LOOK = 0.5
"""Seconds after which one who waits looks whether there is still somebody to wait for."""

ResourceT_contra = TypeVar("ResourceT_contra", contravariant=True)
AskedT = TypeVar("AskedT", bound="Asked[Any]")


class Asked(Protocol[ResourceT_contra]):
    """What a thread asks. A backend brings it."""

    def alone(self, conn: ResourceT_contra, silence: Callable[[], None]) -> Any:
        """Do it on *conn*, by itself; call *silence* once if the server has not answered for :data:`SILENCE`."""

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
                    self._lead_all(mine)
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
            return asked.alone(conn, _nothing if turn is None else lambda: self._slow_down(turn))
        finally:
            self._lender.take_back(lease, conn)

    # -- lead ------------------------------------------------------------------------------------------

    def _lead_all(self, mine: Request[AskedT, AnswerT]) -> None:
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
            mine.duty = Batch(mine, turn, self._break)
        except BaseException:
            turn.pass_on(clean=clean)
            raise
        self._read(mine, lead=True)

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

    def _read(self, mine: Request[AskedT, AnswerT], *, lead: bool = False) -> None:
        """Read the answers of a batch until *mine* is there, or its time is up.

        To *lead* is to gather and send it first; else this is to go on where another one had to leave.
        """
        batch = mine.duty  # which it has until all is done: no interruption falls in between
        assert batch is not None
        try:
            if lead:
                self._gather(batch, mine)
                batch.flight.send()
            elif batch.turn.lease is not None:
                batch.turn.lease.pass_to(threading.current_thread(), caller())
            self._receive(batch, mine)
            if batch.over:
                self._land(batch)
            elif not self._hand_over(batch, mine):
                self._stop(batch, mine)
        except BaseException as error:
            self._break(batch, mine, error)
            if not (isinstance(error, Exception) and (mine.done or mine.withdrawn)):
                raise  # it has hit this thread, perhaps before its request was one of the batch
        else:
            self._end(batch, mine)
        mine.duty = None
        if mine.withdrawn:
            self._overdue(mine, batch)

    def _receive(
        self, batch: Batch[ResourceT, AskedT, AnswerT], mine: Request[AskedT, AnswerT]
    ) -> None:
        flight, turn, deadline = batch.flight, batch.turn, mine.deadline
        heard = now = batch.sent_at
        while not mine.done and not batch.over:
            pause = SLOW_LOOK if turn.slow else SILENCE
            answers = flight.receive(min(deadline.at, heard + flight.patience, now + pause))
            now = monotonic()
            if answers:
                heard = now
                self._deliver(batch, answers)
            elif now >= deadline.at:
                return
            elif now >= heard + flight.patience:
                raise flight.silent()
            else:
                self._slow_down(turn)
                self._stop_unwanted(batch)
        if self._pace.is_due(now):
            with self._lock:
                self._pace.look(now)

    def _deliver(
        self, batch: Batch[ResourceT, AskedT, AnswerT], answers: Sequence[AnswerT | Exception]
    ) -> None:
        """Hand out answers. Their owners are woken at once, or after the last one when the turn is passed on."""
        with self._lock:
            first = batch.deliver_locked(answers)
        if first is not None:
            if batch.over:
                batch.asleep = first
            else:
                first.wake()

    def _slow_down(self, turn: Turn[ResourceT]) -> None:
        """Let one more thread lead, and make batches smaller."""
        heir = None
        with self._lock:
            if not turn.slow:
                turn.slow = True
                self._leading -= 1
                self._pace.note_slow()
                heir = self._appoint_locked()
        if heir is not None:
            heir.wake()

    def _stop_unwanted(self, batch: Batch[ResourceT, AskedT, AnswerT]) -> None:
        """Stop what the server runs now if nobody waits for it any more."""
        at = batch.answered
        if batch.stopping != at and batch.requests[at].withdrawn:
            batch.stopping = at
            batch.flight.stop(Deadline.after(GRACE))

    def _stop(
        self, batch: Batch[ResourceT, AskedT, AnswerT], mine: Request[AskedT, AnswerT]
    ) -> None:
        """Stop what nobody waits for, and read what comes of it: then the connection can be kept."""
        until = mine.deadline.grace(GRACE)
        if mine.done or batch.requests[batch.answered] is not mine or not batch.flight.stop(until):
            return
        while not batch.over:
            answers = batch.flight.receive(until.at)
            if not answers:
                return
            self._deliver(batch, answers)
        self._land(batch)

    def _land(self, batch: Batch[ResourceT, AskedT, AnswerT]) -> None:
        """Leave the connection as it was, and count."""
        batch.clean = batch.flight.end()
        size = len(batch.requests)
        if size > 1:
            shard = self._tally.mine()
            shard.batches += 1
            shard.batched += size
            if size > shard.largest_batch:
                shard.largest_batch = size
            shard.lead.add(monotonic() - batch.sent_at)
        if self._pace.largest < LARGEST and not batch.turn.slow:
            with self._lock:
                self._pace.note_quick(size)

    def _break(
        self,
        batch: Batch[ResourceT, AskedT, AnswerT],
        mine: Request[AskedT, AnswerT],
        error: BaseException,
    ) -> None:
        """Give up the connection; each owner of what is unanswered is told what that means for it."""
        try:
            if batch.reader is mine:
                batch.fail(error)
        except BaseException:  # an interruption: the others must be told all the same
            batch.fail(error)
            raise
        finally:
            self._end(batch, mine)

    def _end(
        self, batch: Batch[ResourceT, AskedT, AnswerT], mine: Request[AskedT, AnswerT]
    ) -> None:
        """Let go of the connection, unless another one reads on."""
        if batch.reader is mine and not batch.ended:
            batch.ended = True
            turn, leaders = batch.turn, batch.turn.leaders
            try:
                turn.pass_on(clean=batch.clean)
            except BaseException:
                if turn.leaders == leaders:  # an interruption, before it could
                    turn.pass_on(clean=False)
                raise
            finally:
                if batch.asleep is not None:
                    batch.asleep.wake()

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
            self._overdue(mine, mine.batch() if mine.batch is not None else None)
            return False
        return True

    def _overdue(
        self,
        mine: Request[AskedT, AnswerT],
        batch: Batch[ResourceT, AskedT, AnswerT] | None,
    ) -> None:
        """Leave: the deadline has passed. Returns only if the answer came after all, in the last moment."""
        with self._lock:
            mine.withdrawn = True
            reads = batch is not None and batch.reader is mine
        self._pass_duty(mine)
        until = mine.deadline.grace(GRACE)
        if batch is None:  # it was lost, and its owners are being told
            mine.signal.acquire(timeout=max(0.0, until.remaining()))
            if not mine.done:
                raise mine.deadline.exceeded(f"pool {self._lender.name!r}", stage="running")
            return
        at = batch.requests.index(mine)
        # One who has read until now and is the last has tried that, and given the connection back.
        if not mine.done and not reads and batch.answered == at and batch.flight.stop(until):
            mine.signal.acquire(timeout=max(0.0, until.remaining()))
        mine.again = False
        if not mine.done:
            raise batch.flight.overdue(at, mine.deadline, stopped=False)
        if isinstance(mine.answer, OutcomeUnknown):
            raise batch.flight.overdue(at, mine.deadline, stopped=False) from mine.answer
        if isinstance(mine.answer, Exception) and batch.flight.not_run(mine.answer):
            raise batch.flight.overdue(at, mine.deadline, stopped=True)

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
        self._pass_duty(mine)

    def _count_shared(self, waited: float) -> None:
        """Count a use of a connection that another thread leased."""
        shard = self._tally.mine()
        shard.shared += 1
        shard.wait.add(waited)

    # -- hand on ---------------------------------------------------------------------------------------

    def _pass_on(self, turn: Turn[ResourceT], clean: bool) -> None:
        """End a turn, and have the oldest request lead next: on the same connection if that is in order."""
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
        turn = Turn(self._pass_on)  # before it is counted: an interruption may hit its making
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

    def _hand_over(
        self, batch: Batch[ResourceT, AskedT, AnswerT], mine: Request[AskedT, AnswerT]
    ) -> bool:
        """Have another one of *batch* read on; False if nobody waits for the rest."""
        with self._lock:
            if batch.reader is not mine or batch.ended:
                return True
            mine.withdrawn = not mine.done
            heir = batch.heir()
            if heir is None:
                return False
            if batch.turn.lease is not None:
                batch.turn.lease.passing = True
            batch.reader = heir
            heir.duty = batch
        heir.wake()
        return True

    def _pass_duty(self, mine: Request[AskedT, AnswerT]) -> None:
        """Have another one do what *mine* was to read on."""
        batch = mine.duty
        if batch is not None:
            if not self._hand_over(batch, mine):
                self._end(batch, mine)  # nobody waits for the rest
            mine.duty = None


def _nothing() -> None:
    """Let nobody lead beside one who has no turn."""
