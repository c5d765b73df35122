"""The dashboard in a Flask app."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from flask import Blueprint, request
    from werkzeug.wrappers import Response
except ModuleNotFoundError as error:
    raise ImportError("the dashboard's blueprint needs: pip install 'poolkit[flask]'") from error

if TYPE_CHECKING:
    from .app import Dashboard


def blueprint(dashboard: Dashboard, name: str) -> Blueprint:
    """Return a blueprint that hands its requests to *dashboard*."""
    made = Blueprint(name, __name__)

    @made.route("/", defaults={"path": ""}, provide_automatic_options=False)
    @made.route("/<path:path>", provide_automatic_options=False)
    def show(path: str, **_: object) -> Response:  # the others are what the prefix names
        mounted = request.path[: len(request.path) - len(path) - 1]
        script = request.environ.get("SCRIPT_NAME", "")
        environ = {
            **request.environ,
            "SCRIPT_NAME": script + mounted.encode().decode("latin-1"),
            "PATH_INFO": "/" + path.encode().decode("latin-1"),
        }
        return Response.from_app(dashboard, environ)

    return made
