"""Requests that go together, and the right to send them; see combining.py and reading.py."""

from __future__ import annotations

import _thread
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from .deadline import Deadline
from .lease import Lease
from .lending import Lendable
from .retry import Try

INTERRUPTED = "the thread that read the answers was interrupted"

ResourceT = TypeVar("ResourceT", bound=Lendable)
AskedT = TypeVar("AskedT")
AnswerT = TypeVar("AnswerT")
AnswerT_co = TypeVar("AnswerT_co", covariant=True)


class Flight(Protocol[AnswerT_co]):
    """Several requests under way on one connection, answered in their order. A backend brings it.

    Only :meth:`stop` is called while another thread may be in one of the other methods.
    """

    patience: float
    """Seconds that the next answer may take."""

    def send(self) -> None:
        """Send all of them. Raises what breaks the connection."""

    def receive(self, until: float) -> Sequence[AnswerT_co | Exception]:
        """Return the answers that are there, waiting *until* then for the first one; none if it did not come.

        An error that is the answer to one request is returned. Raises what breaks the connection.
        """

    def stop(self, until: Deadline) -> bool:
        """Have the server stop what it runs now; return whether it was told so before *until*."""

    def not_run(self, answer: Exception) -> bool:
        """Whether *answer* says that its request was not run for a cause that lies with this flight.

        It was stopped in place of another one, say. Then it is asked again.
        """

    def end(self) -> bool:
        """Leave the connection as it was before, now that all is answered; return whether it is like a new one."""

    def silent(self) -> Exception:
        """Return the error for an answer that did not come within the patience."""

    def lost(self, at: int, error: Exception) -> Exception:
        """Return the error for the owner of unanswered request number *at*, of a connection broken by *error*."""

    def overdue(self, at: int, deadline: Deadline, *, stopped: bool) -> Exception:
        """Return the error for the owner of request number *at*, whose *deadline* has passed."""


class Request(Generic[AskedT, AnswerT]):
    """What one thread asks, and what becomes of it."""

    # Most of these stay as they are here for most requests: so they are the class's, not each one's.
    since = 0.0
    """When it was put into the queue."""
    taken = 0.0
    """When it was sent."""
    batch: weakref.ref[Batch[Any, AskedT, AnswerT]] | None = None
    """What it is under way with."""
    turn: Turn[Any] | None = None
    """To lead, which its owner has not begun."""
    duty: Batch[Any, AskedT, AnswerT] | None = None
    """To read on, which its owner has not begun."""
    next: Request[AskedT, AnswerT] | None = None
    """Whom its owner wakes when it is woken."""
    done = False
    again = False
    """Whether it was not run for no fault of its own, and is to be asked again."""
    withdrawn = False
    """Whether nobody waits for it any more."""
    answer: AnswerT | Exception

    def __init__(self, asked: AskedT, state: Try, deadline: Deadline) -> None:
        self.asked = asked
        self.state = state
        self.deadline = deadline
        self.signal = _thread.allocate_lock()
        self.signal.acquire()

    def settle(self, answer: AnswerT | Exception) -> None:
        """Give it its answer, once."""
        if not self.done:
            self.answer = answer
            self.done = True
            self.wake()

    def wake(self) -> None:
        """Have its owner look what there is for it: an answer, a turn, or a duty."""
        try:  # noqa: SIM105 - suppress() would cost more than all the rest
            self.signal.release()
        except RuntimeError:  # it was woken before, by one who was interrupted then
            pass

    def fail(self) -> NoReturn:
        """Raise the error that is the answer."""
        answer = self.answer
        assert isinstance(answer, Exception)
        try:
            raise answer
        finally:
            del answer, self  # else the error would hold itself, by way of this frame


class Turns(Protocol[ResourceT]):
    """Who gives turns, and has them back."""

    def pass_on(self, turn: Turn[ResourceT], clean: bool) -> None:
        """End *turn*; its connection may be used again if that is *clean*."""

    def slow_down(self, turn: Turn[ResourceT]) -> None:
        """Let another thread lead beside the one that has *turn*."""


class Turn(Generic[ResourceT]):
    """The right of one thread to lead, and the connection that goes with it. One that gets lost passes itself on."""

    __slots__ = ("_turns", "conn", "leaders", "lease", "over", "since", "slow")

    def __init__(self, turns: Turns[ResourceT]) -> None:
        self._turns = turns
        self.over = False
        self.leaders = 1
        """How many have had it."""
        self.slow = False
        """Whether it does not count any more: another thread leads beside it."""
        self.lease: Lease[ResourceT] | None = None
        self.conn: ResourceT | None = None
        self.since = 0.0
        """When the connection was borrowed."""

    def pass_on(self, *, clean: bool) -> None:
        """Have the oldest request that has gathered lead next, perhaps on the same connection if that is *clean*."""
        if not self.over:
            self._turns.pass_on(self, clean)

    def slow_down(self) -> None:
        """Let another thread lead beside this one, whose answers take long."""
        self._turns.slow_down(self)

    def __del__(self) -> None:
        if not getattr(self, "over", True):  # it was made as a whole
            self._turns.pass_on(self, False)


class Batch(Generic[ResourceT, AskedT, AnswerT]):
    """Requests under way on one connection, and how many of them have been answered."""

    __slots__ = (
        "__weakref__",
        "_lost",
        "answered",
        "asleep",
        "clean",
        "ended",
        "flight",
        "reader",
        "requests",
        "sent_at",
        "stopping",
        "turn",
    )

    flight: Flight[AnswerT]

    def __init__(
        self,
        reader: Request[AskedT, AnswerT],
        turn: Turn[ResourceT],
        lost: Callable[[Any, Any, BaseException], None],
    ) -> None:
        self.requests: list[Request[AskedT, AnswerT]] = []
        self.reader = reader
        self.turn = turn
        self._lost = lost
        self.answered = 0
        self.stopping = -1  # the request that its reader had the server stop
        self.sent_at = 0.0
        self.asleep: Request[AskedT, AnswerT] | None = None  # the first of those to be woken
        self.clean = False
        self.ended = False

    @property
    def over(self) -> bool:
        """Whether all have been answered."""
        return self.answered == len(self.requests)

    def deliver_locked(
        self, answers: Sequence[AnswerT | Exception]
    ) -> Request[AskedT, AnswerT] | None:
        """Give the next requests their answers; return whose owner is to be woken: it wakes the next one.

        One after the other, they find the interpreter free; all at once, they would fight for it.
        """
        requests, first = self.requests, None
        at = self.answered
        for request, answer in zip(requests[at : at + len(answers)], answers, strict=True):
            if request.done:
                continue
            if isinstance(answer, Exception) and not request.withdrawn:
                request.again = self.flight.not_run(answer)
            request.answer = answer
            request.done = True
            if request.withdrawn:
                request.wake()  # its owner may be about to leave: it wakes nobody any more
            elif request is not self.reader:
                if first is None:
                    first = last = request
                else:
                    last.next = last = request
        self.answered = at + len(answers)
        return first

    def heir(self) -> Request[AskedT, AnswerT] | None:
        """Return the first request that somebody still waits for."""
        for request in self.requests[self.answered :]:
            if not request.withdrawn and not request.done:
                return request
        return None

    def fail(self, error: BaseException) -> None:
        """Tell the owners of all that is unanswered that the connection is lost."""
        cause = error if isinstance(error, Exception) else ConnectionError(INTERRUPTED)
        flight: Flight[AnswerT] | None = getattr(self, "flight", None)
        for at in range(self.answered, len(self.requests)):
            request = self.requests[at]
            if not request.done:
                request.again = flight is None and cause is not error  # none of it was sent
                request.settle(cause if flight is None else flight.lost(at, cause))

    def __del__(self) -> None:
        if not getattr(self, "ended", True):  # its reader was interrupted where nothing catches it
            self._lost(self, self.reader, ConnectionError(INTERRUPTED))
