"""What a connection is owed, and what its commands have made of it: whether it is like a new one."""

from __future__ import annotations

from collections import deque
from typing import Any

import redis
from redis.exceptions import ExecAbortError

from .commands import Session


class Account:
    """The replies that a connection is owed, and what the commands behind them have done to it."""

    # Most of these stay as they are here for most connections: so they are the class's, not each one's.
    owed = 0
    """Replies that were asked for and not read."""
    doubtful = False
    """Whether one of the commands whose replies are owed must not be repeated."""
    changed = False
    """Whether it is not like a new one any more, for good."""

    _watching = False
    _in_transaction = False
    # What the commands do whose replies are owed, in order; those after the last that does anything are left out.
    _awaited: deque[Session] | tuple[()] = ()

    @property
    def settled(self) -> bool:
        """Whether nothing is owed and nothing changed."""
        return self.owed == 0 and not (self.changed or self._watching or self._in_transaction)

    def ask(self, session: Session, *, repeatable: bool) -> None:
        """Note a command that is about to be sent, and what it does if the server takes it: its reply will tell."""
        self.doubtful = (self.owed > 0 and self.doubtful) or not repeatable
        self.owed += 1
        if session is Session.CHANGES:
            self.changed = True
        elif session is not Session.KEEPS:
            if not self._awaited:
                self._awaited = deque()
            self._awaited.extend([Session.KEEPS] * (self.owed - 1 - len(self._awaited)))
            self._awaited.append(session)

    def answered(self, reply: Any) -> None:
        """Note that the next reply is here: what its command has done is known now."""
        if self._awaited:
            self._settle(self._awaited.popleft(), reply)
        self.owed -= 1  # last, so that one that is interrupted before counts as not read

    def reopen(self) -> None:
        """Note that the connection was lost and is opened again: whoever lost it may have gone on with it."""
        self.owed, self._awaited = 0, ()
        self._watching = self._in_transaction = False
        self.changed = True

    def _settle(self, session: Session, reply: Any) -> None:
        if isinstance(reply, redis.RedisError):
            if session is Session.ENDS and isinstance(reply, ExecAbortError):
                self._watching = self._in_transaction = False
        elif session is Session.OPENS:
            self._in_transaction = True
        elif session is Session.WATCHES:
            self._watching = True
        elif session is Session.ENDS:
            self._watching = self._in_transaction = False
        elif session is Session.UNWATCHES and reply not in ("QUEUED", b"QUEUED"):
            self._watching = False
