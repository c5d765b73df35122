"""Commands of many threads on one connection: how Redis carries what is combined.

See :mod:`poolkit.core.combining`. Redis answers commands in the order in which they came, so sending several at once
is all there is to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import redis

from ..core.deadline import Deadline
from ..core.errors import PoolKitError
from .commands import Argument, Traits
from .connection import PooledConnection
from .failures import NotSent
from .packing import pack

LARGE = 4096
"""Bytes from which on a command is sent by itself: others should not wait for it to be written."""


class Asked:
    """One command; see :class:`poolkit.core.combining.Asked`."""

    __slots__ = ("args", "decode", "packed", "traits")

    packed: bytes

    def __init__(self, args: Sequence[Argument], traits: Traits, decode: bool) -> None:
        self.args = args
        self.traits = traits
        self.decode = decode

    def alone(self, conn: PooledConnection, silence: Callable[[], None]) -> Any:
        """Send it on *conn* by itself, and return its reply."""
        return conn.command(self.args, self.traits, decode=self.decode, silence=silence)

    def pack(self) -> bool:
        """Get ready to be sent with others; a long command is not."""
        packed = pack(self.args)
        if packed is None or len(packed) > LARGE:
            return False
        self.packed = packed
        return True


class RedisFlight:
    """Several commands under way on one connection; see :class:`poolkit.core.combining.Flight`."""

    __slots__ = ("_asked", "_conn", "_decode", "_sent", "patience")

    def __init__(self, conn: PooledConnection, asked: list[Asked]) -> None:
        self._conn = conn
        self._asked = asked
        self._decode = [
            each.decode for each in reversed(asked)
        ]  # of what is due, the next one last
        self._sent = 0  # bytes that the kernel has taken
        self.patience = conn.command_timeout

    def send(self) -> None:
        """Send all of them."""
        try:
            self._conn.post(b"".join([asked.packed for asked in self._asked]), len(self._asked))
        finally:
            self._sent = self._conn.posted

    def receive(self, until: float) -> Sequence[Any]:
        """Return the answers that are there; see :class:`poolkit.core.combining.Flight`."""
        return self._conn.collect(self._decode, until)

    def stop(self, until: Deadline) -> bool:  # noqa: ARG002
        """Do nothing: Redis can't stop a command."""
        return False

    def not_run(self, answer: Exception) -> bool:  # noqa: ARG002
        """Whether the command was not run for another one's sake: never."""
        return False

    def end(self) -> bool:
        """Whether the connection is like a new one."""
        return self._conn.settled

    def silent(self) -> Exception:
        """Return the error for an answer that did not come within ``command_timeout``."""
        return redis.TimeoutError(f"no answer from {self._conn.where} in time")

    def lost(self, at: int, error: Exception) -> Exception:
        """Return the error for command *at* of a connection that *error* has broken."""
        if isinstance(error, redis.TimeoutError):
            told: redis.RedisError = redis.TimeoutError(str(error))
        else:
            told = redis.ConnectionError(f"the connection to {self._conn.where} was lost: {error}")
        # A thread that was interrupted may have sent more than it could count.
        counted = isinstance(error, (redis.RedisError, PoolKitError))
        if counted and sum(len(asked.packed) for asked in self._asked[: at + 1]) > self._sent:
            told = NotSent(f"the connection to {self._conn.where} was lost while sending: {error}")
        told.__cause__ = error
        return told

    def overdue(self, at: int, deadline: Deadline, *, stopped: bool) -> Exception:  # noqa: ARG002
        """Return the error for command *at*, whose deadline has passed."""
        told = deadline.exceeded(f"Redis at {self._conn.where}", stage="running")
        asked = self._asked[at]
        if asked.traits.repeatable(asked.args):
            return told
        return told.in_doubt(", so it may have taken effect or not")
