"""What users of urllib3 and requests rely on, by their documentation, with the same assertions for both and ours.

Where HttpPool differs on purpose, a test says so at the end.
"""

from __future__ import annotations

import io
import json

import pytest
import requests
import urllib3
from urllib3 import HTTPHeaderDict

from poolkit import HttpPool
from tests.http.face import values
from tests.http.scripted import answers, chunked, response


@pytest.fixture(params=["urllib3", "poolkit"])
def manager(request):
    """Give a PoolManager, and a pool that is used in the same way."""
    made = urllib3.PoolManager() if request.param == "urllib3" else HttpPool()
    with made as manager:
        yield manager


@pytest.fixture(params=["requests", "poolkit"])
def session(request):
    """Give a session of requests, and one over a pool."""
    if request.param == "requests":
        with requests.Session() as session:
            session.trust_env = False
            yield session
    else:
        with HttpPool() as http, http.session() as session:
            yield session


@pytest.fixture
def url(http_server):
    """Give the address of the server."""
    return http_server.url


# -- urllib3 -------------------------------------------------------------------------------------------


def test_a_response_has_status_headers_data_and_json(manager, url):
    answer = manager.request("GET", f"{url}/json")

    assert answer.status == 200
    assert answer.reason == "OK"
    assert answer.version == 11
    assert answer.headers["Content-Type"] == "application/json"
    assert json.loads(answer.data)["name"] == "poolkit"
    assert answer.json()["text"] == "grün"
    assert answer.data == answer.data
    assert isinstance(answer, urllib3.HTTPResponse)


@pytest.mark.parametrize("status", [200, 201, 204, 304, 400, 404, 418, 500, 503])
def test_statuses_are_returned(manager, url, status):
    assert manager.request("GET", f"{url}/status/{status}").status == status


def test_headers_have_no_case_and_may_come_several_times(manager, scripted):
    fields = [
        ("X-One", "1"),
        ("Set-Cookie", "a=1"),
        ("x-two", "a"),
        ("SET-COOKIE", "b=2"),
        ("X-Two", "b"),
    ]
    server = scripted(answers(response(b"", headers=fields)))
    headers = manager.request("GET", server.url).headers

    assert headers["x-one"] == headers["X-ONE"] == headers.get("X-one") == "1"
    assert "x-ONE" in headers
    assert headers["x-two"] == "a, b"
    assert headers.getlist("x-two") == ["a", "b"]
    assert headers.getlist("set-cookie") == ["a=1", "b=2"]
    assert "nothing" not in headers
    assert headers.get("nothing", "else") == "else"
    assert [name for name, _ in headers.items()] == [
        "X-One",
        "Set-Cookie",
        "Set-Cookie",
        "x-two",
        "x-two",
        "Content-Length",
    ]
    assert dict(headers)["x-two"] == "a, b"


@pytest.mark.parametrize("value", ["a", "a b", "a,b", '"q"', "", "grün"])
def test_values_of_headers_come_as_they_are(manager, url, value):
    answer = manager.request("GET", f"{url}/headers", headers={"X": value})
    assert answer.status == 200
    heard = manager.request("GET", f"{url}/echo", headers={"X": value}).json()["headers"]
    assert values(heard, "x") == [value]


def test_headers_may_be_an_httpheaderdict(manager, url):
    given = HTTPHeaderDict([("X", "1"), ("X", "2")])
    heard = manager.request("GET", f"{url}/echo", headers=given).json()["headers"]
    assert values(heard, "x") == ["1", "2"]


def test_json_is_encoded_and_typed(manager, url):
    heard = manager.request("POST", f"{url}/echo", json={"a": [1, None, "ü"]}).json()
    assert json.loads(heard["body"]) == {"a": [1, None, "ü"]}
    assert values(heard["headers"], "content-type") == ["application/json"]


@pytest.mark.parametrize(
    "location", ["/echo", "echo", "?x=1", "/echo?a=b#part", "../echo", "/gr%C3%BCn", "/a%20b"]
)
def test_redirects_lead_to_the_same_place(manager, scripted, location):
    moved = response(status=302, headers=[("Location", location)])
    server = scripted(answers(moved, response(b"end")))
    answer = manager.request("GET", f"{server.url}/a/b")

    with urllib3.PoolManager() as other:
        again = scripted(answers(moved, response(b"end")))
        other.request("GET", f"{again.url}/a/b")
    assert answer.data == b"end"
    assert server.requests[1].target == again.requests[1].target


def test_the_history_of_redirects(manager, url):
    answer = manager.request("GET", f"{url}/redirect/2")

    history = answer.retries.history
    assert [item.status for item in history] == [302, 302]
    assert [item.method for item in history] == ["GET", "GET"]
    assert history[-1].redirect_location.endswith("/redirect/0")
    assert answer.json()["path"] == "/redirect/0"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_get_is_redirected_as_a_get(manager, url, status):
    heard = manager.request("GET", f"{url}/redirect/1?status={status}").json()
    assert (heard["method"], heard["path"]) == ("GET", "/redirect/0")


@pytest.mark.parametrize(("status", "then"), [(303, "GET"), (307, "POST"), (308, "POST")])
def test_a_post_is_redirected_alike(manager, url, status, then):
    heard = manager.request("POST", f"{url}/redirect/1?status={status}", json={}).json()
    assert heard["method"] == then
    assert heard["body"] == ("{}" if then == "POST" else "")


def test_too_many_redirects_are_a_maxretryerror(manager, url):
    with pytest.raises(urllib3.exceptions.MaxRetryError):
        manager.request("GET", f"{url}/redirect/50")


def streamed(manager, url):
    """Return a response whose body is not read yet."""
    if isinstance(manager, HttpPool):
        return manager.stream("GET", url)
    return manager.request("GET", url, preload_content=False)


def test_a_body_is_read_in_pieces(manager, url):
    with streamed(manager, f"{url}/bytes/10000") as answer:
        assert [len(piece) for piece in answer.stream(3000)] == [3000, 3000, 3000, 1000]
    with streamed(manager, f"{url}/bytes/10000") as answer:
        assert len(answer.read(10)) == 10
        assert len(answer.read(20_000)) == 9990
        assert answer.read(10) == b""
        assert answer.read() == b""
    with streamed(manager, f"{url}/bytes/10000") as answer:
        assert len(io.BufferedReader(answer).read()) == 10_000
    with streamed(manager, f"{url}/bytes/100") as answer:
        buffer = bytearray(60)
        assert answer.readinto(buffer) == 60
        assert bytes(buffer) == bytes(range(60))
        assert answer.tell() == 60
    with streamed(manager, f"{url}/bytes/100") as answer:
        assert answer.data == bytes(range(100))


def test_lines_of_a_body(manager, scripted):
    server = scripted(answers(chunked(b"one\ntw", b"o\nthree")))
    with streamed(manager, server.url) as answer:
        assert list(answer) == [b"one\n", b"two\n", b"three"]


def test_a_gzipped_body_is_expanded_unless_it_is_not_wanted(manager, url):
    assert (
        len(manager.request("GET", f"{url}/gzip/5000", headers={"Accept-Encoding": "gzip"}).data)
        == 5000
    )
    with streamed(manager, f"{url}/gzip/5000") as answer:
        assert answer.read(decode_content=False).startswith(b"\x1f\x8b")
    with streamed(manager, f"{url}/gzip/5000") as answer:
        assert len(b"".join(answer.stream(100, decode_content=True))) == 5000
    with streamed(manager, f"{url}/gzip/5000") as answer:
        assert len(answer.read(100)) == 100
        assert len(answer.read()) == 4900


def test_a_file_is_uploaded(manager, url):
    name = "data" if isinstance(manager, HttpPool) else "body"
    heard = manager.request("PUT", f"{url}/echo", **{name: io.BytesIO(b"abc" * 1000)}).json()
    assert heard["body"] == "abc" * 1000


def test_the_url_after_redirects(manager, url):
    answer = manager.request("GET", f"{url}/redirect/2?to=/echo%3Fa%3Db")
    assert answer.url.removeprefix(url) == "/echo?a=b"
    assert answer.geturl() == answer.url


# -- requests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "query"),
    [
        ({"key1": "value1", "key2": "value2"}, "key1=value1&key2=value2"),
        ({"key1": "value1", "key2": ["value2", "value3"]}, "key1=value1&key2=value2&key2=value3"),
        ({"a": None, "b": 1}, "b=1"),
        ({"q": "a b/ü&="}, "q=a+b%2F%C3%BC%26%3D"),
        ([("a", 1), ("a", 2)], "a=1&a=2"),
        ("raw=1", "raw=1"),
        (b"raw=1", "raw=1"),
        ({}, ""),
        ({"a": True, "b": 1.5}, "a=True&b=1.5"),
        ({"a": ("x", "y")}, "a=x&a=y"),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/echo", "/echo?x=1", "/echo#part", "/echo?x=1#part"])
def test_params_are_encoded_alike(url, params, query, path):
    before = "x=1" if "?" in path else ""
    whole = "&".join(filter(None, [before, query]))
    with requests.Session() as theirs, HttpPool() as http:
        theirs.trust_env = False
        sent = [
            answer["query"]
            for answer in (
                theirs.get(f"{url}{path}", params=params).json(),
                http.session().get(f"{url}{path}", params=params).json(),
                http.get(f"{url}{path}", params=params).json(),
            )
        ]
        ours = http.get(f"{url}{path}", params=params).url
    assert ours.partition("#")[0] == f"{url}/echo{whole and '?' + whole}"
    assert sent[0] == sent[1] == sent[2]


def test_a_response_of_requests(session, url):
    answer = session.get(f"{url}/json")

    assert (answer.status_code, answer.ok, answer.reason) == (200, True, "OK")
    assert answer.status_code == requests.codes.ok
    assert (
        answer.headers["content-TYPE"] == answer.headers.get("Content-Type") == "application/json"
    )
    assert answer.json()["text"] == "grün"
    assert answer.url == f"{url}/json"
    assert answer.request.method == "GET"
    assert answer.request.headers["User-Agent"].startswith("python-requests/")
    assert answer.elapsed.total_seconds() > 0
    assert answer.history == []
    assert answer.is_redirect is False
    assert bool(answer)
    assert isinstance(answer, requests.Response)
    answer.raise_for_status()
    answer.close()


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_raise_for_status(session, url, status):
    answer = session.get(f"{url}/status/{status}")
    assert not answer
    with pytest.raises(requests.HTTPError, match=f"{status} (Client|Server) Error") as caught:
        answer.raise_for_status()
    assert caught.value.response is answer


@pytest.mark.parametrize(
    ("kind", "body", "encoding", "text"),
    [
        ("text/html; charset=utf-8", "grün".encode(), "utf-8", "grün"),
        ("text/html; charset=ISO-8859-15", "5 €".encode("iso-8859-15"), "ISO-8859-15", "5 €"),
        ("text/plain", "grün".encode("latin-1"), "ISO-8859-1", "grün"),
        ("application/json", '{"a": "grün"}'.encode(), "utf-8", '{"a": "grün"}'),
        ("application/octet-stream", b"abc", None, "abc"),
        (None, b"abc", None, "abc"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_encoding_of_text(session, scripted, kind, body, encoding, text, stream):
    fields = [("Content-Type", kind)] if kind else []
    server = scripted(answers(response(body, headers=fields)))
    answer = session.get(server.url, stream=stream)

    assert answer.encoding == encoding
    assert answer.text == text
    assert answer.content == body
    answer.encoding = "latin-1"
    assert answer.text == body.decode("latin-1")


def test_the_history_of_redirects_of_requests(session, url):
    answer = session.get(f"{url}/redirect/3")

    assert [step.status_code for step in answer.history] == [302, 302, 302]
    assert answer.history[0].url == f"{url}/redirect/3"
    assert answer.history[0].is_redirect
    assert answer.url == f"{url}/redirect/0"
    moved = session.get(f"{url}/redirect/1?status=301", allow_redirects=False)
    assert (moved.status_code, moved.is_permanent_redirect, moved.history) == (301, True, [])
    assert moved.next.url == f"{url}/redirect/0"
    assert session.head(f"{url}/redirect/1").status_code == 302
    with pytest.raises(requests.TooManyRedirects) as caught:
        session.max_redirects = 2
        session.get(f"{url}/redirect/3")
    assert caught.value.response is not None


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (307, "POST", "POST"),
        (308, "PUT", "PUT"),
        (302, "DELETE", "GET"),  # as browsers do
    ],
)
def test_methods_after_redirects_of_requests(session, url, status, method, then):
    heard = session.request(method, f"{url}/redirect/1?status={status}", data="abc").json()
    assert heard["method"] == then
    assert heard["body"] == ("" if then == "GET" else "abc")


def test_authorization_goes_along_on_the_same_host_and_stays_behind_on_another(
    session, scripted, dns
):
    dns.answers("other.example", "127.0.0.1")
    there = scripted(answers(response(b"there")))
    away = response(status=302, headers=[("Location", f"http://other.example:{there.port}/")])
    near = response(status=302, headers=[("Location", "/near")])
    here = scripted(answers(near, away))

    assert session.get(here.url, auth=("user", "pass")).content == b"there"
    assert [heard.header("authorization") is None for heard in here.requests] == [False, False]
    assert there.requests[0].header("authorization") is None


def test_cookies_that_are_given_are_sent_and_those_that_come_are_seen(session, scripted):
    server = scripted(answers(response(headers=[("Set-Cookie", "b=2; Path=/; HttpOnly")])))
    answer = session.get(server.url, cookies={"a": "1"})

    assert server.requests[0].header("cookie") == "a=1"
    assert answer.cookies["b"] == "2"
    assert answer.cookies.get_dict() == {"b": "2"}


@pytest.mark.parametrize(
    "data", [{"a": 1, "b": ["x", "y"]}, [("a", "1"), ("b", "ü")], "text", b"bytes", {}], ids=str
)
def test_data_is_encoded_alike(url, data):
    with requests.Session() as theirs, HttpPool() as http:
        theirs.trust_env = False
        first = theirs.post(f"{url}/echo", data=data).json()
        for heard in (
            http.session().post(f"{url}/echo", data=data).json(),
            http.post(f"{url}/echo", data=data).json(),
        ):
            assert heard["body"] == first["body"]
            assert values(heard["headers"], "content-length") == values(
                first["headers"], "content-length"
            )
            if data:
                assert values(heard["headers"], "content-type") == values(
                    first["headers"], "content-type"
                )


def test_headers_of_a_session_are_merged_and_none_removes_one(session, scripted):
    server = scripted(answers(response()))
    session.headers.update({"X-A": "1", "X-B": "2"})
    session.get(server.url, headers={"x-a": "3", "X-B": None, "Accept": None})
    heard = server.requests[0].headers
    assert values(heard, "x-a") == ["3"]
    assert values(heard, "x-b") == values(heard, "accept") == []
    assert values(heard, "connection") == ["keep-alive"]


def test_params_and_auth_of_a_session_are_merged(session, url):
    session.params = {"a": "1"}
    session.auth = ("user", "pass")
    heard = session.get(f"{url}/echo", params={"b": "2"}).json()
    assert sorted(heard["query"]) == [["a", "1"], ["b", "2"]]
    assert values(heard["headers"], "authorization") == ["Basic dXNlcjpwYXNz"]


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete", "head", "options"])
def test_methods_of_a_session(session, url, method):
    answer = getattr(session, method)(f"{url}/echo")
    assert answer.status_code == 200
    assert answer.request.method == method.upper()


def test_content_in_pieces_and_lines(session, scripted, url):
    with session.get(f"{url}/bytes/2500", stream=True) as answer:
        assert [len(piece) for piece in answer.iter_content(1000)] == [1000, 1000, 500]
    with session.get(f"{url}/bytes/10", stream=True) as answer:
        assert len(list(answer.iter_content())) == 10
    answer = session.get(f"{url}/bytes/2500")
    assert [len(piece) for piece in answer.iter_content(1000)] == [1000, 1000, 500]
    server = scripted(answers(chunked(b"one\r\n", b"two\n\nthree")))
    with session.get(server.url, stream=True) as answer:
        assert list(answer.iter_lines()) == [b"one", b"two", b"", b"three"]
    with session.get(server.url, stream=True) as answer:
        assert b"".join(answer) == b"one\r\ntwo\n\nthree"
        with pytest.raises(RuntimeError):
            _ = answer.content


@pytest.mark.parametrize("chunk_size", [None, 1, 7, 10_000])
def test_pieces_are_whole_whatever_their_size(session, scripted, chunk_size):
    server = scripted(answers(chunked(b"one", b"two" * 1000, b"three")))
    with session.get(server.url, stream=True) as answer:
        pieces = list(answer.iter_content(chunk_size))
    assert b"".join(pieces) == b"one" + b"two" * 1000 + b"three"
    assert all(pieces)


def test_a_hook_of_a_response(session, url):
    seen = []
    session.get(
        f"{url}/json", hooks={"response": lambda answer, **_: seen.append(answer.status_code)}
    )
    assert seen == [200]


def test_headers_that_can_not_be_are_refused(session, url):
    for headers in ({"X": "a\r\nY: b"}, {"X\n": "a"}, {"X": 5}):
        with pytest.raises(
            (requests.exceptions.InvalidHeader, requests.ConnectionError, ValueError)
        ):
            session.get(f"{url}/json", headers=headers)


def test_a_prepared_request_can_be_changed(session, url):
    prepared = session.prepare_request(requests.Request("POST", f"{url}/echo", data={"a": 1}))
    prepared.headers["X"] = "1"
    prepared.url += "?later=1"
    heard = session.send(prepared).json()
    assert (heard["body"], heard["query"]) == ("a=1", [["later", "1"]])
    assert values(heard["headers"], "x") == ["1"]


# -- where HttpPool differs ----------------------------------------------------------------------------


def test_what_urllib3_leaves_to_its_users(url):
    """Compression is asked for, 100 redirects are not followed, a header of one's own is no reason to lose others."""
    with HttpPool(headers={"X": "1"}) as http, urllib3.PoolManager(headers={"X": "1"}) as theirs:
        ours = http.get(f"{url}/echo", headers={"Y": "2"}).json()["headers"]
        other = theirs.request("GET", f"{url}/echo", headers={"Y": "2"}).json()["headers"]

    assert values(ours, "accept-encoding")
    assert not any("gzip" in value for value in values(other, "accept-encoding"))
    assert values(ours, "x") == ["1"]
    assert values(other, "x") == []


def test_301_and_302_of_other_methods_than_post_keep_the_method(url):
    with HttpPool() as http:
        assert http.delete(f"{url}/redirect/1?status=302").json()["method"] == "DELETE"
        assert http.put(f"{url}/redirect/1?status=301", data="x").json()["body"] == "x"
