"""Take TLS off what comes to a port on loopback, and pass it on to another.

Run as a script it is a process of its own: it imports only the standard library, and runs on asyncio
since an ``ssl`` socket can't be read in one thread while another one writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import ssl
import sys

CHUNK = 64 * 1024
FILES = 10240  # two a connection; macOS refuses more


def listening(pid: int | None) -> str:
    """Return the line that the process writes to its log when its port is open."""
    return f"process {pid} is listening"


async def serve(port: str, target: str, certificate: str) -> None:
    """Serve until killed; *certificate* is a PEM file with the key and the chain."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", int(target))
        except OSError:
            writer.transport.abort()  # as near as we come to refusing
            return
        await asyncio.gather(_pump(reader, server_writer), _pump(server_reader, writer))

    _open_many_files()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = await asyncio.start_server(relay, "127.0.0.1", int(port), ssl=context, backlog=511)
    sys.stdout.write(f"{listening(os.getpid())}\n")
    sys.stdout.flush()
    await server.serve_forever()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what is read until its end, then end the other side too: TLS has no half-open state."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    writer.close()


def _open_many_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
