"""An HTTP server that keeps a ledger: what was posted, and how often it took effect. Run as a script."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(
        Path(__file__).parents[3]
    )  # not the folder of this file, where there is an http.py

from poolkit.embedded.http_server.messages import Answer, Request, as_json, whole
from poolkit.embedded.http_server.process import serve
from poolkit.embedded.http_server.site import Site

PADDING = b"." * 16_000
"""What follows each id in an answer of several: more than a few reads."""


class Ledger(Site):
    """``POST /effects/a,b`` has two effects, once for each ``Idempotency-Key``; the answer says ``a`` and ``b``.

    ``GET /tag/a`` says ``a``. ``GET /held/CELL`` tells how often each id of a cell took effect. An effect is in the
    file, and so outlives the process, before it is acknowledged.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(None)
        self._effects: Counter[str] = Counter()
        self._keys: set[str] = set()
        self.pages |= {"effects": self._post, "held": self._held, "tag": self._tag}
        if file.exists():
            for line in file.read_text().splitlines():
                self._note(*line.split(" "))
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def _post(self, request: Request, argument: str) -> Answer:
        ids = argument.split(",")
        key = dict(request.headers).get("Idempotency-Key", "-")
        if key == "-" or key not in self._keys:
            os.write(self._file, f"{key} {argument}\n".encode())
            self._note(key, argument)
        if len(ids) == 1:
            return whole("text/plain", argument.encode())
        return Answer(200, [("Content-Type", "text/plain")], _padded(ids))

    def _tag(self, _request: Request, argument: str) -> Answer:
        return whole("text/plain", argument.encode())

    def _held(self, _request: Request, argument: str) -> Answer:
        prefix = f"{argument}."
        return as_json({id: times for id, times in self._effects.items() if id.startswith(prefix)})

    def _note(self, key: str, ids: str) -> None:
        self._keys.add(key)
        self._effects.update(ids.split(","))


def _padded(ids: list[str]) -> Iterator[bytes]:
    for id in ids:
        yield f"{id}\n".encode() + PADDING + b"\n"


async def main(port: int, path: str, certificate: str | None) -> None:
    """Serve until killed, or told to end by SIGTERM; with TLS on the port, if there is a certificate."""
    await serve(Ledger(Path(path).with_name("ledger")), port, path, certificate)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("certificate", nargs="?")
    options = parser.parse_args()
    asyncio.run(main(options.port, options.path, options.certificate))
