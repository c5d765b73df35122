"""A requests.Session over a pool is one of requests in what its users rely on, and of poolkit in the rest."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import threading
from email.utils import formatdate
from time import monotonic, time

import pytest
import requests
from requests.auth import HTTPBasicAuth, HTTPDigestAuth
from urllib3.exceptions import DecodeError, ProtocolError

import poolkit
from poolkit import (
    AddressBlocked,
    BackendUnavailable,
    ConfigError,
    DeadlineExceeded,
    HttpPool,
    OutcomeUnknown,
    PoolKitError,
    PoolTimeout,
    ResponseTooLarge,
    RetryPolicy,
    deadline,
)
from tests.core.support import Task, named, together
from tests.http.face import values
from tests.http.scripted import answers, chunked, in_turn, response


@pytest.fixture
def http():
    """Give a pool without a base."""
    with HttpPool() as http:
        yield http


@pytest.fixture
def session(http):
    """Give a session over it."""
    with http.session() as session:
        yield session


def to(location, status=302):
    return response(status=status, headers=[("Location", location)])


# -- errors --------------------------------------------------------------------------------------------


def hangs(talk):
    talk.request()
    talk.stall()


def drops(talk):
    talk.request()
    talk.close()


def half(talk):
    talk.request()
    talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")


def garbage(talk):
    talk.request()
    talk.send(b"SSH-2.0-OpenSSH\r\n\r\n")


GZIP = [("Content-Encoding", "gzip")]


@pytest.mark.parametrize(
    ("script", "call", "ours", "theirs"),
    [
        (hangs, {"timeout": 0.05}, DeadlineExceeded, requests.ReadTimeout),
        (hangs, {"method": "POST", "timeout": 0.05}, OutcomeUnknown, requests.Timeout),
        (drops, {"method": "POST"}, OutcomeUnknown, requests.ConnectionError),
        (drops, {}, ProtocolError, requests.ConnectionError),
        (half, {}, ProtocolError, requests.exceptions.ChunkedEncodingError),
        (garbage, {}, ProtocolError, requests.ConnectionError),
        (answers(response(b"no gzip", headers=GZIP)), {}, DecodeError, requests.exceptions.ContentDecodingError),
        (answers(response(bytes(2000))), {}, ResponseTooLarge, requests.ConnectionError),
        (answers(response()), {"headers": {"X": "ü€"}}, ConfigError, requests.exceptions.InvalidHeader),
    ],
    ids=named,
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
def test_errors_are_both_poolkits_and_requests(scripted, script, call, ours, theirs, stream):
    server = scripted(script)
    options = {"method": "GET", "url": server.url, "stream": stream, **call}
    with HttpPool(max_response_bytes=1000, retry=RetryPolicy(attempts=1)) as http:
        given = ours
        if stream and ours in (ProtocolError, DecodeError) and script not in (drops, garbage):
            ours = requests.RequestException  # urllib3's while reading are requests' own
        for kind in (ours, theirs, requests.RequestException):
            with pytest.raises(kind) as caught:
                with http.session() as session, session.request(**options) as answer:
                    assert answer.content == "never"
            error = caught.value
            assert isinstance(error, theirs)
            assert isinstance(error, ours)
            assert ours is not given or error.request.url == f"{server.url}/"
            assert http.stats().in_use == 0


def test_a_host_that_can_not_be_reached_is_a_connection_error(session, dns):
    dns.fails("nowhere.example")
    for url in ("http://127.0.0.1:1/", "http://nowhere.example/"):
        with pytest.raises(requests.ConnectionError) as caught:
            session.get(url)
        assert isinstance(caught.value, BackendUnavailable)
        assert caught.value.retry_after is not None
        assert not isinstance(caught.value, requests.Timeout)


def test_connecting_too_long_is_a_connect_timeout(session, blackhole):
    with pytest.raises(requests.ConnectTimeout) as caught:
        session.get(blackhole.url, timeout=0.05)
    assert isinstance(caught.value, DeadlineExceeded)
    assert caught.value.stage == "connecting"


def test_no_connection_in_time_is_a_timeout_that_names_the_holder(scripted):
    server = scripted(hangs)
    with HttpPool(max_size=1, acquire_timeout=0.05) as http, http.session() as session:
        holder = Task(lambda: session.get(server.url, timeout=5), name="the holder")
        server.wait_for_requests(1)
        with pytest.raises(requests.Timeout) as caught:
            session.get(server.url)
        assert isinstance(caught.value, PoolTimeout)
        assert "the holder" in str(caught.value)
        assert __file__ in str(caught.value)
        assert "/requests/" not in str(caught.value).splitlines()[2]
        assert caught.value.holders
        server.close()
        holder.end()


def test_a_wrong_certificate_is_an_ssl_error(session, scripted, certificates):
    server = scripted(answers(response()), tls=certificates.good)
    with pytest.raises(requests.exceptions.SSLError) as caught:
        session.get(server.url)
    assert isinstance(caught.value, BackendUnavailable)
    assert server.connections == 1


def test_a_proxy_that_refuses_is_a_proxy_error(forward_proxy, https_server):
    proxy = forward_proxy(credentials="user:right")
    with HttpPool(proxy=proxy.url, verify=https_server.ca_file) as http:
        with pytest.raises(requests.exceptions.ProxyError) as caught:
            http.session().get(f"{https_server.url}/json")
    assert isinstance(caught.value, BackendUnavailable)


def test_a_blocked_address_is_an_invalid_url():
    with (
        HttpPool(allow_private=False) as http,
        pytest.raises(requests.exceptions.InvalidURL) as caught,
    ):
        http.session().get("http://127.0.0.1:1/")
    assert isinstance(caught.value, AddressBlocked)


def test_a_closed_pool_says_so(http):
    session = http.session()
    http.close()
    with pytest.raises(poolkit.PoolClosed) as caught:
        session.get("http://127.0.0.1:1/")
    assert isinstance(caught.value, requests.RequestException)


def test_errors_of_requests_stay_what_they_are(session, http_server):
    with pytest.raises(requests.exceptions.MissingSchema):
        session.get("relative")
    with pytest.raises(requests.exceptions.InvalidSchema):
        session.get("ftp://a")
    with pytest.raises(requests.HTTPError, match="404") as caught:
        session.get(f"{http_server.url}/nothing").raise_for_status()
    assert caught.value.response.status_code == 404
    with pytest.raises(requests.TooManyRedirects):
        session.get(f"{http_server.url}/redirect/6")
    with pytest.raises(requests.JSONDecodeError):
        session.get(f"{http_server.url}/bytes/10").json()


# -- time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0.3, (0.1, 0.2)], ids=str)
def test_a_timeout_bounds_all_of_it(session, scripted, timeout):
    server = scripted(hangs)
    began = monotonic()
    with pytest.raises(requests.Timeout):
        session.get(server.url, timeout=timeout)
    assert 0.29 < monotonic() - began < 0.6


def test_it_bounds_redirects_and_body_too(session, scripted):
    def script(talk):
        while True:
            heard = talk.request()
            if heard.target == "/end":
                talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                talk.drip(bytes(1000), 0.05)
            else:
                talk.send(b"HTTP/1.1 302 Found\r\n")
                talk.drip(b"A: b\r\n", 0.02)
                left = int(heard.target[1:] or 4) - 1
                where = f"/{left}" if left else "/end"
                talk.send(f"Location: {where}\r\nContent-Length: 0\r\n\r\n".encode())

    server = scripted(script)
    began = monotonic()
    with pytest.raises(requests.Timeout):
        session.get(server.url, timeout=0.4)
    assert 0.39 < monotonic() - began < 0.7
    with pytest.raises(requests.Timeout):
        with session.get(server.url, timeout=0.8, stream=True) as answer:
            assert answer.content == "never"
    assert monotonic() - began < 1.8


@pytest.mark.parametrize("timeout", [None, (None, None), (3, None)], ids=str)
def test_without_one_the_pools_holds(scripted, timeout):
    server = scripted(hangs)
    with HttpPool(request_timeout=0.05) as http:
        with pytest.raises(requests.Timeout):
            http.session().get(server.url, timeout=timeout)


def test_a_deadline_around_it_holds(session, scripted):
    server = scripted(hangs)
    with pytest.raises(requests.Timeout), deadline(0.2):
        session.get(server.url, timeout=10)


@pytest.mark.parametrize("timeout", ["5", -1, float("nan")], ids=str)
def test_a_wrong_timeout_is_refused(session, timeout):
    with pytest.raises(ConfigError, match="timeout") as caught:
        session.get("http://127.0.0.1:1/", timeout=timeout)
    assert not isinstance(caught.value, requests.RequestException)  # the request is not to blame


# -- retries -------------------------------------------------------------------------------------------


def test_what_may_be_sent_again_is(http, session, scripted):
    server = scripted(in_turn(drops, answers(response(status=503), response(b"ok"))))

    assert session.get(server.url).content == b"ok"
    assert http.stats().retries == 2


def test_a_post_is_sent_twice_only_with_a_key(session, scripted):
    server = scripted(in_turn(drops, answers(response(b"ok"))))
    with pytest.raises(OutcomeUnknown):
        session.post(server.url, data=b"x")
    assert len(server.requests) == 1

    server = scripted(in_turn(drops, answers(response(b"ok"))))
    assert session.post(server.url, data=b"x", headers={"Idempotency-Key": "k"}).content == b"ok"
    assert [heard.body for heard in server.requests] == [b"x", b"x"]


@pytest.mark.parametrize("form", [lambda: "1", lambda: formatdate(time() + 2, usegmt=True)])
def test_retry_after_is_obeyed(session, scripted, form):
    busy = response(status=503, headers=[("Retry-After", form())])
    server = scripted(answers(busy, response(b"ok")))
    began = monotonic()

    assert session.post(server.url).content == b"ok"
    assert 0.5 < monotonic() - began < 2.5


def test_retry_after_that_takes_too_long_is_an_answer(session, scripted):
    busy = response(b"busy", status=429, headers=[("Retry-After", "20")])
    server = scripted(answers(busy))

    answer = session.get(server.url, timeout=0.5)
    assert (answer.status_code, answer.content) == (429, b"busy")
    assert len(server.requests) == 1


# -- bodies --------------------------------------------------------------------------------------------


def test_a_streamed_answer_is_read_in_pieces_or_lines(http, session, http_server, scripted):
    with session.get(f"{http_server.url}/bytes/100000", stream=True) as answer:
        assert http.stats().in_use == 1
        pieces = list(answer.iter_content(1000))
        assert [len(piece) for piece in pieces] == [1000] * 100
        assert http.stats().in_use == 0
    text = [("Content-Type", "text/plain; charset=utf-8")]
    server = scripted(answers(chunked(b"one\ntw", b"o\r\nthr", b"ee", headers=text)))
    with session.get(server.url, stream=True) as answer:
        assert list(answer.iter_lines()) == [b"one", b"two", b"three"]
    with session.get(server.url, stream=True) as answer:
        assert list(answer.iter_lines(decode_unicode=True)) == ["one", "two", "three"]
    with session.get(server.url, stream=True) as answer:
        assert answer.text == "one\ntwo\r\nthree"
        assert answer.content == answer.content


def test_a_streamed_answer_gives_its_connection_back_when_closed(session, http, http_server):
    for _ in range(3):
        with session.get(f"{http_server.url}/bytes/10000000", stream=True) as answer:
            next(answer.iter_content(100))
        assert http.stats().in_use == 0
    answer = session.get(f"{http_server.url}/bytes/10000000", stream=True)
    answer.close()
    answer.close()
    assert http.stats().in_use == 0


@pytest.mark.parametrize("decode", [False, True])
def test_raw_is_what_was_sent_unless_it_is_to_be_decoded(session, http_server, decode):
    with session.get(f"{http_server.url}/gzip/100000", stream=True) as answer:
        if decode:
            answer.raw.decode_content = True
        data = answer.raw.read()
    assert len(data) == 100000 if decode else data.startswith(b"\x1f\x8b")
    with session.get(f"{http_server.url}/gzip/100000", stream=True) as answer:
        assert len(answer.content) == 100000


def test_bodies_of_all_kinds(session, http_server, tmp_path):
    url = f"{http_server.url}/echo"
    path = tmp_path / "file"
    path.write_bytes(b"skip:file")
    with open(path, "rb") as file:
        file.seek(5)
        assert session.put(url, data=file).json()["body"] == "file"
    assert session.post(url, json={"a": 1}).json()["body"] == '{"a": 1}'
    assert session.post(url, data={"a": [1, 2]}).json()["body"] == "a=1&a=2"
    assert session.post(url, data="grün").json()["body"] == "grün"
    heard = session.post(url, data=iter([b"a", b"b"])).json()
    assert heard["body"] == "ab"
    assert values(heard["headers"], "transfer-encoding") == ["chunked"]
    assert values(heard["headers"], "content-length") == []
    heard = session.post(url, files={"f": ("n.txt", io.BytesIO(b"abc"))}, data={"k": "v"}).json()
    assert 'name="k"' in heard["body"]
    assert 'filename="n.txt"' in heard["body"]
    large = os.urandom(500_000).hex()
    assert session.post(url, data=large).json()["body"] == large
    assert values(session.post(url).json()["headers"], "content-length") == ["0"]


# -- who asks ------------------------------------------------------------------------------------------


def test_auth_of_requests(session, scripted):
    server = scripted(answers(response()))
    session.get(server.url, auth=("user", "pass"))
    session.get(server.url, auth=HTTPBasicAuth("user", "pass"))
    session.get(server.url.replace("://", "://user:pass@"))
    assert {heard.header("authorization") for heard in server.requests} == {"Basic dXNlcjpwYXNz"}


def test_digest(session, scripted):
    def script(talk):
        while True:
            heard = talk.request()
            given = heard.header("authorization")
            if given is None:
                wants = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
                talk.send(response(status=401, headers=[("WWW-Authenticate", wants)]))
                continue
            fields = dict(item.split("=", 1) for item in given.removeprefix("Digest ").split(", "))
            said = {name: value.strip('"') for name, value in fields.items()}
            one = hashlib.md5(b"user:r:pass").hexdigest()
            two = hashlib.md5(f"GET:{said['uri']}".encode()).hexdigest()
            whole = f"{one}:n:{said['nc']}:{said['cnonce']}:auth:{two}"
            right = hashlib.md5(whole.encode()).hexdigest() == said["response"]
            talk.send(response(b"in" if right else b"out", status=200 if right else 403))

    server = scripted(script)
    answer = session.get(f"{server.url}/a?b=c", auth=HTTPDigestAuth("user", "pass"))
    assert (answer.status_code, answer.content) == (200, b"in")
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        ("token", "Bearer token"),
        (("grün", "pass"), "Basic Z3LDvG46cGFzcw=="),
        (lambda request: request.headers.update({"Authorization": "Mine"}), "Mine"),
    ],
    ids=["token", "basic", "function"],
)
def test_auth_of_the_pool(scripted, auth, header):
    server = scripted(answers(response()))
    with HttpPool(auth=auth) as http, http.session() as session:
        session.get(server.url)
        session.get(server.url, headers={"Authorization": "own"})
        session.get(server.url, auth=("user", "pass"))
    assert [heard.header("authorization") for heard in server.requests] == [
        header,
        "own",
        "Basic dXNlcjpwYXNz",
    ]


@pytest.mark.parametrize(
    "settings",
    [{"auth": "s3cret"}, {"headers": {"Authorization": "s3cret", "Cookie": "s3cret"}}],
    ids=["auth", "headers"],
)
def test_credentials_of_the_pool_stay_behind_where_the_host_changes(scripted, dns, settings):
    dns.answers("other.example", "127.0.0.1")
    there = scripted(answers(to("/again"), response(b"there")))
    here = scripted(answers(to(f"http://other.example:{there.port}/")))
    with HttpPool(**settings) as http, http.session() as session:
        assert session.get(here.url).content == b"there"
    assert here.requests[0].header("authorization") is not None
    assert len(there.requests) == 2
    for heard in there.requests:
        assert heard.header("authorization") is None
        assert heard.header("cookie") is None


# -- cookies -------------------------------------------------------------------------------------------


def cookies(heard):
    return values(heard.headers, "cookie")


def test_cookies_are_not_kept_unless_asked_for(http, scripted):
    sets = response(headers=[("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2")])
    server = scripted(answers(sets))
    for keep in (False, True):
        session = http.session(cookies=keep)
        answer = session.get(server.url)
        assert dict(answer.cookies) == {"a": "1", "b": "2"}
        session.get(server.url)
        session.get(server.url, cookies={"c": "3"})
        assert len(session.cookies) == (2 if keep else 0)
    sent = [sorted("; ".join(cookies(heard)).split("; ")) for heard in server.requests]
    assert sent == [[""], [""], ["c=3"], [""], ["a=1", "b=2"], ["a=1", "b=2", "c=3"]]


def test_a_cookie_that_a_redirect_sets_goes_along_with_that_request_alone(session, scripted):
    login = response(status=302, headers=[("Location", "/in"), ("Set-Cookie", "id=1; Path=/")])
    server = scripted(answers(login, response(b"in"), response(b"next")))

    assert session.get(server.url).content == b"in"
    session.get(server.url)
    assert [cookies(heard) for heard in server.requests] == [[], ["id=1"], []]


def test_cookies_of_the_caller_are_sent(session, scripted):
    server = scripted(answers(response()))
    session.cookies.set("mine", "1")
    session.get(server.url)
    assert cookies(server.requests[0]) == ["mine=1"]


# -- the rest ------------------------------------------------------------------------------------------


def test_fifty_threads_share_a_session(http, session, http_server):
    def work(number):
        for turn in range(10):
            answer = session.get(f"{http_server.url}/echo", params={"n": f"{number}.{turn}"})
            assert answer.json()["query"] == [["n", f"{number}.{turn}"]]

    before = http_server.counts().connections
    together(50, work)
    stats = http.stats()
    assert (stats.leases, stats.in_use, stats.errors) == (500, 0, 0)
    assert http_server.counts().connections - before == stats.created <= 50


def test_it_shares_the_connections_of_the_pool(http, http_server):
    http.get(f"{http_server.url}/json")
    with http.session() as session:
        session.get(f"{http_server.url}/json")
    http.session().get(f"{http_server.url}/json")  # closing a session closes no pool
    assert http.stats().created == 1


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ({"verify": False}, r"HttpPool\(verify="),
        ({"verify": "/some/file"}, r"HttpPool\(verify="),
        ({"cert": "/some/file"}, r"HttpPool\(client_cert="),
        ({"proxies": {"http": "http://a"}}, r"HttpPool\(proxy="),
    ],
)
def test_what_is_the_pools_is_refused_with_a_remedy(session, http_server, option, remedy):
    before = http_server.counts().requests
    with pytest.raises(ConfigError, match=remedy):
        session.get(f"{http_server.url}/json", **option)
    assert http_server.counts().requests == before
    for name, value in option.items():
        setattr(session, name, value)
    with pytest.raises(ConfigError, match=remedy):
        session.get(f"{http_server.url}/json")


def test_the_environment_is_not_looked_at(http, http_server, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
    session = http.session()
    assert session.get(f"{http_server.url}/json").status_code == 200

    looked = []
    real_exists, real_stat = os.path.exists, os.stat
    monkeypatch.setattr(os.path, "exists", lambda path: looked.append(path) or real_exists(path))
    monkeypatch.setattr(os, "stat", lambda path, **k: looked.append(path) or real_stat(path, **k))
    session.get(f"{http_server.url}/json")
    assert looked == []


def test_headers_of_pool_session_and_call(scripted):
    server = scripted(answers(response()))
    with HttpPool(headers={"X-A": "pool", "X-B": "pool", "X-C": "pool"}) as http:
        session = http.session()
        session.headers["X-B"] = "session"
        session.get(server.url, headers={"x-c": "call", "X-A": None})
    heard = server.requests[0]
    assert [values(heard.headers, f"x-{letter}") for letter in "abc"] == [[], ["session"], ["call"]]


def test_hooks_of_requests_and_of_the_pool(scripted):
    server = scripted(answers(response(b"ok")))
    called = []
    with HttpPool(
        before_request=[lambda request: called.append("before")],
        after_response=[lambda request, answer: called.append(answer.status)],
    ) as http:
        session = http.session()
        session.hooks["response"].append(lambda answer, **_: called.append(answer.text))
        session.get(server.url)
        assert called == ["before", 200, "ok"]
        session.hooks["response"].append(lambda answer, **_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.get(server.url, stream=True)


def test_a_prepared_request_may_be_sent_again(session, scripted):
    server = scripted(answers(response(b"ok")))
    prepared = session.prepare_request(requests.Request("POST", server.url, data={"a": 1}))
    assert session.send(prepared).content == session.send(prepared).content == b"ok"
    assert [heard.body for heard in server.requests] == [b"a=1", b"a=1"]


def test_an_adapter_of_the_callers_may_be_mounted(session):
    class Mine(requests.adapters.BaseAdapter):
        def send(self, request, **options):
            raise LookupError("mine")

        def close(self):
            pass

    session.mount("http://special.example/", Mine())
    with pytest.raises(LookupError):
        session.get("http://special.example/")


def test_unix_sockets(session, http_server):
    url = f"http+unix://{str(http_server.socket_path).replace('/', '%2F')}/echo"
    assert session.get(url).json()["path"] == "/echo"


def test_only_a_session_that_is_wanted_imports_requests():
    import subprocess
    import sys

    code = "import sys, poolkit; poolkit.HttpPool().open(); sys.exit('requests' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )


def test_what_is_raised_in_a_thread_names_that_threads_request(session, scripted):
    server = scripted(hangs)
    errors = {}
    barrier = threading.Barrier(4)

    def work(number):
        barrier.wait(10)
        with contextlib.suppress(PoolKitError):
            session.get(f"{server.url}/{number}", timeout=0.05)
            return
        errors[number] = True

    together(4, work)
    assert len(errors) == 4
