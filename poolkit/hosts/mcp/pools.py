"""The pools of an MCP server: open while it serves, and within reach of its tools."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar

from ...core import checks
from ...core.errors import ConfigError
from ...kit.backends import AnyPool
from ...kit.kit import PoolKit
from . import calls
from .sharing import SharedKit
from .threads import Threads

if TYPE_CHECKING:
    from ...firestore.pool import FirestorePool
    from ...http.pool import HttpPool
    from ...postgres.pool import PostgresPool
    from ...redis.pool import RedisPool

DEADLINE = 30.0
"""Seconds that a call may take: half of what most clients wait."""

P = ParamSpec("P")
ResultT = TypeVar("ResultT")


class Bounding(Protocol):
    """What bounds a function: a decorator that keeps its signature."""

    @overload
    def __call__(
        self, fn: Callable[P, Coroutine[Any, Any, ResultT]], /
    ) -> Callable[P, Coroutine[Any, Any, ResultT]]: ...

    @overload
    def __call__(
        self, fn: Callable[P, ResultT], /
    ) -> Callable[P, Coroutine[Any, Any, ResultT]]: ...


class Pools:
    """The pools of an MCP server, and what its tools need to use them.

    *kit* is a kit, or a function that makes one. It is open while there is a :meth:`lifespan`, one at least: over HTTP
    and stdio, while the process serves; in memory, while there is a client. The last one to end closes it; one that
    begins after that has a new kit with the same settings. So tools reach it through the pools.

    *deadline* is the seconds that a call may take. Tools that block run in worker threads, *threads* at most at a time.
    """

    def __init__(
        self,
        kit: PoolKit | Callable[[], PoolKit],
        *,
        deadline: float = DEADLINE,
        threads: int | None = None,
    ) -> None:
        if not isinstance(kit, PoolKit) and not callable(kit):
            raise ConfigError(
                f"kit must be a PoolKit, or a function that makes one, not {checks.kind(kit)}"
            )
        self.deadline = checks.seconds("deadline", deadline, zero=False, forever=True)
        self._most = None if threads is None else checks.count("threads", threads, at_least=1)
        self._threads: RunVar[Threads] = RunVar("poolkit_threads")
        self._shared = SharedKit(kit)

    # -- open ----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lifespan(self, server: object = None) -> AsyncIterator[PoolKit]:  # noqa: ARG002
        """Have the kit open inside: ``MCPServer("shop", lifespan=pools.lifespan)``, or within a lifespan of one's own.

        Opening and closing block, so both are done in a thread. Raises what opening raises.
        """
        self._shared.join()
        try:
            # One that is cancelled leaves at once; what its thread opens nevertheless is closed again.
            yield await _aside(self._shared.open, abandon_on_cancel=True)
        finally:
            with anyio.CancelScope(shield=True):  # bounded by the kit's drain_timeout
                await _aside(self._shared.leave)
            threads = self._threads.get(None)
            if threads is not None:
                threads.dismiss()

    # -- use -----------------------------------------------------------------------------------------

    @property
    def kit(self) -> PoolKit:
        """The kit. Raises :class:`~poolkit.ConfigError` while there is none."""
        kit = self._shared.kit
        if kit is None:
            raise ConfigError(
                "there is no kit before the server serves; in a test, use it `async with pools.lifespan():`"
            )
        return kit

    @property
    def postgres(self) -> PostgresPool:
        """The PostgreSQL pool. Raises :class:`~poolkit.ConfigError` if there is none; so do the other three."""
        return self.kit.postgres

    @property
    def redis(self) -> RedisPool:
        """The Redis pool."""
        return self.kit.redis

    @property
    def http(self) -> HttpPool:
        """The HTTP pool."""
        return self.kit.http

    @property
    def firestore(self) -> FirestorePool:
        """The Firestore pool."""
        return self.kit.firestore

    @overload
    def bounded(
        self, fn: Callable[P, Coroutine[Any, Any, ResultT]], /
    ) -> Callable[P, Coroutine[Any, Any, ResultT]]: ...

    @overload
    def bounded(self, fn: Callable[P, ResultT], /) -> Callable[P, Coroutine[Any, Any, ResultT]]: ...

    @overload
    def bounded(self, /, *, deadline: float | None = None, name: str | None = None) -> Bounding: ...

    def bounded(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        deadline: float | None = None,
        name: str | None = None,
    ) -> Any:
        """Bound a tool, a resource or a prompt, below the server's own decorator: ``@pools.bounded(deadline=2)``.

        A :class:`PooledServer` does so with all its tools; there, it is for another *deadline* than that of the pools.
        What it returns is a coroutine function with the same signature; *name* is what it is called in logs. It raises
        :class:`CallFailed` for what the pools could not do.
        """
        seconds = self.deadline
        if deadline is not None:
            seconds = checks.seconds("deadline", deadline, zero=False, forever=True)
        if fn is None:
            return functools.partial(self._bound, seconds=seconds, name=name)
        return self._bound(fn, seconds=seconds, name=name)

    # -- inspect -------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<Pools of {self._shared.kit!r}, {self.deadline:g} s a call>"

    @property
    def threads(self) -> Threads:
        """The worker threads for calls, in the event loop that runs here.

        Raises :class:`~poolkit.ConfigError` where none does, as in a tool that is not a coroutine function.
        """
        try:
            threads = self._threads.get(None)
        except RuntimeError as error:
            raise ConfigError(
                "each event loop has its own threads, and none runs here; "
                "ask in a coroutine, or with anyio.from_thread.run_sync"
            ) from error
        if threads is None:
            threads = Threads(self._most or threads_for(self.in_use))
            self._threads.set(threads)
        return threads

    @property
    def in_use(self) -> Iterable[AnyPool]:
        """The pools of the kit that there is now."""
        kit = self._shared.kit
        return () if kit is None else kit.pools.values()

    # -- private -------------------------------------------------------------------------------------

    def _bound(self, fn: Callable[..., Any], *, seconds: float, name: str | None) -> Any:
        if not callable(fn):
            raise ConfigError(f"bounded() takes a function, not {checks.kind(fn)}")
        if not hasattr(fn, "__name__"):  # MCPServer can't make a tool of it either
            raise ConfigError(
                f"bounded() takes a function that has a name, not {checks.kind(fn)}; "
                "call it in a function made with def"
            )
        return calls.bounded(fn, name=name or fn.__name__, seconds=seconds, within=self)


def threads_for(pools: Iterable[AnyPool]) -> int:
    """Return how many worker threads serve *pools* best; see "How many threads" in the documentation."""
    most: int = max((pool.config.max_size for pool in pools), default=0)
    return max(40, most + 10)


async def _aside(call: Callable[[], ResultT], *, abandon_on_cancel: bool = False) -> ResultT:
    """Do what blocks in a thread of its own, whoever has the others."""
    return await to_thread.run_sync(
        call, limiter=anyio.CapacityLimiter(1), abandon_on_cancel=abandon_on_cancel
    )
