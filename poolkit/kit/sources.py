"""Where settings come from: presets, files, the environment, arguments. The later ones win, and each is remembered."""

from __future__ import annotations

import configparser
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import checks
from ..core.config import PoolConfig
from ..core.errors import ConfigError
from ..core.retry import RetryPolicy
from .backends import BACKENDS
from .presets import preset

PREFIX = "POOLKIT_"

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_RETRY = "retry_"


@dataclass(frozen=True)
class Setting:
    """One setting: its ``value``, the ``source`` that it comes from, and whether it is a ``secret``."""

    value: Any = dataclasses.field(repr=False)
    source: str
    secret: bool


class Settings:
    """The settings of a kit, by backend and field."""

    def __init__(self) -> None:
        self.preset = ""
        self._found: dict[str, dict[str, Setting]] = {name: {} for name in BACKENDS}

    def __iter__(self) -> Iterator[tuple[str, str, Setting]]:
        """Yield backend, field and setting of all that were set."""
        for backend, fields in self._found.items():
            for field, setting in fields.items():
                yield backend, field, setting

    def is_configured(self, backend: str) -> bool:
        """Whether it was said where *backend* is, or that need not be said."""
        locators = BACKENDS[backend].locators
        return not locators or any(name in self._found[backend] for name in locators)

    def config(self, backend: str) -> PoolConfig:
        """Return the config of *backend*. Raises :class:`~poolkit.ConfigError`, which names the source."""
        found = self._found[backend]
        fields: dict[str, Any] = {}
        retry: dict[str, Any] = {}
        for name, setting in found.items():
            if name.startswith(_RETRY):
                retry[name.removeprefix(_RETRY)] = setting.value
            else:
                fields[name] = setting.value
        try:
            if retry:
                fields["retry"] = checks.build(RetryPolicy, retry)
            return checks.build(BACKENDS[backend].config_type, fields)
        except ConfigError as error:
            raise ConfigError(
                f"{backend}: {error}{self._sources_named(str(error), backend)}"
            ) from None

    def use_preset(self, name: str) -> None:
        """Take what the preset called *name* says."""
        self.preset = name
        for backend, fields in preset(name).items():
            for field, value in fields.items():
                self._set(backend, field, value, f"preset {name}")

    def use_text(self, backend: str, field: str, text: str, source: str) -> None:
        """Take *text* for a field, read as what the field is."""
        self._set(backend, field, _parsed(self._kind(backend, field, source), text, source), source)

    def use_value(self, backend: str, field: str, value: Any, source: str) -> None:
        """Take *value* for a field."""
        if field == "retry" and isinstance(value, Mapping):
            for name, part in value.items():
                self.use_value(backend, _RETRY + name, part, source)
            return
        if field != "retry":
            self._kind(backend, field, source)
        self._set(backend, field, value, source)

    def _set(self, backend: str, field: str, value: Any, source: str) -> None:
        known = _fields(backend).get(field)
        secret = known is not None and not known.repr
        self._found[backend][field] = Setting(value, source, secret)

    def _kind(self, backend: str, field: str, source: str) -> frozenset[str]:
        """Return the names of the types that *field* may have."""
        known = _fields(backend)
        if field.startswith(_RETRY):
            known = {_RETRY + item.name: item for item in dataclasses.fields(RetryPolicy)}
        if field not in known:
            raise ConfigError(
                f"{source}: {backend} has no setting {field!r}{checks.nearest(field, known)}"
            )
        return frozenset(part.strip() for part in str(known[field].type).split("|"))

    def _sources_named(self, message: str, backend: str) -> str:
        """Return where the fields that *message* speaks of come from."""
        words = set(message.replace("(", " ").replace("'", " ").replace(".", " ").split())
        named = [
            f"{name} is from {setting.source}"
            for name, setting in self._found[backend].items()
            if name in words
        ]
        return f" ({', '.join(named)})" if named else ""


def read_environment(settings: Settings, environ: Mapping[str, object]) -> None:
    """Take what variables like ``POOLKIT_POSTGRES_MAX_SIZE`` say. An empty one, and None, says nothing.

    Text is read as what the field is; anything else is taken as it is.
    """
    told = {
        variable: value
        for variable, value in sorted(environ.items())
        if value is not None and not (isinstance(value, str) and not value.strip())
    }
    if name := told.get(f"{PREFIX}ENV"):
        try:
            settings.use_preset(checks.text("the preset", name).strip())
        except ConfigError as error:
            raise ConfigError(f"{PREFIX}ENV: {error}") from None
    for variable, value in told.items():
        for backend in BACKENDS:
            start = f"{PREFIX}{backend.upper()}_"
            if variable.startswith(start):
                field = variable.removeprefix(start).lower()
                if isinstance(value, str):
                    settings.use_text(backend, field, value, variable)
                else:
                    settings.use_value(backend, field, value, variable)


def read_file(settings: Settings, path: str | os.PathLike[str]) -> None:
    """Take what a file says: TOML, or INI if that is its ending. A section is a backend, ``preset`` is before them."""
    where = Path(path)
    try:
        content = where.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # no file has a NUL in its name
        raise ConfigError(f"{where} can't be read: {error}") from None
    if where.suffix.lower() in (".ini", ".cfg"):
        _read_ini(settings, content, where)
    else:
        _read_toml(settings, content, where)


def _read_toml(settings: Settings, content: str, where: Path) -> None:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]
    try:
        found = tomllib.loads(content)
    except (ValueError, RecursionError) as error:  # a number of any length, tables of any depth
        raise ConfigError(f"{where} is not TOML: {error}") from None
    _use_preset_of(settings, found.pop("preset", None), where)
    for section, fields in found.items():
        backend = _backend(section, where)
        if not isinstance(fields, dict):
            raise ConfigError(f"{where}: {section} must be a table of settings, [{section}]")
        for field, value in fields.items():
            settings.use_value(backend, field, value, f"{where} [{section}]")


def _read_ini(settings: Settings, content: str, where: Path) -> None:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(content, source=str(where))
    except configparser.Error as error:
        raise ConfigError(f"{where} is not INI: {_ini_fault(error)}") from None
    if parser.has_section("poolkit"):
        _use_preset_of(settings, parser.get("poolkit", "preset", fallback=None), where)
    for section in parser.sections():
        if section != "poolkit":
            for field, text in parser.items(section):
                settings.use_text(_backend(section, where), field, text, f"{where} [{section}]")


def _ini_fault(error: configparser.Error) -> str:
    """Return what is wrong, and where, but not the line, which its text quotes: it may hold a secret."""
    if isinstance(error, (configparser.DuplicateSectionError, configparser.DuplicateOptionError)):
        return f"line {error.lineno} has a section or a setting for the second time"
    if isinstance(error, configparser.MissingSectionHeaderError):
        return f"line {error.lineno} is in no section"
    if isinstance(error, configparser.ParsingError):
        lines = ", ".join(str(number) for number, _ in error.errors)
        return f"neither a section nor a setting is in line {lines}"
    return type(error).__name__


def _use_preset_of(settings: Settings, name: Any, where: Path) -> None:
    if name is None:
        return
    try:
        settings.use_preset(name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _backend(section: str, where: Path) -> str:
    if section not in BACKENDS:
        near = checks.nearest(section, BACKENDS).replace("the fields are", "there are")
        raise ConfigError(f"{where}: there is no backend {section!r}{near}")
    return section


def _fields(backend: str) -> dict[str, dataclasses.Field[Any]]:
    config = BACKENDS[backend].config_type
    return {item.name: item for item in dataclasses.fields(config) if item.init}


def _parsed(kinds: frozenset[str], text: str, source: str) -> Any:
    """Return what *text* says to a field of these *kinds*. The text is not shown: it may be a secret."""
    word = text.strip().lower()
    if "bool" in kinds and word in _TRUE | _FALSE:
        return word in _TRUE
    for kind, read, what in (("int", int, "a whole number"), ("float", float, "a number")):
        if kind in kinds:
            try:
                return read(word)
            except ValueError:
                raise ConfigError(f"{source} must be {what}") from None
    if "Sequence[str]" in kinds:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if "Headers" in kinds:
        return _object(text, source)
    if kinds & {"str", "Auth"}:
        return text
    if "bool" in kinds:
        raise ConfigError(f"{source} must be true or false")
    raise ConfigError(f"{source} can't be set by text; set it in the program")


def _object(text: str, source: str) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{source} must be a JSON object") from None
    return found
