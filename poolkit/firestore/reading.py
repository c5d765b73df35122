"""Many documents in few calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.cloud import firestore
from google.cloud.firestore_v1 import types

from ..core.errors import ConfigError
from . import channels
from .side_by_side import side_by_side

CHUNK = 500
"""Documents that one call asks for: more take longer than they save, and fewer keep the server less busy."""

Fetch = Callable[[Any], Sequence[Any]]


def batch_get(
    references: Sequence[firestore.DocumentReference],
    fields: Sequence[str] | None,
    fetch: Fetch,
    *,
    workers: int,
) -> list[firestore.DocumentSnapshot]:
    """Return the snapshots of *references* in order; one asked for twice is fetched once, and given twice.

    *fetch* returns the answers to one request; up to *workers* are under way at a time.
    """
    unique = {channels.name_of(reference): reference for reference in references}
    names = list(unique)
    if not names:
        return []
    database = names[0].partition("/documents/")[0]
    mask = None if fields is None else types.DocumentMask.pb()(field_paths=fields)
    requests = [
        types.BatchGetDocumentsRequest.pb()(
            database=database, documents=names[start : start + CHUNK], mask=mask
        )
        for start in range(0, len(names), CHUNK)
    ]
    found: dict[str, firestore.DocumentSnapshot] = {}
    for answers in side_by_side(fetch, requests, workers):
        for answer in answers:
            if answer.HasField("found"):
                name = answer.found.name
                found[name] = channels.snapshot_of(unique[name], answer.found, answer.read_time)
            elif answer.missing:
                name = answer.missing
                found[name] = channels.snapshot_of(unique[name], None, answer.read_time)
    return [found[channels.name_of(reference)] for reference in references]


def field_mask(fields: object) -> list[str] | None:
    """Return the paths of the fields that are wanted, None for all; raise :class:`~poolkit.ConfigError`."""
    if fields is None:
        return None
    if isinstance(fields, (str, bytes)):
        raise ConfigError("fields must be a list of field paths, such as ['name', 'address.city']")
    listed: list[Any] = list(fields)  # type: ignore[call-overload]
    for path in listed:
        if not isinstance(path, str) or not path:
            raise ConfigError(
                "fields must be a list of field paths, such as ['name', 'address.city']"
            )
    return listed
