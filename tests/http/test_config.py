"""Settings are checked when they are given, errors name the remedy, and no secret is ever shown."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from poolkit import ConfigError, HttpConfig, HttpPool, RetryPolicy


def test_defaults_are_those_that_are_promised():
    config = HttpConfig()

    assert (config.name, config.base_url) == ("http", "")
    assert (config.max_size, config.max_idle) == (50, 10)
    assert (config.acquire_timeout, config.max_waiting) == (5.0, 1000)
    assert (config.request_timeout, config.connect_timeout) == (15.0, 10.0)
    assert (config.idle_timeout, config.max_lifetime) == (30.0, 1800.0)
    assert (config.max_redirects, config.max_response_bytes) == (5, 64 * 1024 * 1024)
    assert (config.verify, config.allow_private, config.allowed_hosts) == (True, True, None)
    assert (config.leak_threshold, config.retry) == (60.0, RetryPolicy(attempts=3))
    assert config.max_retry_after == 30.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": 5}, "base_url must be a string, not a value of type int"),
        ({"base_url": "s3cret.example/x"}, "base_url must begin with http://"),
        ({"base_url": "ftp://u:s3cret@a"}, "base_url must begin with http://"),
        ({"base_url": "http://u:s3cret@a:port"}, "base_url is not a URL, or its port"),
        ({"base_url": "http://u:s3cret@a:70000"}, "base_url is not a URL, or its port"),
        ({"base_url": "http://u:s3cret@a:0"}, "base_url has the port 0"),
        ({"base_url": "http://u:s3cret@/x"}, "base_url has no host"),
        ({"base_url": "http://a/v1?key=s3cret"}, "base_url can't have a query or a fragment"),
        ({"base_url": "http://a/v1#s3cret"}, "base_url can't have a query or a fragment"),
        ({"max_size": 0}, "max_size must be 1 or more"),
        ({"max_size": 2.5}, "max_size must be a whole number"),
        ({"max_idle": -1}, "max_idle must be 0 or more"),
        ({"max_idle": True}, "max_idle must be a whole number"),
        ({"acquire_timeout": 0}, "acquire_timeout must be more than 0"),
        ({"max_waiting": -1}, "max_waiting must be 0 or more"),
        ({"request_timeout": 0}, "request_timeout must be more than 0"),
        ({"request_timeout": "15"}, "request_timeout must be a number of seconds"),
        ({"request_timeout": float("nan")}, "request_timeout must be a number of seconds"),
        ({"connect_timeout": 0}, "connect_timeout must be more than 0"),
        ({"connect_timeout": float("inf")}, "connect_timeout must be a finite number"),
        ({"idle_timeout": -1}, "idle_timeout must be more than 0"),
        ({"max_lifetime": None}, "max_lifetime must be a number of seconds"),
        ({"max_redirects": -1}, "max_redirects must be 0 or more"),
        ({"max_redirects": "5"}, "max_redirects must be a whole number"),
        ({"max_response_bytes": -1}, "max_response_bytes must be 0 or more"),
        ({"max_response_bytes": 1e6}, "max_response_bytes must be a whole number"),
        ({"max_retry_after": -1}, "max_retry_after must be 0 or more"),
        ({"headers": "X: s3cret"}, "headers must be a dict or a list of pairs"),
        ({"headers": 5}, "headers must be a dict or a list of pairs, not a value of type int"),
        ({"headers": {"X": 5}}, "headers['X'] must be a string, not a value of type int"),
        ({"headers": {b"X": "s3cret"}}, "headers must have strings as names"),
        ({"headers": {"X y": "s3cret"}}, "headers: 'X y' is not the name of a header field"),
        ({"headers": {"X": "s3cret\r\nY: 1"}}, "headers['X'] has characters"),
        ({"headers": {"X": "s3cret€"}}, "headers['X'] has characters"),
        ({"auth": 5}, "auth must be (user, password), a bearer token, or a function"),
        ({"auth": ("s3cret",)}, "auth must be (user, password)"),
        ({"auth": ("user", None)}, "auth must be (user, password)"),
        ({"auth": {"s3cret": 1}}, "auth must be (user, password)"),
        ({"auth": "s3cret\r\nX: y"}, "auth has characters that a header field can't have"),
        ({"verify": False}, "for a private authority give the file with its certificate"),
        ({"verify": None}, "verify must be True or the path of a file, not None"),
        ({"verify": "/no/such/file"}, "verify: there is no file '/no/such/file'"),
        ({"client_cert": "/no/such/file"}, "client_cert: there is no file"),
        ({"client_cert": 5}, "client_cert must be the path of a file, or a pair"),
        ({"client_cert": ("a", "b", "c")}, "client_cert must be the path of a file, or a pair"),
        ({"proxy": "http+unix://x"}, "proxy must begin with http:// or https://"),
        ({"proxy": "socks5://u:s3cret@a"}, "proxy must begin with http://"),
        ({"proxy": "u:s3cret@a:8080"}, "proxy must begin with http://"),
        ({"proxy": 5}, "proxy must be a string"),
        ({"proxy": "http://a", "allow_private": False}, "have the proxy refuse private ones"),
        ({"allow_private": 0}, "allow_private must be True or False"),
        ({"allowed_hosts": "a.example"}, "allowed_hosts must be a list of host names"),
        ({"allowed_hosts": 5}, "allowed_hosts must be a list of host names"),
        ({"allowed_hosts": [5]}, "allowed_hosts must be a string"),
        ({"allowed_hosts": ["https://a.example"]}, "names, addresses, or *.example.com"),
        ({"allowed_hosts": ["*"]}, "names, addresses, or *.example.com"),
        ({"allowed_hosts": ["*."]}, "names, addresses, or *.example.com"),
        ({"allowed_hosts": ["a.*.example"]}, "names, addresses, or *.example.com"),
        ({"allowed_hosts": [""]}, "names, addresses, or *.example.com"),
        ({"allowed_hosts": ["a.example:443"]}, "without a port"),
        ({"allowed_hosts": ["a.example\x1f"]}, "is no host"),
        ({"allowed_hosts": ["a.example?b"]}, "is no host"),
        ({"allowed_hosts": ["\x80.example"]}, "is no host"),
        ({"auth": ("user", "\udcff")}, "auth must be text"),
        ({"before_request": print}, "before_request must be a list of functions"),
        ({"before_request": 5}, "before_request must be a list of functions"),
        ({"before_request": ["f"]}, "before_request must be a list of functions"),
        ({"after_response": {"f": print}}, "after_response must be a list of functions"),
        ({"retry": 3}, "retry must be a RetryPolicy"),
        ({"listeners": 3}, "listeners must be a list"),
        ({"listeners": [3]}, "listeners must be poolkit.Listener objects"),
        ({"name": 3}, "name must be a string"),
        ({"leak_threshold": 0}, "leak_threshold must be more than 0"),
        ({"max_sise": 3}, "did you mean 'max_size'"),
        ({"timeout": 3}, "has no field 'timeout'"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_without_a_secret(settings, message):
    with pytest.raises(ConfigError) as caught:
        HttpPool(**settings)

    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_wrong_base_url_is_not_told_to_set_base_url():
    with pytest.raises(ConfigError) as caught:
        HttpPool("api.example.com")

    assert "set base_url" not in str(caught.value)


@pytest.mark.parametrize("field", ["verify", "client_cert"])
def test_a_file_without_certificates_is_refused_before_anything_is_sent(field, tmp_path: Path):
    file = tmp_path / "empty.pem"
    file.write_text("nothing")

    with pytest.raises(ConfigError, match=f"{field}"):
        HttpPool(**{field: str(file)}).open()


def test_no_secret_is_in_a_repr():
    secret = "s3cret"
    for settings in (
        {"base_url": f"http://app:{secret}@api.example"},
        {"headers": {"X-Api-Key": secret}},
        {"auth": ("app", secret)},
        {"auth": secret},
        {"proxy": f"http://app:{secret}@proxy.example:3128"},
    ):
        config = HttpConfig(**settings)
        pool = HttpPool(config)
        shown = repr(config) + str(config) + repr(pool) + pool.name + repr(pool.stats())
        assert secret not in shown


def test_a_request_and_a_response_show_no_secret(http_server):
    with HttpPool(f"{http_server.url}", auth="s3cret") as http:
        response = http.get("/echo", params={"key": "s3cret"}, headers={"X": "s3cret"})

        assert "s3cret" not in repr(response) + repr(response.request)
        assert "GET" in repr(response.request)
        assert "/echo" in repr(response)


def test_a_repr_tells_what_differs_from_the_defaults():
    config = HttpConfig(base_url="https://api.example/v1", max_size=3, allowed_hosts=["a"])

    assert repr(config) == (
        "HttpConfig(base='https://api.example/v1', name='api.example', max_size=3, "
        "allowed_hosts=('a',))"
    )


def test_the_name_is_that_of_the_host_unless_given():
    assert HttpPool("https://api.example:8443/v1").name == "api.example"
    assert HttpPool("https://api.example", name="api").name == "api"
    assert HttpPool().name == "http"


def test_a_config_and_its_fields_exclude_each_other():
    with pytest.raises(ConfigError, match=re.escape("dataclasses.replace")):
        HttpPool(HttpConfig(), max_size=3)
    with pytest.raises(ConfigError, match="base_url is given twice"):
        HttpPool("http://a", base_url="http://b")


def test_lists_are_copied_so_that_they_can_not_change_behind_the_pool():
    headers = {"X": "1"}
    hosts = ["a"]
    hooks = [print]
    config = HttpConfig(headers=headers, allowed_hosts=hosts, before_request=hooks)
    headers["X"], hosts[0] = "2", "b"
    hooks.clear()

    assert config.headers is not None
    assert dict(config.headers) == {"X": "1"}
    assert config.allowed_hosts == ("a",)
    assert config.before_request == (print,)


def test_a_path_object_names_a_file(certificates):
    config = HttpConfig(verify=certificates.ca_file, client_cert=certificates.client_file)

    assert os.fspath(config.verify) == str(certificates.ca_file)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda http: http.get("relative"), "url must begin with http://, https:// or http+unix"),
        (lambda http: http.get(""), "or set base_url"),
        (lambda http: http.get("ftp://s3cret"), "not ftp:"),
        (lambda http: http.get("javascript:s3cret"), "url must begin with"),
        (lambda http: http.get("http://"), "url has no host"),
        (lambda http: http.get("http:///s3cret"), "url has no host"),
        (lambda http: http.get("http://a:0/"), "port 0"),
        (lambda http: http.get("http://a:65536/s3cret"), "port"),
        (lambda http: http.get("http://a:-1/s3cret"), "port"),
        (lambda http: http.get("http://a:s3cret/"), "port"),
        (lambda http: http.get("http://a b/s3cret"), "url is not a URL"),
        (lambda http: http.get("http://[::1/s3cret"), "url is not a URL"),
        (lambda http: http.get("http://[s3cret]/"), "url is not a URL"),
        (lambda http: http.get("http://a\r\nX: s3cret/"), "url is not a URL"),
        (lambda http: http.get("http://a\x00/s3cret"), "url is not a URL"),
        (lambda http: http.get(f"http://{'a' * 64}.example/s3cret"), "url"),
        (lambda http: http.get("http://ä..example/s3cret"), "url is not a URL"),
        (lambda http: http.get(None), "url must be a string, not None"),
        (lambda http: http.get(b"http://a"), "url must be a string, not a value of type bytes"),
        (lambda http: http.get(5), "url must be a string"),
        (lambda http: http.request("GE T", "http://a"), "method must be a word"),
        (lambda http: http.request("GET / HTTP/1.1\r\nX: s3cret", "http://a"), "method must be"),
        (lambda http: http.request("", "http://a"), "method must be a word"),
        (lambda http: http.request("GÉT", "http://a"), "method must be a word"),
        (lambda http: http.request(None, "http://a"), "method must be a string"),
        (lambda http: http.request("CONNECT", "http://a"), "set proxy="),
        (lambda http: http.get("http://a", timeout="s3cret"), "timeout must be a number"),
        (lambda http: http.get("http://a", timeout=-1), "timeout must be 0 or more"),
        (lambda http: http.get("http://a", retry=3), "retry must be a RetryPolicy"),
        (lambda http: http.get("http://a", redirects=-1), "redirects must be 0 or more"),
        (lambda http: http.get("http://a", redirects=True), "redirects must be a whole number"),
        (lambda http: http.post("http://a", idempotency_key=5), "idempotency_key must be a string"),
        (lambda http: http.get("http://a", auth=5), "auth must be"),
        (lambda http: http.get("http://a", params=5), "params must be a dict or a list of pairs"),
        (lambda http: http.get("http://a", params={"a": {"s3cret": 1}}), "params['a'] must be"),
        (lambda http: http.get("http://a", params=[1, 2]), "params must be"),
        (lambda http: http.get("http://a", params={"a": "s3cret\ud800"}), "params must be text"),
        (lambda http: http.post("http://a", data="s3cret\ud800"), "data must be text"),
        (lambda http: http.post("http://a", data={"a": "s3cret\ud800"}), "data must be text"),
        (lambda http: http.post("http://a", files={"a": "s3cret\ud800"}), "must be text"),
        (lambda http: http.post("http://a", json={1, 2}), "json can't be sent as JSON"),
        (lambda http: http.post("http://a", json=float("nan")), "json can't be sent as JSON"),
        (lambda http: http.post("http://a", json=1, data=b""), "json excludes data and files"),
        (lambda http: http.post("http://a", data=5), "data must be bytes, a string, a dict"),
        (lambda http: http.post("http://a", files=5), "files must be a dict"),
        (lambda http: http.post("http://a", files={"a": 5}), "files['a'] must be a file"),
        (lambda http: http.post("http://a", files={"a": b""}, data=b"s3cret"), "beside files"),
        (lambda http: http.get("http://a", headers=5), "headers must be a dict"),
        (lambda http: http.get("http://a", headers={5: "s3cret"}), "headers must have strings"),
        (lambda http: http.get("http://a", headers="s3cret"), "headers must be a dict"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_done(call, message, dns):
    dns.fails("a")
    with HttpPool() as http:
        with pytest.raises(ConfigError) as caught:
            call(http)

        assert message in str(caught.value)
        assert "s3cret" not in str(caught.value)
        assert dns.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        {"X": 5},
        {"X": b"bytes"},
        {"X": "s3cret\r\nY: 1"},
        {"X": "s3cret\n Y"},
        {"X": "s3cret\x00"},
        {"X": "s3cret\x7f"},
        {"X": "s3cret€"},
        {"X: Y": "s3cret"},
        {"": "s3cret"},
        {"X\r\n": "s3cret"},
        {"Ä": "s3cret"},
        {"Transfer-Encoding": "s3cret"},
    ],
    ids=str,
)
def test_wrong_header_fields_are_refused_and_cost_no_connection(headers, http_server):
    with HttpPool(http_server.url) as http:
        http.get("/json")
        with pytest.raises(ConfigError) as caught:
            http.get("/json", headers=headers)

        assert "header" in str(caught.value)
        assert "s3cret" not in str(caught.value)
        http.get("/json")
        stats = http.stats()
        assert (stats.created, stats.in_use) == (1, 0)
