"""One host: its connections, and how a request is sent on one of them, again if that is safe."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from time import monotonic

from urllib3.exceptions import HTTPError

from ..core.budget import RetryBudget
from ..core.deadline import Deadline
from ..core.errors import DeadlineExceeded, PoolKitError
from ..core.events import Events
from ..core.node import Node
from ..core.retry import Retrier, RetryPolicy, Try
from ..core.stats import PoolStats, Tally
from ..core.verdict import Phase
from .config import HttpConfig
from .connection import PooledConnection
from .failures import RETRIED, Final, HungUp, NotSent, Refused, TooLate, classify, is_hopeless
from .request import Request
from .response import Response
from .supply import Supply
from .target import Origin


class Host:
    """One host. What goes wrong with it takes nothing from another."""

    def __init__(
        self, origin: Origin, config: HttpConfig, supply: Supply, *, events: Events
    ) -> None:
        self.origin = origin
        self.asked = monotonic()
        """When it was last asked for."""
        self.calls: set[object] = set()
        """The calls under way. Changed by single atomic operations."""
        self.dropped = False
        """Whether nobody must use it any more: there may be another one for the same origin."""
        self.tally = Tally()
        self._config = config
        self._maker = supply.maker(origin)
        self.node: Node[PooledConnection] = Node(
            f"{config.name} ({origin})",
            config,
            dial=self._dial,
            connect_timeout=config.connect_timeout,
            is_hopeless=is_hopeless,
            tally=self.tally,
            events=events,
            max_idle=config.max_idle,
        )
        self._retrier = Retrier(
            config.retry,
            classify=classify,
            sleep=self.node.lender.sleep,
            tally=self.tally,
            events=events,
        )

    def __repr__(self) -> str:
        return f"<Host {self.origin} {self.node!r}>"

    @property
    def is_unused(self) -> bool:
        """Whether no request to it is under way, nobody holds a connection to it, and none is kept."""
        return not (self.calls or len(self.node.shelf) or len(self.node.lender.book))

    @property
    def budget(self) -> RetryBudget:
        """What may be spent on retries of requests to it."""
        return self._retrier.budget

    def stats(self) -> PoolStats:
        """Return its state and counters."""
        return self.node.lender.stats()

    def exchange(
        self, request: Request, deadline: Deadline, *, stream: bool, policy: RetryPolicy | None
    ) -> Response:
        """Send *request*, again where that is safe, and return the response: read, unless *stream*."""
        self._check_reachable(request)
        refused: Response | None = None

        def let_go() -> None:
            """Give back the connection of a refusal, now that the request will be sent again."""
            nonlocal refused
            if refused is not None:
                with suppress(HTTPError, PoolKitError):
                    refused.finish()
            refused = None

        def attempt(state: Try) -> Response:
            nonlocal refused
            try:
                response = self._attempt(request, deadline, state, stream=stream)
            except HTTPError as error:
                if request.idempotent and not request.content.can_be_sent:
                    raise Final(error) from error
                raise
            if response.status in RETRIED:
                refusal = Refused(response, longest_wait=self._config.max_retry_after)
                if not request.content.can_be_sent:
                    raise Final(refusal)
                refused = response
                raise refusal
            return response

        try:
            return self._retrier.call(
                attempt,
                idempotent=request.idempotent,
                deadline=deadline,
                policy=policy,
                operation=request.method,
                before_pause=let_go,
            )
        except Refused as error:
            return error.response
        except Final as final:
            if isinstance(final.error, Refused):
                return final.error.response
            raise final.error from final.error.__cause__

    def _check_reachable(self, request: Request) -> None:
        """Raise if the host is known to be away: only those who find that out try again."""
        outage = self.node.outage
        if outage.cause is None:
            return
        error = self.node.lender.refused(outage.error())
        raise self._retrier.turned_away(error, request.method)

    def _attempt(
        self, request: Request, deadline: Deadline, state: Try, *, stream: bool
    ) -> Response:
        lender = self.node.lender
        while True:
            state.phase = Phase.CONNECTING
            lease, conn = lender.lend(deadline)
            try:
                response = self._converse(conn, request, deadline, state)
                response.keep(partial(lender.take_back, lease, conn))
            except BaseException as error:
                was_kept = conn.was_kept
                lender.take_back(lease, conn)
                if was_kept and _may_have_been_dead(error, request):
                    continue  # that it died while it was kept is not the caller's problem
                raise
            if not stream:
                self._load(response, deadline)
            return response

    def _converse(
        self, conn: PooledConnection, request: Request, deadline: Deadline, state: Try
    ) -> Response:
        """Send *request* on *conn*, and return the response as soon as its head has come."""
        if conn.was_kept and not conn.is_quiet():  # what came would be taken for the answer
            conn.lost = True
            conn.disconnect()
            raise NotSent("the connection was found dead in time")
        state.phase = Phase.RUNNING
        try:
            answer = conn.ask(request, deadline)
        except TooLate as error:
            conn.disconnect()
            raise _too_late(request, deadline, sent=error.sent) from error
        return Response(
            answer, conn, request, deadline=deadline, limit=self._config.max_response_bytes
        )

    def _load(self, response: Response, deadline: Deadline) -> None:
        """Read the whole body; the connection goes back."""
        try:
            response.load()
        except BaseException as error:
            response.close()
            if isinstance(error, DeadlineExceeded):
                raise _too_late(response.request, deadline) from error
            raise

    def _dial(self, until: Deadline) -> PooledConnection:
        conn = self._maker.open(until)
        conn.node = self.node
        return conn


def _may_have_been_dead(error: BaseException, request: Request) -> bool:
    """Whether *error* is what a dead connection shows, and the request may be sent on another one."""
    if isinstance(error, HungUp):
        return request.idempotent and request.content.can_be_sent
    return isinstance(error, NotSent)


def _too_late(request: Request, deadline: Deadline, *, sent: bool = True) -> DeadlineExceeded:
    error = deadline.exceeded(str(request), stage="running")
    if request.idempotent or not sent:
        return error
    return error.in_doubt("; its answer was lost, so it may have taken effect or not")
