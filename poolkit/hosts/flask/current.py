"""The kit of the app that is current: in a view, a command, a task."""

from __future__ import annotations

from flask import current_app, has_app_context
from werkzeug.local import LocalProxy

from ...core.errors import ConfigError
from ...kit.kit import PoolKit
from .config import NAME


def current_kit() -> PoolKit:
    """Return the kit of the current app. Raises RuntimeError outside of a context, ConfigError if the app has none."""
    if not has_app_context():
        raise RuntimeError(
            "current_pools was used outside of an application context: use it in a view or a flask command, "
            "or within `with app.app_context():`"
        )
    pools = current_app.extensions.get(NAME)
    if pools is None:
        raise ConfigError(
            f"the app {current_app.name!r} has no Pools: call Pools(app), or pools.init_app(app) in its factory"
        )
    return pools.kit  # type: ignore[no-any-return]


current_pools: PoolKit = LocalProxy(current_kit)  # type: ignore[assignment]
"""The kit of the current app."""
