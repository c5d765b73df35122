"""Connection pools for threaded Python servers; PostgreSQL and Redis so far.

``import poolkit`` loads no driver; each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import embedded as embedded
    from . import errors as errors
    from .core.deadline import Deadline as Deadline
    from .core.deadline import deadline as deadline
    from .core.errors import AddressBlocked as AddressBlocked
    from .core.errors import BackendUnavailable as BackendUnavailable
    from .core.errors import ConfigError as ConfigError
    from .core.errors import DeadlineExceeded as DeadlineExceeded
    from .core.errors import DeadlineOutcomeUnknown as DeadlineOutcomeUnknown
    from .core.errors import OutcomeUnknown as OutcomeUnknown
    from .core.errors import PoolClosed as PoolClosed
    from .core.errors import PoolKitError as PoolKitError
    from .core.errors import PoolOverloaded as PoolOverloaded
    from .core.errors import PoolTimeout as PoolTimeout
    from .core.errors import ResponseTooLarge as ResponseTooLarge
    from .core.events import Listener as Listener
    from .core.lease import Holder as Holder
    from .core.retry import RetryPolicy as RetryPolicy
    from .core.stats import Histogram as Histogram
    from .core.stats import PoolStats as PoolStats
    from .postgres.config import PostgresConfig as PostgresConfig
    from .postgres.pool import PostgresPool as PostgresPool
    from .redis.config import RedisConfig as RedisConfig
    from .redis.pool import RedisPool as RedisPool

__version__ = "0.1.0"

_HOMES = {
    "Deadline": ".core.deadline",
    "deadline": ".core.deadline",
    "AddressBlocked": ".core.errors",
    "BackendUnavailable": ".core.errors",
    "ConfigError": ".core.errors",
    "DeadlineExceeded": ".core.errors",
    "DeadlineOutcomeUnknown": ".core.errors",
    "OutcomeUnknown": ".core.errors",
    "PoolClosed": ".core.errors",
    "PoolKitError": ".core.errors",
    "PoolOverloaded": ".core.errors",
    "PoolTimeout": ".core.errors",
    "ResponseTooLarge": ".core.errors",
    "Listener": ".core.events",
    "Holder": ".core.lease",
    "RetryPolicy": ".core.retry",
    "Histogram": ".core.stats",
    "PoolStats": ".core.stats",
    "PostgresConfig": ".postgres.config",
    "PostgresPool": ".postgres.pool",
    "RedisConfig": ".redis.config",
    "RedisPool": ".redis.pool",
}
_SUBMODULES = {"embedded", "errors"}

__all__ = [*_HOMES, *_SUBMODULES, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
