"""``flask pools``, as a person and a program meet it."""

from __future__ import annotations

import json

import pytest
from flask import Flask

from poolkit import PoolKit
from poolkit.hosts.flask import Pools, current_pools
from poolkit.hosts.flask.cli import commands

from ..core.support import eventually

SECRET = "geheim"


@pytest.fixture
def run():
    """Give a way to run a command of an app with the config given."""
    kits = []

    def run(*arguments, kit=None, before=None, **config):
        app = Flask("shop")
        app.config.update(config)
        Pools(app, kit)
        kits.append(app.extensions["poolkit"].kit)
        if before is not None:
            with app.app_context():
                before()
        return app.test_cli_runner().invoke(args=["pools", *arguments])

    yield run
    for kit in kits:
        kit.close(0.2)


def test_check_says_that_all_is_healthy(run, conninfo, redis_url):
    result = run("check", POOLKIT_POSTGRES_CONNINFO=conninfo, POOLKIT_REDIS_URL=redis_url)
    assert result.exit_code == 0, result.output
    head, *rows = result.output.splitlines()
    assert head.split() == ["pool", "status", "latency", "why"]
    assert [row.split()[0] for row in rows] == ["postgres", "redis", "http"]
    assert all(" healthy " in row and " ms" in row for row in rows)


def test_check_names_what_can_not_be_reached_and_why(run, conninfo):
    result = run(
        "check",
        "--json",
        "--timeout",
        "1",
        POOLKIT_POSTGRES_CONNINFO=conninfo,
        POOLKIT_REDIS_URL=f"redis://:{SECRET}@127.0.0.1:1/0",
    )
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert found["pools"]["postgres"]["status"] == "healthy"
    assert "refused" in found["pools"]["redis"]["reasons"][0]
    assert SECRET not in result.output


def test_stats_are_those_of_the_process(run, conninfo):
    def use():
        assert current_pools.postgres.query("select 1")

    result = run("stats", "--json", before=use, POOLKIT_POSTGRES_CONNINFO=conninfo)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["postgres"]["operations"] >= 1
    assert found["http"]["in_use"] == 0

    table = run("stats", before=use, POOLKIT_POSTGRES_CONNINFO=conninfo).output
    head, row, _ = table.splitlines()
    assert head.startswith("pool")
    assert row.startswith("postgres  20")


def test_leaks_names_who_holds_what_and_fails_if_that_is_too_long(run, conninfo):
    pool = {"conninfo": conninfo, "min_size": 0, "leak_threshold": 0.001}
    with PoolKit(postgres=pool, http=False, watch=None) as kit:
        result = run("leaks", kit=kit)
        assert result.exit_code == 0
        assert "0 in use" in result.output

        with kit.postgres.connection():
            eventually(lambda: kit.postgres.leases()[0].held_for > 0.001)
            result = run("leaks", kit=kit)
        assert result.exit_code == 1
        assert "test_flask_cli.py" in result.output
        assert "(too long)" in result.output


def test_in_an_app_without_pools_the_error_says_what_to_do():
    app = Flask("bare")
    app.cli.add_command(commands)
    result = app.test_cli_runner().invoke(args=["pools", "stats"])
    assert "'bare' has no Pools: call Pools(app)" in str(result.exception)
