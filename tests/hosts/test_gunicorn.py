"""A real gunicorn, on good days and on bad ones: nothing is lost that could be served, nothing is left over."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from poolkit.embedded import HttpServer, PostgresServer, RedisServer

from .gunicorn import EXIT, Gunicorn
from .load import Load, Outcome, statuses
from .servers import Opened

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="gunicorn needs fork")

APP = "tests.hosts.served:app"
WORKERS = 4
MAX_SIZE = 3
"""Of the pools in each worker; more threads than that come."""

_numbers = itertools.count()


@pytest.fixture
def name() -> str:
    """Give a name that nothing else on the servers has."""
    return f"hosted_{os.getpid()}_{next(_numbers)}"


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    """Give the address of an HTTP server."""
    with HttpServer() as url:
        yield url


@pytest.fixture
def env(name: str, postgres_server: PostgresServer, redis_url: str, echo: str) -> dict[str, str]:
    """Give the environment of a program called *name*, with its pools."""
    return {
        "POOLKIT_POSTGRES_CONNINFO": f"{postgres_server.conninfo}?application_name={name}",
        "POOLKIT_POSTGRES_MIN_SIZE": "1",
        "POOLKIT_POSTGRES_MAX_SIZE": str(MAX_SIZE),
        "POOLKIT_REDIS_URL": redis_url,
        "POOLKIT_REDIS_CLIENT_NAME": name,
        "POOLKIT_REDIS_MAX_SIZE": str(MAX_SIZE),
        "POOLKIT_HTTP_MAX_SIZE": str(MAX_SIZE),
        "SERVED_ECHO": echo,
    }


@pytest.fixture
def opened(name: str, conninfo: str, redis_server: RedisServer) -> Iterator[Opened]:
    """Give eyes on what the program has open on the servers."""
    with Opened(name, conninfo, redis_server) as opened:
        yield opened


def who(number: int) -> str:
    """Return the path of a request that asks all backends for its own number."""
    return f"/who/n{number}"


def check_answers(outcomes: Sequence[Outcome]) -> None:
    """Make sure that each that was served got what is its own, from each backend."""
    for outcome in outcomes:
        if outcome.status == 200:
            answer: dict[str, Any] = json.loads(outcome.body)
            own = outcome.path.rpartition("/")[2]
            assert (answer["postgres"], answer["redis"], answer["http"]) == (
                own,
                own,
                [["name", own]],
            )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("worker_class", "preload", "in_arbiter"),
    [
        ("gthread", True, True),
        ("gthread", False, False),
        ("sync", True, True),
        ("sync", True, False),
    ],
    ids=["gthread-open", "gthread-no-preload", "sync-open", "sync-preload"],
)
def test_no_request_is_lost_by_reload_recycling_and_term(
    env: dict[str, str], opened: Opened, worker_class: str, preload: bool, in_arbiter: bool
) -> None:
    if in_arbiter:
        env["SERVED_OPEN"] = "1"
    gunicorn = Gunicorn(
        APP,
        env=env,
        workers=WORKERS,
        worker_class=worker_class,
        threads=8,
        preload_app=preload,
        max_requests=60,
        max_requests_jitter=60,
        hooks=EXIT,
    )
    processes = WORKERS + in_arbiter
    with gunicorn, Load(gunicorn.port, who, clients=12) as load:
        gunicorn.wait(lambda: gunicorn.ended >= 3 and load.served >= 300)
        assert 0 < opened.most_postgres <= processes * MAX_SIZE
        assert 0 < opened.most_redis <= processes * MAX_SIZE

        gunicorn.reload()
        served = load.served
        gunicorn.wait(lambda: load.served >= served + 100)
        # gunicorn starts the new workers before it tells the old ones to end: two generations at a time.
        assert opened.most_postgres <= (2 * WORKERS + in_arbiter) * MAX_SIZE
        assert opened.most_redis <= (2 * WORKERS + in_arbiter) * MAX_SIZE
        assert statuses(load.outcomes).keys() == {200}, statuses(load.outcomes)

        taken = gunicorn.taken
        gunicorn.stop()
        opened.none_left(within=2.0)
        load.end()
        taken = gunicorn.taken

    check_answers(load.outcomes)
    assert len({json.loads(outcome.body)["pid"] for outcome in load.outcomes if outcome.body}) > 8
    lost = [outcome for outcome in load.outcomes if outcome.status != 200 and outcome.path in taken]
    assert not lost, lost[:3]
