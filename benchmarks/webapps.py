"""The same view three ways, for gunicorn to serve: with poolkit, as it is usually written, and with nothing in it.

It looks up a customer by three calls: a row in PostgreSQL, a key in Redis, a small HTTP answer. What is wrong is an
error, so each 200 is a right one.
"""

from __future__ import annotations

import os

from flask import Flask

SIZE = 20  # of each pool; there are more threads
WAIT = 30.0
TEXT = "select name from customers where id = %s"
ENV = ("BENCH_CONNINFO", "BENCH_REDIS", "BENCH_URL")


def name_of(number: int) -> str:
    """Return the name of a customer."""
    return f"customer {number}"


def plan_of(number: int) -> str:
    """Return what Redis has of a customer."""
    return f"plan {number}"


def ours() -> Flask:
    """Make the app with poolkit and its extension."""
    from poolkit.hosts.flask import Pools, current_pools

    conninfo, redis_url, url = addresses()
    app = Flask("ours")
    app.config.update(
        POOLKIT_POSTGRES_CONNINFO=conninfo,
        POOLKIT_POSTGRES_MAX_SIZE=SIZE,
        POOLKIT_REDIS_URL=redis_url,
        POOLKIT_REDIS_MAX_SIZE=SIZE,
        POOLKIT_HTTP_MAX_SIZE=SIZE,
        POOLKIT_HTTP_MAX_IDLE=SIZE,
    )
    Pools(app)

    @app.get("/customers/<int:number>")
    def customer(number: int) -> dict[str, object]:
        row = current_pools.postgres.query_one(TEXT, [number])
        plan = current_pools.redis.get(f"plan:{number}")
        score = current_pools.http.get(url).data
        return answered(number, row, plan, score)

    return app


def usual() -> Flask:
    """Make the app as it is usually written: each driver's own pool, shared by all threads of the worker."""
    import psycopg_pool
    import redis
    import requests
    from requests.adapters import HTTPAdapter

    conninfo, redis_url, url = addresses()
    app = Flask("usual")
    db = psycopg_pool.ConnectionPool(conninfo, min_size=5, max_size=SIZE, open=True, timeout=WAIT)
    cache = redis.Redis.from_url(redis_url, decode_responses=True)
    session = requests.Session()
    session.mount("http://", HTTPAdapter(pool_maxsize=SIZE))

    @app.get("/customers/<int:number>")
    def customer(number: int) -> dict[str, object]:
        with db.connection() as conn:
            row = conn.execute(TEXT, [number]).fetchone()
        plan = cache.get(f"plan:{number}")
        score = session.get(url, timeout=WAIT).content
        return answered(number, row, plan, score)

    return app


def empty() -> Flask:
    """Make the app whose view does nothing: what gunicorn and Flask take by themselves."""
    app = Flask("empty")

    @app.get("/customers/<int:number>")
    def customer(number: int) -> dict[str, object]:
        return answered(number, (name_of(number),), plan_of(number), b"")

    return app


def addresses() -> tuple[str, str, str]:
    """Return where the backends are."""
    conninfo, redis_url, url = (os.environ[name] for name in ENV)
    return conninfo, redis_url, url


def answered(number: int, row: object, plan: object, score: bytes) -> dict[str, object]:
    """Return the view's answer. Raises ValueError where a backend told something else than it should."""
    if row != (name_of(number),) or plan != plan_of(number):
        raise ValueError(f"customer {number}: got {row!r} and {plan!r}")
    return {"name": name_of(number), "plan": plan, "score": len(score)}
