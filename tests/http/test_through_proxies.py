"""Through a proxy requests are what they are without one: within deadlines, checked, and kept secret."""

from __future__ import annotations

from time import monotonic

import pytest

from poolkit import BackendUnavailable, ConfigError, HttpPool
from tests.http.face import values
from tests.http.scripted import answers, in_turn, response


@pytest.fixture
def through(https_server, certificates, tmp_path):
    """Give a maker of pools that use a proxy, and trust all authorities of these tests."""
    both = tmp_path / "both.pem"
    both.write_bytes(https_server.ca_file.read_bytes() + certificates.ca_file.read_bytes())
    pools = []

    def make(url, **settings):
        pools.append(HttpPool(proxy=url, verify=both, **settings))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture(params=["http", "https"])
def proxy(request, forward_proxy, certificates):
    """Give a proxy that is talked to without TLS, or with it."""
    return forward_proxy(tls=certificates.good if request.param == "https" else None)


def test_plain_requests_are_forwarded(proxy, through, http_server):
    http = through(proxy.url)
    heard = http.post(f"{http_server.url}/echo?a=1", data=b"abc", params={"b": 2}).json()

    assert (heard["body"], heard["query"]) == ("abc", [["a", "1"], ["b", "2"]])
    assert proxy.requests[0].target == f"{http_server.url}/echo?a=1&b=2"
    assert proxy.requests[0].header("host") == http_server.url.removeprefix("http://")
    for _ in range(3):
        assert http.get(f"{http_server.url}/json").status == 200
    assert http.head(f"{http_server.url}/bytes/100").headers["content-length"] == "100"
    assert (proxy.connections, proxy.tunnels) == (1, [])
    assert http.stats().created == 1


def test_requests_with_tls_go_through_a_tunnel(proxy, through, https_server):
    http = through(proxy.url)
    for number in range(3):
        heard = http.post(f"{https_server.url}/echo", json={"n": number}).json()
        assert (heard["body"], heard["path"]) == (f'{{"n": {number}}}', "/echo")

    port = https_server.port
    assert proxy.tunnels == [f"localhost:{port}"]
    assert http.stats().created == 1
    with http.stream("GET", f"{https_server.url}/bytes/3000000") as answer:
        assert sum(map(len, answer.stream())) == 3_000_000
    assert http.get(f"{https_server.url}/gzip/100000").data[:3] == b"\x00\x01\x02"


def test_who_asks_is_told_to_the_proxy_alone(forward_proxy, through, scripted, certificates):
    proxy = forward_proxy(credentials="us er:p@ss")
    plain, secure = (
        scripted(answers(response(b"ok"))),
        scripted(answers(response(b"ok")), tls=certificates.good),
    )
    http = through(proxy.url.replace("://", "://us%20er:p%40ss@"))

    assert http.get(plain.url).data == http.get(secure.url).data == b"ok"
    assert http.session().get(plain.url).content == b"ok"
    for heard in (*plain.requests, *secure.requests):
        assert values(heard.headers, "proxy-authorization") == []
        assert values(heard.headers, "authorization") == []
    assert all(heard.header("proxy-authorization") for heard in proxy.requests)
    assert "p@ss" not in repr(http) + repr(http.config)
    assert "p%40ss" not in repr(http) + repr(http.config)


def test_a_tunnel_that_is_refused_is_told_and_not_tried_again(forward_proxy, through, https_server):
    proxy = forward_proxy(credentials="user:right")
    http = through(proxy.url.replace("://", "://user:s3cret@"))
    for method in ("GET", "POST"):
        with pytest.raises(BackendUnavailable, match="407") as caught:
            http.request(method, f"{https_server.url}/json")
        assert "s3cret" not in str(caught.value) + str(caught.value.__cause__)
        assert caught.value.retry_after is None
    assert len(proxy.requests) <= 2
    assert (http.stats().retries, http.stats().in_use) == (0, 0)


def test_a_plain_request_that_is_refused_is_an_answer(forward_proxy, through, http_server):
    proxy = forward_proxy(credentials="user:right")

    assert through(proxy.url).get(f"{http_server.url}/json").status == 407


def test_a_proxy_that_is_down_is_an_outage(through, https_server, http_server):
    http = through("http://127.0.0.1:1")
    for url in (http_server.url, https_server.url):
        with pytest.raises(BackendUnavailable, match="refused") as caught:
            http.get(f"{url}/json", timeout=1)
        assert caught.value.retry_after is not None


def test_a_host_that_the_proxy_can_not_reach_is_one_too(forward_proxy, through):
    http = through(forward_proxy().url)

    with pytest.raises(BackendUnavailable, match="502"):
        http.get("https://localhost:1/", timeout=1)
    assert http.get("http://localhost:1/", timeout=1).status == 502


def test_a_certificate_is_checked_through_a_tunnel(proxy, through, scripted, certificates):
    for bad in (
        certificates.expired(),
        certificates.wrong_host(),
        certificates.unknown_authority(),
    ):
        server = scripted(answers(response()), tls=bad)
        http = through(proxy.url)
        with pytest.raises(BackendUnavailable, match="certificate"):
            http.get(server.url)
        assert (server.connections, server.requests, http.stats().retries) == (1, [], 0)


def test_so_is_that_of_the_proxy(forward_proxy, certificates, through, http_server, https_server):
    for bad in (certificates.expired(), certificates.wrong_host()):
        proxy = forward_proxy(tls=bad)
        http = through(proxy.url)
        for server in (http_server, https_server):
            with pytest.raises(BackendUnavailable, match="certificate"):
                http.get(f"{server.url}/json")
        assert proxy.requests == []


def stalls(talk):
    talk.head()
    talk.stall()


def drips(talk):
    talk.head()
    talk.drip(b"HTTP/1.1 200 Connection Established\r\nX: " + bytes(1000), 0.02)


def opens_and_stalls(talk):
    talk.head()
    talk.send(b"HTTP/1.1 200 OK\r\n\r\n")
    talk.stall()


@pytest.mark.parametrize(
    "script",
    [lambda talk: talk.stall(), stalls, drips, opens_and_stalls],
    ids=["silent", "stalls", "drips", "opens"],
)
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_deadline_holds_through_the_tunnel(scripted, certificates, through, script, secure):
    proxy = scripted(script, tls=certificates.good if secure else None)
    http = through(proxy.url)
    began = monotonic()

    with pytest.raises(TimeoutError) as caught:
        http.get("https://localhost:1/", timeout=0.3)

    assert 0.29 < monotonic() - began < 0.45
    assert caught.value.stage == "connecting"
    assert http.stats().in_use == 0


def test_and_for_what_is_asked_in_it(proxy, through, scripted, certificates):
    def stalls(talk):
        talk.request()
        talk.stall()

    server = scripted(stalls, tls=certificates.good)
    http = through(proxy.url)
    began = monotonic()
    with pytest.raises(TimeoutError) as caught:
        http.get(server.url, timeout=0.5)
    assert 0.49 < monotonic() - began < 0.7
    assert caught.value.stage == "running"


@pytest.mark.parametrize(
    "answer",
    [b"garbage\r\n\r\n", b"HTTP/1.1 403 No\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n"],
    ids=["garbage", "403", "hang-up", "many fields"],
)  # fmt: skip
def test_a_tunnel_that_is_none_is_an_outage(scripted, through, answer):
    def script(talk):
        talk.head()
        talk.send(answer)

    http = through(scripted(script).url)
    with pytest.raises(BackendUnavailable):
        http.get("https://localhost:1/", timeout=2)
    assert http.stats().in_use == 0


def test_a_kept_tunnel_that_died_is_noticed(proxy, through, scripted, certificates):
    once = answers(response(b"ok"), b"")

    def script(talk):
        talk.request()
        talk.send(response(b"ok"))

    server = scripted(in_turn(script, script, once), tls=certificates.good)
    http = through(proxy.url)
    for _ in range(3):
        assert http.get(server.url).data == b"ok"
    assert server.connections == 3


def test_a_kept_tunnel_is_used_by_a_post(proxy, through, https_server):
    """Session tickets that came through it do not make it look dead."""
    http = through(proxy.url)
    for _ in range(4):
        assert http.post(f"{https_server.url}/echo", data=b"x").status == 200
    assert len(proxy.tunnels) == 1
    assert http.stats().created == 1


def test_redirects_go_through_the_proxy(proxy, through, http_server):
    http = through(proxy.url)

    assert http.get(f"{http_server.url}/redirect/2").json()["path"] == "/redirect/0"
    assert len(proxy.requests) == 3


def test_unix_sockets_do_not(proxy, through, http_server):
    http = through(proxy.url)
    url = f"http+unix://{str(http_server.socket_path).replace('/', '%2F')}/json"

    assert http.get(url).status == 200
    assert proxy.requests == []


def test_the_guard_can_not_be_kept_through_a_proxy():
    with pytest.raises(ConfigError, match="can't be kept through a proxy"):
        HttpPool(proxy="http://proxy.example", allow_private=False)
