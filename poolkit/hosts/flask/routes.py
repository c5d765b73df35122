"""Two routes for an orchestrator: whether the process can go on, and whether it can serve."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, current_app, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.routing import Rule

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
            routes.add_url_rule(path, view.__name__, _unless_shadowing(view))
    return routes


def _unless_shadowing(view: Callable[[], Response]) -> Callable[[], ResponseReturnValue]:
    """Return *view*, which leaves requests to a route of the app for the same path.

    Of two such routes the first one added is served. Where that is the app's, nothing has to be done.
    """

    def serve() -> ResponseReturnValue:
        mine = request.url_rule
        for rule in current_app.url_map.iter_rules():
            if rule is not mine and mine is not None and _is_shadowed(rule, mine):
                request.url_rule = rule
                return current_app.dispatch_request()
        return view()

    return serve


def _is_shadowed(rule: Rule, by: Rule) -> bool:
    same = (rule.rule, rule.host, rule.subdomain) == (by.rule, by.host, by.subdomain)
    return same and (rule.methods is None or request.method in rule.methods)


def _uncached(found: dict[str, object], *, ok: bool) -> Response:
    response = jsonify(found)
    response.status_code = 200 if ok else 503
    response.headers["Cache-Control"] = "no-store"
    return response
