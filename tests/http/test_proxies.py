"""The forward proxy forwards, tunnels, and wants to know who asks."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import urllib3

from poolkit.embedded import HttpServer
from tests.http.certificates import Certificates
from tests.http.proxies import ForwardProxy

Maker = Callable[..., ForwardProxy]


def through(proxy: ForwardProxy, server: HttpServer, **options: object) -> urllib3.ProxyManager:
    ca = str(server.ca_file) if server.url.startswith("https") else None
    return urllib3.ProxyManager(proxy.url, ca_certs=ca, retries=False, timeout=10, **options)  # type: ignore[arg-type]


def test_forwards_plain_requests_on_one_connection(
    forward_proxy: Maker, http_server: HttpServer
) -> None:
    proxy = forward_proxy()
    with through(proxy, http_server) as http:
        echo = json.loads(http.request("POST", f"{http_server.url}/echo?a=b", body=b"abc").data)
        size = http.request("HEAD", f"{http_server.url}/bytes/100").headers["Content-Length"]
        packed = http.request("GET", f"{http_server.url}/gzip/1000").data
    assert (echo["body"], echo["query"], echo["path"]) == ("abc", [["a", "b"]], "/echo")
    assert (size, len(packed)) == ("100", 1000)
    assert proxy.connections == 1
    assert proxy.requests[0].target == f"{http_server.url}/echo?a=b"


def test_tunnels_tls_without_a_look_inside(forward_proxy: Maker, https_server: HttpServer) -> None:
    proxy = forward_proxy()
    with through(proxy, https_server) as http:
        for _ in range(2):
            assert len(http.request("GET", f"{https_server.url}/bytes/1000000").data) == 1_000_000
    assert proxy.tunnels == [f"localhost:{https_server.port}"]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_is_for_those_with_credentials(
    forward_proxy: Maker, http_server: HttpServer, https_server: HttpServer, scheme: str
) -> None:
    server = http_server if scheme == "http" else https_server
    proxy = forward_proxy(credentials="me:secret")
    with through(proxy, server) as http:
        if scheme == "http":
            assert http.request("GET", f"{server.url}/json").status == 407
        else:
            with pytest.raises(urllib3.exceptions.ProxyError, match="407"):
                http.request("GET", f"{server.url}/json")
    known = urllib3.make_headers(proxy_basic_auth="me:secret")
    with through(proxy, server, proxy_headers=known) as http:
        assert http.request("GET", f"{server.url}/json").status == 200
    echo = [heard for heard in proxy.requests if heard.header("Proxy-Authorization")]
    assert len(echo) == 1


def test_says_so_when_nobody_is_there(
    forward_proxy: Maker, own_http: Callable[..., HttpServer]
) -> None:
    proxy, server = forward_proxy(), own_http()
    server.stop()
    with through(proxy, server) as http:
        assert http.request("GET", f"{server.url}/json").status == 502


def test_itself_may_speak_tls(
    forward_proxy: Maker, certificates: Certificates, http_server: HttpServer
) -> None:
    proxy = forward_proxy(tls=certificates.good)
    with urllib3.ProxyManager(
        proxy.url, ca_certs=str(certificates.ca_file), retries=False, timeout=10
    ) as http:
        assert len(http.request("GET", f"{http_server.url}/bytes/500000").data) == 500_000


def test_a_tunnel_ends_with_the_proxy(forward_proxy: Maker, https_server: HttpServer) -> None:
    proxy = forward_proxy()
    with through(proxy, https_server) as http:
        http.request("GET", f"{https_server.url}/json")
        proxy.close()
        with pytest.raises(urllib3.exceptions.HTTPError):
            http.request("GET", f"{https_server.url}/json")
