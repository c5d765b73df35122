"""Each bad certificate is refused for its own reason, and the good one is not."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

import pytest

from tests.http.certificates import Certificates, allow_old
from tests.http.scripted import PATIENCE, ScriptedServer, answers, response

Maker = Callable[..., ScriptedServer]


def ask(server: ScriptedServer, context: ssl.SSLContext, name: str = "localhost") -> bytes:
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    with plain, context.wrap_socket(plain, server_hostname=name) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        return sock.recv(1000)


@pytest.fixture
def trusting(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificates.ca_file))


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_the_good_one_is_good(
    scripted: Maker, certificates: Certificates, trusting: ssl.SSLContext, name: str
) -> None:
    server = scripted(answers(response(b"yes")), tls=certificates.good)
    assert ask(server, trusting, name).endswith(b"yes")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("expired", "certificate has expired"),
        ("wrong_host", "Hostname mismatch"),
        ("unknown_authority", "unable to get local issuer"),
    ],
)
def test_the_others_are_refused(
    scripted: Maker, certificates: Certificates, trusting: ssl.SSLContext, kind: str, reason: str
) -> None:
    server = scripted(answers(response()), tls=getattr(certificates, kind)())
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        ask(server, trusting)
    server.close()
    assert len(server.tls_failures) == 1
    assert server.requests == []


@pytest.mark.skipif(not ssl.HAS_TLSv1_1, reason="this OpenSSL has no old protocols")
def test_the_old_protocol_is_spoken_with_who_allows_it_alone(
    scripted: Maker, certificates: Certificates, trusting: ssl.SSLContext
) -> None:
    server = scripted(answers(response(b"old")), tls=certificates.old_protocol())
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
        ask(server, trusting)
    allow_old(trusting)
    assert ask(server, trusting).endswith(b"old")


def test_a_client_must_prove_itself_where_that_is_wanted(
    scripted: Maker, certificates: Certificates, trusting: ssl.SSLContext
) -> None:
    server = scripted(answers(response(b"yours")), tls=certificates.wants_client())
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(server, trusting)
    trusting.load_cert_chain(certificates.client_file)
    assert ask(server, trusting).endswith(b"yours")
    stranger = ssl.create_default_context(cafile=str(certificates.ca_file))
    stranger.load_cert_chain(certificates.strange_client_file)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(server, stranger)
