"""Redirects are followed as RFC 9110 says, a few of them, and credentials stay with who they are for."""

from __future__ import annotations

import io

import pytest
import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, UnrewindableBodyError

from poolkit import AddressBlocked, HttpPool
from tests.http.face import values
from tests.http.scripted import answers, in_turn, response


def to(location, status=302, body=b"", headers=()):
    """Return a response that redirects."""
    fields = [("Location", location), *headers]
    return response(body, status=status, reason="Moved", headers=fields)


@pytest.fixture
def http():
    """Give a pool without a base."""
    with HttpPool() as http:
        yield http


# -- how many ------------------------------------------------------------------------------------------


def test_five_are_followed_and_told_of(http, http_server):
    answer = http.get(f"{http_server.url}/redirect/5")

    assert answer.json()["path"] == "/redirect/0"
    assert answer.retries is not None
    history = answer.retries.history
    assert [item.status for item in history] == [302] * 5
    assert [item.method for item in history] == ["GET"] * 5
    assert history[0].url == f"{http_server.url}/redirect/5"
    assert history[-1].redirect_location == answer.url == f"{http_server.url}/redirect/0"
    assert answer.request.url == answer.url


def test_six_are_too_many(http, http_server):
    with pytest.raises(MaxRetryError, match="more than 5 redirects"):
        http.get(f"{http_server.url}/redirect/6")
    assert http.stats().in_use == 0
    assert http.get(f"{http_server.url}/redirect/6", redirects=6).status == 200


@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
def test_none_is_followed_if_the_caller_wants_none(http, http_server, stream):
    url = f"{http_server.url}/redirect/2"
    with HttpPool(max_redirects=0) as none:
        assert none.get(url).headers["location"] == "/redirect/1"
    if stream:
        with http.stream("GET", url, redirects=0) as answer:
            assert answer.status == 302
    else:
        assert http.get(url, redirects=0).status == 302


def test_a_loop_ends(http, scripted):
    server = scripted(answers(to("/")))

    with pytest.raises(MaxRetryError):
        http.get(server.url)
    assert len(server.requests) == 6
    assert server.connections == 1
    assert http.stats().in_use == 0


def test_a_hundred_thousand_redirects_do_not_run_on(http, http_server):
    with pytest.raises(MaxRetryError):
        http.get(f"{http_server.url}/redirect/100000")

    assert http.stats().leases == 6


def test_redirects_are_not_counted_as_errors_or_retries(http, http_server):
    http.get(f"{http_server.url}/redirect/3")

    stats = http.stats()
    assert (stats.errors, stats.retries, stats.leases, stats.created) == (0, 0, 4, 1)


def test_a_large_body_on_the_way_is_not_read(http, scripted):
    unread = response(headers=[("Location", "/end")], status=302, length=1_000_000_000)
    server = scripted(in_turn(answers(unread), answers(response(b"end"))))

    with http.stream("GET", server.url) as answer:
        assert answer.read() == b"end"
    assert (server.connections, http.stats().in_use, http.stats().closed) == (2, 0, 1)


# -- method and body -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "method", "then", "keeps_body"),
    [
        (301, "POST", "GET", False),
        (302, "POST", "GET", False),
        (303, "POST", "GET", False),
        (307, "POST", "POST", True),
        (308, "POST", "POST", True),
        (301, "PUT", "PUT", True),
        (302, "PATCH", "PATCH", True),
        (303, "PUT", "GET", False),
        (303, "DELETE", "GET", False),
        (301, "DELETE", "DELETE", True),
        (307, "PATCH", "PATCH", True),
        (303, "GET", "GET", True),
        (302, "GET", "GET", True),
        (308, "GET", "GET", True),
        (301, "HEAD", "HEAD", None),
        (303, "HEAD", "HEAD", None),
    ],
)
def test_method_and_body_are_kept_or_changed(http, scripted, status, method, then, keeps_body):
    end = b"" if method == "HEAD" else b"end"
    server = scripted(answers(to("/end", status), response(end)))
    body = {} if keeps_body is None else {"data": b"abc"}
    headers = {"Content-Type": "text/plain", "Content-Language": "de", "Digest": "d", "X": "y"}

    answer = http.request(method, server.url, headers=headers, **body)

    first, second = server.requests
    assert answer.status == 200
    assert (first.method, second.method, second.target) == (method, then, "/end")
    assert second.header("x") == "y"
    if keeps_body is not None:
        assert first.body == b"abc"
        assert second.body == (b"abc" if keeps_body else b"")
    if keeps_body is False:
        about_a_body = [name for name, _ in second.headers if name.lower().startswith("content-")]
        assert about_a_body == []
    else:
        assert second.header("content-type") == "text/plain"


@pytest.mark.parametrize(
    "make",
    [lambda: io.BytesIO(b"skip:body"), lambda: io.StringIO("skip:body")],
    ids=["bytes", "text"],
)
def test_a_file_is_sent_again_from_where_it_stood(http, scripted, make):
    server = scripted(answers(to("/end", 307), response(b"end")))
    file = make()
    file.seek(5)

    http.post(server.url, data=file)

    assert [heard.body for heard in server.requests] == [b"body", b"body"]


@pytest.mark.parametrize("status", [307, 308])
def test_a_body_that_can_not_be_sent_twice_is_not(http, scripted, status):
    server = scripted(answers(to("/end", status), response(b"end")))

    with pytest.raises(UnrewindableBodyError, match=f"{status}"):
        http.post(server.url, data=iter([b"abc"]))
    assert len(server.requests) == 1
    assert http.stats().in_use == 0


def test_it_need_not_be_where_the_body_is_dropped(http, scripted):
    server = scripted(answers(to("/end", 303), response(b"end")))

    assert http.post(server.url, data=iter([b"abc"])).data == b"end"


@pytest.mark.parametrize("status", [300, 304, 305, 306])
def test_other_statuses_are_not_redirects(http, scripted, status):
    server = scripted(answers(to("/end", status)))

    assert http.get(server.url).status == status
    assert len(server.requests) == 1


def test_a_redirect_to_nowhere_is_an_answer(http, scripted):
    server = scripted(answers(response(b"where?", status=302)))

    assert http.get(server.url).data == b"where?"


# -- credentials ---------------------------------------------------------------------------------------

SECRETS = {"Authorization": "s3cret", "Cookie": "s3cret", "Proxy-Authorization": "s3cret"}


def stranger(scripted, dns, kind):
    """Return another server, or another name for it, and what leads there from *here*."""
    there = scripted(answers(response(b"there")))
    if kind == "port":
        return there, there.url
    dns.answers("other.example", "127.0.0.1")
    return there, f"http://other.example:{there.port}"


@pytest.mark.parametrize("kind", ["port", "host"])
@pytest.mark.parametrize("how", ["headers", "auth", "token", "userinfo", "pool", "pool headers"])
def test_credentials_stay_behind_where_host_or_port_changes(scripted, dns, kind, how):
    there, url = stranger(scripted, dns, kind)
    here = scripted(answers(to(f"{url}/end")))
    settings = {"pool": {"auth": "s3cret"}, "pool headers": {"headers": SECRETS}}.get(how, {})
    options = {
        "headers": {"headers": SECRETS},
        "auth": {"auth": ("user", "s3cret")},
        "token": {"auth": "s3cret"},
    }.get(how, {})
    userinfo = "user:s3cret@" if how == "userinfo" else ""
    with HttpPool(**settings) as http:
        answer = http.get(f"http://{userinfo}127.0.0.1:{here.port}/", **options)

    assert answer.data == b"there"
    assert here.requests[0].header("authorization") is not None
    assert [values(there.requests[0].headers, name) for name in SECRETS] == [[], [], []]


def test_credentials_stay_behind_where_the_scheme_changes(scripted, certificates):
    there = scripted(answers(response(b"there")), tls=certificates.good)
    here = scripted(answers(to(f"{there.url}/")))
    with HttpPool(verify=certificates.ca_file) as http:
        http.get(here.url.replace("127.0.0.1", "localhost"), headers=SECRETS)

    assert values(there.requests[0].headers, "authorization") == []
    assert values(there.requests[0].headers, "cookie") == []


def test_they_do_not_come_back_on_the_way_home(scripted):
    there = scripted(lambda talk: (talk.request(), talk.send(to(f"{home}/end"))))
    here = scripted(answers(to(f"{there.url}/"), response(b"end")))
    home = here.url
    with HttpPool(auth="s3cret") as http:
        assert http.get(here.url).data == b"end"

    assert [heard.header("authorization") for heard in here.requests] == ["Bearer s3cret", None]


def test_they_go_along_within_the_same_origin(scripted):
    here = scripted(answers(to("/end"), response(b"end")))
    with HttpPool() as http:
        http.get(here.url, headers={"Cookie": "a=b", "Host": "virtual.example"}, auth="token")

    assert [heard.header("authorization") for heard in here.requests] == ["Bearer token"] * 2
    assert [heard.header("cookie") for heard in here.requests] == ["a=b"] * 2
    assert [heard.header("host") for heard in here.requests] == [
        "virtual.example",
        f"127.0.0.1:{here.port}",
    ]


# -- where to ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/end", "/end"),
        ("end", "/a/end"),
        ("../end", "/end"),
        ("?x=1", "/a/b?x=1"),
        ("/end#part", "/end"),
        ("/x y", "/x%20y"),
        ("/x%20y", "/x%20y"),
        ("/gr\xc3\xbcn", "/gr%C3%BCn"),  # UTF-8, as a header field has it
        ("/gr\xfcn", "/gr%C3%BCn"),  # latin-1
        ("/a?next=http://x/", "/a?next=http://x/"),
    ],
)
def test_where_a_location_leads(http, scripted, location, target):
    server = scripted(answers(to(location), response(b"end")))

    assert http.get(f"{server.url}/a/b?old=1").data == b"end"
    assert server.requests[1].target == target


def test_a_location_may_name_another_host(http, scripted):
    there = scripted(answers(response(b"there")))
    for location in (f"{there.url}/end", f"//127.0.0.1:{there.port}/end"):
        here = scripted(answers(to(location)))
        assert http.get(here.url).data == b"there"
    assert [heard.target for heard in there.requests] == ["/end", "/end"]


@pytest.mark.parametrize(
    "location",
    [
        "http://[::1",
        "http://a:99999/",
        "http://a:port/",
        "ftp://127.0.0.1/s3cret",
        "file:///etc/passwd",
        "javascript:alert('s3cret')",
        "mailto:s3cret@example.com",
        "http://a b/",
        "http://\x80\xff/",
        "gopher://127.0.0.1:11211/s3cret",
    ],
)
def test_a_location_that_is_none_is_the_servers_fault(http, scripted, location):
    server = scripted(answers(to(location)))

    with pytest.raises(HTTPError, match="redirects to") as caught:
        http.get(f"{server.url}/path?key=s3cret")

    assert server.url in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert len(server.requests) == 1
    assert http.stats().in_use == 0


def test_it_can_be_looked_at_with_redirects_0(http, scripted):
    server = scripted(answers(to("http://[::1")))

    assert http.get(server.url, redirects=0).headers["location"] == "http://[::1"


def test_a_redirect_to_a_host_that_is_not_allowed_is_not_followed(scripted):
    there = scripted(answers(response(b"there")))
    here = scripted(answers(to(there.url.replace("127.0.0.1", "localhost"))))
    with HttpPool(allowed_hosts=["127.0.0.1"]) as http:
        with pytest.raises(AddressBlocked, match="allowed_hosts"):
            http.get(here.url)
        assert http.stats().in_use == 0
    assert (there.connections, len(here.requests)) == (0, 1)


def test_no_server_redirects_to_a_socket_of_this_machine(http, scripted, tmp_path):
    inside = scripted(answers(response(b"inside")), path=tmp_path / "s")
    path = str(tmp_path / "s").replace("/", "%2F")
    for location in (f"http+unix://{path}/", f"HTTP+UNIX://{path}/"):
        server = scripted(answers(to(location)))
        with pytest.raises(AddressBlocked, match="Unix-domain socket"):
            http.get(server.url)
    assert inside.connections == 0


@pytest.mark.parametrize(
    ("location", "target"), [("/end", "/end"), ("end?x=1", "/a/end?x=1"), ("?x", "/a/b?x")]
)
def test_over_a_socket_a_location_stays_on_it(http, scripted, tmp_path, location, target):
    server = scripted(answers(to(location), response(b"end")), path=tmp_path / "s")
    url = f"http+unix://{str(tmp_path / 's').replace('/', '%2F')}"

    assert http.get(f"{url}/a/b").data == b"end"
    assert server.requests[1].target == target


def test_from_a_socket_a_location_may_lead_to_the_network(http, scripted, tmp_path):
    there = scripted(answers(response(b"there")))
    url = f"http+unix://{str(tmp_path / 's').replace('/', '%2F')}"
    server = scripted(
        answers(to(f"{there.url}/"), to(f"//127.0.0.1:{there.port}/")), path=tmp_path / "s"
    )

    assert http.get(f"{url}/", headers=SECRETS).data == b"there"
    assert http.get(f"{url}/").data == b"there"
    assert there.requests[0].header("authorization") is None
    assert len(server.requests) == 2


def test_it_is_done_as_urllib3_does_it(scripted):
    """The statuses after which a GET follows are the same."""
    for status in (301, 302, 303, 307, 308):
        server = scripted(answers(to("/end", status), response(b"end")))
        with urllib3.PoolManager() as manager, HttpPool() as http:
            assert manager.request("GET", server.url).data == http.get(server.url).data == b"end"
