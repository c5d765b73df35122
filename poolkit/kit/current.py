"""The one kit that a process shares."""

from __future__ import annotations

from ..core import checks
from ..core.errors import ConfigError
from .kit import PoolKit

_current: PoolKit | None = None


def configure(kit: PoolKit | None) -> PoolKit | None:
    """Make *kit* the one that :func:`current` returns, None for no one. Return it; the one before is not closed."""
    global _current
    if kit is not None and not isinstance(kit, PoolKit):
        raise ConfigError(f"kit must be a PoolKit, not {checks.kind(kit)}")
    _current = kit
    return kit


def current() -> PoolKit:
    """Return the kit that the process shares. Raises :class:`~poolkit.ConfigError` when there is none."""
    if _current is None:
        raise ConfigError(
            "no kit is configured; call poolkit.configure(PoolKit(…)) where the program starts"
        )
    return _current
