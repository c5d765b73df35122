"""TLS for servers whose wheels have none: a proxy before them, with a certificate of its own."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from . import tls_proxy
from .process import EmbeddedError, Home
from .server import Server

CERTIFICATE = "certificate.pem"  # with its key
AUTHORITY = "ca.pem"


class TlsProxy(Server):
    """A process that takes TLS off what comes to its port, and passes it on to the port *target*."""

    product = "the TLS proxy"

    def __init__(self, target: int, *, startup_timeout: float = 30.0) -> None:
        super().__init__(startup_timeout=startup_timeout)
        self._target = target

    @property
    def ca_file(self) -> Path:
        """The PEM file of the authority that signed its certificate."""
        return self._started().path / AUTHORITY

    def _make_home(self) -> Home:
        # As ourselves: this Python may be where no other user can go.
        return Home("tls", polite=signal.SIGTERM, demoted=False)

    def _create(self, home: Home) -> None:
        write_certificate(home)

    def _command(self, home: Home, port: int) -> Sequence[str | Path]:
        python = [sys.executable, "-I", "-S", tls_proxy.__file__]
        return [*python, str(port), str(self._target), home.path / CERTIFICATE]

    def _is_ready(self, home: Home) -> bool:
        return tls_proxy.listening(home.pid) in home.log().splitlines()


def write_certificate(home: Home) -> None:
    """Make an authority and a certificate, both for the server of this home alone."""
    try:
        import trustme
    except ImportError as error:
        raise EmbeddedError(
            "the package trustme, which makes the certificate, is not installed: "
            "pip install 'poolkit[embedded]'"
        ) from error
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    home.write(AUTHORITY, authority.cert_pem.bytes().decode())
    home.write(CERTIFICATE, certificate.private_key_and_cert_chain_pem.bytes().decode())
