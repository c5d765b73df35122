"""What a FirestorePool can be told."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from google.auth.credentials import Credentials

from ..core import checks
from ..core.config import PoolConfig
from ..core.errors import ConfigError
from .credentials import Identity, from_environment, from_file, from_object

EMULATOR = "FIRESTORE_EMULATOR_HOST"
PROJECTS = ("GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT")
EMULATED_PROJECT = "google-cloud-firestore-emulator"
"""The project where none is named, on an emulator; the client library's own choice."""

STREAMS = 100
"""Calls that Google's servers let run at a time on one connection."""

_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]{0,99}", re.IGNORECASE)
_DATABASE = re.compile(r"\(default\)|[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, kw_only=True)
class FirestoreConfig(PoolConfig):
    """Settings of a :class:`~poolkit.FirestorePool`. Times are in seconds.

    Checked when built; :class:`~poolkit.ConfigError` names what is wrong. Its ``repr`` shows no secret.

    ``project``
        the Google Cloud project; by default ``GOOGLE_CLOUD_PROJECT``, or the credentials' own.
    ``database``
        the database in it.
    ``credentials_file``, ``credentials``
        a service account's key file, or an object of google-auth's; by default the application default
        credentials, looked up when the pool opens.
    ``emulator_host``
        ``host:port`` of an emulator; by default ``FIRESTORE_EMULATOR_HOST``.
    ``max_size``
        calls under way at a time, over all channels; of them never more than 100 a channel.
    ``channels``
        connections to open. Each is one of its own, and calls go to the least busy.
    ``keepalive_time``, ``keepalive_timeout``
        how often to ask a silent connection for a sign of life, also without calls, and how long to wait for it.
    ``connect_timeout``
        to connect, TLS included.
    ``rpc_timeout``
        for the answer to one call, where no earlier deadline is in force.
    ``idle_timeout``
        after which a connection without calls is closed.
    """

    project: str = ""
    database: str = "(default)"
    credentials_file: str = field(default="", repr=False)
    credentials: Credentials | None = field(default=None, repr=False)
    emulator_host: str = ""
    max_size: int = 400
    channels: int = 4
    keepalive_time: float = 30.0
    keepalive_timeout: float = 10.0
    connect_timeout: float = 10.0
    rpc_timeout: float = 10.0
    idle_timeout: float = 300.0

    known: Identity | None = field(init=False, repr=False, compare=False, default=None)
    """Who we are, where that was told; else the application default is looked up later."""

    def __post_init__(self) -> None:
        self._set(emulator_host=checks.text("emulator_host", self.emulator_host))
        if not self.emulator_host:
            self._set(emulator_host=os.environ.get(EMULATOR, ""))
        if self.emulator_host:
            _check_host(self.emulator_host)
        for name in ("project", "database", "credentials_file"):
            checks.text(name, getattr(self, name))
        self._set(known=self._identity())
        self._set_project(os.environ)
        if not _DATABASE.fullmatch(self.database):
            raise ConfigError(
                "database must be '(default)' or the name of one: small letters, digits and hyphens"
            )
        if not self.name:
            self._set(name=self._default_name())
        super().__post_init__()
        checks.count("channels", self.channels, at_least=1)
        for name in ("keepalive_time", "keepalive_timeout", "connect_timeout", "rpc_timeout"):
            checks.seconds(name, getattr(self, name), zero=False)

    def __repr__(self) -> str:
        return self._describe()

    @property
    def calls(self) -> int:
        """How many calls may be under way at a time: ``max_size``, but never more than 100 a channel."""
        return min(self.max_size, STREAMS * self.channels)

    def _identity(self) -> Identity | None:
        if self.credentials_file and self.credentials is not None:
            raise ConfigError("give credentials_file or credentials, not both")
        if self.credentials_file:
            return from_file(self.credentials_file)
        if self.credentials is not None:
            return from_object(self.credentials)
        return None

    def _set_project(self, environment: Mapping[str, str]) -> None:
        """Settle which project it is, as far as that is known before the credentials are looked up."""
        project = self.project or next(filter(None, map(environment.get, PROJECTS)), "")
        if not project and self.known is not None:
            project = self.known.project
        if not project and self.emulator_host:
            project = EMULATED_PROJECT
        if project and not _PROJECT.fullmatch(project):
            raise ConfigError("project must be a project's ID: letters, digits and hyphens")
        self._set(project=project)

    def _default_name(self) -> str:
        project = self.project or "default"
        return f"firestore {project}/{self.database}"


def identity_of(config: FirestoreConfig) -> Identity:
    """Return who calls are made as, in which project; look up the application default if nothing was told.

    Raises :class:`~poolkit.ConfigError` when nothing is found; it says what was looked for.
    """
    identity = config.known
    if config.emulator_host:
        return Identity(None, config.project)
    if identity is None:
        identity = from_environment()
    project = config.project or identity.project
    if not project:
        raise ConfigError(
            f"project is not known: it was not given, {' and '.join(PROJECTS)} are not set, "
            "and the credentials name none"
        )
    return Identity(identity.credentials, project)


def _check_host(host: str) -> None:
    name, colon, port = host.rpartition(":")
    if "/" in host or not colon or not name or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"emulator_host must be host:port, as {EMULATOR} has it, without http://")
