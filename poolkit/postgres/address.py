"""Where a conninfo leads: parsed without ever showing its password, and made safe when it leads far away."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from itertools import zip_longest

from psycopg import conninfo as psycopg_conninfo
from psycopg import pq
from psycopg.errors import ProgrammingError

from ..core.errors import ConfigError

_SYSTEM_ROOTS_SINCE = 160000  # libpq 16 learnt sslrootcert=system


@dataclass(frozen=True)
class Address:
    """What a conninfo says, checked. ``parameters`` may hold a password and is never shown."""

    name: str
    parameters: dict[str, str]
    secured: bool
    """Whether poolkit asked for a verified certificate, because the conninfo says nothing about TLS."""
    wants_writes: bool
    """Whether it is to lead to a server that takes writes, whichever of several that is."""

    def __repr__(self) -> str:
        return f"Address({self.name!r})"

    def explain(self, problem: str) -> str:
        """Return *problem*, with the way out when it may come from the TLS that poolkit asked for."""
        if self.secured and any(word in problem.lower() for word in ("ssl", "certificate", "tls")):
            return (
                f"{problem.rstrip()} (poolkit asked for sslmode=verify-full, since the server is remote and "
                "the conninfo names no sslmode; give one to choose: sslrootcert=<CA file> with "
                "sslmode=verify-full for a private CA, SSL_CERT_FILE=<CA bundle> in the environment where libpq "
                "finds no system roots, or sslmode=disable on a network you trust)"
            )
        return problem


def parse(conninfo: object) -> Address:
    """Check *conninfo* and return where it leads.

    Raises :class:`~poolkit.ConfigError`, which shows nothing of it: a conninfo that can't be parsed may
    have its password anywhere.
    """
    if not isinstance(conninfo, str):
        raise ConfigError(
            f"conninfo must be a string, not a value of type {type(conninfo).__name__}"
        )
    try:
        parsed = psycopg_conninfo.conninfo_to_dict(conninfo)
        if "\0" in conninfo or _is_misread(conninfo, str(parsed.get("port", ""))):
            raise ProgrammingError
    except (ProgrammingError, UnicodeError):  # the latter would show a part of it
        raise ConfigError(
            "conninfo can't be parsed (not shown here, it may hold a password); it looks like "
            "'postgresql://user:password@host:5432/dbname?sslmode=verify-full' or "
            "'host=… dbname=… user=…'; special characters in a URL's password are percent-encoded"
        ) from None
    parameters = {key: str(value) for key, value in parsed.items() if value is not None}
    secured = _is_remote(parameters) and not _says_tls(parameters)
    if secured:
        parameters["sslmode"] = "verify-full"
        roots_given = "sslrootcert" in parameters or os.environ.get("PGSSLROOTCERT")
        if not roots_given and pq.version() >= _SYSTEM_ROOTS_SINCE:
            parameters["sslrootcert"] = "system"
    return Address(_name(parameters), parameters, secured, _wants_writes(parameters))


def _is_misread(conninfo: str, ports: str) -> bool:
    """Whether part of a password, for want of percent-encoding, may have been read as host or database."""
    scheme, _, rest = conninfo.partition("://")
    if scheme in ("postgresql", "postgres"):
        user, at, place = rest.partition("@")
        if not at or "/" in user:
            # libpq looks for a user before the first slash only, but beyond a question mark.
            user, place = "", rest
        parameters = "?" in user.partition(":")[0] or "=" in user.partition("?")[2]
        if parameters or "@" in place.partition("?")[0]:
            return True
    return not all(port == "" or port.strip().isdigit() for port in ports.split(","))


def _hosts(parameters: dict[str, str]) -> list[str]:
    """Return where each attempt to connect leads: libpq pairs hosts and addresses, and prefers the address."""
    hosts = (parameters.get("host") or os.environ.get("PGHOST", "")).split(",")
    addresses = (parameters.get("hostaddr") or os.environ.get("PGHOSTADDR", "")).split(",")
    return [address or host for host, address in zip_longest(hosts, addresses, fillvalue="")]


def _is_remote(parameters: dict[str, str]) -> bool:
    if "service" in parameters or "PGSERVICE" in os.environ:
        return False  # the service file may say more than is seen here
    return not all(_is_local(host) for host in _hosts(parameters))


def _is_local(host: str) -> bool:
    host = host.lower()
    if host in ("", "localhost") or host.startswith(("/", "@")) or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _says_tls(parameters: dict[str, str]) -> bool:
    return bool({"sslmode", "requiressl"} & parameters.keys() or os.environ.get("PGSSLMODE"))


def _wants_writes(parameters: dict[str, str]) -> bool:
    wanted = parameters.get("target_session_attrs") or os.environ.get("PGTARGETSESSIONATTRS")
    return wanted in ("read-write", "primary")


def _name(parameters: dict[str, str]) -> str:
    host = _hosts(parameters)[0] or "local"
    database = parameters.get("dbname") or os.environ.get("PGDATABASE")
    return f"{host}/{database}" if database else host
