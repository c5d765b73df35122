"""A Redis that answers as scripted: for what no real server can be made to say."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

Words = list[bytes]


@dataclass(frozen=True)
class Torn:
    """The *begin* of a reply, after which the connection is reset, or else ended, as soon as *wait* returns."""

    begin: bytes
    wait: Callable[[], object]
    resets: bool = True


Answer = Callable[[Words], bytes | Torn]

HELLO = b"%1\r\n$5\r\nproto\r\n:3\r\n"


class ScriptedRedis:
    """Reads commands and sends what *answer* returns for each; greets and answers PING by itself."""

    def __init__(
        self,
        answer: Answer,
        ping: Callable[[], bytes] = lambda: b"+PONG\r\n",
        hello: bytes = HELLO,
    ) -> None:
        self.heard: list[Words] = []
        self.connections = 0
        self._answer = answer
        self._ping = ping
        self._hello = hello
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def __enter__(self) -> ScriptedRedis:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()
        for thread in self._threads:
            thread.join(10)

    def count(self, name: bytes) -> int:
        """Return how many commands of that name were heard."""
        return sum(words[0].upper() == name for words in self.heard)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        reply: bytes | Torn
        with connection, connection.makefile("rb") as lines:
            try:
                while (words := _read(lines)) is not None:
                    self.heard.append(words)
                    name = words[0].upper()
                    if name == b"HELLO":
                        reply = self._hello
                    elif name == b"CLIENT":
                        reply = b"+OK\r\n"
                    elif name == b"PING":
                        reply = self._ping()
                    else:
                        reply = self._answer(words)
                    if isinstance(reply, Torn):
                        connection.sendall(reply.begin)
                        reply.wait()
                        if reply.resets:
                            connection.setsockopt(
                                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                            )
                        return
                    if not reply:
                        return
                    connection.sendall(reply)
            except (OSError, ValueError):
                return


def _read(lines: object) -> Words | None:
    readline, read = lines.readline, lines.read  # type: ignore[attr-defined]
    head = readline()
    if not head:
        return None
    words = []
    for _ in range(int(head[1:])):
        length = int(readline()[1:])
        words.append(read(length + 2)[:-2])
    return words
