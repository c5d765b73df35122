"""Reading: what becomes of a batch, once somebody leads; see combining.py.

One thread reads the answers, and hands each to the thread that waits for it. Fates are apart: a thread whose time
is up leaves; what it was owed is read and thrown away, and if it was the one that read, another one of the batch
reads on. If the connection breaks, each is told what that means for its own request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Generic

from .batch import AnswerT, AskedT, Batch, Request, ResourceT
from .deadline import Deadline
from .errors import OutcomeUnknown
from .lease import caller
from .pace import LARGEST, Pace
from .stats import Tally

SILENCE = 0.010
"""Seconds without an answer after which a batch counts as slow, and one more thread may lead."""

SLOW_LOOK = 0.050
"""Seconds between looks of one who reads a slow batch whether anybody still waits for what is run."""

GRACE = 0.040
"""Seconds past a deadline for the server to confirm that it has stopped, within the 50 ms that are promised."""


class Reading(Generic[ResourceT, AskedT, AnswerT]):
    """How the batches of one combiner are sent, and their answers handed out. It shares the *lock* and the *pace*."""

    def __init__(self, name: str, lock: threading.RLock, pace: Pace, tally: Tally) -> None:
        self._name = name
        self._lock = lock
        self._pace = pace
        self._tally = tally

    def read(
        self,
        mine: Request[AskedT, AnswerT],
        gather: Callable[[Batch[ResourceT, AskedT, AnswerT], Request[AskedT, AnswerT]], None]
        | None = None,
    ) -> None:
        """Read the answers of a batch until *mine* is there, or its time is up.

        One that leads has it *gather* and sends it first; else this is to go on where another one had to leave.
        """
        batch = mine.duty  # which it has until all is done: no interruption falls in between
        assert batch is not None
        try:
            if gather is not None:
                gather(batch, mine)
                batch.flight.send()
            elif batch.turn.lease is not None:
                batch.turn.lease.pass_to(threading.current_thread(), caller())
            self._receive(batch, mine)
            if batch.over:
                self._land(batch)
            elif not self._hand_over(batch, mine):
                self._stop(batch, mine)
        except BaseException as error:
            self.lose(batch, mine, error)
            if not (isinstance(error, Exception) and (mine.done or mine.withdrawn)):
                raise  # it has hit this thread, perhaps before its request was one of the batch
        else:
            self._end(batch, mine)
        mine.duty = None
        if mine.withdrawn:
            self.overdue(mine, batch)

    def overdue(
        self,
        mine: Request[AskedT, AnswerT],
        batch: Batch[ResourceT, AskedT, AnswerT] | None,
    ) -> None:
        """Leave: the deadline has passed. Returns only if the answer came after all, in the last moment."""
        with self._lock:
            mine.withdrawn = True
            reads = batch is not None and batch.reader is mine
        self.pass_duty(mine)
        until = mine.deadline.grace(GRACE)
        if batch is None:  # it was lost, and its owners are being told
            mine.signal.acquire(timeout=max(0.0, until.remaining()))
            if not mine.done:
                raise mine.deadline.exceeded(f"pool {self._name!r}", stage="running")
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

    def lose(
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

    def pass_duty(self, mine: Request[AskedT, AnswerT]) -> None:
        """Have another one do what *mine* was to read on."""
        batch = mine.duty
        if batch is not None:
            if not self._hand_over(batch, mine):
                self._end(batch, mine)  # nobody waits for the rest
            mine.duty = None

    # -- private ---------------------------------------------------------------------------------------

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
                turn.slow_down()
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
