"""A connection for each kind of address, and how it reaches its server."""

from __future__ import annotations

import socket
import ssl

import redis

from ..core.deadline import Deadline, ambient
from ..core.dialing import first_to_answer
from ..core.resolving import resolve
from .connection import PooledConnection
from .wire import TlsWire, shake_hands


class _InternetConnection(PooledConnection):
    """One to a host."""

    port: int
    socket_keepalive: bool
    socket_keepalive_options: dict[int, int]

    def _reach(self) -> socket.socket:
        """Connect to the address that answers first, with redis-py's options."""
        until = Deadline.after(self.socket_connect_timeout).earlier(ambient())
        sock = first_to_answer(resolve(self.host, self.port, until), until, socket.socket)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.socket_keepalive:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in self.socket_keepalive_options.items():
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)
        except BaseException:
            sock.close()
            raise
        return sock


class TcpConnection(_InternetConnection, redis.Connection):
    """One over TCP."""


class TlsConnection(_InternetConnection, redis.SSLConnection):
    """One over TLS."""

    context: ssl.SSLContext
    _wire_type = TlsWire

    def _reach(self) -> socket.socket:
        sock = super()._reach()
        try:
            return self._wrap_socket_with_ssl(sock)
        except BaseException:
            sock.close()
            raise

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        """Wrap with the pool's own context: making one for each connection would read all CAs each time."""
        made = self.context.wrap_socket(
            sock, server_hostname=self.host, do_handshake_on_connect=False
        )
        try:
            shake_hands(made, Deadline.after(self.socket_connect_timeout).earlier(ambient()))
        except BaseException:
            made.close()
            raise
        return made


class UnixConnection(PooledConnection, redis.UnixDomainSocketConnection):
    """One over a Unix socket."""

    host = ""
