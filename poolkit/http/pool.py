"""HttpPool: urllib3's connections, lent with deadlines, safe retries, and a guard for URLs that strangers choose."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import TYPE_CHECKING, Any

from urllib3 import HTTPHeaderDict

from ..core import checks
from ..core.config import config_from
from ..core.deadline import Deadline, ambient, deadline
from ..core.errors import ConfigError
from ..core.pool import HEALTH_TIMEOUT, Pool
from ..core.retry import RetryPolicy
from ..core.stats import PoolStats
from .body import Data, Files, make_body
from .config import HttpConfig
from .request import (
    Auth,
    Headers,
    Request,
    check_auth,
    check_method,
    default_fields,
    fields_of,
    replaced,
)
from .response import Response
from .running import Running
from .target import Params, locate

if TYPE_CHECKING:
    from .session import Session

logger = logging.getLogger("poolkit.http")


class HttpPool(Pool[HttpConfig, Running]):
    """A thread-safe pool of connections to any number of HTTP servers.

    Takes a base URL if there is one, or a :class:`~poolkit.HttpConfig`, or the config's fields as keywords.
    Opens itself on first use, in each process; ``with`` opens and closes it.

    Requests raise :class:`~poolkit.PoolTimeout`, :class:`~poolkit.PoolOverloaded`,
    :class:`~poolkit.BackendUnavailable`, :class:`~poolkit.PoolClosed`,
    :class:`~poolkit.DeadlineExceeded`, :class:`~poolkit.AddressBlocked`,
    :class:`~poolkit.ResponseTooLarge`, and :class:`~poolkit.OutcomeUnknown` when the answer to one that must
    not be repeated was lost. For one that may be repeated, and was in vain, that is urllib3's
    ``ProtocolError``. A response of status 4xx or 5xx is returned.
    """

    def __init__(self, base_url: str | HttpConfig | None = None, /, **settings: Any) -> None:
        super().__init__(
            config_from(HttpConfig, "base_url", base_url, settings),
            start=self._start,
            ping=self._ask_base,
        )
        self._defaults = default_fields(fields_of(self.config.headers))

    # -- use -----------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        url: str = "",
        *,
        params: Params | None = None,
        headers: Headers | None = None,
        json: Any = None,
        data: Data | None = None,
        files: Files | None = None,
        auth: Auth | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        idempotency_key: str | None = None,
        redirects: int | None = None,
    ) -> Response:
        """Send a request, and return the response with its whole body.

        *url* may be relative to ``base_url``; *params* are added to its query. The body is *json*; or
        *data*: bytes, text, a form as a dict, a file, or an iterable of bytes; or *files*, a dict of names
        and files, with *data* beside it. *auth* is ``(user, password)``, a bearer token, or a function that is
        called with the :class:`~poolkit.http.request.Request`. *timeout* is in seconds, for everything;
        *retry* takes the place of the pool's. An *idempotency_key* is sent as ``Idempotency-Key``, and says
        that the server does not do the same twice. At most *redirects* are followed, none for 0.
        """
        return self._send(
            self._request(method, url, params, headers, json, data, files, auth, idempotency_key),
            timeout=timeout,
            retry=retry,
            redirects=redirects,
        )

    def get(self, url: str = "", **options: Any) -> Response:
        """Get *url*; the *options* are those of :meth:`request`."""
        return self.request("GET", url, **options)

    def post(self, url: str = "", **options: Any) -> Response:
        """Post to *url*; the *options* are those of :meth:`request`."""
        return self.request("POST", url, **options)

    def put(self, url: str = "", **options: Any) -> Response:
        """Put to *url*; the *options* are those of :meth:`request`."""
        return self.request("PUT", url, **options)

    def patch(self, url: str = "", **options: Any) -> Response:
        """Patch *url*; the *options* are those of :meth:`request`."""
        return self.request("PATCH", url, **options)

    def delete(self, url: str = "", **options: Any) -> Response:
        """Delete *url*; the *options* are those of :meth:`request`."""
        return self.request("DELETE", url, **options)

    def head(self, url: str = "", **options: Any) -> Response:
        """Ask for the head of *url*; the *options* are those of :meth:`request`."""
        return self.request("HEAD", url, **options)

    def options(self, url: str = "", **options: Any) -> Response:
        """Ask what can be done with *url*; the *options* are those of :meth:`request`."""
        return self.request("OPTIONS", url, **options)

    def stream(
        self,
        method: str,
        url: str = "",
        *,
        params: Params | None = None,
        headers: Headers | None = None,
        json: Any = None,
        data: Data | None = None,
        files: Files | None = None,
        auth: Auth | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        idempotency_key: str | None = None,
        redirects: int | None = None,
    ) -> Streamed:
        """Send a request for a ``with`` block, which gets the response as soon as its head has come.

        The arguments are those of :meth:`request`. The body is read with the response's ``stream()`` or
        ``read()``, within the same deadline. The connection goes back when it has been read; at the end of the
        block it is closed if that is not so.
        """
        return Streamed(
            self,
            self._request(method, url, params, headers, json, data, files, auth, idempotency_key),
            {"timeout": timeout, "retry": retry, "redirects": redirects},
        )

    def session(self, *, cookies: bool = False) -> Session:
        """Return a ``requests.Session`` over this pool, its deadlines, guard and retries.

        It may be used from many threads. With *cookies* it keeps those that servers set, for all of them.
        """
        from .session import Session  # requests takes a tenth of a second to import

        return Session(self, cookies=cookies)

    # -- inspect -------------------------------------------------------------------------------------

    def stats_by_host(self) -> dict[str, PoolStats]:
        """Return the state and the counters of each host that was called lately, by its origin."""
        running = self._lifecycle.running
        if running is None:
            return {}
        return {str(host.origin): host.stats() for host in running.hosts.all()}

    def health_check(self, url: str | None = None) -> bool:
        """Whether *url*, by default ``base_url``, is answered now, within five seconds. Never raises.

        An answer of status 5xx is none. Without either, it says whether the hosts called lately can be reached.
        """
        if url is None:
            return super().health_check()
        try:
            with deadline(HEALTH_TIMEOUT):
                status = self.request("GET", url, retry=_ONCE).status
        except Exception as error:  # noqa: BLE001 - never raises, as promised
            logger.warning("pool %r: health check failed: %s", self.name, error)
            return False
        return status < 500

    # -- private -------------------------------------------------------------------------------------

    def _start(self) -> Running:
        return Running(self.config)

    def _ask_base(self) -> None:
        if self.config.base is not None:
            response = self.request("GET", retry=_ONCE)
            if response.status >= 500:
                response.raise_for_status()
            return
        running = self._lifecycle.running or self._lifecycle.open()
        for host in running.hosts.all():
            if host.node.outage.cause is not None:
                raise host.node.outage.error()

    def _request(
        self,
        method: str,
        url: str,
        params: Params | None,
        headers: Headers | None,
        json: Any,
        data: Data | None,
        files: Files | None,
        auth: Auth | None,
        idempotency_key: str | None,
    ) -> Request:
        """Return the request that these say, checked."""
        fields = self._defaults.copy() if headers is None else replaced(self._defaults, headers)
        if idempotency_key is not None:
            fields["Idempotency-Key"] = checks.text("idempotency_key", idempotency_key)
        return Request(
            check_method(method),
            locate(self.config.base_url, url, params),
            headers=fields,
            content=make_body(json_value=json, data=data, files=files),
            auth=self._auth(fields) if auth is None else check_auth(auth),
        )

    def _auth(self, fields: HTTPHeaderDict) -> Auth | None:
        """Return the pool's, unless the header fields of a call say who asks."""
        said = fields.get("authorization")
        return self.config.auth if said == self._defaults.get("authorization") else None

    def _send(
        self,
        request: Request,
        *,
        timeout: float | Deadline | None,
        retry: RetryPolicy | None,
        redirects: int | None,
        stream: bool = False,
    ) -> Response:
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise ConfigError(f"retry must be a RetryPolicy, not {checks.kind(retry)}")
        if redirects is None:
            redirects = self.config.max_redirects
        else:
            checks.count("redirects", redirects)
        running = self._lifecycle.running or self._lifecycle.open()
        return running.send(
            request,
            timeout if isinstance(timeout, Deadline) else self._deadline(timeout),
            stream=stream,
            policy=retry,
            redirects=redirects,
        )

    def _deadline(self, timeout: float | None) -> Deadline:
        """Return by when a request has to be answered."""
        around = ambient()
        if timeout is not None:
            return Deadline.after(checks.seconds("timeout", timeout, forever=True)).earlier(around)
        if around.never:
            return Deadline.after(self.config.request_timeout).earlier(around)
        return around


class Streamed:
    """A request whose response is read in a ``with`` block. For one block, once."""

    def __init__(self, pool: HttpPool, request: Request, options: dict[str, Any]) -> None:
        self._pool = pool
        self._request = request
        self._options = options
        self._response: Response | None = None

    def __enter__(self) -> Response:
        if self._response is not None:
            raise RuntimeError("this response was read already; send the request anew")
        self._response = self._pool._send(self._request, stream=True, **self._options)
        return self._response

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._response is not None:
            self._response.close()


_ONCE = RetryPolicy(attempts=1)
