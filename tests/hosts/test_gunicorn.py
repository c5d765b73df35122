"""A real gunicorn, on good days and on bad ones: nothing is lost that could be served, nothing is left over."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
import pytest

from poolkit.embedded import HttpServer, PostgresServer, RedisServer
from tests.core.support import Task, eventually

from .gunicorn import EXIT, ROOT, Gunicorn
from .load import Load, Outcome, arrivals, ask, quantile, statuses
from .servers import Opened

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="gunicorn needs fork")

APP = "tests.hosts.served:app"
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


def ports(pid: int) -> set[int]:
    """Return the local ports of the connections that a process has."""
    return {conn.laddr.port for conn in psutil.Process(pid).net_connections("tcp") if conn.raddr}


def stats(port: int) -> dict[str, int]:
    """Return what a worker, the only one, says of its PostgreSQL pool."""
    found: dict[str, int] = json.loads(ask(port, "/stats").body)
    return found


def idle(port: int) -> None:
    """Have the worker open its pools, and wait until nobody holds a connection, as its own first checks do."""
    assert ask(port, "/sleep/0.0/first").status == 200

    def look() -> bool:
        found = stats(port)
        return found["operations"] >= 3 and found["in_use"] == found["waiting"] == 0

    eventually(look)


def leave(
    port: int, path: str, *, when: Callable[[], object] = lambda: None, after: int = 0
) -> None:
    """Send a request, wait for *when*, read *after* bytes of the answer, and hang up without a word."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        when()
        while after > 0:
            after -= len(client.recv(after))


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


def pids(outcomes: Sequence[Outcome]) -> set[int]:
    """Return the workers that served."""
    return {json.loads(outcome.body)["pid"] for outcome in outcomes if outcome.status == 200}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("worker_class", "workers", "preload", "in_arbiter"),
    [
        ("gthread", 4, True, True),
        ("sync", 4, True, False),
        ("gthread", 2, False, False),  # fewer: each takes a second to load the app
    ],
    ids=["gthread-opened-before-the-fork", "sync-loaded-before-the-fork", "gthread-loaded-in-each"],
)
def test_no_request_is_lost_by_recycling_reload_and_term(
    env: dict[str, str],
    opened: Opened,
    worker_class: str,
    workers: int,
    preload: bool,
    in_arbiter: bool,
) -> None:
    if in_arbiter:
        env["SERVED_OPEN"] = "1"
    gunicorn = Gunicorn(
        APP,
        env=env,
        workers=workers,
        worker_class=worker_class,
        threads=8,
        preload_app=preload,
        max_requests=50,
        max_requests_jitter=100,
        hooks=EXIT,
    )
    bound = (workers + in_arbiter) * MAX_SIZE
    last = "/sleep/0.5/last"
    with gunicorn, Load(gunicorn.port, who, clients=12) as load:
        gunicorn.wait(lambda: gunicorn.ended >= 2 and load.served >= 150)
        assert 0 < max(opened.most()) <= bound

        gunicorn.reload()
        # gunicorn starts the new workers before it tells the old ones to end: two generations at a time.
        assert max(opened.most()) <= bound + workers * MAX_SIZE

        served = load.served
        gunicorn.wait(lambda: load.served >= served + 50)
        assert max(opened.most()) <= bound
        assert statuses(load.outcomes).keys() == {200}, statuses(load.outcomes)

        slow = Task(ask, gunicorn.port, last)
        gunicorn.took(last)
        gunicorn.stop()
        opened.none_left(within=2.0)
        load.end()
        taken = gunicorn.taken

    assert slow.result().status == 200, slow.result()
    check_answers(load.outcomes)
    assert len(pids(load.outcomes)) >= 2 * workers
    # What was not accepted by then is reset as the listening socket is closed.
    lost = [outcome for outcome in load.outcomes if outcome.status != 200 and outcome.path in taken]
    assert not lost, lost[:3]


def test_a_worker_killed_in_the_middle_of_a_request_harms_no_other(
    env: dict[str, str], opened: Opened
) -> None:
    env["POOLKIT_POSTGRES_CONNINFO"] += "&options=-cclient_connection_check_interval%3D100"
    victim = "/sleep/20.0/victim"
    with Gunicorn(APP, env=env, workers=2, worker_class="gthread", threads=8) as gunicorn:
        with Load(gunicorn.port, who, clients=6) as load:
            gunicorn.wait(lambda: load.served >= 50)
            asked = Task(ask, gunicorn.port, victim)
            pid = gunicorn.took(victim)
            doomed = ports(pid)
            assert len(opened.from_ports(doomed)) >= 2

            os.kill(pid, signal.SIGKILL)

            assert asked.result().status == 0, asked.result()
            gunicorn.wait(lambda: len(gunicorn.workers) == 2 and pid not in gunicorn.workers)
            gunicorn.wait(lambda: gunicorn.workers[-1] in pids(load.outcomes[-50:]))
        check_answers(load.outcomes)
        # What failed is what the killed one had taken in, or was about to.
        failed = [outcome for outcome in load.outcomes if outcome.status != 200]
        assert all(outcome.status == 0 for outcome in failed), statuses(failed)
        taken = gunicorn.taken
        assert all(taken.get(outcome.path, pid) == pid for outcome in failed)
        assert len(failed) <= 6
        eventually(lambda: not opened.from_ports(doomed), 5.0)
        gunicorn.stop()
    opened.none_left(within=2.0)


@pytest.mark.slow
def test_a_database_restarted_under_load_costs_answers_but_no_worker(
    env: dict[str, str], own_postgres: Callable[..., PostgresServer]
) -> None:
    postgres = own_postgres()
    env["POOLKIT_POSTGRES_CONNINFO"] = postgres.conninfo
    with Gunicorn(APP, env=env, workers=2, worker_class="gthread", threads=8) as gunicorn:
        workers = gunicorn.workers
        with Load(gunicorn.port, who, clients=8) as load:
            gunicorn.wait(lambda: load.served >= 100)
            postgres.stop()
            gunicorn.wait(lambda: load.outcomes[-1].status == 503)
            postgres.start()
            ready = time.monotonic()
            gunicorn.wait(lambda: time.monotonic() >= ready + 2.0)
        assert statuses(load.outcomes).keys() <= {200, 503, 504}, statuses(load.outcomes)
        check_answers(load.outcomes)
        refused = [outcome for outcome in load.outcomes if outcome.status == 503]
        assert all(int(outcome.retry_after or 0) >= 1 for outcome in refused)
        late = [outcome for outcome in load.outcomes if outcome.began >= ready + 1.0]
        assert late
        assert statuses(late).keys() == {200}
        assert gunicorn.workers == workers


def test_the_example_serves_reloads_and_leaves_nothing(env: dict[str, str], opened: Opened) -> None:
    config = ROOT / "examples" / "gunicorn.conf.py"
    env.update({f"FLASK_{name}": value for name, value in env.items()})
    gunicorn = Gunicorn("examples.flask_app:create_app()", env=env, base=config, workers=2)
    with gunicorn:
        opened.ask("create table if not exists customers (id int, name text not null)")
        opened.ask("insert into customers values (1, 'Ada')")
        with Load(gunicorn.port, lambda n: f"/customers/1?{n}", clients=4) as load:
            gunicorn.wait(lambda: load.served >= 20)
            gunicorn.reload()
            gunicorn.wait(lambda: load.served >= 40)
        opened.ask("drop table customers")
        assert statuses(load.outcomes).keys() == {200}
        assert all(json.loads(outcome.body)["name"] == "Ada" for outcome in load.outcomes)
        assert opened.postgres()
        gunicorn.stop()
        opened.none_left(within=2.0)


def test_clients_that_leave_hold_nothing(env: dict[str, str], opened: Opened) -> None:
    with Gunicorn(APP, env=env, worker_class="gthread", threads=8) as gunicorn:
        for number in range(2 * MAX_SIZE):
            path = f"/sleep/0.05/left-{number}"
            leave(gunicorn.port, path, when=lambda path=path: gunicorn.took(path))
        for number in range(2 * MAX_SIZE):
            leave(gunicorn.port, f"/rows/100000?{number}", after=10_000)
        idle(gunicorn.port)
        # None was lost: so many requests at a time are served again, and at once.
        tasks = [Task(ask, gunicorn.port, f"/sleep/0.05/n{n}") for n in range(MAX_SIZE)]
        assert [task.result().status for task in tasks] == [200] * MAX_SIZE
        assert stats(gunicorn.port)["leaked"] == 0
        assert gunicorn.ended == 0
        assert len(opened.postgres()) <= MAX_SIZE


def test_a_view_that_leaks_leaves_the_worker_its_connections(env: dict[str, str]) -> None:
    with Gunicorn(APP, env=env, worker_class="gthread", threads=2) as gunicorn:
        answers = [ask(gunicorn.port, "/leak") for _ in range(4 * MAX_SIZE)]
        assert statuses(answers) == {200: 4 * MAX_SIZE}
        # The last one is taken back once its client has its answer.
        eventually(lambda: stats(gunicorn.port)["leaked"] == 4 * MAX_SIZE)
        assert stats(gunicorn.port)["in_use"] == 0
        assert gunicorn.log(200).count("the view 'leak' ended") == 4 * MAX_SIZE


@pytest.mark.slow
def test_load_beyond_capacity_is_refused_at_once_and_the_rest_served_as_usual(
    env: dict[str, str],
) -> None:
    size, waiting, busy, seconds = 3, 1, 0.25, 4.0
    env["POOLKIT_POSTGRES_MAX_SIZE"] = env["POOLKIT_POSTGRES_MIN_SIZE"] = str(size)
    env["POOLKIT_POSTGRES_MAX_WAITING"] = str(waiting)
    env["SERVED_CHECKED_EVERY"] = "0.5"
    capacity = size / busy

    def path(number: int) -> str:
        return f"/sleep/{busy}/n{number}"

    def mixed(number: int) -> str:
        return path(number) if number % 6 else f"/?{number}"

    with Gunicorn(APP, env=env, worker_class="gthread", threads=16) as gunicorn:
        idle(gunicorn.port)
        with Load(gunicorn.port, path, clients=size + waiting) as load:  # as many as it takes in
            gunicorn.wait(lambda: load.served >= 40)
        outcomes = arrivals(gunicorn.port, mixed, rate=12 * capacity, seconds=seconds, clients=24)
        # Being busy is no reason to be taken out.
        assert ask(gunicorn.port, "/readyz").status == 200

    assert statuses(outcomes).keys() == {200, 503}, statuses(outcomes)
    at_capacity = [outcome for outcome in load.outcomes if outcome.status == 200]
    empty = [outcome for outcome in outcomes if outcome.path.startswith("/?")]
    served = [o for o in outcomes if o.status == 200 and o.path.startswith("/sleep/")]
    refused = [outcome for outcome in outcomes if outcome.status == 503]
    assert all(outcome.retry_after for outcome in refused)
    assert len(served) >= 0.7 * capacity * seconds
    assert quantile(served, 0.99) <= 2 * quantile(at_capacity, 0.99)
    # Beside a view that does nothing, since other programs may keep this machine busy.
    assert quantile(refused, 0.5) < quantile(empty, 0.5) + 0.010
