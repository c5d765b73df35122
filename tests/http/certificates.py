"""Servers' certificates, good ones and such as must be refused."""

from __future__ import annotations

import datetime
import ssl
import warnings
from pathlib import Path

import trustme

LONG_AGO = datetime.datetime(2001, 1, 1, tzinfo=datetime.timezone.utc)
OVER = datetime.datetime(2002, 1, 1, tzinfo=datetime.timezone.utc)
NAMES = ("localhost", "127.0.0.1", "::1")


class Certificates:
    """An authority, a stranger to it, and the contexts of servers; files are in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = trustme.CA()
        self._stranger = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca_file))
        self.client_file = folder / "client.pem"  # with its key
        self._write(self._authority.issue_cert("client@localhost"), self.client_file)
        strange = folder / "strange-client.pem"
        self._write(self._stranger.issue_cert("client@localhost"), strange)
        self.strange_client_file = strange
        self.good = self._context(self._authority.issue_cert(*NAMES), "good")
        """A server for localhost, 127.0.0.1 and ::1."""

    def for_names(self, *names: str) -> ssl.SSLContext:
        """Return a server's context for other names."""
        return self._context(self._authority.issue_cert(*names), "named")

    def expired(self) -> ssl.SSLContext:
        """Return one whose certificate was good until 2002."""
        leaf = self._authority.issue_cert(*NAMES, not_before=LONG_AGO, not_after=OVER)
        return self._context(leaf, "expired")

    def wrong_host(self) -> ssl.SSLContext:
        """Return one whose certificate is for another host."""
        return self.for_names("elsewhere.example")

    def unknown_authority(self) -> ssl.SSLContext:
        """Return one that an authority vouches for whom nobody knows."""
        return self._context(self._stranger.issue_cert(*NAMES), "strange")

    def old_protocol(self) -> ssl.SSLContext:
        """Return one that speaks TLS 1.0 and 1.1 alone."""
        context = self._context(self._authority.issue_cert(*NAMES), "old")
        allow_old(context)
        return context

    def wants_client(self) -> ssl.SSLContext:
        """Return one that wants a client's certificate, from the same authority."""
        context = self._context(self._authority.issue_cert(*NAMES), "wanting")
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.ca_file)
        return context

    def _context(self, leaf: trustme.LeafCert, name: str) -> ssl.SSLContext:
        path = self._folder / f"{name}.pem"
        self._write(leaf, path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    @staticmethod
    def _write(leaf: trustme.LeafCert, path: Path) -> None:
        leaf.private_key_and_cert_chain_pem.write_to_path(str(path))


def allow_old(context: ssl.SSLContext) -> None:
    """Make it speak TLS 1.0 and 1.1 alone, whatever the system's policy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
