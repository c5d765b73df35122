"""Compressed bodies are undone; those that are broken are an error, not less than was sent."""

from __future__ import annotations

import gzip
import importlib
import json
import zlib

import pytest
import requests
from urllib3.exceptions import DecodeError, HTTPError, ProtocolError

from poolkit import HttpPool
from tests.http.face import values
from tests.http.scripted import answers, chunked, response

TEXT = json.dumps({"text": "grün " * 5000}).encode()


def raw_deflate(data):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def brotli(data):
    try:
        return importlib.import_module("brotli").compress(data)
    except ImportError:
        pytest.skip("brotli is not installed")


def zstd(data):
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name).compress(data)
        except ImportError:
            continue
    pytest.skip("zstd is not installed")


CODINGS = {
    "identity": ("identity", lambda data: data),
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "GZIP": ("GZIP", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "gzip in two members": (
        "gzip",
        lambda data: gzip.compress(data[:999]) + gzip.compress(data[999:]),
    ),
    "gzip of gzip": ("gzip, gzip", lambda data: gzip.compress(gzip.compress(data))),
    "gzip of deflate": ("deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
    "br": ("br", brotli),
    "zstd": ("zstd", zstd),
}


def in_chunks(data, headers):
    return chunked(*(data[at : at + 777] for at in range(0, len(data), 777)), headers=headers)


@pytest.mark.parametrize("framing", [response, in_chunks], ids=["length", "chunks"])
@pytest.mark.parametrize("coding", CODINGS)
def test_what_was_compressed_is_undone_however_it_is_read(scripted, coding, framing):
    name, pack = CODINGS[coding]
    server = scripted(answers(framing(pack(TEXT), headers=[("Content-Encoding", name)])))
    with HttpPool() as http:
        assert http.get(server.url).data == TEXT
        assert http.get(server.url).json()["text"].startswith("grün")
        with http.stream("GET", server.url) as answer:
            assert b"".join(answer.stream(1000)) == TEXT
        with http.stream("GET", server.url) as answer:
            assert answer.read(10) + answer.read(1000) + answer.read() == TEXT
        with http.stream("GET", server.url) as answer:
            assert b"".join(iter(answer.read1, b"")) == TEXT
        with http.stream("GET", server.url) as answer:
            assert b"".join(answer) == TEXT
        session = http.session()
        assert session.get(server.url).content == TEXT
        with session.get(server.url, stream=True) as answer:
            assert b"".join(answer.iter_content(1000)) == TEXT
        assert (http.stats().created, server.connections) == (1, 1)


@pytest.mark.parametrize("framing", [response, in_chunks], ids=["length", "chunks"])
def test_what_was_sent_can_be_had_as_it_is(scripted, framing):
    packed = gzip.compress(TEXT)
    server = scripted(answers(framing(packed, headers=[("Content-Encoding", "gzip")])))
    with HttpPool() as http:
        with http.stream("GET", server.url) as answer:
            assert answer.read(decode_content=False) == packed
        with http.stream("GET", server.url) as answer:
            assert b"".join(answer.stream(100, decode_content=False)) == packed


def test_a_coding_that_nobody_knows_is_left_as_it_is(scripted):
    server = scripted(answers(response(b"abc", headers=[("Content-Encoding", "rot13")])))
    with HttpPool() as http:
        assert http.get(server.url).data == b"abc"


def test_an_empty_body_is_empty(scripted):
    server = scripted(answers(response(b"", headers=[("Content-Encoding", "gzip")])))
    with HttpPool() as http:
        assert http.get(server.url).data == b""
        assert http.head(server.url).data == b""


def test_compression_is_asked_for(http_server):
    with HttpPool(http_server.url) as http:
        asked = values(http.get("/echo").json()["headers"], "accept-encoding")
        own = http.get("/echo", headers={"Accept-Encoding": "identity"}).json()["headers"]

    assert "gzip" in asked[0]
    assert "deflate" in asked[0]
    assert values(own, "accept-encoding") == ["identity"]


@pytest.mark.parametrize("framing", [response, in_chunks], ids=["length", "chunks"])
@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_garbage_is_an_error(scripted, name, framing):
    body = b"\x1f\x8b\x08 this is no gzip " * 100
    server = scripted(answers(framing(body, headers=[("Content-Encoding", name)])))
    with HttpPool() as http:
        with pytest.raises(DecodeError):
            http.get(server.url)
        assert http.stats().in_use == 0
        with http.stream("GET", server.url) as answer, pytest.raises(DecodeError):
            answer.read(100)
        with pytest.raises(requests.exceptions.ContentDecodingError):
            http.session().get(server.url)
        assert (http.stats().in_use, http.stats().retries) == (0, 0)


@pytest.mark.parametrize("framing", [response, in_chunks], ids=["length", "chunks"])
@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_a_compressed_body_that_is_cut_off_is_an_error(scripted, name, framing):
    """The framing is whole, what is in it is not: a proxy that gave up half-way leaves such."""
    packed = {"gzip": gzip.compress, "deflate": zlib.compress}[name](TEXT)
    server = scripted(answers(framing(packed[:-20], headers=[("Content-Encoding", name)])))
    with HttpPool() as http:
        for read in (lambda answer: answer.read(), lambda answer: list(answer.stream(100))):
            with http.stream("GET", server.url) as answer, pytest.raises(DecodeError):
                read(answer)
        with pytest.raises(DecodeError):
            http.get(server.url)
        with pytest.raises(requests.exceptions.ContentDecodingError):
            http.session().get(server.url)
        assert http.stats().in_use == 0


@pytest.mark.parametrize("stated", [True, False], ids=["length", "chunks"])
def test_a_connection_that_is_lost_within_a_compressed_body_is_an_error(scripted, stated):
    packed = gzip.compress(TEXT)
    gzipped = [("Content-Encoding", "gzip")]

    def script(talk):
        talk.request()
        if stated:
            talk.send(response(packed[:50], headers=gzipped, length=len(packed)))
        else:
            talk.send(chunked(packed[:50], end=False, headers=gzipped))

    server = scripted(script)
    with HttpPool() as http:
        with pytest.raises(ProtocolError):
            http.get(server.url)
        with http.stream("GET", server.url) as answer, pytest.raises(HTTPError):
            list(answer.stream(10))
        assert http.stats().in_use == 0
    assert server.connections == 4  # three times for the first, which may be sent again
