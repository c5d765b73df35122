"""The Flask app that gunicorn serves in the tests; its pools come from the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, jsonify

from poolkit import PoolKit, WatchSettings
from poolkit.hosts.flask import Pools

every = float(os.environ.get("SERVED_CHECKED_EVERY", "30"))
kit = PoolKit.from_env(watch=WatchSettings(health_every=every))
app = Flask(__name__)
Pools(app, kit=kit)
echo = os.environ.get("SERVED_ECHO", "")
forgotten: list[Any] = []


@app.get("/")
def index() -> str:
    return str(os.getpid())


@app.get("/who/<name>")
def who(name: str) -> Response:
    """Ask each backend for *name*, and say what each told."""
    ((told,),) = kit.postgres.query("select %s::text", [name], idempotent=True)
    kit.redis.set(f"who:{name}", name, ttl=60)
    answered = kit.http.get(f"{echo}/echo", params={"name": name}).json()
    return jsonify(
        pid=os.getpid(), postgres=told, redis=kit.redis.get(f"who:{name}"), http=answered["query"]
    )


@app.get("/sleep/<float:seconds>/<name>")
def sleep(seconds: float, name: str) -> Response:
    """Have PostgreSQL busy for some *seconds*."""
    text = "select %s::text from pg_sleep(%s)"
    ((told,),) = kit.postgres.query(text, [name, seconds], idempotent=True)
    return jsonify(pid=os.getpid(), postgres=told)


@app.get("/leak")
def leak() -> str:
    """Take a connection, and do not give it back."""
    block = kit.postgres.connection()
    forgotten.append(block)
    return str(block.__enter__().info.backend_pid)


@app.get("/rows/<int:count>")
def rows(count: int) -> Response:
    """Answer with so many rows, as they come from the server, holding a connection meanwhile."""

    def lines() -> Iterator[str]:
        text = "select repeat('x', 1000) from generate_series(1, %s)"
        for (row,) in kit.postgres.stream(text, [count]):
            yield f"{row}\n"

    return Response(lines(), mimetype="text/plain")


@app.get("/stats")
def stats() -> Response:
    """Say what the pools of this worker are about."""
    found = kit.stats()["postgres"]
    return jsonify(
        in_use=found.in_use,
        waiting=found.waiting,
        leaked=found.leaked,
        operations=found.operations,
    )


if os.environ.get("SERVED_OPEN"):  # with --preload, in the arbiter
    kit.open()
    kit.postgres.query("select 1")
