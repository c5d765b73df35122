"""Several servers that are one service, ready when all of them agree that it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, TypeVar

from poolkit.core import checks

from . import guardian
from .process import EmbeddedError, new_password
from .server import Server

POLL = 0.02  # seconds; a look at all servers takes some milliseconds

G = TypeVar("G", bound="Group[Any]")
ServerT = TypeVar("ServerT", bound=Server)


class Group(ABC, Generic[ServerT]):
    """Several servers that are one service.

    A kind says what servers there are, how they are joined, and what is amiss. Each of them can be
    stopped, killed and frozen by itself. Not for several threads at a time.
    """

    def __init__(self, *, startup_timeout: float) -> None:
        self._startup_timeout = checks.seconds("startup_timeout", startup_timeout, zero=False)
        self._password = new_password()
        self._all: list[ServerT] = []

    def __repr__(self) -> str:
        if not self._all:
            return f"<{type(self).__name__}, not started>"
        return f"<{type(self).__name__} of {len(self._all)} processes>"

    def __enter__(self: G) -> G:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start all of it, or what was stopped or killed of it, and wait until it is in order."""
        if self._all:
            start(self._all)
            self.wait_ok()
            return
        try:
            self._create()
            self.wait_ok()
        except BaseException:
            self.close()
            raise

    def wait_ok(self, timeout: float | None = None) -> None:
        """Wait until all of its processes that run and aren't frozen agree, and are in order.

        After a failure that is when its failover is through. Raises :class:`EmbeddedError`, with
        what is amiss, after *timeout* seconds, or as many as it may take to start.
        """
        self._started()
        self._until(self._amiss, timeout)

    @property
    def password(self) -> str:
        """The password of the first user, Redis's ``default`` or PostgreSQL's ``postgres``, on each server."""
        return self._password

    def close(self) -> None:
        """End all of it. Does nothing when that is done, or in a fork of the owner."""
        servers, self._all = self._all, []
        _each(lambda server: server.close(), servers)

    @abstractmethod
    def _create(self) -> None:
        """Make the servers, put them into ``_all``, and start and join them."""

    @abstractmethod
    def _amiss(self) -> str:
        """Return what isn't in order yet, or nothing. May raise :class:`EmbeddedError` instead."""

    def _running(self) -> list[ServerT]:
        """Return those of all processes that run and aren't frozen."""
        found = [server for server in self._started() if server.runs]
        if not found:
            raise EmbeddedError(f"nothing of {self!r} is running")
        return found

    def _started(self) -> list[ServerT]:
        if not self._all:
            raise EmbeddedError(
                f"{type(self).__name__} was not started: use it as a context manager, or start() it"
            )
        return self._all

    def _until(self, amiss: Callable[[], str], timeout: float | None = None) -> None:
        """Wait until *amiss* neither returns anything nor raises :class:`EmbeddedError`."""
        last = ""

        def is_well() -> bool:
            nonlocal last
            try:
                last = amiss()
            except EmbeddedError as error:
                last = str(error)
            return not last

        patience = self._startup_timeout if timeout is None else timeout
        if not guardian.wait_for(is_well, patience, poll=POLL):
            raise EmbeddedError(f"{self!r} is not in order after {patience:g} s: {last}")


def start(servers: Iterable[Server]) -> None:
    """Start them beside each other."""
    _each(lambda server: server.start(), servers)


def _each(act: Callable[[Server], None], servers: Iterable[Server]) -> None:
    with ThreadPoolExecutor(thread_name_prefix="poolkit-embedded") as threads:
        for done in [threads.submit(act, server) for server in servers]:
            done.result()
