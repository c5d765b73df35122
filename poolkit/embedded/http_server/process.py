"""The process of a server, from its command line to its end."""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import resource
import signal
import ssl
import sys

from .connection import Connection
from .site import Site

FILES = 10240  # macOS refuses more


def listening(pid: int | None) -> str:
    """Return the line that the process writes to its log when its port is open."""
    return f"process {pid} is listening"


async def serve(site: Site, port: int, path: str, certificate: str | None = None) -> None:
    """Serve *site* until killed, or told to end by SIGTERM.

    *path* is the Unix socket's, which has no TLS and whose requests aren't counted. *certificate* is a
    PEM file with the key and the chain.
    """
    _open_many_files()
    loop = asyncio.get_running_loop()
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    counted = functools.partial(Connection, site, counts=True)
    aside = functools.partial(Connection, site, counts=False)
    site.listens(
        await loop.create_server(counted, "127.0.0.1", port, ssl=context, backlog=4096),
        await loop.create_unix_server(aside, path),
    )
    loop.add_signal_handler(signal.SIGTERM, site.end)
    sys.stdout.write(f"{listening(os.getpid())}\n")
    sys.stdout.flush()
    await site.ended()


def main() -> None:
    """Read the command line, and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--certificate")
    parser.add_argument("--keep-alive", type=float)
    options = parser.parse_args()
    asyncio.run(_main(options))


async def _main(options: argparse.Namespace) -> None:
    await serve(Site(options.keep_alive), options.port, options.path, options.certificate)


def _open_many_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
