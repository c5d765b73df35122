"""The four backends, by name. Their modules, and so their drivers, are imported when they are asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..core import checks
from ..core.config import PoolConfig
from ..core.errors import ConfigError
from ..core.events import Listener
from ..core.pool import Pool

AnyPool = Pool[Any, Any]


@dataclass(frozen=True)
class Backend:
    """One backend: ``address`` is the field of its config that an address alone stands for."""

    name: str
    pool_name: str
    config_name: str
    address: str
    locators: tuple[str, ...]
    """Fields of which one has to be set, to say where the backend is; none if there is no need."""

    @property
    def pool_type(self) -> Callable[[Any], AnyPool]:
        """The class of its pool, which takes an address or a config."""
        found: Callable[[Any], AnyPool] = getattr(
            import_module(f"poolkit.{self.name}.pool"), self.pool_name
        )
        return found

    @property
    def config_type(self) -> type[PoolConfig]:
        """The class of its config."""
        found: type[PoolConfig] = getattr(
            import_module(f"poolkit.{self.name}.config"), self.config_name
        )
        return found

    def pool(self, given: object, listeners: Sequence[Listener] = ()) -> AnyPool:
        """Return a pool of what was *given*: a pool, a config, an address, or a dict of fields.

        The *listeners* hear of it too, unless it is a pool already.
        """
        if isinstance(given, Pool):
            if not isinstance(given, self.pool_type):  # type: ignore[arg-type]
                raise ConfigError(
                    f"{self.name} must be a {self.pool_name}, not {checks.kind(given)}"
                )
            return given
        if isinstance(given, str):
            given = {self.address: given}
        if isinstance(given, Mapping):
            given = checks.build(self.config_type, given)
        if isinstance(given, self.config_type):
            heard = (*given.listeners, *listeners)
            return self.pool_type(
                dataclasses.replace(given, listeners=heard) if listeners else given
            )
        raise ConfigError(
            f"{self.name} must be a {self.pool_name}, a {self.config_name}, an address, or a dict of fields, "
            f"not {checks.kind(given)}"
        )


BACKENDS: Mapping[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend("postgres", "PostgresPool", "PostgresConfig", "conninfo", ("conninfo",)),
        Backend("redis", "RedisPool", "RedisConfig", "url", ("url", "nodes", "sentinels")),
        Backend("http", "HttpPool", "HttpConfig", "base_url", ()),
        Backend(
            "firestore",
            "FirestorePool",
            "FirestoreConfig",
            "project",
            ("project", "credentials_file"),
        ),
    )
}
"""In the order in which a kit opens them; it closes them in reverse."""
