"""One psycopg_pool.ConnectionPool, and what it has proven about the server.

A generation lives until the server turns out to be unreachable. Then it is closed as a whole, which lets
go of everybody who waits in it, and a new one is tried; nobody walks through dead connections one by one.
Its first connection is made alone: until one has succeeded, the others wait for its outcome, so that a wrong
password is tried once and a server that is down is knocked at once.

psycopg_pool keeps what is idle, and decides what is opened, too old or too many. What is in constant use stays
here between two leases (``_hot``, the last used first), for a second at most: it costs a fraction of a way
through psycopg_pool's queue and back.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from math import ceil, inf
from time import monotonic, perf_counter
from typing import Any, cast

import psycopg
import psycopg_pool
from psycopg import pq
from psycopg.conninfo import make_conninfo

from ..core.deadline import Deadline, ambient
from ..core.events import Connected, Events, Removed
from ..core.gate import Waited
from ..core.housekeeper import housekeeper
from ..core.lease import Lease, LeaseBook
from ..core.stats import Tally
from ..core.verdict import Phase
from .cleaning import clean
from .config import PostgresConfig
from .connection import PooledConnection
from .driver_pool import DriverPool
from .failures import classify

logger = logging.getLogger("poolkit.postgres")

FRESH = 1.0
"""Seconds since its last use within which a connection is lent unchecked."""

OK = pq.ConnStatus.OK

PREPARE_THRESHOLD = 5
"""Uses of a statement on one connection after which it is prepared; psycopg's default."""


class Unreachable(Exception):
    """This generation can't reach the server. ``__cause__`` is the driver's error."""


class Generation:
    """The connections that were made to the server since it was last found unreachable."""

    def __init__(
        self,
        config: PostgresConfig,
        sizes: tuple[int, int],
        *,
        connect_timeout: int | None,
        book: LeaseBook[PooledConnection],
        tally: Tally,
        events: Events,
        proven: Callable[[Generation], None],
        failed: Callable[[Generation, BaseException, bool], None],
    ) -> None:
        self.name = config.name
        self.prepare_threshold = None if config.pgbouncer else PREPARE_THRESHOLD
        self.patience = config.patience
        self.failure: BaseException | None = None
        self.wants_writes = config.address.wants_writes
        self.speaks_utf8 = False
        """Whether its connections exchange text as UTF-8; False until there is one."""
        self._config = config
        self._min_size = sizes[0]
        self._book = book
        self._tally = tally
        self._events = events
        self._on_proven = proven
        self._on_failed = failed
        self._first = threading.Lock()
        self._proven = False
        self._suspect_since = 0.0
        self._hot: deque[PooledConnection] = deque()
        self._hot_since = 0.0
        self._lock = threading.RLock()  # a collection in here may come back
        # Guarded by _lock:
        self._in_queue = 0
        self._astray_since = 0.0
        self._alive = 0
        # Also for a forked child, which must not touch these sockets:
        self._connections: weakref.WeakSet[PooledConnection] = weakref.WeakSet()
        self._pool = DriverPool(
            make_conninfo("", **config.address.parameters),
            # psycopg_pool only calls connect() of it, with the arguments below.
            connection_class=cast("Any", self),
            kwargs=_connect_options(config, connect_timeout),
            min_size=sizes[0],
            max_size=sizes[1],
            open=False,
            name=config.name,
            timeout=config.acquire_timeout,
            max_lifetime=config.max_lifetime,
            max_idle=config.idle_timeout,
            # Two quick attempts, then it gives up: when to try again is poolkit's decision.
            reconnect_timeout=0.0,
        )

    def __repr__(self) -> str:
        state = "failed" if self.failure else "proven" if self._proven else "unproven"
        return f"<Generation {self.name!r} {state}, {self._alive} connections>"

    def open(self) -> None:
        """Begin to connect, in the background."""
        self._pool.open()

    def close(self, timeout: float = 0.0) -> None:
        """Close what is idle, let go of who waits, and close what is lent when it comes back."""
        self._pool.ending = True
        self._hot_since = inf
        self._cool_down()
        # psycopg_pool gives that long to each of its threads, one after the other: workers and scheduler.
        self._pool.close(timeout / (self._pool.num_workers + 1))
        self._pool.bring_back()

    def take(self, deadline: Deadline, patience: float) -> PooledConnection:
        """Return a live connection; see :class:`poolkit.core.lending.Store`."""
        try:
            conn = self._hot.pop()
        except IndexError:
            return self._take_slowly(None, deadline, patience)
        if self._is_fresh(conn):
            return conn
        return self._take_slowly(conn, deadline, patience)

    def put(self, conn: PooledConnection) -> None:
        """Take back a connection: clean it and keep it, or replace it."""
        if conn.pgconn.status != OK:
            self._replace(conn, "lost while lent")
        elif not clean(conn):
            self.discard(conn)
        elif conn.taken_at < self._hot_since:
            conn.last_used = monotonic()
            conn.rest()
            self._pool.give_back(conn)
        else:
            conn.last_used = monotonic()
            self._hot.append(conn)
            # Whoever queues in psycopg_pool says so first and looks here then: one of us sees the other.
            if self._in_queue or conn.taken_at < self._hot_since:
                self._cool_down()

    def discard(self, conn: PooledConnection) -> None:
        """Close a connection that nobody must use again; psycopg_pool opens another one."""
        conn.retire()
        self._pool.give_back(conn)

    def sweep(self, *, ask: bool = False) -> None:
        """Look at each idle connection once; replace what is dead or too old.

        Without a round trip, unless it is to *ask* each whether it answers: that is a caller's, all else the
        housekeeper's.
        """
        if not ask:
            self._replace_missed()
        self._hot_since = monotonic()
        self._cool_down()
        self._pool.bring_back()
        stats = self._pool.get_stats()
        for _ in range(stats.get("pool_available", 0)):
            try:
                conn = self._pool.getconn(timeout=0.001)
            except (psycopg_pool.PoolTimeout, psycopg_pool.PoolClosed):
                return
            limit = Deadline.after(FRESH).earlier(ambient())
            if conn.is_dead() or (ask and not conn.answers(limit)):
                self._replace(conn, "found dead while idle")
            else:
                self._pool.putconn(conn)  # psycopg_pool replaces it if it has reached its lifetime
        if self._proven and stats.get("pool_size", 0) < self._min_size:
            # psycopg_pool gave up on some; growing from what there is makes it try anew.
            self._pool.resize(stats.get("pool_size", 0), self._pool.max_size)
            self._pool.resize(self._min_size, self._pool.max_size)

    def suspect(self) -> None:
        """From now on, check each connection that was last used before now."""
        self._suspect_since = monotonic()

    def leads_astray(self, conn: PooledConnection) -> None:
        """Replace all connections that were opened when *conn* was: their server takes no writes any more."""
        with self._lock:
            if conn.born <= self._astray_since:
                return  # somebody has seen to it, and those that are opened now may be good
            self._astray_since = monotonic()
        logger.warning(
            "pool %r: the server takes no writes any more; its connections are replaced", self.name
        )
        self.drain()

    def resize(self, min_size: int, max_size: int) -> None:
        """Change the sizes of the pool."""
        self._min_size = min_size
        self._pool.resize(min_size, max_size)

    def drain(self) -> None:
        """Replace all connections, those that are lent when they come back."""
        self._hot_since = monotonic()
        self._cool_down()
        self._pool.drain()

    def abandon(self) -> None:
        """In a forked child: never touch the parent's sockets."""
        self._pool.abandon()
        for conn in list(self._connections):
            conn.disown()

    # -- what the connections and psycopg_pool tell ----------------------------------------------

    def connect(self, conninfo: str, **options: Any) -> PooledConnection:
        """Open a connection; psycopg_pool calls this in its workers."""
        if self._proven:
            conn, seconds = self._connect(conninfo, options)
        else:
            with self._first:
                conn, seconds = self._connect(conninfo, options)
        self._events.tell(Connected, seconds=seconds)
        return conn

    def connection_closed(self) -> None:
        """Count a connection out. Each calls this once."""
        with self._lock:
            self._alive -= 1
        self._tally.mine().closed += 1
        self._events.tell(Removed, reason="closed")

    def forgotten(self, lease: Lease[PooledConnection], conn: PooledConnection) -> None:
        """Take note of a connection that was collected while lent. Called by a finalizer: no locks."""
        self._book.forgotten.append((lease, conn))

    def misses(self, conn: PooledConnection) -> bool:
        """Whether *conn*, which was collected, is missing in psycopg_pool. Called by a finalizer: no locks."""
        return self._pool.misses(conn)

    # -- private -----------------------------------------------------------------------------------

    def _is_fresh(self, conn: PooledConnection) -> bool:
        """Whether *conn* was used so lately that it can be lent unchecked."""
        used = conn.last_used
        return used > self._suspect_since and monotonic() - used < FRESH

    def _take_slowly(
        self, conn: PooledConnection | None, deadline: Deadline, patience: float
    ) -> PooledConnection:
        """Return *conn* if it is alive, else the first one that is. Dead ones are replaced on the way."""
        until = Deadline.after(patience).earlier(deadline)
        while True:
            if conn is None:
                conn = self._take_from_driver(until, deadline)
                if self._is_fresh(conn):
                    return conn
            dead = conn.is_dead()
            if not dead and conn.answers(until):
                return conn
            if not dead and deadline.expired:
                self.discard(conn)  # it may have had no time: that says nothing of the others
                raise Waited(deadline.budget)
            self._replace(conn, "found dead when it was to be lent")
            conn = None

    def _take_from_driver(self, until: Deadline, deadline: Deadline) -> PooledConnection:
        """Take a connection from psycopg_pool, or wait there until one is open."""
        if self._pool.missed:
            housekeeper().soon(self._replace_missed)
        if self._pool.left:  # who laid it down may have been interrupted before he told
            housekeeper().soon(self._pool.bring_back)
        queued = False
        try:
            with self._lock:
                self._in_queue += 1
                queued = True
            self._cool_down()
            conn = self._pool.take(until)
        except psycopg_pool.PoolClosed:
            raise Unreachable from self.failure
        except psycopg_pool.PoolTimeout:
            if not self._proven and not deadline.expired:
                raise Unreachable from self.failure or psycopg.errors.ConnectionTimeout(
                    "the server does not answer"
                )
            raise Waited(until.budget) from None
        finally:
            if queued:
                with self._lock:
                    self._in_queue -= 1
        conn.taken_at = monotonic()
        return conn

    def _cool_down(self) -> None:
        """Give psycopg_pool back what is between two leases."""
        while self._hot:
            try:
                conn = self._hot.popleft()
            except IndexError:
                return
            conn.rest()
            self._pool.give_back(conn)

    def _replace_missed(self) -> None:
        """Have psycopg_pool replace what was collected on its way."""
        while self._pool.missed:
            self._replace(self._pool.recover(), "lost by a thread that was interrupted")

    def _connect(self, conninfo: str, options: dict[str, Any]) -> tuple[PooledConnection, float]:
        if self.failure is not None:
            raise psycopg.OperationalError("given up with this generation") from self.failure
        began = perf_counter()
        try:
            conn = PooledConnection.connect(conninfo, **options)
        except Exception as error:
            self._connect_failed(error)
            raise
        seconds = perf_counter() - began
        self.speaks_utf8 = conn.info.encoding == "utf-8"
        conn.generation = self
        conn.patience = self.patience
        conn.last_used = conn.born = monotonic()
        with self._lock:
            self._connections.add(conn)
            self._alive += 1
        shard = self._tally.mine()
        shard.created += 1
        shard.create.add(seconds)
        if not self._proven:
            self._proven = True
            self._on_proven(self)
        return conn, seconds

    def _connect_failed(self, error: Exception) -> None:
        """Decide whether the server is unreachable, or only this one connection could not be had."""
        self.suspect()
        # A connection may be lent to somebody who has not noticed yet that it is dead.
        with self._lock:
            connections = list(self._connections)
        reached = any(not conn.hung_up() for conn in connections)
        with self._lock:
            give_up = not reached and self.failure is None
            if give_up:
                self.failure = error
        if give_up:
            self._on_failed(self, error, classify(error, Phase.CONNECTING).hopeless)

    def _replace(self, conn: PooledConnection, reason: str) -> None:
        """Close a connection that was found dead; the others of its age are suspects now."""
        logger.info("pool %r: a connection was %s and is replaced", self.name, reason)
        self.suspect()
        conn.retire()
        self._pool.give_back(conn)


def _connect_options(config: PostgresConfig, connect_timeout: int | None) -> dict[str, Any]:
    """Return what poolkit adds to the conninfo; *connect_timeout* in seconds overrides it."""
    given = config.address.parameters
    options: dict[str, Any] = {
        "autocommit": True,
        "prepare_threshold": None if config.pgbouncer else PREPARE_THRESHOLD,
    }
    if connect_timeout is not None or "connect_timeout" not in given:
        options["connect_timeout"] = connect_timeout or ceil(config.acquire_timeout)
    if "fallback_application_name" not in given:
        options["fallback_application_name"] = "poolkit"
    if "keepalives_idle" not in given:
        options.update(keepalives_idle=30, keepalives_interval=10, keepalives_count=3)
    said = given.get("options", "")
    if config.statement_timeout and not config.pgbouncer and "statement_timeout" not in said:
        limit = max(1, round(config.statement_timeout * 1000))
        options["options"] = f"{said} -c statement_timeout={limit}".strip()
    return options
