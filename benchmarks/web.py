"""The servers that HTTP is measured against: nginx where it is installed, else the embedded one."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from poolkit.embedded import HttpServer
from poolkit.embedded.http_server.pages import content
from poolkit.embedded.process import Home
from poolkit.embedded.server import Server
from poolkit.embedded.tls import AUTHORITY, CERTIFICATE, write_certificate

SMALL, LARGE, HUGE = 200, 100_000, 1 << 30  # bytes of the bodies
LENGTHS = (1, 100, SMALL, 10_000, LARGE, 1_000_000, 10_000_000)

CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nodelay on;
    open_file_cache max=100 inactive=600s;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    default_type application/octet-stream;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port}{tls} backlog=4096;
        root {folder}/www;
        {certificate}
    }}
}}
"""
TLS = "ssl_certificate {pem}; ssl_certificate_key {pem}; ssl_protocols TLSv1.2 TLSv1.3;"


@dataclass(frozen=True)
class Web:
    """Where bodies are to be had: ``{plain}/bytes/{length}``, and the same over TLS."""

    name: str
    plain: str
    secure: str
    ca_file: str

    def url(self, length: int, *, tls: bool = False) -> str:
        return f"{self.secure if tls else self.plain}/bytes/{length}"


def body(length: int) -> bytes:
    """Return the body of that length."""
    return b"".join(content(length))


@contextmanager
def served() -> Iterator[Web]:
    """Run one server for plain HTTP and one for TLS, one process each."""
    program = shutil.which("nginx")
    with ExitStack() as running:
        if program is None:
            embedded, embedded_tls = HttpServer(), HttpServer(tls=True)
            plain, secure = map(running.enter_context, (embedded, embedded_tls))
            yield Web("the embedded server", plain, secure, str(embedded_tls.ca_file))
        else:
            nginx, nginx_tls = Nginx(program, tls=False), Nginx(program, tls=True)
            plain, secure = map(running.enter_context, (nginx, nginx_tls))
            yield Web(_version(program), plain, secure, str(nginx_tls.ca_file))


class Nginx(Server):
    """An nginx of one process, that serves files and keeps connections for ever."""

    product = "nginx"

    def __init__(self, program: str, *, tls: bool) -> None:
        super().__init__(startup_timeout=10.0)
        self._program = program
        self._tls = tls
        self._tried = 0

    def __enter__(self) -> str:
        self.start()
        return f"https://localhost:{self.port}" if self._tls else f"http://127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path:
        return self._started().path / AUTHORITY

    def _make_home(self) -> Home:
        return Home("nginx", polite=signal.SIGTERM, demoted=False)

    def _create(self, home: Home) -> None:
        if self._tls:
            write_certificate(home)
        folder = home.path / "www" / "bytes"
        folder.mkdir(parents=True)
        for length in LENGTHS:
            (folder / str(length)).write_bytes(body(length))
        with (folder / str(HUGE)).open("wb") as huge:
            huge.truncate(HUGE)  # a hole: it takes no disk

    def _command(self, home: Home, port: int) -> Sequence[str | Path]:
        self._tried = port
        certificate = TLS.format(pem=home.path / CERTIFICATE) if self._tls else ""
        config = CONFIG.format(
            folder=home.path, port=port, tls=" ssl" if self._tls else "", certificate=certificate
        )
        return [self._program, "-p", home.path, "-c", home.write("nginx.conf", config)]

    def _is_ready(self, home: Home) -> bool:  # noqa: ARG002
        try:
            socket.create_connection(("127.0.0.1", self._tried), timeout=1).close()
        except OSError:
            return False
        return True


def _version(program: str) -> str:
    told = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    return told.rpartition("version: ")[2].strip().replace("/", " ")
