"""Closing when the process is told to end (SIGTERM), within a bounded time, and then ending as it would have."""

from __future__ import annotations

import logging
import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..core.errors import ConfigError

if TYPE_CHECKING:
    from .kit import PoolKit

logger = logging.getLogger("poolkit")


AGAIN = 0.05
"""Seconds after which the signal is sent once more, if nobody has noticed it."""

LEAVING = 1.0
"""Seconds that the handler is given to return, before the signal is sent once more: it may have been interrupted."""


class CloseOnSigterm:
    """Closes a kit on SIGTERM, in a thread, since a handler may interrupt whoever holds a lock.

    When that is done, the signal is sent once more, to whoever handled it before.
    """

    def __init__(self, kit: PoolKit) -> None:
        self._kit = kit
        self._installed = False
        self._closed = False
        self._left = threading.Event()  # the handler that has started the thread
        self._passed_on = threading.Event()
        self._before: Any = None
        self._thread: threading.Thread | None = None

    def install(self) -> None:
        """Begin to listen. Raises :class:`~poolkit.ConfigError` outside of the main thread."""
        if self._installed:
            return
        try:
            self._before = signal.signal(signal.SIGTERM, self._told)
        except ValueError:
            raise ConfigError(
                "close_on_sigterm needs the kit to be opened in the main thread"
            ) from None
        self._installed = True

    def remove(self) -> None:
        """Listen no more, if that can be done here: in the main thread, and nobody came after."""
        if not self._installed or threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) == self._told:
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
        self._installed = False

    def _told(self, number: int, frame: FrameType | None) -> None:
        if self._closed:
            self._end(number, frame)
            return
        if self._thread is not None and self._thread.is_alive():
            return  # it is being closed
        self._thread = threading.Thread(target=self._close, name="poolkit-sigterm", daemon=True)
        self._thread.start()
        self._left.set()

    def _close(self) -> None:
        try:
            self._kit.close()
        except Exception:
            logger.exception("kit %r could not be closed on SIGTERM", self._kit.name)
        self._closed = True
        # Who is told within this handler is told within whatever it has interrupted, ``Event.wait`` say, for as long as
        # that takes: a ``set`` of the same event would wait for ever.
        self._left.wait(LEAVING)
        # Python may sleep through a signal that comes just as the main thread begins to wait: it is sent until noticed.
        # But when somebody else listens by now, the kit closed by the main thread say, once is enough.
        while not self._passed_on.is_set():
            ours = signal.getsignal(signal.SIGTERM) == self._told
            os.kill(os.getpid(), signal.SIGTERM)
            if not ours:
                return
            self._passed_on.wait(AGAIN)

    def _end(self, number: int, frame: FrameType | None) -> None:
        """Do what would have been done without us."""
        self._passed_on.set()
        if callable(self._before):
            self._before(number, frame)
        elif self._before is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
