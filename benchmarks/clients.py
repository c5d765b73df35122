"""Load for a web server from many clients: wrk where it is installed, else this very file, in a process of its own.

Run as a script it is the load generator: one thread over all connections, each with one request under way. It
imports only the standard library, and prints what it saw as JSON, as wrk does for our script.
"""

from __future__ import annotations

import argparse
import json
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

# Microseconds are wrk's own; so each figure is in them.
SCRIPT = """
local number = 0
request = function()
    number = number + 1
    local path = string.gsub(wrk.path, "{number}", tostring(number %% %(keys)d))
    return wrk.format("GET", path)
end
done = function(summary, latency, requests)
    local e = summary.errors
    io.write(string.format(
        "\\n{\\"requests\\": %%d, \\"duration\\": %%d, \\"errors\\": %%d, "
        .. "\\"p50\\": %%d, \\"p99\\": %%d, \\"longest\\": %%d}\\n",
        summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
        latency:percentile(50), latency:percentile(99), latency.max))
end
"""
PATIENCE = 30.0  # seconds beyond the length of the burst


@dataclass(frozen=True, kw_only=True)
class Burst:
    """What clients saw; times are in microseconds. *requests* are those that were answered, errors too."""

    requests: int
    duration: int
    errors: int
    p50: int
    p99: int
    longest: int


def burst(url: str, *, clients: int, seconds: int, keys: int) -> Burst:
    """Send requests from *clients* connections, each as soon as it has its last answer, for some *seconds*.

    ``{number}`` in the path of *url* becomes 0 to *keys* - 1, in turn. Raises OSError if it can't be done.
    """
    program = shutil.which("wrk")
    with tempfile.TemporaryDirectory() as folder:
        if program is None:
            command = [sys.executable, "-I", "-S", __file__, url]
            command += [str(clients), str(seconds), str(keys)]
        else:
            script = Path(folder) / "numbers.lua"
            script.write_text(SCRIPT % {"keys": keys})
            options = ["-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "10s"]
            command = [program, *options, "-s", str(script), url]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + PATIENCE, check=False
        )
    if done.returncode or not done.stdout.strip():
        raise OSError(f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return Burst(**json.loads(done.stdout.strip().splitlines()[-1]))


class Client:
    """One connection, with one request under way."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.sent_at = 0.0
        self._head = b""
        self._missing = -1
        self.sock = socket.create_connection(address, timeout=10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> None:
        self._head, self._missing = b"", -1
        self.sent_at = time.perf_counter()
        self.sock.sendall(request)

    def receive(self) -> bool | None:
        """Read what is there; return whether the answer is a good one, None while it isn't whole.

        Raises OSError where there is no answer.
        """
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionResetError("closed without an answer")
        if self._missing < 0:
            self._head += data
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return None
            lines = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
            self._missing = int(lines[b"content-length"])
            data = body
        self._missing -= len(data)
        return self._head[9:10] == b"2" if self._missing <= 0 else None


def main(arguments: list[str]) -> None:
    """Send the burst, and print what was seen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("clients", type=int)
    parser.add_argument("seconds", type=int)
    parser.add_argument("keys", type=int)
    print(json.dumps(_burst(parser.parse_args(arguments)).__dict__))


def _burst(options: argparse.Namespace) -> Burst:
    parts = urlsplit(options.url)
    address = (str(parts.hostname), int(parts.port or 80))
    requests = [
        f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".replace(
            "{number}", str(number)
        ).encode()
        for number in range(options.keys)
    ]
    took: list[float] = []
    errors = sent = 0
    selector = selectors.DefaultSelector()
    start = time.perf_counter()
    for _ in range(options.clients):
        client = Client(address)
        selector.register(client.sock, selectors.EVENT_READ, client)
        client.send(requests[sent % options.keys])
        sent += 1
    while (now := time.perf_counter()) < start + options.seconds:
        for key, _ in selector.select(0.1):
            client = key.data
            try:
                good = client.receive()
                if good is None:
                    continue
                took.append(time.perf_counter() - client.sent_at)
                errors += not good
            except OSError:
                errors += 1
                selector.unregister(client.sock)
                client.sock.close()
                client = Client(address)
                selector.register(client.sock, selectors.EVENT_READ, client)
            client.send(requests[sent % options.keys])
            sent += 1
    took.sort()
    return Burst(
        requests=len(took),
        duration=_micros(now - start),
        errors=errors,
        p50=_micros(took[len(took) // 2]) if took else 0,
        p99=_micros(took[int(len(took) * 0.99)]) if took else 0,
        longest=_micros(took[-1]) if took else 0,
    )


def _micros(seconds: float) -> int:
    return round(seconds * 1e6)


if __name__ == "__main__":
    main(sys.argv[1:])
