"""What HTTP is measured against serves what is asked for, whichever server it is."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator

import pytest
import urllib3

from benchmarks import streaming, web


@pytest.mark.parametrize("program", ["nginx", "none"])
def test_bodies_are_to_be_had_plain_and_over_tls(
    monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    if program == "none":
        monkeypatch.setattr(shutil, "which", lambda _: None)
    elif shutil.which(program) is None:
        pytest.skip("nginx is not installed")
    with web.served() as served, urllib3.PoolManager(ca_certs=served.ca_file) as http:
        assert ("nginx" in served.name) == (program == "nginx")
        for length in (web.SMALL, web.LARGE):
            for tls in (False, True):
                answer = http.request("GET", served.url(length, tls=tls), retries=False)
                assert answer.data == web.body(length)
        huge = http.request("HEAD", served.url(web.HUGE), retries=False)
        assert huge.headers["Content-Length"] == str(web.HUGE)


def pieces(length: int) -> Iterator[bytes]:
    piece = bytes(streaming.PIECE)
    for _ in range(length // streaming.PIECE):
        yield piece


def hoarded(length: int) -> Iterator[bytes]:
    kept = []
    for _ in range(length // streaming.PIECE):
        kept.append(bytearray(b"x" * streaming.PIECE))
        yield bytes(kept[-1])


def test_memory_is_sampled_while_a_stream_is_read() -> None:
    ctypes.CDLL(None).malloc_trim(
        0
    )  # or what earlier tests have freed is used again, and nothing grows
    samples = streaming.sample(lambda: hoarded(64 << 20), 64 << 20)
    assert [read for read, _ in samples] == [(1 << 20) << doubling for doubling in range(7)]
    assert samples[-1][1] - samples[0][1] > 50e6


def test_a_stream_cut_short_is_a_failure() -> None:
    with pytest.raises(ValueError, match="1,048,576 bytes came"):
        streaming.sample(lambda: pieces(1 << 20), 2 << 20)
