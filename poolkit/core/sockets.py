"""What a socket tells of the other end, without a round trip."""

from __future__ import annotations

import select
import socket
import sys


def hung_up(descriptor: int) -> bool:
    """Whether the connection behind *descriptor* has ended, even if another thread reads from it now."""
    poller = select.poll()
    try:
        poller.register(descriptor, getattr(select, "POLLRDHUP", 0))
        return bool(poller.poll(0))
    except (OSError, ValueError):
        return True  # closed meanwhile


def is_silent(sock: socket.socket, received: int) -> bool:
    """Whether the kernel says that no more than the bytes *received* ever came, nor the end.

    That neither waits nor lets go of the interpreter lock, as a poll does. If not so, it may just not know.
    """
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _RECEIVED.stop)
    except OSError:
        return False
    return (
        len(info) == _RECEIVED.stop
        and info[0] == _ESTABLISHED
        and int.from_bytes(info[_RECEIVED], sys.byteorder) == received
    )


# Linux' struct tcp_info begins with the state, and has tcpi_bytes_received since 4.1; macOS has another one.
_TCP_INFO = socket.TCP_INFO if sys.platform == "linux" else -1
_RECEIVED = slice(128, 136)
_ESTABLISHED = 1
