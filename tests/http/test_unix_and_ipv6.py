"""Unix-domain sockets and IPv6 are servers like others."""

from __future__ import annotations

import socket
from time import monotonic

import pytest

from poolkit import AddressBlocked, BackendUnavailable, ConfigError, HttpPool
from tests.core.support import together
from tests.http.scripted import answers, response


def url_of(path):
    return f"http+unix://{str(path).replace('/', '%2F')}"


@pytest.fixture
def unix(http_server):
    """Give the address of the server's Unix socket."""
    return url_of(http_server.socket_path)


def test_requests_over_a_unix_socket(unix):
    with HttpPool() as http:
        heard = http.post(f"{unix}/echo?a=1", params={"b": 2}, json={"x": 1}).json()

    assert (heard["method"], heard["path"], heard["body"]) == ("POST", "/echo", '{"x": 1}')
    assert heard["query"] == [["a", "1"], ["b", "2"]]
    assert ["Host", "localhost"] in heard["headers"]


def test_a_base_may_be_a_unix_socket(unix):
    with HttpPool(f"{unix}/status") as http:
        assert http.get("/204").status == 204
        assert http.get("201", params={"X": "y"}).headers["x"] == "y"
    with HttpPool(unix) as http:
        assert http.get("json").json()["name"] == "poolkit"
        assert http.get("/redirect/3").json()["path"] == "/redirect/0"


def test_its_connections_are_kept_and_counted(scripted, tmp_path):
    server = scripted(answers(response(b"ok")), path=tmp_path / "s")
    url = url_of(tmp_path / "s")
    with HttpPool(max_size=3) as http:
        together(10, lambda number: [http.get(url).data for _ in range(5)])
        stats = http.stats()
        assert list(http.stats_by_host()) == [f"unix:{tmp_path / 's'}"]
    assert (stats.leases, stats.errors) == (50, 0)
    assert server.connections == stats.created <= 3


def test_a_socket_that_is_not_there_is_an_outage_with_a_cause(tmp_path):
    with HttpPool() as http:
        with pytest.raises(BackendUnavailable, match="No such file") as caught:
            http.get(url_of(tmp_path / "none"), timeout=1)
        assert str(tmp_path / "none") in str(caught.value)


def test_a_socket_that_is_no_socket_is_one_too(tmp_path):
    (tmp_path / "file").write_text("text")
    with HttpPool() as http, pytest.raises(BackendUnavailable):
        http.get(url_of(tmp_path / "file"), timeout=1)


def test_a_deadline_holds_over_a_unix_socket(scripted, tmp_path):
    def stalls(talk):
        talk.request()
        talk.stall()

    scripted(stalls, path=tmp_path / "s")
    began = monotonic()
    with HttpPool() as http, pytest.raises(TimeoutError):
        http.get(url_of(tmp_path / "s"), timeout=0.2)
    assert monotonic() - began < 0.3


@pytest.mark.parametrize("url", ["http+unix://", "http+unix:///run/x.sock", "http+unix://%00/x"])
def test_a_url_without_a_socket_is_refused(url):
    with HttpPool() as http, pytest.raises(ConfigError, match="url"):
        http.get(url)


def test_a_path_that_is_too_long_is_told(tmp_path):
    with HttpPool() as http, pytest.raises(BackendUnavailable, match="too long"):
        http.get(url_of("/tmp/" + "x" * 200), timeout=1)


def test_allowed_hosts_allow_no_sockets(unix):
    with HttpPool(allowed_hosts=["localhost"]) as http, pytest.raises(AddressBlocked):
        http.get(f"{unix}/json")


def test_ipv6_by_address(scripted):
    server = scripted(answers(response(b"six")), host="::1")
    with HttpPool() as http:
        assert http.get(f"http://[::1]:{server.port}/p").data == b"six"
        assert http.get(f"http://[0:0:0:0:0:0:0:1]:{server.port}/p").data == b"six"
        assert f"http://[::1]:{server.port}" in http.stats_by_host()
    with HttpPool(f"http://[::1]:{server.port}/v1") as http:
        assert http.get("users").data == b"six"
    assert server.requests[0].header("host") == f"[::1]:{server.port}"
    assert server.requests[2].target == "/v1/users"


def test_a_zone_is_used_and_stays_here(scripted, monkeypatch):
    server = scripted(answers(response(b"six")), host="::1")
    asked = []

    def routed(sock, where):
        asked.append(where)
        return real(sock, ("::1", server.port))

    real = socket.socket.connect_ex
    monkeypatch.setattr(socket.socket, "connect_ex", routed)
    with HttpPool() as http:
        assert http.get(f"http://[fe80::1%25lo]:{server.port}/").data == b"six"
    assert asked == [("fe80::1", server.port, 0, socket.if_nametoindex("lo"))]
    assert server.requests[0].header("host") == f"[fe80::1]:{server.port}"


def test_ipv6_by_name(scripted, dns):
    server = scripted(answers(response(b"six")), host="::1")
    dns.answers("six.example", "::1")
    with HttpPool() as http:
        assert http.get(f"http://six.example:{server.port}/").data == b"six"


def test_the_other_family_is_tried_when_one_refuses(scripted, dns):
    server = scripted(answers(response(b"four")))
    dns.answers("both.example", "::1", "127.0.0.1")
    with HttpPool() as http:
        assert http.get(f"http://both.example:{server.port}/", timeout=2).data == b"four"


def test_the_next_address_is_tried_beside_one_that_does_not_answer(
    scripted, dns, monkeypatch, blackhole
):
    """Of the first nothing is heard; the request is answered a quarter of a second later."""
    server = scripted(answers(response(b"four")))
    real = socket.socket.connect_ex

    def routed(sock, where):
        if where[0] == "127.0.0.2":  # stands for one that packets get lost to
            where = ("127.0.0.1", blackhole.port)
        return real(sock, where)

    monkeypatch.setattr(socket.socket, "connect_ex", routed)
    dns.answers("slow.example", "127.0.0.2", "127.0.0.1")
    began = monotonic()
    with HttpPool() as http:
        assert http.get(f"http://slow.example:{server.port}/", timeout=5).data == b"four"
    assert 0.2 < monotonic() - began < 0.6
