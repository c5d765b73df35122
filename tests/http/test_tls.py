"""TLS is checked, what is wrong with it is told clearly and once, and its connections are kept like others."""

from __future__ import annotations

import select
import ssl
from time import monotonic

import pytest
from urllib3.exceptions import HTTPError

from poolkit import BackendUnavailable, HttpConfig, HttpPool
from poolkit.core.deadline import Deadline
from poolkit.http.tls import make_context
from tests.core.support import together
from tests.http.scripted import answers, response

OK = answers(response(b"ok"))


@pytest.fixture
def trusting(certificates):
    """Give a pool that trusts the tests' authority."""
    with HttpPool(verify=certificates.ca_file) as http:
        yield http


def test_a_good_server_is_trusted_by_its_authoritys_file_or_folder(https_server, tmp_path):
    folder = tmp_path / "authorities"
    folder.mkdir()
    for verify in (https_server.ca_file, str(https_server.ca_file)):
        with HttpPool(https_server.url, verify=verify) as http:
            assert http.get("/json").status == 200
            assert http.health_check()  # 404, but an answer
    with HttpPool(https_server.url, verify=folder) as http, pytest.raises(BackendUnavailable):
        http.get("/json")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("expired", "certificate has expired"),
        ("wrong_host", "Hostname mismatch|doesn't match"),
        ("unknown_authority", "unable to get local issuer|self.signed"),
        ("old_protocol", "protocol|alert|version"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_wrong_is_told_and_not_tried_again(
    scripted, certificates, trusting, kind, told, method
):
    server = scripted(OK, tls=getattr(certificates, kind)())
    began = monotonic()

    with pytest.raises(BackendUnavailable, match=told) as caught:
        trusting.request(method, server.url)

    assert monotonic() - began < 2
    assert isinstance(caught.value.__cause__, Exception)
    assert isinstance(caught.value.__cause__.__cause__, ssl.SSLError)
    assert caught.value.retry_after is None
    assert "does not retry this by itself" in str(caught.value)
    assert (server.connections, server.requests) == (1, [])
    stats = trusting.stats()
    assert (stats.in_use, stats.size, stats.retries) == (0, 0, 0)


def test_the_usual_authorities_do_not_vouch_for_a_stranger(https_server):
    with HttpPool() as http, pytest.raises(BackendUnavailable, match="certificate verify failed"):
        http.get(f"{https_server.url}/json")
    assert http.health_check(https_server.url) is False


def test_an_authority_of_ones_own_takes_the_place_of_the_usual_ones(certificates):
    own = make_context(HttpConfig(verify=certificates.ca_file))
    usual = make_context(HttpConfig())

    assert len(own.get_ca_certs()) == 1
    for context in (own, usual):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert make_context(HttpConfig()) is usual


def test_the_name_that_is_checked_is_that_of_the_url(scripted, certificates, trusting, dns):
    dns.answers("elsewhere.example", "127.0.0.1")
    server = scripted(OK, tls=certificates.wrong_host())

    assert trusting.get(f"https://elsewhere.example:{server.port}/").data == b"ok"
    with pytest.raises(BackendUnavailable, match="certificate"):  # whatever the Host header says
        trusting.get(server.url, headers={"Host": "elsewhere.example"})


def test_the_name_is_told_to_the_server(scripted, certificates, trusting, dns):
    dns.answers("virtual.example", "127.0.0.1")
    names = []
    context = certificates.for_names("virtual.example")
    context.sni_callback = lambda sock, name, _: names.append(name)
    server = scripted(OK, tls=context)

    trusting.get(f"https://virtual.example:{server.port}/")
    assert names == ["virtual.example"]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_certificate_may_be_for_an_address(scripted, certificates, trusting, host):
    server = scripted(OK, tls=certificates.good, host=host.strip("[]"))

    assert trusting.get(f"https://{host}:{server.port}/").data == b"ok"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_from_1_2_on_is_spoken_and_its_connections_are_kept(
    scripted, certificates, trusting, version
):
    context = certificates.for_names("localhost")
    context.minimum_version = context.maximum_version = version
    server = scripted(OK, tls=context)

    for _ in range(5):
        assert trusting.get(server.url).data == b"ok"
        assert trusting.post(server.url, data=b"x").data == b"ok"  # looks whether it is dead first
    assert server.connections == 1
    assert (trusting.stats().created, trusting.stats().closed) == (1, 0)


def test_session_tickets_do_not_make_a_kept_connection_look_dead(scripted, certificates, trusting):
    """With TLS 1.3 they come after the handshake: a connection that a probe made has something to read."""
    server = scripted(OK, tls=certificates.good)
    trusting.get(server.url)
    (host,) = trusting._lifecycle.running.hosts.all()
    conn = host.node._connect(Deadline.after(5))
    host.node.put(conn)
    readable, _, _ = select.select([conn.sock], [], [], 5)
    assert readable

    for _ in range(3):
        host.node.sweep()
        assert len(host.node.shelf) == 2
    with trusting.stream("POST", server.url), trusting.stream("POST", server.url):
        pass
    assert server.connections == 2


def test_a_kept_connection_that_died_is_noticed(scripted, certificates, trusting):
    def once(talk):
        talk.request()
        talk.send(response(b"ok"))

    server = scripted(once, tls=certificates.good)
    for _ in range(3):
        assert trusting.get(server.url).data == b"ok"
    assert server.connections == 3


def test_a_clients_certificate_is_shown(scripted, certificates):
    server = scripted(OK, tls=certificates.wants_client())
    for cert in (certificates.client_file, (certificates.client_file, certificates.client_file)):
        with HttpPool(verify=certificates.ca_file, client_cert=cert) as http:
            assert http.get(server.url).data == b"ok"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind", ["none", "strange"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_client_that_is_refused_is_told_so_and_does_not_try_again(
    scripted, certificates, kind, version, method
):
    """TLS 1.3 says so only after the handshake, when the request is under way: it has not run."""
    context = certificates.wants_client()
    context.minimum_version = context.maximum_version = version
    server = scripted(OK, tls=context)
    cert = certificates.strange_client_file if kind == "strange" else None
    with HttpPool(verify=certificates.ca_file, client_cert=cert) as http:
        with pytest.raises(BackendUnavailable, match=r"(?i)alert"):
            http.request(method, server.url, data=b"x", timeout=5)
        assert (http.stats().in_use, http.stats().retries) == (0, 0)
    assert (server.connections, server.requests) == (1, [])


def test_a_server_without_tls_is_no_tls_server(scripted, certificates, trusting):
    server = scripted(lambda talk: talk.send(response(status=400)), scheme="https")

    with pytest.raises(BackendUnavailable, match=r"(?i)wrong.version|record"):
        trusting.get(server.url, timeout=5)


def test_a_server_with_tls_does_not_answer_plain_http(https_server):
    with HttpPool() as http:
        with pytest.raises(HTTPError):
            http.get(https_server.url.replace("https", "http") + "/json", timeout=5)
        assert http.stats().in_use == 0


def test_a_handshake_that_hangs_is_cut_off(scripted, certificates, trusting):
    server = scripted(lambda talk: talk.stall(), scheme="https")
    began = monotonic()
    with pytest.raises(TimeoutError) as caught:
        trusting.get(server.url, timeout=0.3)
    assert monotonic() - began < 0.35 + 0.1
    assert caught.value.stage == "connecting"


def test_large_bodies_both_ways(https_server):
    body = bytes(range(250)) * 20_000
    with HttpPool(https_server.url, verify=https_server.ca_file) as http:
        heard = http.post("/echo", data=body.hex(), timeout=30).json()
        assert heard["body"] == body.hex()
        with http.stream("GET", "/bytes/5000000") as answer:
            assert sum(map(len, answer.stream())) == 5_000_000
        assert http.stats().created == 1


def test_threads_share_connections(https_server):
    before = https_server.counts().connections
    with HttpPool(https_server.url, verify=https_server.ca_file, max_size=5) as http:
        together(20, lambda number: [http.get("/json").json() for _ in range(5)])
        stats = http.stats()
    assert https_server.counts().connections - before == stats.created <= 5
    assert (stats.leases, stats.errors) == (100, 0)
