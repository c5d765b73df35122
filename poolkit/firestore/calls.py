"""One call on one channel: lent for just so long, bound by the deadline, its failure told in the library's words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from random import uniform
from typing import Any

import grpc
from google.api_core import exceptions

from ..core.deadline import Deadline
from ..core.errors import OutcomeUnknown, PoolClosed
from ..core.housekeeper import Timer, housekeeper
from ..core.lease import Lease
from ..core.lending import Lender
from ..core.retry import Try
from ..core.verdict import Phase
from . import channels
from .channels import Metadata
from .failures import NotSent, Refused, was_refused
from .fleet import Fleet, Link, Slot
from .methods import Method

FIRST_PAUSE = 0.004
LONGEST_PAUSE = 0.064
"""Seconds before a call is sent again that the server has refused: it has not seen yet that others have ended."""

ENDS_EARLY = 0.010
"""Seconds before a deadline at which grpc's own timer, which runs on another clock, may end a call."""


_ENDED = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
"""Codes of a call that was ended at its deadline, by grpc's timer or by us."""


class Admission:
    """The wait of one call for a server that has too many: in short pauses, not longer than for a connection."""

    __slots__ = ("_deadline", "_lender", "_longest", "_until")

    def __init__(self, lender: Lender[Slot], deadline: Deadline) -> None:
        self._lender = lender
        self._deadline = deadline
        self._until: Deadline | None = None
        self._longest = FIRST_PAUSE

    def may_wait(self) -> bool:
        """Whether there is time for one more pause."""
        if self._until is None:
            self._until = Deadline.after(self._lender.acquire_timeout).earlier(self._deadline)
        return self._until.remaining() > self._longest and not self._lender.stopping

    def wait(self) -> None:
        """Pause, each time twice as long at most as the time before."""
        self._lender.sleep(uniform(0, self._longest))
        self._longest = min(LONGEST_PAUSE, 2 * self._longest)


class Caller:
    """Makes calls, each on the channel that is the least busy."""

    def __init__(self, name: str, lender: Lender[Slot], fleet: Fleet) -> None:
        self._name = name
        self._lender = lender
        self._fleet = fleet

    def unary(
        self,
        method: Method,
        request: Any,
        *,
        metadata: Metadata,
        timeout: float,
        state: Try,
        deadline: Deadline,
        phase: Phase = Phase.RUNNING,
    ) -> Any:
        """Return the answer to one call, made within *timeout* seconds and until *deadline*.

        Raises what the library would, such as ``google.api_core.exceptions.NotFound``.
        """
        admission = Admission(self._lender, deadline)
        while True:
            lease, slot = self._lender.lend(deadline)
            try:
                left = self._left(deadline, timeout)
                call = slot.link.callable(method, "unary_unary")
                state.phase = phase
                if deadline.cancellations:
                    return _answer(call.future(request, timeout=left, metadata=metadata), deadline)
                return call(request, timeout=left, metadata=metadata)
            except (grpc.RpcError, ValueError) as error:
                told = self._told(error, slot, method, deadline)
                if not (isinstance(told, Refused) and admission.may_wait()):
                    raise told from error
            finally:
                self._lender.take_back(lease, slot)
            admission.wait()

    def stream(
        self,
        method: Method,
        request: Any,
        *,
        metadata: Metadata,
        timeout: float,
        state: Try,
        deadline: Deadline,
        phase: Phase = Phase.RUNNING,
        first_within: float | None = None,
    ) -> Iterator[Any]:
        """Iterate over the answers to one call; the channel is lent until the iterator ends or is closed.

        All of them are to come within *timeout* seconds, the first one within *first_within*.
        """
        admission = Admission(self._lender, deadline)
        while True:
            lease, slot = self._lender.lend(deadline)
            try:
                left = self._left(deadline, timeout)
                make = slot.link.callable(method, "unary_stream")
                state.phase = phase
                slot.call = make(request, timeout=left, metadata=metadata)
                yield from self._heard(slot, lease, first_within, deadline)
            except GeneratorExit:
                if not self._lender.abandoned:
                    channels.end_call(slot.call)
                raise
            except (grpc.RpcError, ValueError) as error:
                if isinstance(error, grpc.RpcError):
                    channels.end_call(slot.call)
                told = self._told(error, slot, method, deadline)
                if not (isinstance(told, Refused) and admission.may_wait()):
                    raise told from error
            else:
                return
            finally:
                if slot.call is not None:
                    slot.call.cancel()  # without effect on one that has ended
                self._lender.take_back(lease, slot)
            admission.wait()

    @staticmethod
    def _heard(
        slot: Slot, lease: Lease[Slot], first_within: float | None, deadline: Deadline
    ) -> Iterator[Any]:
        """Iterate over the answers; end the call when the first does not come in time, or it is cancelled."""
        timer = None if first_within is None else housekeeper().after(first_within, slot.give_up)
        watch: Timer | None = None
        if deadline.cancellations:  # grpc waits for answers in one go
            watch = housekeeper().every(deadline.pulse, partial(_end_if_over, slot.call, deadline))
        try:
            for answer in slot.call:
                if timer is not None:
                    timer.cancel()
                    timer = None
                yield answer
                lease.used()
        finally:
            if timer is not None:
                timer.cancel()
            if watch is not None:
                watch.cancel()

    def _left(self, deadline: Deadline, timeout: float) -> float:
        """Return the seconds that a call may take."""
        left = deadline.remaining()
        if left <= 0:
            raise deadline.exceeded(f"pool {self._name!r}", stage="connecting")
        return min(timeout, left)

    def _told(
        self, error: grpc.RpcError | ValueError, slot: Slot, method: Method, deadline: Deadline
    ) -> Exception:
        """Return what the caller gets to see of *error*, and have the channel looked at."""
        link = slot.link
        if isinstance(error, ValueError):
            return self._not_sent(error, link)
        code = error.code()
        if code in _ENDED and deadline.remaining() <= ENDS_EARLY:
            exceeded = deadline.exceeded(f"pool {self._name!r}", stage="running")
            return exceeded.in_doubt("") if method.writes else exceeded
        if was_refused(code, error.details()):
            return Refused(error.details())
        if code is grpc.StatusCode.UNAVAILABLE:
            self._fleet.suspect(link)
        if slot.given_up:
            return exceptions.DeadlineExceeded("no answer came within rpc_timeout")
        if code is grpc.StatusCode.CANCELLED and (self._fleet.stopped or link.retired):
            text = f"pool {self._name!r} was closed during the call"
            if method.writes:
                return OutcomeUnknown(f"{text}, so it may have taken effect or not")
            return PoolClosed(text)
        told: Exception = exceptions.from_grpc_error(error)
        return told

    def _not_sent(self, error: ValueError, link: Link) -> Exception:
        """Return what it means that grpc refused to make a call: the channel was closed a moment ago."""
        if self._fleet.stopped:
            return PoolClosed(f"pool {self._name!r} is closed; make a new one")
        if "closed channel" not in str(error):
            return error
        with suppress(Exception):
            self._fleet.suspect(link)
        return NotSent(str(error))


def _answer(call: Any, deadline: Deadline) -> Any:
    """Return the answer to a call that has begun, and end it when *deadline* is cancelled."""
    try:
        while True:
            try:
                return call.result(timeout=deadline.stretch())
            except grpc.FutureTimeoutError:
                if deadline.expired:
                    call.cancel()
                    call.result()  # raises what has become of it: its answer may have been there by now
    except grpc.FutureCancelledError:
        raise call from None
    finally:
        call.cancel()  # without effect on one that has ended


def _end_if_over(call: Any, deadline: Deadline) -> None:
    if deadline.expired:
        call.cancel()
