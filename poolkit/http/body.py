"""The body of a request: what a caller gives, as bytes or as pieces, and whether it can be sent twice."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from urllib3.filepost import encode_multipart_formdata
from urllib3.util.request import body_to_chunks

from ..core import checks
from ..core.errors import ConfigError
from .target import encode

Data = bytes | str | Mapping[str, Any] | Iterable[Any]
Files = Mapping[str, Any] | Iterable[tuple[str, Any]]

BLOCK = 64 * 1024
"""Bytes of a file that are sent at a time."""


class Body:
    """What is sent after the head.

    ``given`` is what the caller gave, ``content_type`` what the header should say if the caller did not. A
    file is sent from where it stands, and rewound to there to be sent again; an iterator can't be.
    """

    __slots__ = ("_begun", "_start", "content_type", "given")

    def __init__(self, given: Any = None, content_type: str | None = None) -> None:
        self.given = given
        self.content_type = content_type
        self._begun = False
        self._start: int | None = None
        if hasattr(given, "read"):
            try:
                given.seek(start := given.tell())  # only one that can seek can be sent again
                self._start = start
            except (AttributeError, OSError, ValueError):
                self._start = None

    @property
    def can_be_sent(self) -> bool:
        """Whether it can be sent now, as a whole."""
        return not self._begun or self.is_replayable

    @property
    def is_replayable(self) -> bool:
        """Whether it can be sent any number of times."""
        return self._start is not None or not self._is_stream

    def pieces(self, method: str) -> tuple[Iterable[Any], int | None]:
        """Return the pieces to send, and their length in bytes; None if that is not known."""
        if self._begun and self._start is not None:
            self.given.seek(self._start)
        length = self._file_length()
        chunks, known = body_to_chunks(self.given, method, BLOCK)
        if length is not None:
            return self._noticed(_cut(chunks or (), length)), length
        return self._noticed(chunks or ()) if self._is_stream else chunks or (), known

    def _noticed(self, chunks: Iterable[Any]) -> Iterator[Any]:
        """Yield *chunks*; from the first on it has begun."""
        self._begun = True
        yield from chunks

    @property
    def _is_stream(self) -> bool:
        given = self.given
        return given is not None and (hasattr(given, "read") or isinstance(given, Iterator))

    def _file_length(self) -> int | None:
        """Return how many bytes of a file are left; of a text file they can't be known."""
        if self._start is None or isinstance(self.given, io.TextIOBase):
            return None
        try:
            end = self.given.seek(0, io.SEEK_END)
            self.given.seek(self._start)
        except (AttributeError, OSError):
            return None
        return max(0, end - self._start) if isinstance(end, int) else None


def _cut(chunks: Iterable[bytes], length: int) -> Iterator[bytes]:
    """Yield *length* bytes of the *chunks* of a file, which may have grown since its length was told."""
    for chunk in chunks:
        if length <= 0:
            return
        yield chunk[:length]
        length -= len(chunk)
    if length > 0:
        raise OSError("the file has become shorter while it was sent")


def make_body(*, json_value: Any, data: Data | None, files: Files | None) -> Body:
    """Return the body that these say; at most one of *json_value* and the others may be given."""
    if json_value is not None:
        if data is not None or files is not None:
            raise ConfigError("json excludes data and files")
        return _of_json(json_value)
    if files is not None:
        return _of_files(data, files)
    if data is None or isinstance(data, (bytes, bytearray, memoryview)):
        return Body(bytes(data) if isinstance(data, (bytearray, memoryview)) else data)
    if isinstance(data, str):
        return Body(checks.utf8("data", data))
    if hasattr(data, "read"):
        return Body(data)
    if isinstance(data, Mapping) or _is_pairs(data):
        return Body(encode(data, "data").encode(), "application/x-www-form-urlencoded")
    if isinstance(data, Iterable):
        return Body(data)
    raise ConfigError(
        f"data must be bytes, a string, a dict, a file or an iterable of bytes, not {checks.kind(data)}"
    )


def _of_json(value: Any) -> Body:
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"json can't be sent as JSON: {type(error).__name__}: {error}") from None
    return Body(text.encode(), "application/json")


def _of_files(data: Data | None, files: Files) -> Body:
    """Return a form in several parts, as browsers upload files."""
    fields: list[tuple[str, Any]] = []
    if data is not None:
        if not isinstance(data, Mapping) and not _is_pairs(data):
            raise ConfigError(f"data beside files must be a dict, not {checks.kind(data)}")
        pairs: Any = data.items() if isinstance(data, Mapping) else data
        for name, value in pairs:
            values = value if isinstance(value, (list, tuple)) else (value,)
            fields += [(name, _text(each)) for each in values if each is not None]
    try:
        for name, given in files.items() if isinstance(files, Mapping) else files:
            fields.append((name, _part(name, given)))
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"files must be a dict of names and files, not {checks.kind(files)}"
        ) from None
    try:
        return Body(*encode_multipart_formdata(fields))
    except UnicodeEncodeError:
        raise ConfigError("files and data must be text; half of a surrogate pair is none") from None


def _part(name: str, given: Any) -> tuple[Any, ...]:
    """Return the file's name, its content and, if that is given, its type."""
    if isinstance(given, tuple):
        filename, content, *kind = given
    else:
        filename, content, kind = _basename(getattr(given, "name", None)) or name, given, []
    if hasattr(content, "read"):
        content = content.read()
    if not isinstance(content, (str, bytes, bytearray)):
        raise ConfigError(
            f"files[{name!r}] must be a file, bytes or a string, or a tuple of a name and that, "
            f"not {checks.kind(content)}"
        )
    return filename, content, *kind[:1]


def _basename(path: object) -> str:
    return path.replace("\\", "/").rpartition("/")[2] if isinstance(path, str) else ""


def _text(value: Any) -> str | bytes:
    return value if isinstance(value, (str, bytes)) else str(value)


def _is_pairs(data: object) -> bool:
    return isinstance(data, (list, tuple)) and all(
        isinstance(item, tuple) and len(item) == 2 for item in data
    )
