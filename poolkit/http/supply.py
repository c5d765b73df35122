"""Where new connections come from: urllib3's pools make them, for its TLS and its proxies."""

from __future__ import annotations

from functools import partial
from typing import Any

import urllib3
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import Url, parse_url
from urllib3.util.proxy import connection_requires_http_tunnel

from ..core.deadline import Deadline
from .config import HttpConfig
from .connection import PlainConnection, PooledConnection, TlsConnection
from .dial import Dial, dial_host, dial_path
from .guard import Guard
from .request import basic_of
from .target import UNIX, Origin
from .tls import make_context


class _PlainPool(HTTPConnectionPool):
    """Makes connections over TCP; keeps none."""

    ConnectionCls = PlainConnection


class _TlsPool(HTTPSConnectionPool):
    """Makes connections over TLS; keeps none."""

    ConnectionCls = TlsConnection


class Supply:
    """Opens connections to any origin, straight or through the proxy."""

    def __init__(self, config: HttpConfig, guard: Guard) -> None:
        self._guard = guard
        context = make_context(config)
        self._manager: urllib3.PoolManager
        self._extra: tuple[tuple[str, str], ...] = ()
        if config.proxy is None:
            self._manager = urllib3.PoolManager(ssl_context=context)
        else:
            url, headers = _without_userinfo(config.proxy)
            self._extra = tuple(headers.items())
            self._manager = urllib3.ProxyManager(
                url, proxy_headers=headers, ssl_context=context, proxy_ssl_context=context
            )
        self._manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}

    def maker(self, origin: Origin) -> Maker:
        """Return what opens connections to *origin*."""
        if origin.scheme == UNIX:
            self._guard.check_path()
            return Maker(_PlainPool("localhost"), partial(dial_path, origin.host), origin, ())
        name = f"[{origin.host}]" if ":" in origin.host else origin.host
        pool: Any = self._manager.connection_from_host(name, origin.port, origin.scheme)
        there = pool.proxy if pool.proxy is not None else Url(host=origin.host, port=origin.port)
        host = (there.host or "").strip("[]")
        port = there.port or (443 if there.scheme == "https" else 80)
        dial = partial(dial_host, host, port, self._guard.permit)
        return Maker(pool, dial, origin, self._extra)


class Maker:
    """Opens connections to one origin."""

    def __init__(
        self,
        pool: HTTPConnectionPool,
        dial: Dial,
        origin: Origin,
        extra: tuple[tuple[str, str], ...],
    ) -> None:
        self._pool = pool
        self._dial = dial
        self._extra = extra
        self._tunnels = pool.proxy is not None and connection_requires_http_tunnel(
            pool.proxy, pool.proxy_config, origin.scheme
        )

    def open(self, until: Deadline) -> PooledConnection:
        """Return a new connection, *until* then. Raises what :meth:`PooledConnection.open` does."""
        conn: Any = self._pool._new_conn()
        conn.dial = self._dial
        conn.extra = self._extra
        if self._tunnels:
            conn.open(until, partial(self._pool._prepare_proxy, conn))
        else:
            conn.open(until, conn.connect)
        opened: PooledConnection = conn
        return opened


def _without_userinfo(proxy: str) -> tuple[str, dict[str, str]]:
    """Return the URL of the proxy without user and password, and the header field that has these."""
    parts = parse_url(proxy)
    headers = {"Proxy-Authorization": basic_of(parts.auth)} if parts.auth else {}
    return parts._replace(auth=None).url, headers
