"""Two routes for an orchestrator: whether the process can go on, and whether it can serve."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from ...core.housekeeper import housekeeper
from ...kit.kit import PoolKit
from .config import NAME, Settings


def health_routes(kit: PoolKit, settings: Settings) -> Blueprint:
    """Return a blueprint of those routes that have a path."""
    routes = Blueprint(NAME, __name__)

    def live() -> Response:
        """Answer 503 if the process should be replaced. Asks no backend: one that is down is no reason for that."""
        alive = housekeeper().is_alive
        return _uncached({"live": alive}, ok=alive)

    def ready() -> Response:
        """Answer 503 with the reasons if a pool can't serve, by what the last checks found; the first time, check."""
        health = kit.health()
        return _uncached(health.as_dict(), ok=health.ready)

    for path, view in ((settings.liveness_path, live), (settings.readiness_path, ready)):
        if path is not None:
            routes.add_url_rule(path, view_func=view)
    return routes


def _uncached(found: dict[str, object], *, ok: bool) -> Response:
    response = jsonify(found)
    response.status_code = 200 if ok else 503
    response.headers["Cache-Control"] = "no-store"
    return response
