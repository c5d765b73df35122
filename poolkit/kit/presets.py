"""Settings that fit a kind of environment. Each can be overridden one by one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..core import checks
from ..core.errors import ConfigError

Preset = Mapping[str, Mapping[str, Any]]
"""Fields by backend."""


def _preset(postgres: tuple[int, int, float], redis_retries: int, http: tuple[int, int]) -> Preset:
    least, most, idle = postgres
    return MappingProxyType(
        {
            "postgres": {"min_size": least, "max_size": most, "idle_timeout": idle},
            "redis": {"max_retries": redis_retries},
            "http": {"max_size": http[0], "max_idle": http[1]},
            "firestore": {},
        }
    )


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "development": _preset((2, 5, 10.0), 3, (10, 2)),
        "staging": _preset((3, 10, 20.0), 5, (25, 5)),
        "production": _preset((5, 20, 30.0), 10, (50, 10)),
        "high_scale": _preset((10, 30, 45.0), 15, (100, 20)),
    }
)


def preset(name: str) -> Preset:
    """Return the preset called *name*. Raises :class:`~poolkit.ConfigError`, which names the nearest."""
    found = PRESETS.get(checks.text("the preset", name).strip().lower().replace("-", "_"))
    if found is None:
        near = checks.nearest(name, PRESETS).replace("the fields are", "there are")
        raise ConfigError(f"there is no preset {name!r}{near}")
    return found
