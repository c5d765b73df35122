"""The errors that poolkit raises; see :mod:`poolkit.core.errors`."""

from __future__ import annotations

from .core.errors import (
    AddressBlocked,
    BackendUnavailable,
    Cancelled,
    CancelledOutcomeUnknown,
    ConfigError,
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
    OutcomeUnknown,
    PoolClosed,
    PoolKitError,
    PoolOverloaded,
    PoolTimeout,
    ResponseTooLarge,
)

__all__ = [
    "AddressBlocked",
    "BackendUnavailable",
    "Cancelled",
    "CancelledOutcomeUnknown",
    "ConfigError",
    "DeadlineExceeded",
    "DeadlineOutcomeUnknown",
    "OutcomeUnknown",
    "PoolClosed",
    "PoolKitError",
    "PoolOverloaded",
    "PoolTimeout",
    "ResponseTooLarge",
]
