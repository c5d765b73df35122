"""Paths of documents and collections, checked before anything is sent.

The rules: https://firebase.google.com/docs/firestore/quotas, "Collections, documents, and fields".
"""

from __future__ import annotations

import re

from ..core import checks
from ..core.errors import ConfigError

LONGEST_ID = 1500  # bytes
DEEPEST = 200  # parts: 100 collections, one in the other

_RESERVED = re.compile(r"__.*__")


def document_parts(path: object) -> list[str]:
    """Return the parts of a document's path, such as ``users/1``; raise :class:`~poolkit.ConfigError`."""
    parts = _parts(path, "a document's path")
    if len(parts) % 2:
        raise ConfigError(
            f"path {path!r} has {len(parts)} parts, so it names a collection; "
            "a document's has an even number: collection/document"
        )
    return parts


def collection_parts(path: object) -> list[str]:
    """Return the parts of a collection's path, such as ``users``; raise :class:`~poolkit.ConfigError`."""
    parts = _parts(path, "a collection's path")
    if not len(parts) % 2:
        raise ConfigError(
            f"path {path!r} has {len(parts)} parts, so it names a document; "
            "a collection's has an odd number"
        )
    return parts


def _parts(path: object, what: str) -> list[str]:
    if not isinstance(path, str):
        raise ConfigError(
            f"{what} must be a string such as 'users/1', or a DocumentReference, not {checks.kind(path)}"
        )
    parts = path.split("/")
    if len(parts) > DEEPEST:
        raise ConfigError(f"{what} has {len(parts)} parts; Firestore takes {DEEPEST}")
    for part in parts:
        wrong = _wrong(part)
        if wrong:
            raise ConfigError(f"path {path[:200]!r}: {wrong}")
    return parts


def _wrong(part: str) -> str:
    """Return what is wrong with one part of a path, empty if nothing is."""
    if not part:
        return "it has an empty part; no slash stands at the ends, and no two together"
    if part in (".", ".."):
        return f"{part!r} is no ID that Firestore takes"
    if part[0] == "_" and _RESERVED.fullmatch(part):
        return f"IDs like {part!r}, between double underscores, are Firestore's own"
    try:
        length = len(part) if part.isascii() else len(part.encode())
    except UnicodeEncodeError:
        return "an ID is not valid Unicode"
    return f"an ID is longer than {LONGEST_ID} bytes" if length > LONGEST_ID else ""
