"""What an HttpPool can be told."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core import checks
from ..core.config import PoolConfig
from ..core.errors import ConfigError
from .guard import is_host
from .request import Auth, Headers, check_auth, check_fields, fields_of
from .target import SET_BASE, UNIX, Target, parse

if TYPE_CHECKING:
    from .request import Request
    from .response import Response

BeforeRequest = Callable[["Request"], object]
AfterResponse = Callable[["Request", "Response"], object]


@dataclass(frozen=True, kw_only=True)
class HttpConfig(PoolConfig):
    """Settings of an :class:`~poolkit.HttpPool`. Times are in seconds.

    Checked when built; :class:`~poolkit.ConfigError` names what is wrong. Its ``repr`` shows no secret.

    ``base_url``
        what a URL without a scheme is within.
    ``name``
        for logs, errors and metrics; by default the host of ``base_url``, or ``http``.
    ``max_size``, ``max_idle``
        connections to one host at most, and kept when they are not needed.
    ``acquire_timeout``
        to wait for a connection while all those to a host are in use.
    ``max_waiting``
        threads that may wait for one host; more are refused with :class:`~poolkit.PoolOverloaded`.
    ``request_timeout``
        for a whole request, with its retries and redirects and the body of the answer, where neither
        ``timeout=`` nor a :class:`~poolkit.deadline` says another.
    ``connect_timeout``
        to look up a name, connect and shake hands.
    ``idle_timeout``
        after which a connection that was not needed is closed; earlier if the server says so.
    ``max_lifetime``
        after which a connection is replaced, less up to 5 %, so that changes of a name's addresses are seen.
    ``max_redirects``
        that are followed.
    ``max_response_bytes``
        of a body, counted after decompression.
    ``max_retry_after``
        up to which a server's ``Retry-After`` is obeyed; one that asks for more is not asked again.
    ``headers``, ``auth``
        of every request; see :meth:`~poolkit.HttpPool.request`.
    ``verify``
        True for the system's certificate authorities, or a file with others. Certificates are always checked.
    ``client_cert``
        a file with a certificate and its key, or a pair of files.
    ``proxy``
        the URL of a proxy for all requests, ``http://`` or ``https://``, with user and password if it asks.
    ``allowed_hosts``
        the only hosts that may be called: names, addresses, ``*.example.com`` for all below that, and paths of
        Unix-domain sockets.
    ``allow_private``
        whether addresses that are not on the public internet may be called; see :doc:`/http`.
    ``before_request``, ``after_response``
        functions called with each :class:`~poolkit.http.request.Request` before it is sent, and with it and its
        :class:`~poolkit.http.response.Response`; redirects count, retries don't.
    ``leak_threshold``
        from which on a :class:`~poolkit.PoolKit` names a lease as a leak.
    ``retry``
        how to try again what is safe to try again.
    ``listeners``
        :class:`~poolkit.Listener` objects, told what happens.
    """

    base_url: str = field(default="", repr=False)
    max_size: int = 50
    max_idle: int = 10
    request_timeout: float = 15.0
    connect_timeout: float = 10.0
    max_redirects: int = 5
    max_response_bytes: int = 64 * 1024 * 1024
    max_retry_after: float = 30.0
    headers: Headers | None = field(default=None, repr=False)
    auth: Auth | None = field(default=None, repr=False)
    verify: bool | str | os.PathLike[str] = True
    client_cert: str | tuple[str, ...] | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    allowed_hosts: Sequence[str] | None = None
    allow_private: bool = True
    before_request: Sequence[BeforeRequest] = field(default=(), repr=False)
    after_response: Sequence[AfterResponse] = field(default=(), repr=False)

    base: Target | None = field(init=False, repr=False, compare=False)
    """Where ``base_url`` leads."""

    def __post_init__(self) -> None:
        base = self._parsed("base_url", self.base_url) if self.base_url else None
        if base is not None and ("?" in base.path or "#" in base.url):
            raise ConfigError(
                "base_url can't have a query or a fragment; give params with requests"
            )
        self._set(base=base)
        super().__post_init__()
        if not self.name:
            self._set(name=base.origin.host if base is not None else "http")
        checks.count("max_idle", self.max_idle)
        checks.seconds("request_timeout", self.request_timeout, zero=False, forever=True)
        checks.seconds("connect_timeout", self.connect_timeout, zero=False)
        checks.count("max_redirects", self.max_redirects)
        checks.count("max_response_bytes", self.max_response_bytes)
        checks.seconds("max_retry_after", self.max_retry_after)
        fields = fields_of(self.headers)
        check_fields(fields)
        self._set(headers=fields, auth=check_auth(self.auth))
        self._check_tls()
        checks.flag("allow_private", self.allow_private)
        self._check_proxy()
        self._check_hosts()
        self._check_hooks("before_request")
        self._check_hooks("after_response")

    def __repr__(self) -> str:
        shown = [f"base={str(self.base)!r}"] if self.base is not None else []
        return self._describe(*shown)

    def _parsed(self, name: str, url: object) -> Target:
        try:
            return parse(checks.text(name, url))
        except ConfigError as error:
            raise ConfigError(str(error).replace("url", name, 1).removesuffix(SET_BASE)) from None

    def _check_tls(self) -> None:
        if self.verify is False:
            raise ConfigError(
                "verify can't be False: certificates are always checked; "
                "for a private authority give the file with its certificate"
            )
        if self.verify is not True:
            if not isinstance(self.verify, (str, os.PathLike)):
                raise ConfigError(
                    f"verify must be True or the path of a file, not {checks.kind(self.verify)}"
                )
            if not os.path.exists(self.verify):
                raise ConfigError(f"verify: there is no file {os.fspath(self.verify)!r}")
        if self.client_cert is None:
            return
        files = self.client_cert if isinstance(self.client_cert, tuple) else (self.client_cert,)
        if not (0 < len(files) < 3 and all(isinstance(each, (str, os.PathLike)) for each in files)):
            raise ConfigError(
                "client_cert must be the path of a file, or a pair of paths: certificate and key"
            )
        for file in files:
            if not os.path.exists(file):
                raise ConfigError(f"client_cert: there is no file {os.fspath(file)!r}")

    def _check_proxy(self) -> None:
        if self.proxy is None:
            return
        if self._parsed("proxy", self.proxy).origin.scheme == UNIX:
            raise ConfigError("proxy must begin with http:// or https://")
        if not self.allow_private:
            raise ConfigError(
                "allow_private=False can't be kept through a proxy, which looks up the addresses itself; "
                "have the proxy refuse private ones, and leave allow_private alone"
            )

    def _check_hosts(self) -> None:
        if self.allowed_hosts is None:
            return
        if isinstance(self.allowed_hosts, (str, bytes)):
            raise ConfigError("allowed_hosts must be a list of host names, not one string")
        try:
            hosts = tuple(self.allowed_hosts)
        except TypeError:
            raise ConfigError(
                f"allowed_hosts must be a list of host names, not {checks.kind(self.allowed_hosts)}"
            ) from None
        for host in hosts:
            name = checks.text("allowed_hosts", host)
            if name.startswith("/"):
                continue  # the path of a Unix-domain socket
            plain = name.removeprefix("*.")
            if (
                not plain
                or set(plain) & set("*/?#\\@[] ")
                or plain.count(":") == 1
                or not is_host(name)
            ):
                raise ConfigError(
                    f"allowed_hosts: {name!r} is no host; give names, addresses, or *.example.com, "
                    "without a port or brackets"
                )
        self._set(allowed_hosts=hosts)

    def _check_hooks(self, name: str) -> None:
        given: Any = getattr(self, name)
        if callable(given) or isinstance(given, (str, Mapping)):
            raise ConfigError(f"{name} must be a list of functions, not {checks.kind(given)}")
        try:
            hooks = tuple(given)
        except TypeError:
            raise ConfigError(
                f"{name} must be a list of functions, not {checks.kind(given)}"
            ) from None
        for hook in hooks:
            if not callable(hook):
                raise ConfigError(f"{name} must be a list of functions, not of {checks.kind(hook)}")
        self._set(**{name: hooks})
