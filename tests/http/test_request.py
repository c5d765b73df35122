"""What a caller gives is what goes over the wire, and nothing else does."""

from __future__ import annotations

import base64
import io
import json
import os
from urllib.parse import parse_qsl, urlsplit

import pytest
from urllib3 import HTTPHeaderDict

from poolkit import ConfigError, HttpListener, HttpPool
from tests.core.support import named
from tests.http.face import values
from tests.http.scripted import answers, response


@pytest.fixture
def http(http_server):
    """Give a pool at the server of this run."""
    with HttpPool(http_server.url) as http:
        yield http


@pytest.fixture
def wire(scripted):
    """Give a server that answers all with 200, and hears what comes as it comes."""
    return scripted(answers(response(b"ok")))


def sent(wire, method="GET", **options):
    """Return what one request put on the wire."""
    with HttpPool(wire.url) as http:
        http.request(method, "/p", **options)
    return wire.requests[-1]


def echo(http, method="POST", **options):
    """Return what the server was asked, with the body as bytes."""
    heard = http.request(method, "/echo", **options).json()
    body = heard["body"]
    heard["body"] = base64.b64decode(body) if heard["base64"] else body.encode()
    heard["fields"] = HTTPHeaderDict(heard["headers"])
    return heard


# -- the address ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "query"),
    [
        ({"a": 1}, "a=1"),
        ({"a": [1, 2, 3]}, "a=1&a=2&a=3"),
        ({"a": ("x", None, "y")}, "a=x&a=y"),
        ({"a": None, "b": ""}, "b="),
        ({"a": True, "b": 1.5}, "a=True&b=1.5"),
        ({"q": "a b&c=d/ü?#"}, "q=a+b%26c%3Dd%2F%C3%BC%3F%23"),
        ({"ä": b"\xff"}, "%C3%A4=%FF"),
        ([("b", 1), ("a", 2), ("b", 3)], "b=1&a=2&b=3"),
        ("raw=1&x=%20", "raw=1&x=%20"),
        (b"raw=1", "raw=1"),
        ({}, ""),
        ([], ""),
        ({"a": []}, ""),
    ],
    ids=str,
)
def test_params_are_encoded(http, params, query):
    target = http.get("/echo", params=params).request.target.path

    assert target == ("/echo" + (f"?{query}" if query else ""))


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/p", "/p?k=v"),
        ("/p?a=b", "/p?a=b&k=v"),
        ("/p?", "/p?k=v"),
        ("/p?a=b&", "/p?a=b&k=v"),
        ("/p#part", "/p?k=v"),
        ("/p?a=b#part", "/p?a=b&k=v"),
    ],
)
def test_params_are_added_to_a_query_and_a_fragment_stays_here(wire, url, path):
    with HttpPool(wire.url) as http:
        http.get(url, params={"k": "v"})

    assert wire.requests[0].target == path


@pytest.mark.parametrize(
    ("base", "url", "path"),
    [
        ("", "/users", "/users"),
        ("/", "users", "/users"),
        ("/v1", "users", "/v1/users"),
        ("/v1", "/users", "/v1/users"),
        ("/v1/", "/users/", "/v1/users/"),
        ("/v1", "", "/v1"),
        ("/v1/", "", "/v1/"),
        ("/v1", "?a=1", "/v1?a=1"),
        ("/v1", "users?next=http://a/b", "/v1/users?next=http://a/b"),
        ("/v1", "time/12:30", "/v1/time/12:30"),
        ("/v1", "//elsewhere.example/x", "/v1/elsewhere.example/x"),
        ("/v1", "ü b", "/v1/%C3%BC%20b"),
        ("/v1", "a%2Fb", "/v1/a%2Fb"),
        ("/v1", "a\r\nX: y", "/v1/a%0D%0AX:%20y"),
    ],
)
def test_a_url_without_a_scheme_is_within_the_base(wire, base, url, path):
    with HttpPool(wire.url + base) as http:
        http.get(url)

    assert wire.requests[0].target == path
    assert values(wire.requests[0].headers, "x") == []


def test_a_whole_url_is_not_within_the_base(wire, http_server):
    with HttpPool(f"{http_server.url}/v1") as http:
        http.get(f"{wire.url}/there")

    assert wire.requests[0].target == "/there"


def test_the_host_header_is_that_of_the_url(wire, dns):
    dns.answers("names.example", "127.0.0.1")
    dns.answers("xn--bcher-kva.example", "127.0.0.1")
    with HttpPool() as http:
        http.get(f"http://NAMES.example:{wire.port}/")
        http.get(f"http://bücher.example:{wire.port}/")
        http.get(wire.url, headers={"Host": "virtual.example"})

    assert [values(heard.headers, "host") for heard in wire.requests] == [
        [f"names.example:{wire.port}"],
        [f"xn--bcher-kva.example:{wire.port}"],
        ["virtual.example"],
    ]


# -- the head ------------------------------------------------------------------------------------------


def test_headers_are_sent_beside_those_of_the_pool_and_instead_of_them(wire):
    with HttpPool(wire.url, headers={"X-A": "pool", "x-b": "pool", "User-Agent": "mine"}) as http:
        http.get("/", headers={"X-B": "call", "X-C": "call"})
        http.get("/")

    first, second = wire.requests
    assert [first.header(name) for name in ("x-a", "x-b", "x-c")] == ["pool", "call", "call"]
    assert [second.header(name) for name in ("x-a", "x-b", "x-c")] == ["pool", "pool", None]
    assert values(first.headers, "user-agent") == ["mine"]
    assert len(values(first.headers, "x-b")) == 1


@pytest.mark.parametrize(
    "given",
    [[("X", "1"), ("Y", "y"), ("x", "2")], HTTPHeaderDict([("X", "1"), ("Y", "y"), ("X", "2")])],
    ids=["pairs", "HTTPHeaderDict"],
)
def test_a_field_that_is_given_twice_is_sent_twice(wire, given):
    assert values(sent(wire, headers=given).headers, "x") == ["1", "2"]

    with HttpPool(wire.url, headers=given) as http:
        http.get("/")
        http.get("/", headers={"X": "3"})
    assert [values(heard.headers, "x") for heard in wire.requests[1:]] == [["1", "2"], ["3"]]


def test_a_field_of_the_pool_is_left_out_where_a_call_gives_none(wire):
    with HttpPool(wire.url, headers={"X": "pool"}) as http:
        http.get("/", headers={"X": None, "Accept-Encoding": None})

    assert [values(wire.requests[0].headers, name) for name in ("x", "accept-encoding")] == [[], []]


def test_what_is_not_ascii_goes_as_latin_1_and_comes_back(http):
    heard = echo(http, "GET", headers={"X-Name": "Grün"})

    assert heard["fields"]["x-name"] == "Grün"
    assert http.get("/headers", params={"X-Name": "Grün"}).headers["x-name"] == "Grün"


def test_nothing_is_sent_that_the_caller_did_not_ask_for(wire):
    names = {name.lower() for name, _ in sent(wire).headers}

    assert names == {"host", "accept-encoding", "user-agent"}


def test_methods_are_sent_in_capitals_whatever_they_are(wire):
    assert sent(wire, "purge").method == "PURGE"
    assert sent(wire, "M-SEARCH").method == "M-SEARCH"


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete", "options", "head"])
def test_each_method_has_a_call(http, method):
    answer = getattr(http, method)("/echo")

    assert answer.status == 200
    assert answer.request.method == method.upper()
    if method != "head":
        assert answer.json()["method"] == method.upper()


def test_an_idempotency_key_is_a_header(wire):
    assert sent(wire, "POST", idempotency_key="4f1c").header("idempotency-key") == "4f1c"


# -- the body ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [{"a": [1, None, "ü"]}, [], {}, 0, False, "", "text", 1.5])
def test_json_is_sent_as_json(http, value):
    heard = echo(http, json=value)

    assert json.loads(heard["body"]) == value
    assert heard["fields"]["content-type"] == "application/json"


def test_the_type_of_json_may_be_another(http):
    heard = echo(http, json={}, headers={"content-type": "application/merge-patch+json"})

    assert heard["fields"].getlist("content-type") == ["application/merge-patch+json"]


def chunks():
    """Return a generator of pieces, one of them empty."""
    return (piece for piece in (b"one", b"", b"two"))


def at_three(file):
    file.seek(3)
    return file


class Pieces:
    """An iterable that begins anew each time."""

    def __iter__(self):
        return chunks()


@pytest.mark.parametrize(
    ("make", "body", "length", "kind"),
    [
        (lambda: b"\x00\xff", b"\x00\xff", "2", None),
        (lambda: b"", b"", "0", None),
        (lambda: bytearray(b"abc"), b"abc", "3", None),
        (lambda: memoryview(b"abc"), b"abc", "3", None),
        (lambda: "grün", "grün".encode(), "5", None),
        (lambda: {"a": 1, "b": ["x", "y"], "c": None}, b"a=1&b=x&b=y", "11", "form"),
        (lambda: [("b", 1), ("a", "ü")], b"b=1&a=%C3%BC", "12", "form"),
        (lambda: io.BytesIO(b"abcdef"), b"abcdef", "6", None),
        (lambda: at_three(io.BytesIO(b"abcdef")), b"def", "3", None),
        (lambda: io.BytesIO(b""), b"", "0", None),
        (lambda: io.StringIO("grün"), "grün".encode(), None, None),
        (chunks, b"onetwo", None, None),
        (Pieces, b"onetwo", None, None),
        (lambda: iter(["grün"]), "grün".encode(), None, None),
        (lambda: iter([]), b"", None, None),
        (lambda: [b"one", b"two"], b"onetwo", None, None),
    ],
)
def test_a_body_is_sent_whole_with_its_length_or_in_chunks(wire, make, body, length, kind):
    heard = sent(wire, "POST", data=make())

    assert heard.body == body
    assert heard.header("content-length") == length
    assert heard.header("transfer-encoding") == (None if length else "chunked")
    assert heard.header("content-type") == ("application/x-www-form-urlencoded" if kind else None)


@pytest.mark.parametrize("mode", ["rb", "r", "r+b"])
def test_a_file_is_sent_from_where_it_stands(wire, tmp_path, mode):
    path = tmp_path / "file"
    path.write_bytes("grün\n".encode() * 50_000)
    with open(path, mode, encoding=None if "b" in mode else "utf-8") as file:
        file.read(10 if "b" not in mode else 12)  # two lines
        heard = sent(wire, "PUT", data=file)

    assert heard.body == "grün\n".encode() * 49_998
    assert heard.header("content-length") == (str(6 * 49_998) if "b" in mode else None)


def test_a_pipe_is_sent_in_chunks(wire):
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as file:
        os.write(writing, b"abc")
        os.close(writing)
        heard = sent(wire, "POST", data=file)

    assert (heard.body, heard.header("transfer-encoding")) == (b"abc", "chunked")


def test_a_large_body_is_sent_whole(http):
    body = os.urandom(1_000_000)

    assert echo(http, data=body)["body"] == body
    assert echo(http, data=io.BytesIO(body))["body"] == body
    assert (
        echo(http, data=(body[at : at + 9999] for at in range(0, len(body), 9999)))["body"] == body
    )


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_methods_that_expect_a_body_say_that_there_is_none(wire, method):
    assert sent(wire, method).header("content-length") == "0"


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_others_say_nothing_of_a_body_that_is_not_there(wire, method):
    assert sent(wire, method).header("content-length") is None
    assert sent(wire, method).header("transfer-encoding") is None


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
@pytest.mark.parametrize(
    "make",
    [lambda: None, lambda: b"abc", lambda: iter([b"abc"])],
    ids=["none", "bytes", "iterator"],
)
def test_the_length_is_never_that_of_the_caller(scripted, method, make):
    data = make()

    def script(talk):  # a wrong length would have it wait for a body that does not come
        heard = talk.request()
        talk.send(response(heard.body))

    server = scripted(script)
    with HttpPool(server.url) as http:
        answer = http.request(method, "/", data=data, headers={"Content-Length": "7"}, timeout=5)

    assert answer.data == (b"abc" if data is not None else b"")
    assert values(server.requests[0].headers, "content-length") in (
        [["0"]] if data is None and method == "POST" else [[], ["3"]]
    )


def test_get_and_delete_may_have_a_body(http):
    assert echo(http, "DELETE", json={"a": 1})["body"] == b'{"a": 1}'
    assert echo(http, "GET", data="x")["body"] == b"x"


def test_files_are_uploaded_as_a_form_of_several_parts(http, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(b"\x89PNG")
    with open(path, "rb") as file:
        heard = echo(
            http,
            files={"photo": file, "note": ("note.txt", "grün", "text/plain"), "raw": b"abc"},
            data={"title": "ü", "n": 1, "tag": ["a", "b"], "none": None},
        )
    boundary = heard["fields"]["content-type"].partition("boundary=")[2]
    parts = heard["body"].split(b"--" + boundary.encode())

    assert heard["fields"]["content-type"].startswith("multipart/form-data; boundary=")
    assert len(parts) == 2 + 4 + 3
    assert 'name="title"\r\n\r\nü\r\n'.encode() in heard["body"]
    assert b'name="n"\r\n\r\n1\r\n' in heard["body"]
    assert b'name="photo"; filename="photo.png"\r\nContent-Type: image/png' in heard["body"]
    assert b'name="note"; filename="note.txt"\r\nContent-Type: text/plain' in heard["body"]
    assert b'name="raw"; filename="raw"' in heard["body"]
    assert b"\x89PNG" in heard["body"]


def test_the_name_of_a_file_can_not_add_a_field(http):
    heard = echo(http, files={"a": ('x"\r\nX-Evil: 1\r\n\r\n', b"abc")})

    assert b"\r\nX-Evil" not in heard["body"]


def test_a_generator_that_raises_costs_only_its_connection(http):
    def broken():
        yield b"abc"
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        http.post("/echo", data=broken())
    with pytest.raises((TypeError, ConfigError)):
        http.post("/echo", data=iter([5]))

    assert http.get("/json").status == 200
    stats = http.stats()
    assert (stats.in_use, stats.created, stats.closed, stats.retries) == (0, 3, 2, 0)


# -- who asks ------------------------------------------------------------------------------------------


def stamp(request):
    request.headers["Authorization"] = f"Stamp {request.method} {urlsplit(request.url).path}"


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        (("user", "pa:ss"), "Basic " + base64.b64encode(b"user:pa:ss").decode()),
        (["user", "pass"], "Basic " + base64.b64encode(b"user:pass").decode()),
        (("grün", ""), "Basic " + base64.b64encode("grün:".encode()).decode()),
        ("token", "Bearer token"),
        (stamp, "Stamp GET /p"),
    ],
    ids=named,
)
def test_the_three_kinds_of_auth(wire, auth, header):
    assert values(sent(wire, auth=auth).headers, "authorization") == [header]
    with HttpPool(wire.url, auth=auth) as http:
        http.get("/p")
    assert values(wire.requests[1].headers, "authorization") == [header]


def test_user_and_password_in_the_url_are_auth_and_are_not_sent_in_it(wire):
    with HttpPool() as http:
        http.get(wire.url.replace("://", "://us%40er:p%2Fw%C3%BC@") + "/p")
        http.get(wire.url.replace("://", "://user@") + "/p")
        http.get(wire.url.replace("://", "://user:pw@") + "/p", auth="token")

    assert [heard.target for heard in wire.requests] == ["/p"] * 3
    assert [heard.header("host") for heard in wire.requests] == [f"127.0.0.1:{wire.port}"] * 3
    assert [values(heard.headers, "authorization") for heard in wire.requests] == [
        ["Basic " + base64.b64encode("us@er:p/wü".encode()).decode()],
        ["Basic " + base64.b64encode(b"user:").decode()],
        ["Bearer token"],
    ]


def test_what_a_call_says_of_auth_counts_more_than_what_the_pool_says(wire):
    with HttpPool(wire.url, auth=("pool", "pool")) as http:
        http.get("/", auth="call")
        http.get("/", headers={"authorization": "Digest call"})
        http.get("/")

    assert [heard.header("authorization") for heard in wire.requests] == [
        "Bearer call",
        "Digest call",
        "Basic " + base64.b64encode(b"pool:pool").decode(),
    ]


def test_auth_that_raises_costs_no_connection(http):
    def broken(request):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        http.get("/json", auth=broken)

    assert http.stats().created == 0


# -- hooks and listeners -------------------------------------------------------------------------------


class Heard(HttpListener):
    """Remembers what it was told of requests."""

    def __init__(self):
        self.events = []

    def requested(self, event):
        self.events.append(("requested", event.method, urlsplit(event.url).path, event.url))

    def answered(self, event):
        assert event.seconds > 0
        self.events.append(("answered", event.status, urlsplit(event.url).path, event.url))


def test_hooks_and_listeners_are_called_in_order(wire):
    order = []
    listener = Heard()
    http = HttpPool(
        wire.url,
        auth=lambda request: order.append("auth"),
        before_request=[
            lambda request: order.append("first"),
            lambda request: order.append("second"),
        ],
        after_response=[lambda request, answer: order.append(answer.status)],
        listeners=[listener],
    )
    with http:
        http.get("/p")

    assert order == ["auth", "first", "second", 200]
    assert [event[:3] for event in listener.events] == [
        ("requested", "GET", "/p"),
        ("answered", 200, "/p"),
    ]


def test_a_hook_may_change_the_headers_and_sees_what_is_sent(wire):
    seen = []

    def change(request):
        seen.append((request.method, request.url, request.body, request.headers["X"]))
        request.headers["X"] = "changed"

    with HttpPool(wire.url, before_request=[change]) as http:
        http.post("/p", params={"a": 1}, data=b"abc", headers={"X": "given"})

    assert seen == [("POST", f"{wire.url}/p?a=1", b"abc", "given")]
    assert values(wire.requests[0].headers, "x") == ["changed"]


def test_a_hook_can_not_inject_a_header(http):
    def inject(request):
        request.headers["X"] = "a\r\nY: b"

    with HttpPool(http.config.base_url, before_request=[inject]) as other:
        with pytest.raises(ConfigError, match="X"):
            other.get("/json")
        assert other.stats().in_use == 0


def test_no_query_is_told_to_listeners(http_server):
    listener = Heard()
    with HttpPool(http_server.url, listeners=[listener]) as http:
        http.get("/echo", params={"token": "s3cret"})
        http.get(http_server.url.replace("://", "://user:s3cret@") + "/json")

    assert "s3cret" not in str(listener.events)


def test_hooks_are_called_for_each_redirect_but_not_for_each_retry(http_server):
    asked = []
    with HttpPool(
        http_server.url, before_request=[lambda request: asked.append(request.method)]
    ) as http:
        http.post("/redirect/2?status=303", data=b"x")
        assert asked == ["POST", "GET", "GET"]
        asked.clear()
        assert http.get("/status/503").status == 503
        assert http.stats().retries == 2
        assert asked == ["GET"]


@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
@pytest.mark.parametrize("when", ["before_request", "after_response"])
def test_an_error_in_a_hook_gives_the_connection_back(http_server, when, stream):
    broken = True

    def hook(*_):
        if broken:
            raise LookupError("mine")

    with HttpPool(http_server.url, max_size=1, acquire_timeout=0.5, **{when: [hook]}) as http:
        for _ in range(3):
            with pytest.raises(LookupError, match="mine"):
                if stream:
                    with http.stream("GET", "/bytes/1000000"):
                        pass
                else:
                    http.get("/bytes/1000000")
            assert http.stats().in_use == 0
        broken = False
        assert len(http.get("/bytes/1000").data) == 1000


def test_a_listener_that_raises_is_not_the_callers_problem(http_server, caplog):
    class Broken(HttpListener):
        def requested(self, event):
            raise LookupError("a listener's own")

        answered = requested

    with HttpPool(http_server.url, listeners=[Broken()]) as http:
        assert http.get("/json").status == 200


# -- the answer ----------------------------------------------------------------------------------------


def test_head_has_the_length_and_no_body_and_the_connection_is_kept(http):
    answer = http.head("/bytes/12345")

    assert (answer.headers["content-length"], answer.data) == ("12345", b"")
    assert len(http.get("/bytes/12345").data) == 12345
    assert http.stats().created == 1


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_leaves_the_connection_usable(http, status):
    assert http.get(f"/status/{status}").data == b""
    assert http.get("/json").status == 200
    assert http.stats().created == 1


@pytest.mark.parametrize("status", [204, 304])
def test_a_body_that_must_not_be_there_is_not_taken_for_the_next_answer(scripted, status):
    evil = response(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", status=status)
    server = scripted(answers(evil, response(b"good")))
    with HttpPool(server.url) as http:
        assert http.get("/").data == b""
        assert http.get("/").data in (b"", b"good")  # of a second connection
        assert server.connections == 2


def test_4xx_and_5xx_are_returned_and_raised_by_one_call(http):
    for status in (400, 404, 418, 500, 599):
        answer = http.get(f"/status/{status}?X=s3cret")
        assert answer.status == status
        with pytest.raises(
            Exception, match=f"GET {http.config.base_url}/status/{status}: {status}"
        ) as caught:
            answer.raise_for_status()
        assert type(caught.value).__name__ == "StatusError"
        assert caught.value.response is answer
        assert "s3cret" not in str(caught.value)
    ok = http.get("/json")
    assert ok.raise_for_status() is ok


def test_a_streamed_answer_is_read_in_pieces(http):
    with http.stream("GET", "/bytes/1000000") as answer:
        pieces = list(answer.stream(10_000))
    assert sum(map(len, pieces)) == 1_000_000
    assert max(map(len, pieces)) <= 10_000
    with http.stream("GET", "/bytes/100000") as answer:
        assert len(answer.read(1000)) == 1000
        assert len(answer.read()) == 99_000
    assert http.stats().created == 1
    with http.stream("GET", "/bytes/1000000") as answer:
        answer.read(10)
    assert (http.stats().in_use, http.stats().closed) == (0, 1)


def test_a_streamed_request_is_for_one_block(http):
    request = http.stream("GET", "/json")
    with request as answer:
        assert answer.json()
    with pytest.raises(RuntimeError, match="send the request anew"), request:
        pass


def test_the_query_that_was_heard_is_the_one_that_was_given(http):
    given = [("a", "1"), ("a", "ü&="), ("b", "")]

    assert [tuple(pair) for pair in http.get("/echo", params=given).json()["query"]] == given
    assert (
        parse_qsl(urlsplit(http.get("/echo", params=given).url).query, keep_blank_values=True)
        == given
    )
