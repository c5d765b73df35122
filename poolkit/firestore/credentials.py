"""Who a pool's calls are made as: a key file, an object, or what the environment offers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import google.auth
from google.auth import exceptions
from google.auth.credentials import Credentials
from google.oauth2 import service_account

from ..core import checks
from ..core.errors import ConfigError

SCOPES = (
    "https://www.googleapis.com/auth/cloud-platform",
    "https://www.googleapis.com/auth/datastore",
)
LOOKED_FOR = (
    "credentials_file, credentials, the file that GOOGLE_APPLICATION_CREDENTIALS names, "
    "that of `gcloud auth application-default login`, and the machine's own service account"
)


@dataclass(frozen=True)
class Identity:
    """Credentials, None for an emulator, and the project they are for, empty where that is not known."""

    credentials: Credentials | None = field(repr=False)
    project: str


def from_file(path: str) -> Identity:
    """Return whom a service account's key file is for. Raises :class:`~poolkit.ConfigError`."""
    try:
        is_there = Path(path).is_file()
    except OSError:  # its name is too long, say
        is_there = False
    if not is_there:
        raise ConfigError(f"credentials_file {path!r}: there is no such file")
    try:
        found = service_account.Credentials.from_service_account_file(path, scopes=SCOPES)
    except OSError as error:
        raise ConfigError(f"credentials_file {path!r} can't be read: {error.strerror}") from None
    except (ValueError, AttributeError, exceptions.GoogleAuthError) as error:
        # Not its message: it may quote the file.
        raise ConfigError(
            f"credentials_file {path!r} is no service account's key ({type(error).__name__}); "
            "download one from the console as JSON"
        ) from None
    return Identity(found, found.project_id or "")


def from_object(credentials: object) -> Identity:
    """Return whom an object of google-auth's is for. Raises :class:`~poolkit.ConfigError`."""
    if not isinstance(credentials, Credentials):
        raise ConfigError(
            "credentials must be a google.auth.credentials.Credentials, "
            f"not {checks.kind(credentials)}"
        )
    return Identity(credentials, getattr(credentials, "project_id", None) or "")


def from_environment() -> Identity:
    """Return the application default. Raises :class:`~poolkit.ConfigError`, which says what was looked for."""
    try:
        found, project = google.auth.default(scopes=SCOPES)
    except exceptions.GoogleAuthError as error:
        raise ConfigError(
            f"no credentials for Firestore were found; looked for {LOOKED_FOR}. For an emulator "
            "give emulator_host, or set FIRESTORE_EMULATOR_HOST"
        ) from error
    return Identity(found, project or "")
