"""Values that Firestore would store otherwise than meant, or not at all, found before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ..core import checks
from ..core.errors import ConfigError
from . import channels

DEEPEST = 20
"""Levels of maps and lists that Firestore takes, one in the other."""

_PLAIN = (str, float, bool, bytes, type(None))
_WHOLE = range(-(2**63), 2**63)


def check_data(data: object, what: str) -> dict[str, Any]:
    """Return *data* if it can be stored as a document; else raise :class:`~poolkit.ConfigError` naming the field."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{what}: the data must be a dict, not {checks.kind(data)}")
    _check_map(data, what, "", 1)
    return data if isinstance(data, dict) else dict(data)


def _check_map(data: Mapping[Any, Any], what: str, where: str, depth: int) -> None:
    for key, value in data.items():
        if not isinstance(key, str) or not key:
            raise ConfigError(
                f"{what}: the names of fields must be strings, and not empty"
                f"{f', also in {where}' if where else ''}; one is {checks.kind(key)}"
            )
        if type(value) not in _PLAIN:
            _check(value, what, f"{where}.{key}" if where else key, depth)


def _check(value: Any, what: str, field: str, depth: int) -> None:
    if isinstance(value, _PLAIN):
        return
    if isinstance(value, int):
        if value not in _WHOLE:
            raise ConfigError(
                f"{what}: field {field!r} is a whole number of more than 64 bits; store it as text"
            )
        return
    if depth > DEEPEST:
        raise ConfigError(f"{what}: field {field!r} is more than {DEEPEST} levels deep")
    if isinstance(value, Mapping):
        if not isinstance(value, dict):
            raise ConfigError(f"{what}: field {field!r} is {checks.kind(value)}; make it a dict")
        _check_map(value, what, field, depth + 1)
    elif isinstance(value, (list, tuple)):
        for at, item in enumerate(value):
            if type(item) not in _PLAIN:
                _check(item, what, f"{field}[{at}]", depth + 1)
    elif isinstance(value, (set, frozenset)):
        raise ConfigError(
            f"{what}: field {field!r} is a set, which has no order to store it in; make it a list"
        )
    elif isinstance(value, datetime):
        if value.tzinfo is None:
            raise ConfigError(
                f"{what}: field {field!r} is a datetime without a time zone, which would be taken "
                "for UTC; give it one: datetime.now(timezone.utc)"
            )
    elif channels.is_transform(value):
        for at, item in enumerate(channels.transformed(value)):
            _check(item, what, f"{field}[{at}]", depth + 1)
    elif not channels.can_encode(value):
        raise ConfigError(
            f"{what}: field {field!r} is {checks.kind(value)}, which Firestore does not store"
        )
