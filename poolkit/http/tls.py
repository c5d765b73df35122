"""What TLS connections are made with: certificates are checked, and nothing before TLS 1.2 is spoken."""

from __future__ import annotations

import os
import ssl
from functools import lru_cache

from ..core.errors import ConfigError
from .config import HttpConfig
from .sockets import BoundedTlsSocket


def make_context(config: HttpConfig) -> ssl.SSLContext:
    """Return the context for all connections of a pool; pools without files of their own share one.

    Raises :class:`~poolkit.ConfigError` for files that hold no certificates, or no key.
    """
    if config.verify is True and config.client_cert is None:
        return _usual(ssl.get_default_verify_paths())
    context = _new()
    if config.verify is True:
        _trust_the_usual(context, ssl.get_default_verify_paths())
    else:
        path = os.fspath(config.verify)  # type: ignore[arg-type]
        where = {"capath": path} if os.path.isdir(path) else {"cafile": path}
        try:
            context.load_verify_locations(**where)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"verify: {path!r} has no certificates in it: {error}") from None
    if config.client_cert is not None:
        files = (
            config.client_cert if isinstance(config.client_cert, tuple) else (config.client_cert,)
        )
        try:
            context.load_cert_chain(*files)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"client_cert can't be used: {error}") from None
    return context


@lru_cache(maxsize=4)
def _usual(paths: ssl.DefaultVerifyPaths) -> ssl.SSLContext:
    """Return the context that trusts the usual: to read the system's authorities takes a twentieth of a second."""
    context = _new()
    _trust_the_usual(context, paths)
    return context


def _new() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificates and names
    context.sslsocket_class = BoundedTlsSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _trust_the_usual(context: ssl.SSLContext, paths: ssl.DefaultVerifyPaths) -> None:
    """Trust whom the system trusts; where it has no list of its own, whom requests trusts."""
    folder = paths.capath
    if paths.cafile or (folder and any(os.scandir(folder))):
        context.load_default_certs()
    else:
        import certifi

        context.load_verify_locations(cafile=certifi.where())
