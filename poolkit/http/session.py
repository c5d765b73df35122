"""A requests.Session over a pool: the same connections, deadlines, guard and retries."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import BaseAdapter
from requests.cookies import extract_cookies_to_jar
from requests.exceptions import (
    ChunkedEncodingError,
    ContentDecodingError,
    InvalidHeader,
    InvalidURL,
)
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers
from urllib3.exceptions import DecodeError, HTTPError, ProxyError, SSLError

from ..core.deadline import Deadline
from ..core.errors import (
    AddressBlocked,
    BackendUnavailable,
    ConfigError,
    DeadlineExceeded,
    PoolKitError,
    PoolTimeout,
)
from ..core.lease import stands_between
from .body import Body
from .request import Auth, Request, check_method, fields_of, sign
from .target import locate

if TYPE_CHECKING:
    from .pool import HttpPool


stands_between(os.path.dirname(requests.__file__))


class Session(requests.Session):
    """A :class:`requests.Session` whose requests go over an :class:`~poolkit.HttpPool`.

    What poolkit raises is an exception of requests too: :class:`~poolkit.DeadlineExceeded` a
    ``requests.Timeout``, :class:`~poolkit.BackendUnavailable` a ``requests.ConnectionError``. A *timeout*, of
    which a pair counts as its sum, bounds the whole request. The environment is not looked at: no proxies,
    no ``.netrc``.
    """

    def __init__(self, pool: HttpPool, *, cookies: bool) -> None:
        super().__init__()
        self.trust_env = False
        self._pool = pool
        self.max_redirects = pool.config.max_redirects
        if not cookies:
            self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.adapters.clear()
        adapter = PoolAdapter(pool)
        for prefix in ("https://", "http://", "http+unix://"):
            self.mount(prefix, adapter)
        for name, value in fields_of(pool.config.headers).items():
            self.headers[name] = value
        if pool.config.auth is not None:
            self.auth = _signing_with(pool.config.auth)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send *request*, and follow redirects, all within one time-out."""
        with _errors_of_requests(request):
            timeout = options.get("timeout")
            until = (
                timeout
                if isinstance(timeout, Deadline)
                else self._pool._deadline(_seconds(timeout))
            )
            ours = isinstance(self.get_adapter(request.url or ""), PoolAdapter)
            options["timeout"] = until if ours else None if until.never else until.remaining()
            return super().send(request, **options)


class PoolAdapter(BaseAdapter):
    """What sends a session's requests over a pool."""

    def __init__(self, pool: HttpPool) -> None:
        super().__init__()
        self._pool = pool

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send *request*, again where that is safe, and return the response."""
        _check_options(verify, cert, proxies)
        with _errors_of_requests(request):
            response = self._pool._send(
                self._translated(request),
                timeout=timeout if isinstance(timeout, Deadline) else _seconds(timeout),
                retry=None,
                redirects=0,
                stream=stream,
            )
        built = _built(request, response, stream=stream)
        built.connection = self  # type: ignore[assignment]  # by which requests' digest asks again
        return built

    def close(self) -> None:
        """Do nothing: the pool lives longer than the session."""

    def _translated(self, request: requests.PreparedRequest) -> Request:
        config = self._pool.config
        fields = fields_of(
            [(_text(name), _text(value)) for name, value in (request.headers or {}).items()]
        )
        fields.discard("content-length")  # said anew from the body
        fields.discard("transfer-encoding")
        body: Any = request.body
        return Request(
            check_method(_text(request.method)),
            locate(config.base_url, request.url, None),
            headers=fields,
            content=Body(body.encode() if isinstance(body, str) else body),
        )


class StreamedResponse(requests.Response):
    """A response that is read later, and raises then what is an exception of requests too."""

    def iter_content(self, chunk_size: int | None = 1, decode_unicode: bool = False) -> Any:
        """Read the body, in pieces of *chunk_size* bytes at most."""
        pieces = super().iter_content(chunk_size, decode_unicode)
        return self._noticing(pieces)

    def _noticing(self, pieces: Any) -> Iterator[Any]:
        with _errors_of_requests(self.request):
            yield from pieces


def _signing_with(auth: Auth) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Return *auth* as requests has it, which takes the credentials off again where a redirect leads away."""

    def signed(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if "authorization" not in (request.headers or {}):
            sign(request, auth)
        return request

    return signed


def _built(request: requests.PreparedRequest, raw: Any, *, stream: bool) -> requests.Response:
    """Return *raw* as requests has it."""
    response = StreamedResponse() if stream else requests.Response()
    response.status_code = raw.status
    response.headers = CaseInsensitiveDict(raw.headers)
    response.encoding = get_encoding_from_headers(response.headers)
    response.raw = raw
    response.reason = raw.reason
    response.url = request.url or ""
    if "set-cookie" in raw.headers:
        extract_cookies_to_jar(response.cookies, request, raw)  # type: ignore[no-untyped-call]
    response.request = request
    if stream:
        raw.decode_content = (
            False  # read() of raw gives what was sent, as ever; iter_content() decodes
        )
    else:
        response._content = raw.data
        response._content_consumed = True  # type: ignore[attr-defined]
    return response


@contextmanager
def _errors_of_requests(request: Any) -> Iterator[None]:
    """Raise what poolkit and urllib3 raise as something that is an exception of requests too."""
    try:
        yield
    except requests.RequestException:
        raise
    except (PoolKitError, HTTPError) as error:
        if isinstance(error, ConfigError) and not str(error).startswith(("url", "headers")):
            raise  # wrong arguments, which for requests too are a plain ValueError or TypeError
        raise _both(error, _kind_of(error), request) from error


_TIMEOUTS: dict[str, type[requests.Timeout]] = {
    "connecting": requests.ConnectTimeout,
    "running": requests.ReadTimeout,
}


def _kind_of(error: Exception) -> type[requests.RequestException]:
    if isinstance(error, DeadlineExceeded):
        return _TIMEOUTS.get(error.stage, requests.Timeout)
    if isinstance(error, PoolTimeout):
        return requests.Timeout
    if isinstance(error, AddressBlocked):
        return InvalidURL
    if isinstance(error, ConfigError):
        return InvalidHeader if str(error).startswith("headers") else InvalidURL
    if isinstance(error, BackendUnavailable):
        if isinstance(error.__cause__, SSLError):
            return requests.exceptions.SSLError
        return (
            requests.exceptions.ProxyError
            if isinstance(error.__cause__, ProxyError)
            else requests.ConnectionError
        )
    if isinstance(error, DecodeError):
        return ContentDecodingError
    if isinstance(error, HTTPError):
        return ChunkedEncodingError if "IncompleteRead" in str(error) else requests.ConnectionError
    return requests.ConnectionError


def _both(error: Exception, kind: type[requests.RequestException], request: Any) -> Exception:
    """Return *error*, as it is and of the *kind* of requests as well."""
    kinds: tuple[Any, Any] = (type(error), kind)
    both = _class_of_both(*kinds)
    return _rebuilt(both, error.args, {"request": request, "response": None, **error.__dict__})


@cache
def _class_of_both(ours: type[Any], theirs: type[Any]) -> type[Exception]:
    reduce = lambda error: (_rebuilt, (ours, error.args, _own(error)))  # noqa: E731
    # It leaves its process as what poolkit raised: there is no such class to be found elsewhere.
    return type(
        ours.__name__, (ours, theirs), {"__module__": ours.__module__, "__reduce__": reduce}
    )


def _own(error: Any) -> dict[str, Any]:
    return {
        name: value for name, value in error.__dict__.items() if name not in ("request", "response")
    }


def _rebuilt(kind: type[Exception], args: tuple[Any, ...], own: dict[str, Any]) -> Exception:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(own)
    return error


def _check_options(verify: Any, cert: Any, proxies: Mapping[str, str] | None) -> None:
    """Raise :class:`~poolkit.ConfigError` for what the pool decides, not a request."""
    if verify is not True:
        raise ConfigError("verify is the pool's: HttpPool(verify=…)")
    if cert is not None:
        raise ConfigError("cert is the pool's: HttpPool(client_cert=…)")
    if proxies:
        raise ConfigError("proxies are the pool's: HttpPool(proxy=…)")


def _seconds(timeout: Any) -> float | None:
    """Return a time-out of requests, a pair of which counts as its sum, as seconds."""
    if isinstance(timeout, (tuple, list)):
        known = [part for part in timeout if part is not None]
        return sum(known) if len(known) == len(timeout) else None
    seconds: float | None = timeout
    return seconds


def _text(given: Any) -> str:
    return given.decode("latin-1") if isinstance(given, bytes) else str(given)
