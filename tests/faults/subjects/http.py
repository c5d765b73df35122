"""HttpPool, for the campaign."""

from __future__ import annotations

import json
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trustme
from urllib3.exceptions import HTTPError

from poolkit import HttpPool, PoolKitError
from poolkit.embedded import HttpServer
from poolkit.embedded.process import Home
from tests.faults.subjects import ACQUIRE_TIMEOUT, HOST, SIZE, BodyLost, Midway, ledger
from tests.http.certificates import LONG_AGO, OVER

PIECE = 8_000


class LedgerServer(HttpServer):
    """Runs the ledger, with TLS if *certificate* is the path of one."""

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__()
        self._certificate = [] if certificate is None else [certificate]

    def _command(self, home: Home, port: int) -> Sequence[str | Path]:
        self._socket(home).unlink(missing_ok=True)  # of one that was killed
        ports = [str(port), self._socket(home), *self._certificate]
        return [sys.executable, "-B", ledger.__file__, *ports]

    @staticmethod
    def _socket(home: Home) -> Path:
        return home.path / "http.sock"


class Http:
    """What the ledger holds are the effects. Ids begin with their cell."""

    name = "http"
    block = "streamed response"
    looks_names_up = True
    forgets = False
    errors = (PoolKitError, HTTPError)
    pool: HttpPool

    def __init__(self) -> None:
        self.server = LedgerServer()
        self._token = f"token-{secrets.token_hex(12)}"
        self._value = f"value-{secrets.token_hex(12)}"
        self._cell = ""

    @property
    def secrets(self) -> Sequence[str]:
        return [self._token, self._value]

    def open(self, cell: str, host: str, port: int) -> None:
        self._open(cell, f"http://{host}:{port}")

    def write(self, id: str) -> str:
        return self._text(self.pool.post(f"/effects/{id}", params={"key": self._value}))

    def upsert(self, id: str) -> str:
        return self._text(self.pool.post(f"/effects/{id}", idempotency_key=id))

    def read(self, id: str) -> str:
        return self._text(self.pool.get(f"/tag/{id}", params={"key": self._value}))

    def in_block(self, ids: Sequence[str], midway: Midway) -> Sequence[str] | None:
        with self.pool.stream("POST", f"/effects/{','.join(ids)}") as response:
            assert response.status == 200, response.status
            try:
                body = response.read(PIECE)
                midway()
                for piece in response.stream(PIECE):
                    body += piece
            except (PoolKitError, HTTPError) as error:
                raise BodyLost(repr(error)) from error
        return [line for line in body.decode().splitlines() if not line.startswith(".")]

    def hold(self) -> AbstractContextManager[object]:
        return self.pool.stream("GET", "/bytes/8000000")

    def seed(self) -> None:
        pass

    def answers(self) -> None:
        self.server.counts()

    def effects(self) -> Mapping[str, int]:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(5)
            asking.connect(str(self.server.socket_path))
            asking.sendall(f"GET /held/{self._cell} HTTP/1.0\r\n\r\n".encode())
            with asking.makefile("rb") as answer:
                told: dict[str, int] = json.loads(answer.read().partition(b"\r\n\r\n")[2])
        return told

    def connections(self) -> int:
        return self.server.counts().open

    def _open(self, cell: str, url: str, **settings: Any) -> None:
        self._cell = cell
        self.pool = HttpPool(
            url,
            name=f"{self.name}-{cell}",
            auth=self._token,
            max_size=SIZE,
            acquire_timeout=ACQUIRE_TIMEOUT,
            **settings,
        )

    @staticmethod
    def _text(response: Any) -> str:
        assert response.status == 200, response.status
        return str(response.data.decode())


class Https(Http):
    """The same with TLS."""

    name = "https"

    def __init__(self) -> None:
        super().__init__()
        self._folder = TemporaryDirectory(prefix="poolkit-chaos-")  # gone with this object
        folder = Path(self._folder.name)
        self._authority = trustme.CA()
        self._roots = folder / "roots.pem"
        self._authority.cert_pem.write_to_path(str(self._roots))
        self._certificate = folder / "certificate.pem"
        self._certify()
        self.server = LedgerServer(self._certificate)

    def open(self, cell: str, host: str, port: int) -> None:
        self._open(cell, f"https://{host}:{port}", verify=str(self._roots))

    @contextmanager
    def expire(self) -> Iterator[None]:
        self._certify(not_before=LONG_AGO, not_after=OVER)
        self.server.restart()
        try:
            yield
        finally:
            self._certify()
            self.server.restart()

    def _certify(self, **limits: Any) -> None:
        leaf = self._authority.issue_cert(HOST, **limits)
        leaf.private_key_and_cert_chain_pem.write_to_path(str(self._certificate))
