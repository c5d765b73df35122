"""What an app's config says: ``POOLKIT_*`` keys, named as in the environment, and those of the extension."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask import Flask

from ...core import checks
from ...core.errors import ConfigError
from ...kit.backends import BACKENDS
from ...kit.kit import PoolKit
from ...kit.sources import PREFIX
from ..budget import DEADLINE

NAME = "poolkit"
"""What the extension is called: in ``app.extensions``, and as the blueprint of its routes."""

DEFAULTS: Mapping[str, Any] = {
    f"{PREFIX}DEADLINE": DEADLINE,
    f"{PREFIX}DEADLINE_HEADER": None,
    f"{PREFIX}LIVENESS_PATH": "/livez",
    f"{PREFIX}READINESS_PATH": "/readyz",
}
"""The keys of the extension itself, with their defaults."""

_OF_KITS = tuple(f"{PREFIX}{backend.upper()}_" for backend in BACKENDS)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The extension's settings: the deadline of requests, and the paths of the routes, None for none."""

    deadline: float | None
    deadline_header: str | None
    liveness_path: str | None
    readiness_path: str | None

    @classmethod
    def of(cls, app: Flask) -> Settings:
        """Return those of *app*, whose config gets the defaults of what it does not say.

        Raises :class:`~poolkit.ConfigError`, which names the key; also for a ``POOLKIT_`` key that there is not.
        """
        config = app.config
        for key, default in DEFAULTS.items():
            config.setdefault(key, default)
        for key in config:
            if key.startswith(PREFIX) and key not in DEFAULTS and not _is_of_kits(key):
                near = checks.nearest(key, DEFAULTS).replace(
                    "the fields are", "those of the extension are"
                )
                raise ConfigError(f"there is no setting {key}{near}")
        return cls(
            deadline=checks.limit(f"{PREFIX}DEADLINE", _number(config[f"{PREFIX}DEADLINE"])),
            deadline_header=checks.header(
                f"{PREFIX}DEADLINE_HEADER", config[f"{PREFIX}DEADLINE_HEADER"] or None
            ),
            liveness_path=_path(config, f"{PREFIX}LIVENESS_PATH"),
            readiness_path=_path(config, f"{PREFIX}READINESS_PATH"),
        )


def kit_of(app: Flask) -> PoolKit:
    """Return the kit that the config of *app* says. Raises :class:`~poolkit.ConfigError`, which names the key."""
    told = {key: value for key, value in app.config.items() if _is_of_kits(key)}
    return PoolKit.from_env(told, name=app.name)


def _is_of_kits(key: str) -> bool:
    return key == f"{PREFIX}ENV" or key.startswith(_OF_KITS)


def _number(value: object) -> object:
    """Return what text says, if it is a number: a config that was read from the environment has text."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if value.strip() else None
    except ValueError:
        return value


def _path(config: Mapping[str, Any], key: str) -> str | None:
    value = config[key]
    if value is None or value == "":
        return None
    if not checks.text(key, value).startswith("/"):
        raise ConfigError(f"{key} must begin with /, or be None for no such route")
    return str(value)
