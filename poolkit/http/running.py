"""What an HttpPool needs to run, for one process: the parts, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from urllib3.exceptions import (
    LocationValueError,
    MaxRetryError,
    ResponseError,
    UnrewindableBodyError,
)
from urllib3.util import Retry
from urllib3.util.retry import RequestHistory

from ..core.budget import RetryBudget
from ..core.deadline import Deadline
from ..core.errors import AddressBlocked, ConfigError
from ..core.events import Events
from ..core.housekeeper import Timer, housekeeper
from ..core.lease import Holder
from ..core.lending import Lender
from ..core.retry import RetryPolicy
from ..core.stats import PoolStats
from .config import HttpConfig
from .events import METHODS, Answered, HttpListener, Requested
from .host import Host
from .hosts import Hosts
from .request import Request
from .response import Response
from .target import UNIX, Target

SWEEP = 1.0
"""Seconds between looks at idle connections and at leases nobody can return."""


class Running:
    """What an HttpPool needs to run, for one process."""

    def __init__(self, config: HttpConfig) -> None:
        self.config = config
        self.events = Events(config.name, config.listeners, kinds=METHODS, base=HttpListener)
        self.hosts = Hosts(config, events=self.events)
        self._sweeper: Timer = housekeeper().every(SWEEP, self.hosts.sweep)

    # -- use -----------------------------------------------------------------------------------------

    def send(
        self,
        request: Request,
        deadline: Deadline,
        *,
        stream: bool = False,
        policy: RetryPolicy | None = None,
        redirects: int,
    ) -> Response:
        """Send *request*, follow up to so many *redirects*, and return the last response."""
        history: list[RequestHistory] = []
        while True:
            response = self._exchange(request, deadline, stream=stream, policy=policy)
            location = response.get_redirect_location() if redirects else None
            if not location:
                if history:
                    response.retries = Retry(redirect=redirects, history=tuple(history))
                return response
            response.finish()
            if len(history) >= redirects:
                raise MaxRetryError(
                    f"pool {self.config.name!r}",  # type: ignore[arg-type]
                    str(request.target),
                    ResponseError(f"more than {redirects} redirects"),
                )
            target = _led_to(request, location)
            history.append(
                RequestHistory(request.method, request.url, None, response.status, target.url)
            )
            request = request.redirected(response.status, target)
            if not request.content.can_be_sent:
                raise UnrewindableBodyError(
                    f"{history[-1].status} redirects a request whose body can't be sent twice"
                )

    def _exchange(
        self, request: Request, deadline: Deadline, *, stream: bool, policy: RetryPolicy | None
    ) -> Response:
        """Send one request."""
        call = object()
        host = self.hosts.of(request.target, call)
        try:
            return self._exchange_with(host, request, deadline, stream=stream, policy=policy)
        finally:
            host.calls.discard(call)

    def _exchange_with(
        self,
        host: Host,
        request: Request,
        deadline: Deadline,
        *,
        stream: bool,
        policy: RetryPolicy | None,
    ) -> Response:
        """Send one request to *host*, with the hooks around it."""
        config, events = self.config, self.events
        request.authorize()
        for before in config.before_request:
            before(request)
        began = perf_counter()
        if events.wanted(Requested):
            events.tell(Requested, method=request.method, url=str(request.target))
        response = host.exchange(request, deadline, stream=stream, policy=policy)
        if events.wanted(Answered):
            events.tell(
                Answered,
                method=request.method,
                url=str(request.target),
                status=response.status,
                seconds=perf_counter() - began,
            )
        try:
            for after in config.after_response:
                after(request, response)
        except BaseException:
            response.close()
            raise
        return response

    # -- inspect and close ---------------------------------------------------------------------------

    def stats(self) -> PoolStats:
        """Return the pool's state and counters."""
        hosts, whole = self.hosts.counted()
        return PoolStats.of(
            whole,
            name=self.config.name,
            max_size=self.config.max_size * max(1, len(hosts)),
            in_use=sum(len(host.node.lender.book) for host in hosts),
            waiting=sum(host.node.lender.waiting for host in hosts),
        )

    @property
    def lenders(self) -> Sequence[Lender[Any]]:
        """Who lends its connections, a host each."""
        return [host.node.lender for host in self.hosts.all()]

    @property
    def budgets(self) -> Mapping[str, RetryBudget]:
        """What may be spent on retries, by host."""
        return {host.node.name: host.budget for host in self.hosts.all()}

    def stop(self, deadline: Deadline) -> Sequence[Holder]:
        """Lend nothing more, close what is there, and return who still holds."""
        self._sweeper.cancel()
        hosts = self.hosts.close()
        for host in hosts:
            host.node.stop(Deadline.after(0.0))  # all of them, before any is waited for
        held = [holder for host in hosts for holder in host.node.stop(deadline)]
        for host in hosts:
            host.node.join(deadline)  # last: who still holds needs the time more
        return held

    def abandon(self) -> None:
        """In a forked child: touch nothing of the parent's."""
        for host in self.hosts.all():
            host.node.abandon()


def _led_to(request: Request, location: str) -> Target:
    """Return where a redirect leads."""
    try:
        target = request.target.joined(_as_text(location))
    except ConfigError as error:
        raise LocationValueError(
            f"{request!r} redirects to what can't be called: {error}"
        ) from None
    if target.origin.scheme == UNIX and target.origin != request.target.origin:
        raise AddressBlocked(f"{request!r} redirects to a Unix-domain socket")
    return target


def _as_text(location: str) -> str:
    """Return a ``Location`` whose octets may be those of UTF-8, which no header field should have."""
    try:
        return location.encode("latin-1").decode()
    except UnicodeError:
        return location
