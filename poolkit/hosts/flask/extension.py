"""The extension: each app has a kit, each request a deadline, and none keeps a connection."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any

from flask import Flask, g
from flask.signals import appcontext_pushed

from ...core import checks
from ...core.errors import ConfigError
from ...kit.kit import PoolKit
from ..held import recall
from ..scope import current_scope
from ..wsgi import PoolsMiddleware
from .answers import with_answers
from .cli import commands
from .config import NAME, Settings, kit_of
from .routes import health_routes
from .views import deadline_of

_SINCE = "_poolkit_since"


class Pools:
    """Gives Flask apps their pools: ``Pools(app)``, or ``pools = Pools()`` and ``pools.init_app(app)`` in a factory.

    The app's config says which pools, by ``POOLKIT_*`` keys; or a ready *kit* is given, and they are not read.
    Pools open in each process on first use, and close when it exits; use them by ``current_pools``.
    """

    def __init__(self, app: Flask | None = None, kit: PoolKit | None = None) -> None:
        self._kit = _checked(kit)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, kit: PoolKit | None = None) -> None:
        """Set up *app*, with another *kit* if one is given. Opens nothing.

        Raises :class:`~poolkit.ConfigError` if its config is wrong, or if it is set up already.
        """
        if not isinstance(app, Flask):
            raise ConfigError(f"app must be a Flask app, not {checks.kind(app)}")
        if NAME in app.extensions:
            raise ConfigError(f"the app {app.name!r} has its Pools already; call init_app once")
        if NAME in app.blueprints:
            raise ConfigError(
                f"the app {app.name!r} has a blueprint called {NAME!r}, as that of the extension; give it another name"
            )
        settings = Settings.of(app)
        AppPools(app, _checked(kit) or self._kit or kit_of(app), settings).install(app)


class AppPools:
    """The pools of one app: ``app.extensions["poolkit"]``."""

    def __init__(self, app: Flask, kit: PoolKit, settings: Settings) -> None:
        self.kit = kit
        self.settings = settings
        self._views = app.view_functions

    def install(self, app: Flask) -> None:
        """Have *app* tell when its requests and contexts begin and end."""
        app.register_blueprint(health_routes(self.kit, self.settings))  # first: too late, it fails
        app.wsgi_app = PoolsMiddleware(  # type: ignore[method-assign]
            app.wsgi_app,
            self.kit,
            deadline=self.settings.deadline,
            deadline_header=self.settings.deadline_header,
        )
        app.url_value_preprocessor(self._note_view)
        appcontext_pushed.connect(self._note_context, app)
        app.teardown_appcontext(self._end_context)
        app.handle_user_exception = with_answers(app)  # type: ignore[assignment,method-assign]
        app.cli.add_command(commands)
        app.extensions[NAME] = self

    def _note_view(self, endpoint: str | None, values: dict[str, Any] | None) -> None:  # noqa: ARG002 - Flask's
        scope = current_scope()
        if scope is None or endpoint is None:
            return
        scope.name = f"the view {endpoint!r}"
        if (limit := deadline_of(self._views.get(endpoint))) is not None:
            scope.allow(limit.seconds)

    def _note_context(self, app: Flask, **_: Any) -> None:  # noqa: ARG002 - the signal's
        # A request takes care of its own when its response is closed, which may be after its contexts are gone.
        # What counts is where a context was first: a test client puts those of requests in force again later.
        g.setdefault(_SINCE, perf_counter() if current_scope() is None else None)

    def _end_context(self, error: BaseException | None) -> None:  # noqa: ARG002 - Flask's
        since = g.get(_SINCE)
        if since is not None:
            recall(
                self.kit.pools.values(), [(since, math.inf)], reason="the application context ended"
            )


def _checked(kit: PoolKit | None) -> PoolKit | None:
    if kit is not None and not isinstance(kit, PoolKit):
        raise ConfigError(f"kit must be a PoolKit, not {checks.kind(kit)}")
    return kit
