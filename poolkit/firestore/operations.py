"""Writes as tuples, ``("set", "users/1", {…})``, checked and turned into protobufs before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.cloud import firestore

from ..core import checks
from ..core.errors import ConfigError
from . import channels
from .paths import document_parts
from .values import check_data

MOST_WRITES = 500
"""Writes that one commit takes: https://cloud.google.com/firestore/quotas."""

LARGEST_REQUEST = 10 * 1024 * 1024
"""Bytes that one request may have: the same page."""

Document = str | firestore.DocumentReference
Operation = Sequence[Any]

_OPTIONS = {
    "set": ("merge",),
    "create": (),
    "update": ("last_update_time",),
    "delete": ("exists", "last_update_time"),
}


@dataclass(frozen=True)
class Writes:
    """What one operation comes to: the document's resource name, and its protobufs."""

    name: str
    path: str
    protobufs: Sequence[Any]

    @property
    def guarded(self) -> bool:
        """Whether a second run would be refused by the server, once the first has run."""
        return all_guarded(self.protobufs)


def reference_to(document: Document, client: firestore.Client) -> firestore.DocumentReference:
    """Return *document*, a path or a reference, as a reference of *client*'s."""
    if isinstance(document, firestore.DocumentReference):
        if not channels.name_of(document).startswith(channels.database_of(client) + "/"):
            raise ConfigError(f"the document {document.path!r} is one of another database")
        return document
    return firestore.DocumentReference(*document_parts(document), client=client)


def encode(operation: Operation, client: firestore.Client, number: int | None = None) -> Writes:
    """Return what *operation* comes to; raise :class:`~poolkit.ConfigError` if it can't be run."""
    label = "" if number is None else f"operation {number}: "
    kind, document, data, options = _split(operation, label)
    try:
        reference = reference_to(document, client)
    except ConfigError as error:
        raise ConfigError(f"{label}{error}") from None
    what = f"{label}{kind} {reference.path!r}"
    if kind != "delete":
        data = check_data(data, what)
    name = channels.name_of(reference)
    try:
        if kind in ("set", "create") and options.get("merge", False) is False:
            write = channels.plain_write(name, data, create=kind == "create")
            if write is not None:
                return Writes(name, reference.path, [write])
        batch = client.batch()
        _ADDERS[kind](batch, reference, data, options)
        protobufs = channels.writes_of(batch)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{what}: {_reason(error)}") from None
    return Writes(name, reference.path, protobufs)


def encode_all(operations: Iterable[Operation], client: firestore.Client) -> list[Writes]:
    """Return what *operations* come to; the first that can't be run raises, named by its number."""
    if isinstance(operations, (str, bytes, Mapping)) or not isinstance(operations, Iterable):
        raise ConfigError(
            "operations must be a list of tuples such as ('set', 'users/1', {…}), "
            f"not {checks.kind(operations)}"
        )
    return [encode(operation, client, number) for number, operation in enumerate(operations)]


def check_commit(protobufs: Sequence[Any], request: Any) -> None:
    """Raise :class:`~poolkit.ConfigError` if these are too many, or too large, for one commit."""
    if len(protobufs) > MOST_WRITES:
        raise ConfigError(
            f"{len(protobufs)} writes are too many for one commit, which takes {MOST_WRITES}; "
            "bulk_write() takes any number, but they are not atomic"
        )
    if request.ByteSize() > LARGEST_REQUEST:
        raise ConfigError(
            f"the commit has {request.ByteSize():,} bytes; Firestore takes {LARGEST_REQUEST:,} "
            "in one request"
        )


def all_guarded(protobufs: Iterable[Any]) -> bool:
    """Whether each write has a precondition that no longer holds once it has run.

    That is: a document that must not exist, which the write creates; or one that must be as it was at a certain
    time, which the write changes. Where it changes nothing, to run it again does neither.
    """
    return all(
        write.HasField("current_document") and _guards(write.current_document)
        for write in protobufs
    )


def _guards(condition: Any) -> bool:
    if condition.HasField("update_time"):
        return True
    return condition.HasField("exists") and not condition.exists


def _split(operation: object, label: str) -> tuple[str, Any, Any, Mapping[str, Any]]:
    """Return the kind, the document, the data and the options of an operation."""
    if isinstance(operation, (str, bytes)) or not isinstance(operation, Sequence) or not operation:
        raise ConfigError(
            f"{label}must be a tuple such as ('set', 'users/1', {{…}}), not {checks.kind(operation)}"
        )
    kind = operation[0]
    if not isinstance(kind, str) or kind not in _OPTIONS:
        shown = repr(kind) if isinstance(kind, str) else checks.kind(kind)
        raise ConfigError(f"{label}{shown} is none of {', '.join(_OPTIONS)}")
    least = 2 if kind == "delete" else 3
    if not least <= len(operation) <= least + 1:
        form = "document" if kind == "delete" else "document, data"
        raise ConfigError(
            f"{label}{kind} takes ({kind!r}, {form}) and perhaps options; there are {len(operation)} parts"
        )
    options = operation[least] if len(operation) > least else {}
    if not isinstance(options, Mapping):
        raise ConfigError(
            f"{label}the options of {kind} must be a dict, not {checks.kind(options)}"
        )
    for name in options:
        if name not in _OPTIONS[kind]:
            known = ", ".join(_OPTIONS[kind]) or "no options"
            raise ConfigError(f"{label}{kind} has no option {name!r}; it has {known}")
    return kind, operation[1], None if kind == "delete" else operation[2], options


def _add_set(batch: Any, reference: Any, data: Any, options: Mapping[str, Any]) -> None:
    batch.set(reference, data, merge=options.get("merge", False))


def _add_create(batch: Any, reference: Any, data: Any, options: Mapping[str, Any]) -> None:  # noqa: ARG001
    batch.create(reference, data)


def _add_update(batch: Any, reference: Any, data: Any, options: Mapping[str, Any]) -> None:
    if not data:
        raise ValueError("an update needs at least one field")
    batch.update(reference, data, option=_condition(options))


def _add_delete(batch: Any, reference: Any, data: Any, options: Mapping[str, Any]) -> None:  # noqa: ARG001
    batch.delete(reference, option=_condition(options))


_ADDERS: Mapping[str, Callable[[Any, Any, Any, Mapping[str, Any]], None]] = {
    "set": _add_set,
    "create": _add_create,
    "update": _add_update,
    "delete": _add_delete,
}


def _condition(options: Mapping[str, Any]) -> Any:
    """Return the library's object for a precondition; None if there is none."""
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return None
    if "last_update_time" in given:
        given["last_update_time"] = channels.timestamp(given["last_update_time"])
    return firestore.Client.write_option(**given)


def _reason(error: Exception) -> str:
    """Return the reason of an error, but for the values that it may quote after a colon."""
    if isinstance(error, UnicodeError):
        return "a text in it is not valid Unicode"
    text = str(error.args[0]) if error.args else type(error).__name__
    return text.partition(":")[0][:200]
