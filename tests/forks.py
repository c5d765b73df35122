"""A fork that does something and tells what became of it."""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from collections.abc import Callable
from typing import Any

LIMIT_OF_A_CHILD = 20
"""Seconds after which a forked child that hangs is killed by its own alarm."""


class Child:
    """A fork of this process that does *work*, sends back what became of it, and ends at once."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LIMIT_OF_A_CHILD)
            try:
                message = pickle.dumps(("result", work()))
            except BaseException:
                message = pickle.dumps(("error", traceback.format_exc()))
            with os.fdopen(write, "wb") as pipe:
                pipe.write(message)
            os._exit(0)
        os.close(write)

    def outcome(self) -> Any:
        """Return what *work* returned; fail if it raised or hung."""
        with os.fdopen(self._read, "rb") as pipe:
            message = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        assert status == 0, f"the child ended with status {status} (14: it hung)"
        kind, value = pickle.loads(message)
        assert kind == "result", value
        return value
