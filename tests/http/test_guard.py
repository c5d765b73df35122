"""URLs that strangers choose lead neither to private addresses nor to more bytes than are wanted."""

from __future__ import annotations

import functools
import gzip
import io
import os
import socket
import tracemalloc
import zlib

import pytest

from poolkit import AddressBlocked, BackendUnavailable, ConfigError, HttpPool, ResponseTooLarge
from poolkit.http.guard import Guard, is_public
from poolkit.http.target import Origin
from tests.http.scripted import answers, chunked, response

MB = 1_000_000
BOMB = 50 * MB


@pytest.fixture(scope="module")
def guarded():
    """Give a pool that may call public addresses alone."""
    with HttpPool(allow_private=False, connect_timeout=2) as http:
        yield http


# -- addresses -----------------------------------------------------------------------------------------

LOOPBACK = [
    "127.0.0.1",
    "127.255.255.254",
    "localhost",
    "LOCALHOST.",
    "2130706433",
    "0x7f000001",
    "0x7f.0x0.0x0.0x1",
    "017700000001",
    "0177.0.0.1",
    "127.1",
    "127.0.1",
    "0",
    "0.0.0.0",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "%31%32%37.0.0.1",
]
"""What a server on this machine can be reached by, on some system or another."""


@pytest.mark.parametrize("host", LOOPBACK)
def test_no_spelling_of_this_machine_gets_through(guarded, http_server, host):
    before = http_server.counts().connections

    with pytest.raises((AddressBlocked, ConfigError, BackendUnavailable)) as caught:
        guarded.get(f"http://{host}:{http_server.port}/json", timeout=5)

    assert http_server.counts().connections == before
    if not isinstance(caught.value, AddressBlocked):  # no address at all, here
        assert host in ("%31%32%37.0.0.1", "LOCALHOST.")
    assert guarded.stats().in_use == 0


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",  # metadata of AWS, Azure, GCP …
        "168.63.129.16",  # of Azure, in public space
        "100.100.100.200",  # of Alibaba
        "192.0.0.192",  # of Oracle
        "100.64.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%lo",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",  # metadata of AWS
        "ff02::1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::10.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::7f00:1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2002:c0a8:101::",
        "2001:0:7f00:1::",
        "2001:db8::1",
    ],
)
def test_addresses_that_are_not_public(guarded, dns, address):
    assert not is_public(address)

    dns.answers("stranger.example", address)
    with pytest.raises(AddressBlocked, match="not a public one") as caught:
        guarded.get("http://stranger.example/", timeout=5)
    assert "stranger.example" in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "8.8.8.8", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "64:ff9b::808:808"],
)
def test_addresses_that_are(address):
    assert is_public(address)


def test_what_is_refused_was_not_called_and_is_no_outage(guarded, dns):
    before = guarded.stats()
    for _ in range(3):
        with pytest.raises(AddressBlocked):
            guarded.get("http://127.0.0.1:1/")
    stats = guarded.stats()
    assert (stats.created, stats.retries, stats.in_use) == (0, before.retries, 0)

    dns.answers("moves.example", "10.0.0.1")
    with pytest.raises(AddressBlocked):
        guarded.get("http://moves.example/")
    dns.fails("moves.example")
    with pytest.raises(BackendUnavailable):  # it is looked up again, not remembered as blocked
        guarded.get("http://moves.example/")


@pytest.fixture
def connected(monkeypatch):
    """Give the addresses that were connected to; of each public one, the connection is refused."""
    seen = []
    real = socket.socket.connect_ex

    def connect_ex(sock, where):
        seen.append(where[0])
        if where[0] != "127.0.0.1":
            where = ("127.0.0.1", 1)
            return real(sock, where) if sock.family == socket.AF_INET else 111
        return real(sock, where)

    monkeypatch.setattr(socket.socket, "connect_ex", connect_ex)
    return seen


def test_what_is_connected_to_is_what_was_looked_at(guarded, dns, connected, http_server):
    dns.changes("rebinding.example", "93.184.216.34", "127.0.0.1")

    with pytest.raises((BackendUnavailable, AddressBlocked)):
        guarded.get(f"http://rebinding.example:{http_server.port}/json")

    assert "127.0.0.1" not in connected
    assert dns.asked[0] == "rebinding.example"
    assert connected[0] == "93.184.216.34"


def test_of_several_addresses_only_the_public_ones_are_tried(guarded, dns, connected):
    dns.answers("mixed.example", "127.0.0.1", "93.184.216.34", "10.0.0.1", "169.254.169.254")

    with pytest.raises(BackendUnavailable):
        guarded.get("http://mixed.example/")

    assert set(connected) == {"93.184.216.34"}


def test_a_redirect_is_no_way_around(dns, scripted, monkeypatch):
    inside = scripted(answers(response(b"inside")))
    locations = iter(
        [inside.url, f"http://2130706433:{inside.port}/", f"http://[::1]:{inside.port}/"]
    )

    def script(talk):
        while True:
            talk.request()
            talk.send(response(status=302, headers=[("Location", next(locations))]))

    outside = scripted(script)
    dns.answers("public.example", "93.184.216.34")
    real = socket.socket.connect_ex

    def routed(sock, where):  # the public address leads to the test's server
        return real(sock, ("127.0.0.1", outside.port) if where[0] == "93.184.216.34" else where)

    monkeypatch.setattr(socket.socket, "connect_ex", routed)
    with HttpPool(allow_private=False) as http:
        for _ in range(3):
            with pytest.raises(AddressBlocked):
                http.get("http://public.example/")
        assert http.stats().in_use == 0
        with http.session() as session, pytest.raises(AddressBlocked):
            session.get(inside.url)
    assert (inside.connections, len(outside.requests)) == (0, 3)


def test_sockets_of_this_machine_are_private(guarded, scripted, tmp_path):
    inside = scripted(answers(response(b"inside")), path=tmp_path / "s")

    with pytest.raises(AddressBlocked, match="Unix-domain sockets are private"):
        guarded.get(f"http+unix://{str(tmp_path / 's').replace('/', '%2F')}/")
    assert inside.connections == 0


def test_health_checks_and_streams_are_guarded_too(guarded, http_server):
    assert guarded.health_check(f"{http_server.url}/json") is False
    with pytest.raises(AddressBlocked), guarded.stream("GET", f"{http_server.url}/json"):
        pass


# -- hosts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("api.example.com", True),
        ("API.Example.COM", True),
        ("api.example.com.", True),
        ("a.example.org", True),
        ("a.b.example.org", True),
        ("example.org", False),
        ("badexample.org", False),
        ("example.com", False),
        ("xapi.example.com", False),
        ("api.example.com.evil.example", False),
        ("evil.example", False),
        ("127.0.0.1", True),
        ("127.0.0.2", False),
        ("2130706433", False),
        ("::1", True),
        ("0:0:0:0:0:0:0:1", False),
    ],
)
def test_allowed_hosts_are_names_addresses_and_domains(host, allowed):
    guard = Guard(
        allowed_hosts=["Api.example.com", "*.Example.org", "127.0.0.1", "::1"], allow_private=True
    )
    origin = Origin("http", host, 80)
    if allowed:
        guard.check_host(origin)
    else:
        with pytest.raises(AddressBlocked, match="allowed_hosts"):
            guard.check_host(origin)


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.example/",
        "http://good.example@evil.example/",
        "http://good.example:80@evil.example/",
        "http://evil.example#@good.example/",
        "http://evil.example?@good.example/",
        "http://evil.example\\@good.example/",
        "http://evil.example/good.example",
        "http://good.example.evil.example/",
        "http://good.example%2eevil.example/",
    ],
)
def test_no_spelling_of_a_url_gets_to_another_host(dns, url):
    dns.answers("evil.example", "127.0.0.1")
    with HttpPool(allowed_hosts=["good.example"]) as http:
        with pytest.raises((AddressBlocked, ConfigError)):
            http.get(url, timeout=5)
    assert dns.asked == []


def test_no_host_at_all_may_be_allowed():
    with HttpPool(allowed_hosts=[]) as http, pytest.raises(AddressBlocked):
        http.get("http://a.example/")


def test_allowed_hosts_hold_through_a_proxy(forward_proxy, http_server):
    proxy = forward_proxy()
    with HttpPool(proxy=proxy.url, allowed_hosts=["127.0.0.1"]) as http:
        assert http.get(f"{http_server.url}/json").status == 200
        with pytest.raises(AddressBlocked):
            http.get(f"http://localhost:{http_server.port}/json")
    assert len(proxy.requests) == 1


def test_hosts_that_strangers_name_do_not_pile_up(monkeypatch):
    monkeypatch.setattr("poolkit.http.hosts.MOST", 20)
    with HttpPool(allow_private=False) as http:
        for number in range(100):
            with pytest.raises(AddressBlocked):
                http.get(f"http://127.0.0.1:{number + 1}/")
        assert len(http.stats_by_host()) <= 21
        assert http.stats().operations == 100


# -- size ----------------------------------------------------------------------------------------------


def until_closed(body):
    """Return an answer whose end is that of the connection."""

    def script(talk):
        talk.request()
        talk.send(b"HTTP/1.1 200 OK\r\n\r\n" + body)

    return script


@functools.cache
def zipped(size, times=1):
    """Return so many zeros, compressed."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    packed = b"".join(packer.compress(bytes(MB)) for _ in range(size // MB)) + packer.flush()
    for _ in range(times - 1):
        packed = gzip.compress(packed)
    return packed


GZIP = [("Content-Encoding", "gzip")]

TOO_LARGE = {
    "plain": answers(response(bytes(1001))),
    "chunked": answers(chunked(bytes(500), bytes(501))),
    "one chunk": answers(chunked(bytes(2 * MB))),
    "endless": until_closed(bytes(2 * MB)),
    "gzip": answers(response(zipped(MB), headers=GZIP)),
    "gzip in chunks": answers(chunked(zipped(MB), headers=GZIP)),
    "gzip to the end": (
        lambda talk: (
            talk.request(),
            talk.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + zipped(MB)),
        )
    ),
    "deflate": answers(
        response(zlib.compress(bytes(MB)), headers=[("Content-Encoding", "deflate")])
    ),
    "gzip twice": answers(
        response(zipped(2 * MB, 2), headers=[("Content-Encoding", "gzip, gzip")])
    ),
}


def readinto(answer):
    buffer = bytearray(100)
    while answer.readinto(buffer):
        pass


def read_in_pieces(answer):
    while answer.read(100):
        pass


def read1_in_pieces(answer):
    while answer.read1(100):
        pass


def read1_all(answer):
    while answer.read1():
        pass


WAYS = {
    "data": lambda answer: answer.data,
    "read": lambda answer: answer.read(),
    "read(-1)": lambda answer: answer.read(-1),
    "read(n)": read_in_pieces,
    "read(large)": lambda answer: answer.read(10 * MB) and answer.read(10 * MB),
    "read1": read1_all,
    "read1(n)": read1_in_pieces,
    "readinto": readinto,
    "stream": lambda answer: list(answer.stream()),
    "stream(n)": lambda answer: list(answer.stream(100)),
    "stream(None)": lambda answer: list(answer.stream(None)),
    "lines": list,
    "json": lambda answer: answer.json(),
    "wrapped": lambda answer: io.BufferedReader(answer).read(),
}


@pytest.mark.parametrize("way", WAYS)
def test_more_than_allowed_is_refused_however_it_is_read(scripted, way):
    with HttpPool(max_response_bytes=1000, max_size=1, acquire_timeout=0.5) as http:
        for kind, script in TOO_LARGE.items():
            with http.stream("GET", scripted(script).url) as answer:
                with pytest.raises(ResponseTooLarge, match="max_response_bytes is 1000"):
                    WAYS[way](answer)
                    pytest.fail(kind)
                assert http.stats().in_use == 0


def test_so_it_is_where_the_body_is_read_at_once(scripted):
    with HttpPool(max_response_bytes=1000) as http:
        for script in TOO_LARGE.values():
            server = scripted(script)
            for send in (http.get, http.session().get):
                with pytest.raises(ResponseTooLarge) as caught:
                    send(f"{server.url}/?key=s3cret")
                assert "s3cret" not in str(caught.value)
        stats = http.stats()
        assert (stats.in_use, stats.retries) == (0, 0)


@pytest.mark.parametrize("way", ["read", "read(n)", "stream", "stream(n)", "data"])
@pytest.mark.parametrize("kind", ["plain", "chunked", "endless"])
def test_undecoded_bytes_are_counted_too(scripted, kind, way):
    server = scripted(TOO_LARGE[kind])
    with HttpPool(max_response_bytes=1000) as http, http.stream("GET", server.url) as answer:
        answer.decode_content = False  # as requests has it, for raw
        with pytest.raises(ResponseTooLarge):
            WAYS[way](answer)


@pytest.mark.parametrize(
    "script",
    [
        answers(response(bytes(1000))),
        answers(chunked(bytes(500), bytes(500))),
        until_closed(bytes(1000)),
        answers(response(gzip.compress(bytes(1000)), headers=GZIP)),
        answers(chunked(gzip.compress(bytes(1000)), headers=GZIP)),
        answers(response(gzip.compress(os.urandom(1000)), headers=GZIP)),
    ],
    ids=["plain", "chunked", "endless", "gzip", "gzip in chunks", "gzip that grew"],
)
def test_as_much_as_allowed_is_let_through(scripted, script):
    server = scripted(script)
    with HttpPool(max_response_bytes=1000) as http:
        assert len(http.get(server.url).data) == 1000
        with http.stream("GET", server.url) as answer:
            assert len(b"".join(answer.stream(300))) == 1000
        with http.stream("GET", server.url) as answer:
            assert len(answer.read(5000)) == 1000


def test_a_body_that_says_it_is_too_large_is_not_read(scripted):
    server = scripted(answers(response(length=10 * MB)))
    with HttpPool(max_response_bytes=1000) as http:
        with pytest.raises(ResponseTooLarge, match="10000000 bytes"):
            http.get(server.url, timeout=5)


BOMBS = {
    "gzip": lambda: response(zipped(BOMB), headers=GZIP),
    "gzip in chunks": lambda: chunked(zipped(BOMB), headers=GZIP),
    "gzip twice": lambda: response(zipped(BOMB, 2), headers=[("Content-Encoding", "gzip, gzip")]),
}


@pytest.mark.parametrize("way", ["data", "read", "read(large)", "read1", "stream(None)", "wrapped"])
@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_does_not_go_off_in_memory(scripted, kind, way):
    server = scripted(answers(BOMBS[kind]()))
    with HttpPool(max_response_bytes=MB) as http, http.stream("GET", server.url) as answer:
        tracemalloc.start()
        try:
            with pytest.raises(ResponseTooLarge):
                WAYS[way](answer)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 8 * MB


def test_a_long_download_takes_no_memory(http_server):
    total = 0
    with HttpPool(max_response_bytes=1 << 30) as http:
        with http.stream("GET", f"{http_server.url}/gzip/50000000", timeout=30) as answer:
            tracemalloc.start()
            try:
                for piece in answer.stream():
                    total += len(piece)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert http.stats().in_use == 0
    assert total == 50_000_000
    assert peak < 4 * MB
