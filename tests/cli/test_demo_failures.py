"""A demo that goes wrong says so, and its exit status too."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from click.testing import CliRunner

from poolkit.cli.demo import cache, command, http, postgres
from poolkit.cli.demo.scene import Leak
from poolkit.cli.demo.workload import Workload


class Nothing:
    """A backend and its census, of nothing."""

    address = description = ""
    peak = opened = 0
    hit_rate = None

    def census(self):
        return self

    def look(self):
        pass

    def close(self):
        pass


@dataclass(frozen=True)
class Fails:
    error: Exception
    name: str = "a contender"
    refusals: tuple[type[Exception], ...] = (TimeoutError,)

    @contextmanager
    def open(self, address, *, seconds):
        def lookup(key):
            raise self.error

        yield lookup


@dataclass
class FakeScene:
    contenders: tuple = ()
    opening: object = staticmethod(lambda: None)
    title: str = "nothing"
    request: str = ""
    patience: float = 60.0
    last_step: str = "end"

    def workload(self, *, threads, requests_per_thread):
        return Workload(
            threads=threads, requests_per_thread=requests_per_thread, keys=10, value=lambda key: key
        )

    @contextmanager
    def open(self):
        self.opening()
        yield Nothing()

    def claims(self, runs, workload, address):
        return []

    def finale(self, workload, address):
        return Leak(error="", thread_name="", call_site="", held_for=0.0, stack="", leases_after=0)


@pytest.fixture
def demo(monkeypatch):
    def demo(scene, *arguments):
        monkeypatch.setattr(postgres, "PostgresScene", lambda: scene)
        monkeypatch.setattr(cache, "CacheScene", FakeScene)
        monkeypatch.setattr(http, "HttpScene", FakeScene)
        return CliRunner().invoke(command, ["--threads", "2", *arguments])

    return demo


def test_a_failure_that_is_not_part_of_the_picture_is_named(demo):
    result = demo(FakeScene(contenders=(Fails(KeyError("surprise")),)))

    assert result.exit_code == 1
    assert "requests failed unexpectedly" in result.stderr
    assert "a contender: KeyError: 'surprise'" in result.stderr


def test_a_refusal_is_part_of_the_picture(demo):
    result = demo(FakeScene(contenders=(Fails(TimeoutError("no connection")),)))

    assert result.exit_code == 0, result.stderr
    assert "10 of 10 requests failed: no connection" in result.stdout


def test_a_server_that_does_not_start_is_an_error_in_one_line(demo):
    def fail():
        raise RuntimeError("no space left")

    result = demo(FakeScene(opening=fail))

    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "Error: RuntimeError: no space left"


def test_a_demo_that_hangs_gives_up(demo, monkeypatch):
    monkeypatch.setattr("poolkit.cli.demo._OVERTIME", 0.1)

    result = demo(FakeScene(opening=lambda: time.sleep(30)), "--seconds", "1")

    assert result.exit_code == 1
    assert "gave up after 1.1 s" in result.stderr
