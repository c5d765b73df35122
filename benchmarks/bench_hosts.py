"""In its hosts: a Flask view under gunicorn, with poolkit and as it is usually written; what the extension costs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import psycopg
import redis
from flask import Flask

from benchmarks import answers, clients, machine, web, webapps
from benchmarks.answers import Answer
from benchmarks.crew import Contender, Round, Turn, describe_error
from benchmarks.gunicorn import Gunicorn
from benchmarks.harness import Cell, Plan, Race, Results
from benchmarks.progress import Watcher
from benchmarks.targets import CPU, P99, Target
from poolkit.embedded import PostgresServer, RedisServer

QUESTIONS = ("flask_gunicorn", "extension_cost")
PACKAGES = ("gunicorn", "flask", "psycopg-pool", "requests", "redis")

WORKERS = 2
THREADS = 25
CLIENTS = WORKERS * THREADS
KEYS = 1_000
PATH = "/customers/{number}"
LENGTH = 5  # a burst is so many times as long as a round of threads: wrk knows whole seconds only

OURS = "poolkit, its Flask extension"
USUAL = "psycopg_pool, requests, redis-py"
EMPTY = "a view that does nothing"
APPS: Mapping[str, str] = {
    OURS: "benchmarks.webapps:ours()",
    USUAL: "benchmarks.webapps:usual()",
    EMPTY: "benchmarks.webapps:empty()",
}
PLAIN = "Flask"
EXTENDED = "Flask, with the extension"

GUNICORN_TARGETS = (
    Target(name="throughput", contender=OURS, peer=USUAL, threads=CLIENTS, at_least=1.7),
    Target(name="p99", contender=OURS, peer=USUAL, threads=CLIENTS, measure=P99, at_most=0.5),
)
COST_TARGETS = (
    Target(
        name="extension",
        contender=EXTENDED,
        peer=PLAIN,
        measure=CPU,  # which is all the time that it takes, and no other's
        compare="difference",
        threads=1,
        at_most=30.0,
    ),
)


def answered(plan: Plan, wanted: Collection[str], watcher: Watcher) -> Iterator[Answer]:
    """Start the servers, race, and answer the wanted questions."""
    if "flask_gunicorn" in wanted:
        yield _gunicorn_answered(plan, watcher)
    if "extension_cost" in wanted:
        name = "hosts.extension_cost"
        contenders = [
            Contender(PLAIN, _plain, floor=True),
            Contender(EXTENDED, _extended, ours=True),
        ]
        race = Race(name=name, contenders=contenders, threads=(1,), budget=12.0, slices=4)
        question = "One request to a view that does nothing: what does the extension add?"
        yield answers.cost(name, question, race.run(plan, watcher), PLAIN, COST_TARGETS)


# Under gunicorn ------------------------------------------------------------------------------------


def _gunicorn_answered(plan: Plan, watcher: Watcher) -> Answer:
    with ExitStack() as running:
        backends = running.enter_context(web.served())
        env = filled(running, backends.url(web.SMALL))
        cells = [
            # Nothing is opened for the threads of this process: the clients are in another one.
            Cell(
                contender=Contender(name, _nothing, ours=name == OURS, floor=name == EMPTY),
                threads=CLIENTS,
            )
            for name in APPS
        ]
        hosts = [_started(running, cell, env) for cell in cells]
        seconds = max(1, round(plan.timing.seconds * LENGTH))
        watcher.stage("hosts.flask_gunicorn", len(cells) * (plan.rounds + 1))
        for number in range(plan.rounds + 1):
            for cell, host in zip(cells, hosts, strict=True):
                watcher.step(f"round {number}, {cell.contender.name}")
                _add_round(cell, host, seconds, counts=number > 0)
    question = (
        f"gunicorn, {WORKERS} workers × {THREADS} threads, {CLIENTS} clients: a view that asks "
        f"PostgreSQL, Redis and {backends.name}"
    )
    return answers.served("hosts.flask_gunicorn", question, Results(cells), USUAL, GUNICORN_TARGETS)


def filled(running: ExitStack, url: str) -> dict[str, str]:
    """Start PostgreSQL and Redis with what the view asks for; return where all of it is, for the environment."""
    conninfo = running.enter_context(PostgresServer())
    redis_url = running.enter_context(RedisServer())
    with psycopg.connect(conninfo, autocommit=True) as conn:
        conn.execute("create table customers (id int primary key, name text not null)")
        conn.execute(
            "insert into customers select n, 'customer ' || n from generate_series(0, %s) n", [KEYS]
        )
        conn.execute("analyze customers")
    with redis.Redis.from_url(redis_url) as cache:
        cache.mset({f"plan:{number}": webapps.plan_of(number) for number in range(KEYS)})
    return dict(zip(webapps.ENV, (conninfo, redis_url, url), strict=True))


def _started(running: ExitStack, cell: Cell, env: Mapping[str, str]) -> Gunicorn | None:
    probe = PATH.format(number=1)
    app = APPS[cell.contender.name]
    try:
        return running.enter_context(
            Gunicorn(app, workers=WORKERS, threads=THREADS, env=env, probe=probe)
        )
    except Exception as error:
        cell.failure = describe_error(error)
        return None


def _add_round(cell: Cell, host: Gunicorn | None, seconds: int, *, counts: bool) -> None:
    """Send a burst, and note what it showed if it *counts*; the first one is for warming up."""
    if host is None or cell.failure is not None:
        cell.rounds.extend([None] if counts else [])
        return
    cpu, ticks = host.cpu_seconds, machine.cpu_ticks()
    try:
        seen = clients.burst(host.url + PATH, clients=CLIENTS, seconds=seconds, keys=KEYS)
    except Exception as error:
        cell.failure = describe_error(error)
        cell.rounds.extend([None] if counts else [])
        return
    if not counts:
        return
    cell.rounds.append(
        Round(
            seconds=seen.duration * 1e-6,
            turns=(max(0, seen.requests - seen.errors),),
            p50=seen.p50 * 1e-6,
            p99=seen.p99 * 1e-6,
            longest=seen.longest * 1e-6,
            cpu_seconds=host.cpu_seconds - cpu,
            rss_bytes=host.rss_bytes,
            stolen=machine.stolen(ticks, machine.cpu_ticks()),
            errors=seen.errors,
            first_error="requests without a good answer" if seen.errors else None,
        )
    )


def _nothing(threads: int) -> AbstractContextManager[Sequence[Turn]]:
    """Open no turns, for so many *threads* of another process."""
    return nullcontext([] * threads)


# In this process -----------------------------------------------------------------------------------


@contextmanager
def _plain(threads: int) -> Iterator[Sequence[Turn]]:
    yield [_request(_app())] * threads


@contextmanager
def _extended(threads: int) -> Iterator[Sequence[Turn]]:
    from poolkit.hosts.flask import Pools

    app = _app()
    # Two pools, as most apps have; nobody uses them, so nothing is connected.
    app.config.update(
        POOLKIT_POSTGRES_CONNINFO="postgresql://app@127.0.0.1/app",
        POOLKIT_REDIS_URL="redis://127.0.0.1",
    )
    Pools(app)
    yield [_request(app)] * threads


def _app() -> Flask:
    app = Flask("empty")

    @app.get("/")
    def index() -> str:
        return "ok"

    return app


def _request(app: Flask) -> Turn:
    """Return a turn that has *app* serve one request, as a WSGI server would."""
    from wsgiref.util import setup_testing_defaults

    base: dict[str, Any] = {}
    setup_testing_defaults(base)

    def start(status: str, *_: object) -> Callable[[bytes], object]:
        if status != "200 OK":
            raise ValueError(status)
        return list

    def turn() -> None:
        body: Any = app(base.copy(), start)
        try:
            for _ in body:
                pass
        finally:
            if hasattr(body, "close"):
                body.close()

    return turn
