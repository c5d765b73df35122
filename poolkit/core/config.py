"""The settings that all pools share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar

from . import checks
from .errors import ConfigError
from .events import Listener
from .retry import RetryPolicy

ConfigT = TypeVar("ConfigT", bound="PoolConfig")


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Settings of any pool. Times are in seconds.

    ``name``
        for logs, errors and metrics; by default from the address.
    ``max_size``
        connections open at most.
    ``acquire_timeout``
        to wait for a connection.
    ``max_waiting``
        threads that may wait at a time; more are refused with :class:`~poolkit.PoolOverloaded`.
    ``idle_timeout``
        after which a connection that was not needed is closed.
    ``max_lifetime``
        after which a connection is replaced, less up to 5 % so that not all go at once.
    ``leak_threshold``
        from which on a :class:`~poolkit.PoolKit` names a lease as a leak.
    ``retry``
        how to try again what is safe to try again.
    ``listeners``
        :class:`~poolkit.Listener` objects, told what happens.
    """

    name: str = ""
    max_size: int = 20
    acquire_timeout: float = 5.0
    max_waiting: int = 1000
    idle_timeout: float = 30.0
    max_lifetime: float = 1800.0
    leak_threshold: float = 60.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    listeners: Sequence[Listener] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        checks.text("name", self.name)
        checks.count("max_size", self.max_size, at_least=1)
        checks.seconds("acquire_timeout", self.acquire_timeout, zero=False)
        checks.count("max_waiting", self.max_waiting)
        checks.seconds("idle_timeout", self.idle_timeout, zero=False)
        checks.seconds("max_lifetime", self.max_lifetime, zero=False)
        checks.seconds("leak_threshold", self.leak_threshold, zero=False, forever=True)
        if not isinstance(self.retry, RetryPolicy):
            raise ConfigError(f"retry must be a RetryPolicy, not {checks.kind(self.retry)}")
        try:
            self._set(listeners=tuple(self.listeners))
        except TypeError:
            raise ConfigError(
                f"listeners must be a list of poolkit.Listener objects, not {checks.kind(self.listeners)}"
            ) from None
        for listener in self.listeners:
            if not isinstance(listener, Listener):
                raise ConfigError(
                    f"listeners must be poolkit.Listener objects, not {checks.kind(listener)}"
                )

    def _set(self, **values: object) -> None:
        """Set fields, while it is built."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _describe(self, *first: str) -> str:
        """Return the repr: *first*, then the fields that differ from their defaults, but no secrets."""
        shown = list(first)
        for item in fields(self):
            value = getattr(self, item.name)
            if item.repr and value != _default(item):
                shown.append(f"{item.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


def config_from(
    kind: type[ConfigT], address_field: str, given: object, settings: Mapping[str, Any]
) -> ConfigT:
    """Return what a pool was *given*: a ready config, an address with *settings*, or these alone."""
    if isinstance(given, kind):
        if settings:
            raise ConfigError(
                f"give a {kind.__name__} or its fields, not both; "
                "dataclasses.replace changes single fields"
            )
        return given
    if given is None:
        return checks.build(kind, settings)
    if address_field in settings:
        raise ConfigError(f"{address_field} is given twice")
    return checks.build(kind, {address_field: given, **settings})


def _default(item: Field[object]) -> object:
    return item.default if item.default_factory is MISSING else item.default_factory()
