"""PoolKit: the pools of a program, opened, watched and closed together."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from ..core import checks
from ..core.deadline import Deadline
from ..core.errors import ConfigError, PoolClosed
from ..core.events import Listener
from ..core.housekeeper import housekeeper
from ..core.lease import Holder
from ..core.lifecycle import Lifecycle
from ..core.stats import PoolStats
from .backends import BACKENDS, AnyPool
from .health import KitHealth, Status
from .recent import RecentEvent, RecentEvents
from .signals import CloseOnSigterm
from .sources import Settings, read_environment, read_file
from .watching import Companion, Companions, Watching, WatchSettings

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..firestore.pool import FirestorePool
    from ..http.pool import HttpPool
    from ..postgres.pool import PostgresPool
    from ..redis.pool import RedisPool

logger = logging.getLogger("poolkit")


class PoolKit:
    """The pools of a program in one object.

    Each of *postgres*, *redis*, *http* and *firestore* is a pool, a config, an address, or a dict of fields;
    those left out are not there, but for http, which needs no address (``http=False`` leaves it out). Opens
    itself on first use of a pool, in each process; ``with`` opens and closes it.

    *instances* of the program run at the same time: a warning is logged if together they may open more
    connections than the PostgreSQL server admits. Closing takes *drain_timeout* seconds at most, over all pools;
    *close_on_sigterm* does that when the process is told to end. *watch* says how the pools are watched, None
    for not at all. The *listeners* hear of all pools, but for those that were made before the kit.
    """

    def __init__(
        self,
        *,
        postgres: PostgresPool | Any = None,
        redis: RedisPool | Any = None,
        http: HttpPool | Any = None,
        firestore: FirestorePool | Any = None,
        name: str = "poolkit",
        instances: int = 1,
        drain_timeout: float = 5.0,
        close_on_sigterm: bool = False,
        watch: WatchSettings | None = WatchSettings(),  # noqa: B008 - frozen
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.name = checks.text("name", name)
        self.drain_timeout = checks.seconds("drain_timeout", drain_timeout)
        checks.count("instances", instances, at_least=1)
        self.settings: Settings | None = None
        """Where the settings came from, of a kit made by one of the ``from_`` methods."""
        given = {"postgres": postgres, "redis": redis, "http": http, "firestore": firestore}
        if http is None or http is True:
            given["http"] = {}
        self._recent = RecentEvents()
        self._pools: dict[str, AnyPool] = {
            backend: BACKENDS[backend].pool(what, (*listeners, self._recent))
            for backend, what in given.items()
            if what is not None and what is not False
        }
        self._watch = watch
        self._instances = instances
        self._companions = Companions()
        self._lifecycle: Lifecycle[Watching] = Lifecycle(
            self.name, self._start, opened=Watching.start
        )
        self._sigterm = (
            CloseOnSigterm(self) if checks.flag("close_on_sigterm", close_on_sigterm) else None
        )
        for pool in self._pools.values():
            pool.when_opened(self._watch_pools)

    # -- build ---------------------------------------------------------------------------------------

    @classmethod
    def for_environment(cls, preset: str, **settings: Any) -> Self:
        """Return a kit with the values of *preset*: ``development``, ``staging``, ``production``, ``high_scale``.

        ``postgres=``, ``redis=``, ``http=`` and ``firestore=`` are addresses or dicts of fields; single fields
        are ``postgres_max_size=30`` and so on. The rest is as in :class:`PoolKit`.
        """
        found = Settings()
        found.use_preset(preset)
        return cls._of(found, settings)

    @classmethod
    def from_env(cls, environ: Mapping[str, object] | None = None, **settings: Any) -> Self:
        """Return a kit with what variables like ``POOLKIT_POSTGRES_MAX_SIZE`` say; ``POOLKIT_ENV`` is the preset.

        A pool is there if its address is set; http always. The values of an *environ* need not be text.
        *settings* are as in :meth:`for_environment`, and win.
        """
        found = Settings()
        read_environment(found, os.environ if environ is None else environ)
        return cls._of(found, settings)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **settings: Any) -> Self:
        """Return a kit with what a file says, TOML or INI.

        It has a section for each backend, and ``preset`` before them (INI: in ``[poolkit]``). *settings* are as in
        :meth:`for_environment`, and win.
        """
        found = Settings()
        read_file(found, Path(path))
        return cls._of(found, settings)

    @classmethod
    def _of(cls, found: Settings, settings: dict[str, Any]) -> Self:
        """Return the kit of what was *found*, overridden by *settings*."""
        own: dict[str, Any] = {}
        pools: dict[str, Any] = {}
        for name, value in settings.items():
            backend, _, field = name.partition("_")
            if backend not in BACKENDS:
                own[name] = value
            elif field:
                found.use_value(backend, field, value, f"{name}=")
            elif isinstance(value, Mapping):
                for item, part in value.items():
                    found.use_value(backend, item, part, f"{backend}=")
            elif isinstance(value, str):
                found.use_value(backend, BACKENDS[backend].address, value, f"{backend}=")
            elif value is not None and value is not True:
                pools[backend] = value
        for backend in BACKENDS:
            if backend not in pools and found.is_configured(backend):
                pools[backend] = found.config(backend)
        kit = cls(**pools, **own)
        kit.settings = found
        return kit

    def again(self) -> Self:
        """Return a new kit with the same settings: what was closed stays closed."""
        pools: dict[str, Any] = {
            backend: dataclasses.replace(
                pool.config,
                listeners=[each for each in pool.config.listeners if each is not self._recent],
            )
            for backend, pool in self._pools.items()
        }
        kit = type(self)(
            **{"http": False, **pools},
            name=self.name,
            instances=self._instances,
            drain_timeout=self.drain_timeout,
            close_on_sigterm=self._sigterm is not None,
            watch=self._watch,
        )
        kit.settings = self.settings
        return kit

    # -- open and use --------------------------------------------------------------------------------

    def open(self) -> Self:
        """Open the pools, in order; if one can't be, those before it are closed, and its error is raised."""
        if self._sigterm is not None:
            self._sigterm.install()
        opened: list[AnyPool] = []
        try:
            for pool in self._pools.values():
                opened.append(pool)
                pool.open()
            self._lifecycle.open()
        except BaseException:
            self._close(opened, Deadline.after(0.0))
            raise
        return self

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def postgres(self) -> PostgresPool:
        """The PostgreSQL pool. Raises :class:`~poolkit.ConfigError` if there is none; so do the other three."""
        return self._get("postgres")  # type: ignore[return-value]

    @property
    def redis(self) -> RedisPool:
        """The Redis pool."""
        return self._get("redis")  # type: ignore[return-value]

    @property
    def http(self) -> HttpPool:
        """The HTTP pool."""
        return self._get("http")  # type: ignore[return-value]

    @property
    def firestore(self) -> FirestorePool:
        """The Firestore pool."""
        return self._get("firestore")  # type: ignore[return-value]

    # -- inspect -------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{backend} {stats.in_use}/{stats.max_size} in use, {stats.waiting} waiting"
            for backend, stats in self.stats().items()
        )
        return f"<PoolKit {self.name!r} {self._lifecycle.state}: {shown or 'no pools'}>"

    @property
    def state(self) -> str:
        """``new``, ``open`` or ``closed``; in a forked child, ``new`` until it is used there."""
        return self._lifecycle.state

    @property
    def pools(self) -> Mapping[str, AnyPool]:
        """The pools that there are, by backend."""
        return MappingProxyType(self._pools)

    def stats(self) -> dict[str, PoolStats]:
        """Return the state and counters of each pool."""
        return {backend: pool.stats() for backend, pool in self._pools.items()}

    def leases(self) -> dict[str, list[Holder]]:
        """Return who holds connections of each pool, the longest first."""
        return {backend: pool.leases() for backend, pool in self._pools.items()}

    def health(self, *, now: bool = False) -> KitHealth:
        """Return what the last checks of the pools found; check *now* if asked, or if there were none yet."""
        watching = self._lifecycle.open()
        last = watching.health.last()
        return watching.health.check() if now or len(last.pools) < len(self._pools) else last

    def last_health(self) -> KitHealth:
        """Return what the last checks found, as far as there were any. Asks nobody, and opens nothing."""
        watching = self._lifecycle.latest
        if watching is not None:
            return watching.health.last()
        return KitHealth(status=Status.HEALTHY, live=True, ready=True, pools={})

    def events(self) -> list[RecentEvent]:
        """Return the last rare events of its pools in this process, the newest first: two hundred at most.

        Opened, closed, lost, back, timed out, failed, leaked, another health: not what happens at each request, nor
        errors of drivers that are the caller's own. Of a pool that was made before the kit only what the kit finds: its
        health, and what is held for too long.
        """
        return self._recent.all()

    def leak_report(self) -> str:
        """Return, for a human, who holds connections now, and which of them for too long."""
        return self._lifecycle.open().leaks.report()

    def accompany(self, companion: Companion) -> None:
        """Have *companion* started as the kit opens, now if it is open, in each process, and stopped as it closes.

        The kit does not keep it: it goes along for as long as somebody else has it.
        """
        self._companions.add(companion)
        watching = self._lifecycle.running
        if watching is not None:
            watching.accompany(companion)

    # -- close ---------------------------------------------------------------------------------------

    def close(self, timeout: float | None = None) -> None:
        """Close the pools, the last one first, within *timeout* seconds in all, by default ``drain_timeout``.

        Who still holds a connection then is logged. Idempotent.
        """
        seconds = self.drain_timeout if timeout is None else checks.seconds("timeout", timeout)
        deadline = Deadline.after(seconds)
        if self._sigterm is not None:
            self._sigterm.remove()
        self._lifecycle.close(deadline)
        self._close(list(self._pools.values()), deadline)
        housekeeper().join(1.0)

    def _close(self, pools: list[AnyPool], deadline: Deadline) -> None:
        for pool in reversed(pools):
            try:
                pool.close(max(0.0, deadline.remaining()))
            except Exception:
                logger.exception("pool %r could not be closed", pool.name)

    def _watch_pools(self) -> None:
        """Begin to watch in this process, if that is not done yet."""
        with suppress(PoolClosed):  # a check that was under way opened a pool
            self._lifecycle.open()

    def _start(self) -> Watching:
        return Watching(
            self._pools,
            self._watch,
            instances=self._instances,
            recent=self._recent,
            companions=self._companions,
        )

    def _get(self, backend: str) -> AnyPool:
        pool = self._pools.get(backend)
        if pool is None:
            known = BACKENDS[backend]
            ways = " or ".join(
                f"POOLKIT_{backend.upper()}_{field.upper()}" for field in known.locators
            )
            raise ConfigError(
                f"this kit has no {backend}: give {backend}=…"
                + (f", or set {ways}" if ways else "")
            )
        return pool
