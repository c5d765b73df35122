"""Where connections come from: the present generation, or the news that the server can't be reached."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from ..core.deadline import Deadline
from ..core.errors import BackendUnavailable, PoolClosed
from ..core.events import Events, Failed
from ..core.housekeeper import housekeeper
from ..core.lease import LeaseBook
from ..core.outage import Outage
from ..core.stats import Tally
from .config import PostgresConfig
from .connection import PooledConnection
from .generation import Generation, Unreachable

PROBE_CONNECT_TIMEOUT = 2
"""Seconds that a probe may take to connect: short, so that a new packet is sent while the server comes back."""

JOIN_TIMEOUT = 5.0
"""Seconds at most that closing waits for psycopg_pool's threads."""


class Supply:
    """Keeps one generation of connections, and replaces it when the server went away and came back."""

    def __init__(
        self,
        config: PostgresConfig,
        *,
        book: LeaseBook[PooledConnection],
        tally: Tally,
        events: Events,
    ) -> None:
        self.name = config.name
        self.outage = Outage(
            config.name,
            housekeeper(),
            events=events,
            probe=self._probe,
            explain=config.address.explain,
        )
        self.turn_away: Callable[[Callable[[], BaseException]], None] = _nobody_waits
        """Fails those who wait for a connection; set by whoever lends."""
        self._config = config
        self._book = book
        self._tally = tally
        self._events = events
        self._generations: weakref.WeakSet[Generation] = weakref.WeakSet()
        self._lock = threading.RLock()  # a collection in here may come back
        # Guarded by _lock:
        self._sizes = (config.min_size, config.max_size)
        self._candidate: Generation | None = None
        self._closers: list[threading.Thread] = []
        self._closed = False
        self._current = self._new_generation(self._sizes, None)

    def open(self) -> None:
        """Begin to connect, in the background."""
        self._current.open()

    @property
    def speaks_utf8(self) -> bool:
        """Whether the connections are known to exchange text as UTF-8."""
        return self._current.speaks_utf8

    def take(self, deadline: Deadline, patience: float) -> PooledConnection:
        """Return a live connection; see :class:`poolkit.core.lending.Store`."""
        while True:
            generation = self._current
            try:
                return generation.take(deadline, patience)
            except Unreachable as unreachable:
                if self._closed:
                    raise PoolClosed(f"pool {self.name!r} is closed; make a new one") from None
                if self.outage.cause is not None:
                    error = self.outage.error()
                    raise error from error.__cause__
                if self._current is generation:
                    cause = unreachable.__cause__
                    raise BackendUnavailable(
                        f"pool {self.name!r}: no connection could be opened: {cause}"
                    ) from cause

    def put(self, conn: PooledConnection) -> None:
        """Take back a connection, to the generation that it came from."""
        conn.generation.put(conn)

    def discard(self, conn: PooledConnection) -> None:
        """Take back a connection that nobody must use again."""
        conn.generation.discard(conn)

    def sweep(self) -> None:
        """Look at the idle connections, and replace what is dead or too old. No round trips."""
        self._current.sweep()

    def check(self) -> None:
        """Ask each idle connection whether it is alive, and replace those that are not."""
        self._current.sweep(ask=True)

    def resize(self, min_size: int, max_size: int) -> None:
        """Change how many connections are kept, and open at most."""
        with self._lock:
            self._sizes = (min_size, max_size)
            generation = self._current
        generation.resize(min_size, max_size)

    def drain(self) -> None:
        """Replace all connections, those that are lent when they come back."""
        self._current.drain()

    def stop(self, deadline: Deadline) -> None:
        """Close everything that is idle, and what is lent when it comes back."""
        self.outage.end()
        with self._lock:
            self._closed = True
            generations = [self._current]
            if self._candidate is not None:
                generations.append(self._candidate)
            closers = self._closers
        for generation in generations:
            generation.close(min(max(0.1, deadline.remaining()), JOIN_TIMEOUT))
        for closer in closers:
            closer.join(min(max(0.0, deadline.remaining()), JOIN_TIMEOUT))

    def abandon(self) -> None:
        """In a forked child: never touch the parent's sockets."""
        for generation in list(self._generations):
            generation.abandon()

    # -- private -----------------------------------------------------------------------------------

    def _new_generation(self, sizes: tuple[int, int], connect_timeout: int | None) -> Generation:
        generation = Generation(
            self._config,
            sizes,
            connect_timeout=connect_timeout,
            book=self._book,
            tally=self._tally,
            events=self._events,
            proven=self._proven,
            failed=self._failed,
        )
        self._generations.add(generation)
        return generation

    def _probe(self) -> None:
        """Try a new generation. Its first connection, made in the background, is the probe."""
        with self._lock:
            if self._closed or self._candidate is not None:
                return
            min_size, max_size = self._sizes
            self._candidate = self._new_generation(
                (max(1, min_size), max_size), PROBE_CONNECT_TIMEOUT
            )
            candidate = self._candidate
        try:
            candidate.open()
        except Exception as error:  # noqa: BLE001 - no thread to be had, say: then the next probe tries
            self._failed(candidate, error, False)

    def _proven(self, generation: Generation) -> None:
        """Use *generation* from now on: it has reached the server."""
        with self._lock:
            if generation is self._candidate:
                self._candidate = None
                self._current = generation
            elif generation is not self._current:
                return
            sizes = self._sizes
            tell = self.outage.up() if generation.failure is None else None
        generation.resize(*sizes)
        if tell is not None:
            tell()

    def _failed(self, generation: Generation, cause: BaseException, hopeless: bool) -> None:
        """Give up *generation*, and with it everybody who waits for one of its connections."""
        # Closing joins the generation's threads, and this is one of them.
        closer = threading.Thread(
            target=generation.close, args=(0.5,), name=f"poolkit-close-{self.name}", daemon=True
        )
        with self._lock:
            if generation is self._candidate:
                self._candidate = None
            tell = self.outage.down(
                cause, hopeless=hopeless
            )  # only now may the next probe be planned
            self._closers = [thread for thread in self._closers if thread.is_alive()]
            self._closers.append(closer)
        closer.start()
        self.turn_away(self.outage.error)
        self._events.tell(Failed, error=cause)
        tell()


def _nobody_waits(error: Callable[[], BaseException]) -> None:
    """Do nothing: what is called until somebody lends these connections."""
