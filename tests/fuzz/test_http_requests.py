"""What callers and servers give for URLs and header fields: it can be sent as one request, or is refused by name."""

from __future__ import annotations

import io
import ipaddress
from http.server import BaseHTTPRequestHandler

from hypothesis import assume, example, given
from hypothesis import strategies as st
from urllib3 import HTTPHeaderDict

from poolkit.http.body import make_body
from poolkit.http.config import HttpConfig
from poolkit.http.failures import retry_after
from poolkit.http.guard import Guard, is_public
from poolkit.http.request import Request, check_auth, check_fields, check_method, fields_of
from poolkit.http.target import Origin, locate, parse
from poolkit.http.wire import is_token
from tests.generated import examples

from .support import LONG_NUMBER, ODD, SECRET, anything, attempt, nearly, secrets

URLS = anything | nearly(
    (
        "http://",
        "https://",
        "http+unix://",
        "HTTP:",
        "//",
        "user:pw",
        "@",
        "host",
        "a.example",
        ".",
        ":",
        "80",
        "65536",
        LONG_NUMBER,
        "/",
        "..",
        "?",
        "=",
        "&",
        "#",
        "%20",
        "%00",
        "%0d%0a",
        "%",
        "[::1]",
        "[fe80::1%25eth0]",
        "[",
        "]",
        "xn--",
        "ß",
        "\\",
        " ",
        "\r\nX: y",
        "%2Frun%2Fs.sock",
    )
)
TEXT = st.text(st.characters() | st.sampled_from(ODD), max_size=12)
TOKENS = st.text(st.sampled_from("aZ0-_!#"), min_size=1, max_size=8)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12)


class Heard(BaseHTTPRequestHandler):
    """What the standard library's server hears in the head of a request."""

    def __init__(self, head):
        self.rfile = io.BytesIO(head)
        self.wfile = io.BytesIO()
        self.client_address = ("", 0)
        self.refused = None
        self.raw_requestline = self.rfile.readline(65537)
        assert self.parse_request(), self.refused
        self.rest = self.rfile.read()

    def send_error(self, *said):
        self.refused = said


def heard(target, fields=()):
    """Send a GET, and return what the server heard: just this."""
    head = Request(
        "GET",
        target,
        headers=HTTPHeaderDict(fields),
        content=make_body(json_value=None, data=None, files=None),
    ).head(target.path, None, streams=False)
    assert head.count(b"\r\n\r\n") == 1
    received = Heard(head)
    assert (received.command, received.rest) == ("GET", b"")
    return received


# -- URLs ----------------------------------------------------------------------------------------------


def target_of(call, *given):
    """Return the target; None if it is refused, by name. Nothing else is raised."""
    target, said = attempt(call, *given)
    assert said.startswith(("url ", "params")) or target is not None
    return target


def assert_can_be_sent(target):
    received = heard(target)
    assert received.path.lstrip("/") == target.path.lstrip(
        "/"
    )  # the server leaves one of several "/"
    assert received.headers.get_all("host") == [target.host]
    assert len(received.headers) == 1
    again = parse(target.url)
    assert (again.origin, again.path, again.host) == (target.origin, target.path, target.host)


@examples(400)
@given(URLS)
def test_a_url_can_be_sent_or_is_refused(url):
    target = target_of(parse, url)

    if target is not None:
        assert_can_be_sent(target)


@examples(200)
@given(st.sampled_from(("", "http://host", "https://u:p@host/v1/", "http+unix://%2Fs")), URLS, TEXT)
def test_a_url_within_another_can_be_sent_or_is_refused(base, url, query):
    target = target_of(locate, base, url, query)

    if target is not None:
        assert_can_be_sent(target)


@examples(200)
@given(st.sampled_from(("http://host/a/b?c", "http+unix://%2Fs/a", "http://[::1]:8/")), URLS)
def test_a_redirect_can_be_followed_or_is_refused(start, location):
    target = target_of(parse(start).joined, location)

    if target is not None:
        assert_can_be_sent(target)


@examples(150)
@given(
    st.dictionaries(TEXT, TEXT | st.none() | st.integers() | st.lists(TEXT, max_size=2), max_size=3)
)
@example({"a": "\ud800"})
def test_params_can_be_sent_or_are_refused(params):
    target = target_of(locate, "", "http://host/", params)

    if target is not None:
        assert_can_be_sent(target)


@examples(150)
@given(secrets, st.sampled_from(("", ":80", ":x", "/", "/?a=b", "#x")))
def test_no_password_of_a_url_is_shown(password, rest):
    for field in ("base_url", "proxy"):
        config, said = attempt(HttpConfig, **{field: f"http://user:{password}@host{rest}"})
        said += repr(config)
        # What comes after another delimiter is no longer the password, but a host or a path.
        assert SECRET not in said or set(password) & set("/?#@\\"), said


# -- header fields -------------------------------------------------------------------------------------


@examples(200)
@given(st.dictionaries(TEXT, TEXT | st.none(), max_size=3))
def test_header_fields_can_be_sent_or_are_refused_without_their_values(given):
    given = {name: value and f"{value}{SECRET}" for name, value in given.items()}
    fields, said = attempt(fields_of, given)
    if fields is not None:
        _, said = attempt(check_fields, fields)
    if said:
        assert said.startswith("headers")
        assert SECRET not in said
        return
    assume("host" not in fields and "transfer-encoding" not in fields)
    received = heard(parse("http://host/"), fields)
    assert len(received.headers) == len(list(fields.iteritems())) + 1 - ("content-length" in fields)


@examples(150)
@given(st.lists(st.tuples(TOKENS, VALUES), max_size=5))
def test_header_fields_arrive_as_they_were_given(pairs):
    received = heard(parse("http://host/"), pairs)

    given = HTTPHeaderDict(pairs)
    for name in given:
        arrived = received.headers.get_all(name)
        assert [value.strip() for value in arrived] == [
            value.strip() for value in given.getlist(name)
        ]
    assert len(received.headers) == len(pairs) + 1


@examples(150)
@given(TEXT)
def test_a_method_is_a_token_or_refused(method):
    name, said = attempt(check_method, method)

    assert said.startswith("method ") if name is None else is_token(name)


@examples(150)
@given(TEXT | st.tuples(TEXT, TEXT) | st.lists(TEXT, max_size=3) | st.integers())
@example(("user", "\ud800"))
def test_credentials_can_be_sent_or_are_refused(auth):
    checked, said = attempt(check_auth, auth)
    if said:
        assert said.startswith("auth ")
        return
    request = Request(
        "GET",
        parse("http://host/"),
        headers=HTTPHeaderDict(),
        content=make_body(json_value=None, data=None, files=None),
        auth=checked,
    )
    request.authorize()
    check_fields(request.headers)


@examples(150)
@given(
    anything | nearly(("1", "-", "Wed, ", "21 Oct 2015 ", "07:28:00", " GMT", "+9999", ":", " "))
)
def test_a_retry_after_says_so_many_seconds_or_nothing(text):
    wait = retry_after(text)

    assert wait is None or wait >= 0


# -- hosts that may be called --------------------------------------------------------------------------


@examples(200)
@given(
    st.lists(anything | nearly(("*.", "example", ".", "::1", "[", "%", "/", " ", "ß")), max_size=2)
)
def test_hosts_that_may_be_called_are_hosts_or_refused(hosts):
    config, said = attempt(HttpConfig, allowed_hosts=hosts)
    if said:
        assert said.startswith("allowed_hosts")
        return
    guard = Guard(allowed_hosts=config.allowed_hosts, allow_private=True)
    for host in hosts:
        if host.isascii() and host.isalnum():
            guard.check_host(Origin("http", host, 80))


@examples(300)
@given(st.ip_addresses())
def test_an_address_is_no_more_public_than_the_one_that_it_carries(address):
    if isinstance(address, ipaddress.IPv4Address):
        carriers = (f"::ffff:{address}", f"64:ff9b::{address}", f"::{address}")
        assert not any(is_public(carrier) for carrier in carriers) or is_public(str(address))
    assert not (is_public(str(address)) and (address.is_private or address.is_multicast))
