"""Connection pools for threaded Python servers: PostgreSQL, Redis, HTTP and Firestore.

``import poolkit`` loads no driver; each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .core.version import __version__

if TYPE_CHECKING:
    from . import embedded as embedded
    from . import errors as errors
    from .core.deadline import Cancellation as Cancellation
    from .core.deadline import Deadline as Deadline
    from .core.deadline import deadline as deadline
    from .core.errors import AddressBlocked as AddressBlocked
    from .core.errors import BackendUnavailable as BackendUnavailable
    from .core.errors import Cancelled as Cancelled
    from .core.errors import CancelledOutcomeUnknown as CancelledOutcomeUnknown
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
    from .firestore.bulk import BulkResult as BulkResult
    from .firestore.config import FirestoreConfig as FirestoreConfig
    from .firestore.pool import FirestorePool as FirestorePool
    from .http.config import HttpConfig as HttpConfig
    from .http.events import HttpListener as HttpListener
    from .http.pool import HttpPool as HttpPool
    from .http.response import StatusError as StatusError
    from .kit.current import configure as configure
    from .kit.current import current as current
    from .kit.health import HealthChecker as HealthChecker
    from .kit.health import Status as Status
    from .kit.kit import PoolKit as PoolKit
    from .kit.leaks import LeakDetector as LeakDetector
    from .kit.sizing import PoolSize as PoolSize
    from .kit.sizing import pool_size as pool_size
    from .kit.watching import WatchSettings as WatchSettings
    from .postgres.config import PostgresConfig as PostgresConfig
    from .postgres.pool import PostgresPool as PostgresPool
    from .redis.config import RedisConfig as RedisConfig
    from .redis.pool import RedisPool as RedisPool

_HOMES = {
    "Cancellation": ".core.deadline",
    "Deadline": ".core.deadline",
    "deadline": ".core.deadline",
    "AddressBlocked": ".core.errors",
    "BackendUnavailable": ".core.errors",
    "Cancelled": ".core.errors",
    "CancelledOutcomeUnknown": ".core.errors",
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
    "HttpConfig": ".http.config",
    "HttpListener": ".http.events",
    "HttpPool": ".http.pool",
    "StatusError": ".http.response",
    "configure": ".kit.current",
    "current": ".kit.current",
    "HealthChecker": ".kit.health",
    "Status": ".kit.health",
    "PoolKit": ".kit.kit",
    "LeakDetector": ".kit.leaks",
    "PoolSize": ".kit.sizing",
    "pool_size": ".kit.sizing",
    "WatchSettings": ".kit.watching",
    "BulkResult": ".firestore.bulk",
    "FirestoreConfig": ".firestore.config",
    "FirestorePool": ".firestore.pool",
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
