"""A shop in Flask: customers in PostgreSQL, in front of it Redis.

With servers of its own, for a look::

    python examples/flask_app.py

With yours, as in production::

    export FLASK_POOLKIT_POSTGRES_CONNINFO=postgresql://app@db/shop FLASK_POOLKIT_REDIS_URL=redis://cache:6379/0
    flask --app examples/flask_app.py init-db
    flask --app examples/flask_app.py pools check
    gunicorn 'examples.flask_app:create_app()'
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Flask, Response, abort, jsonify, request, stream_with_context
from flask.typing import ResponseReturnValue

from poolkit.hosts.flask import Pools, current_pools, request_deadline

pools = Pools()
shop = Blueprint("shop", __name__, cli_group=None)


def create_app(**config: Any) -> Flask:
    """Return the app; its config comes from FLASK_… variables, and from *config*, which wins."""
    app = Flask(__name__)
    app.config.from_mapping(POOLKIT_ENV="production", POOLKIT_DEADLINE=2.0)
    app.config.from_prefixed_env()
    app.config.update(config)
    pools.init_app(app)
    app.register_blueprint(shop)
    return app


@shop.cli.command("init-db")
def init_db_command() -> None:
    """Make the table, if it is not there."""
    init_db()


def init_db() -> None:
    """Make the table, if it is not there."""
    current_pools.postgres.execute(
        "create table if not exists customers (id int generated always as identity, name text not null)"
    )


@shop.post("/customers")
def add() -> ResponseReturnValue:
    """Add a customer."""
    query = "insert into customers (name) values (%s) returning id"
    ((number,),) = current_pools.postgres.query(query, [request.get_json()["name"]])
    return jsonify(id=number), 201


@shop.get("/customers/<int:number>")
def show(number: int) -> ResponseReturnValue:
    """Show a customer: from Redis, or else from PostgreSQL, and then from Redis for a minute."""
    key = f"customer:{number}"
    if (cached := current_pools.redis.get(key)) is not None:
        return jsonify({**json.loads(cached), "cached": True})
    row = current_pools.postgres.query_one("select name from customers where id = %s", [number])
    if row is None:
        abort(404)
    customer = {"id": number, "name": row[0]}
    current_pools.redis.set(key, json.dumps(customer), ttl=60)
    return jsonify({**customer, "cached": False})


@shop.get("/customers.csv")
@request_deadline(120)
def export() -> ResponseReturnValue:
    """Stream all customers, in constant memory; that may take longer than other requests."""

    def lines() -> Iterator[str]:
        for number, name in current_pools.postgres.stream(
            "select id, name from customers order by id"
        ):
            yield f"{number},{name}\n"

    return Response(stream_with_context(lines()), mimetype="text/csv")


if __name__ == "__main__":
    from poolkit import embedded

    with embedded.postgres() as conninfo, embedded.redis() as url:
        app = create_app(POOLKIT_POSTGRES_CONNINFO=conninfo, POOLKIT_REDIS_URL=url)
        with app.app_context():
            init_db()
        app.run(port=int(os.environ.get("PORT", "5000")))
