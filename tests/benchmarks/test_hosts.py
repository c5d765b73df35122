"""What hosts are measured with: the same view however it is written, and clients that count what goes wrong."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest

from benchmarks import bench_hosts, clients
from benchmarks.gunicorn import Gunicorn
from poolkit.embedded import HttpServer


@pytest.mark.parametrize("program", ["wrk", "none"])
def test_clients_count_answers_and_those_that_are_no_good(
    monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    if program == "none":
        monkeypatch.setattr(shutil, "which", lambda _: None)
    elif shutil.which(program) is None:
        pytest.skip("wrk is not installed")
    server = HttpServer()
    with server as url:
        seen = clients.burst(f"{url}/bytes/{{number}}", clients=4, seconds=1, keys=10)
        assert seen.errors == 0
        assert 0 < seen.p50 <= seen.p99 <= seen.longest < seen.duration
        assert seen.requests <= server.counts().requests <= seen.requests + 4
        bad = clients.burst(f"{url}/status/500", clients=4, seconds=1, keys=1)
        assert bad.errors == bad.requests > 0


def test_a_server_that_is_not_there_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(OSError, match="ConnectionRefused"):
        clients.burst("http://127.0.0.1:1/", clients=1, seconds=1, keys=1)


def test_the_view_tells_the_same_however_it_is_written_and_fails_on_a_wrong_answer() -> None:
    with ExitStack() as running:
        url = running.enter_context(HttpServer())
        env = bench_hosts.filled(running, f"{url}/bytes/200")
        told = []
        for app in (bench_hosts.OURS, bench_hosts.USUAL):
            host = running.enter_context(
                Gunicorn(bench_hosts.APPS[app], workers=1, threads=2, env=env, probe="/customers/1")
            )
            told.append(get(f"{host.url}/customers/7"))
            with pytest.raises(urllib.error.HTTPError, match="500"):
                get(f"{host.url}/customers/{bench_hosts.KEYS}")  # which Redis does not have
            assert host.cpu_seconds > 0
            assert host.rss_bytes > 1e6
    expected = {"name": "customer 7", "plan": "plan 7", "score": 200}
    assert told == [expected, expected]


def get(url: str) -> object:
    """Return what JSON is there."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)
