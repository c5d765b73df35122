"""Validate settings early, with errors that name the field, the value's kind and the remedy."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from .errors import ConfigError

ConfigT = TypeVar("ConfigT")

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.6.2


def seconds(field: str, value: object, *, zero: bool = True, forever: bool = False) -> float:
    """Return *value* as seconds, or raise :class:`ConfigError`.

    *zero* admits 0; *forever* admits infinity.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{field} must be a number of seconds, not {kind(value)}")
    try:
        number = float(value)
    except OverflowError:
        raise ConfigError(f"{field} must be a finite number of seconds") from None
    if math.isnan(number):
        raise ConfigError(f"{field} must be a number of seconds, not NaN")
    if math.isinf(number) and not (forever and number > 0):
        raise ConfigError(f"{field} must be a finite number of seconds")
    if number < 0 or (number == 0 and not zero):
        least = "0 or more" if zero else "more than 0"
        raise ConfigError(f"{field} must be {least} seconds, not {value!r}")
    return number


def limit(field: str, value: object) -> float | None:
    """Return *value* as seconds above 0, or None for no limit, or raise :class:`ConfigError`."""
    return None if value is None else seconds(field, value, zero=False)


def integer(field: str, value: object) -> int:
    """Return *value* as a whole number, or raise :class:`ConfigError`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{field} must be a whole number, not {kind(value)}")
    if abs(value) > sys.maxsize:  # str() refuses some thousands of digits, so it is not shown
        raise ConfigError(f"{field} must be a number of at most {len(str(sys.maxsize))} digits")
    return value


def count(field: str, value: object, *, at_least: int = 0) -> int:
    """Return *value* as a whole number of at least *at_least*, or raise :class:`ConfigError`."""
    number = integer(field, value)
    if number < at_least:
        raise ConfigError(f"{field} must be {at_least} or more, not {number}")
    return number


def flag(field: str, value: object) -> bool:
    """Return *value* if it is True or False, or raise :class:`ConfigError`."""
    if not isinstance(value, bool):
        raise ConfigError(f"{field} must be True or False, not {kind(value)}")
    return value


def text(field: str, value: object) -> str:
    """Return *value* if it is a string, or raise :class:`ConfigError`. The value is never shown."""
    if not isinstance(value, str):
        raise ConfigError(f"{field} must be a string, not {kind(value)}")
    return value


def header(field: str, value: object) -> str | None:
    """Return *value* if it is the name of an HTTP header, or None, or raise :class:`ConfigError`."""
    if value is None:
        return None
    name = text(field, value)
    if not _TOKEN.fullmatch(name):
        raise ConfigError(f"{field} must be the name of a header, such as X-Request-Timeout")
    return name


def utf8(field: str, value: str) -> bytes:
    """Return *value* as UTF-8, or raise :class:`ConfigError`. The value is never shown."""
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{field} must be text; half of a surrogate pair is none") from None


def kind(value: object) -> str:
    """Name the kind of *value* without showing the value, which might be a secret."""
    return "None" if value is None else f"a value of type {type(value).__name__}"


def build(config: type[ConfigT], fields: Mapping[str, Any]) -> ConfigT:
    """Build the dataclass *config* from keywords; an unknown one names the nearest right one."""
    known = {field.name for field in dataclasses.fields(config) if field.init}  # type: ignore[arg-type]
    for name in fields:
        if name not in known:
            raise ConfigError(f"{config.__name__} has no field {name!r}{nearest(name, known)}")
    return config(**fields)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or the list of what there is when nothing is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; the fields are {', '.join(names)}"
