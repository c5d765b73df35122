"""For Flask: ``Pools``, the extension, and ``current_pools``, the kit of the current app."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("flask") is None:
    raise ImportError("poolkit.hosts.flask needs: pip install 'poolkit[flask]'")

from .current import current_pools
from .extension import Pools
from .views import request_deadline

__all__ = ["Pools", "current_pools", "request_deadline"]
