"""Put a server some way off: a proxy on loopback through which each round trip takes so much longer.

Run as a script it is the proxy, a process of its own that imports only the standard library: within the process
that measures, it would take the time of its threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

CHUNK = 64 * 1024


@contextmanager
def away(port: int, seconds: float) -> Iterator[int]:
    """Yield a port on loopback, behind which the server at *port* is: *seconds* there and back."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        proxy = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno()), str(port), str(seconds)],
            stdin=subprocess.PIPE,  # whose end tells it that we are gone
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for us
        )
        try:
            yield listener.getsockname()[1]
        finally:
            assert proxy.stdin is not None
            proxy.stdin.close()
            try:
                proxy.wait(5.0)
            except subprocess.TimeoutExpired:
                proxy.kill()
                proxy.wait()


async def serve(listener: socket.socket, port: int, seconds: float) -> None:
    """Serve until there is nobody any more who wants it."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The handshake of TCP was with us, and took no time. What follows it waits for that too.
        began = asyncio.get_running_loop().time() + seconds
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(
            _carry(reader, server_writer, seconds / 2, began + seconds / 2),
            _carry(server_reader, writer, seconds / 2, began),
        )

    await asyncio.start_server(relay, sock=listener)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)  # what is under way is for nobody


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float, not_before: float
) -> None:
    """Pass on what is read, and at last its end, each *seconds* later; nothing earlier than a moment of the clock."""
    clock = asyncio.get_running_loop().time
    parcels: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, chunk = await parcels.get()
            await asyncio.sleep(max(due, not_before) - clock())
            if not chunk:
                return
            writer.write(chunk)

    delivery = asyncio.create_task(deliver())
    with contextlib.suppress(OSError):
        while chunk := await reader.read(CHUNK):
            parcels.put_nowait((clock() + seconds, chunk))
    parcels.put_nowait((clock() + seconds, b""))
    await delivery
    with contextlib.suppress(OSError):
        writer.close()


if __name__ == "__main__":
    _, descriptor, target, delay = sys.argv
    asyncio.run(serve(socket.socket(fileno=int(descriptor)), int(target), float(delay)))
