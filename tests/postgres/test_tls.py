"""A remote server has to prove who it is, unless the conninfo says otherwise; the error says how to say so."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import trustme

from poolkit import BackendUnavailable, PostgresPool
from poolkit.embedded import PostgresServer
from poolkit.postgres.address import parse

from .observing import at

MakePool = Callable[..., PostgresPool]

REMOTE = "127.1"
"""An address that leads here, though poolkit can't know: the short form of 127.0.0.1 (inet_aton(3))."""

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
"""Its length and the code 80877103 (PostgreSQL documentation, "Message Formats")."""

VARIABLES = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGSSLMODE", "PGSSLROOTCERT", "PGDATABASE")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "conninfo",
    [
        "host=db.example",
        "postgresql://app:x@db.example:5432/app",
        "host=10.0.0.7",
        "host=192.168.1.5 dbname=app",
        "host=2001:db8::1",
        "host=localhost,db.example",
        "host=/run/postgresql,db.example",
        "host=localhost hostaddr=10.0.0.7",
        "host=localhost.example",
    ],
)
def test_remote_server_has_to_be_verified(conninfo: str) -> None:
    address = parse(conninfo)
    assert address.secured
    assert address.parameters["sslmode"] == "verify-full"
    assert address.parameters["sslrootcert"] == "system"


@pytest.mark.parametrize(
    "conninfo",
    [
        "",
        "dbname=app",
        "host=localhost",
        "host=LocalHost",
        "host=db.localhost",
        "host=127.0.0.1",
        "host=127.8.9.1",
        "host=::1",
        "host=/run/postgresql",
        "host=@abstract",
        "postgresql:///app?host=%2Frun%2Fpostgresql",
        "host=localhost,127.0.0.1",
        "host=db.example hostaddr=127.0.0.1",
    ],
)
def test_local_server_is_left_alone(conninfo: str) -> None:
    address = parse(conninfo)
    assert not address.secured
    assert not {"sslmode", "sslrootcert"} & address.parameters.keys()


@pytest.mark.parametrize("mode", ["disable", "prefer", "require", "verify-ca", "verify-full"])
def test_sslmode_that_is_given_is_kept(mode: str) -> None:
    address = parse(f"host=db.example sslmode={mode}")
    assert not address.secured
    assert address.parameters["sslmode"] == mode
    assert "sslrootcert" not in address.parameters


def test_sslmode_of_the_environment_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "require")
    address = parse("host=db.example")
    assert not address.secured
    assert "sslmode" not in address.parameters


def test_roots_that_are_given_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    address = parse("host=db.example sslrootcert=/ca.pem")
    assert address.parameters["sslmode"] == "verify-full"
    assert address.parameters["sslrootcert"] == "/ca.pem"
    monkeypatch.setenv("PGSSLROOTCERT", "/ca.pem")
    address = parse("host=db.example")
    assert address.parameters["sslmode"] == "verify-full"
    assert "sslrootcert" not in address.parameters


def test_hosts_of_the_environment_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example")
    assert parse("dbname=app").secured
    assert not parse("host=localhost").secured
    monkeypatch.setenv("PGHOST", "localhost")
    assert not parse("dbname=app").secured


def test_service_is_left_to_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not parse("service=app").secured
    monkeypatch.setenv("PGSERVICE", "app")
    assert not parse("dbname=app").secured


class TlsServer:
    """Terminates TLS before a PostgreSQL: answers the SSLRequest, wraps, and passes on."""

    def __init__(self, target: int, certificate: trustme.LeafCert) -> None:
        self.secured = 0
        """How many connections came to speak TLS."""
        self._target = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.set_alpn_protocols(["postgresql"])
        certificate.configure_cert(self._context)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(20)
        with client, socket.create_connection(("127.0.0.1", self._target), 20) as server:
            try:
                if client.recv(8, socket.MSG_WAITALL) != SSL_REQUEST:
                    return  # no TLS, or a cancel: not here
                client.sendall(b"S")
                with self._context.wrap_socket(client, server_side=True) as secure:
                    self.secured += 1
                    self._pass_on(secure, server)
            except OSError:
                return

    @staticmethod
    def _pass_on(secure: ssl.SSLSocket, server: socket.socket) -> None:
        """Take turns, as the protocol does: all that is asked, then all that is answered."""
        secure.settimeout(0.01)
        server.settimeout(0.01)
        while True:
            for source, sink in ((secure, server), (server, secure)):
                try:
                    data = source.recv(65536)
                except TimeoutError:
                    continue
                if not data:
                    return
                sink.sendall(data)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(postgres_server: PostgresServer, authority: trustme.CA) -> Iterator[TlsServer]:
    """Give a server whose certificate is good for ``127.0.0.1``, from an authority nobody knows."""
    tls = TlsServer(postgres_server.port, authority.issue_cert("127.0.0.1"))
    with closing(tls):
        yield tls


@pytest.fixture
def roots(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def test_unknown_authority_is_refused_and_the_error_says_how_to_opt_out(
    conninfo: str, server: TlsServer, make_pool: MakePool
) -> None:
    db = make_pool(at(conninfo, host=REMOTE, port=server.port), min_size=1, max_size=1)
    with pytest.raises(BackendUnavailable) as caught:
        db.query("select 1")
    text = str(caught.value)
    assert "certificate verify failed" in text
    assert "sslmode=disable" in text
    assert "sslrootcert=<CA file>" in text
    assert caught.value.retry_after is None, "no use in trying again"
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    assert server.secured == 0


def test_authority_that_is_given_is_believed(
    conninfo: str, server: TlsServer, roots: str, make_pool: MakePool
) -> None:
    remote = at(conninfo, host=REMOTE, port=server.port, sslrootcert=roots)
    db = make_pool(remote, min_size=1, max_size=1)
    with db.connection() as conn:
        assert conn.execute("select 1").fetchall() == [(1,)]
        assert conn.pgconn.ssl_in_use
    assert server.secured == 1


def test_certificate_for_another_name_is_refused(
    conninfo: str,
    postgres_server: PostgresServer,
    authority: trustme.CA,
    roots: str,
    make_pool: MakePool,
) -> None:
    certificate = authority.issue_cert("db.example")
    with closing(TlsServer(postgres_server.port, certificate)) as server:
        remote = at(conninfo, host=REMOTE, port=server.port, sslrootcert=roots)
        db = make_pool(remote, min_size=1, max_size=1)
        with pytest.raises(BackendUnavailable, match="does not match host name"):
            db.query("select 1")


def test_server_without_tls_is_refused_and_the_error_says_how_to_opt_out(
    conninfo: str, make_pool: MakePool
) -> None:
    remote = at(conninfo, host=REMOTE)
    with pytest.raises(BackendUnavailable, match="SSL") as caught:
        make_pool(remote, min_size=1, max_size=1).query("select 1")
    assert "sslmode=disable" in str(caught.value)


def test_opting_out_as_the_error_says_helps(conninfo: str, make_pool: MakePool) -> None:
    remote = at(conninfo, host=REMOTE, sslmode="disable")
    assert make_pool(remote, min_size=1, max_size=1).query("select 1") == [(1,)]


def test_error_has_no_hint_when_the_caller_chose_the_sslmode(
    conninfo: str, server: TlsServer, make_pool: MakePool, roots: str
) -> None:
    chosen = at(conninfo, host=REMOTE, sslmode="verify-full", sslrootcert=roots)
    with pytest.raises(BackendUnavailable, match="SSL") as caught:
        make_pool(chosen, min_size=1, max_size=1).query("select 1")
    assert "poolkit asked" not in str(caught.value)
