"""What the tests of HttpPool's face share."""

from __future__ import annotations

from collections.abc import Iterable


def values(headers: Iterable[tuple[str, str]], name: str) -> list[str]:
    """Return the values of all fields of that name, in any case."""
    return [value for field, value in headers if field.lower() == name.lower()]
