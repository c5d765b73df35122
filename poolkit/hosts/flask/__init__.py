"""For Flask: ``Pools``, the extension, and ``current_pools``, the kit of the current app."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("flask") is None:
    raise ImportError("poolkit.hosts.flask needs: pip install 'poolkit[flask]'")

from ..scope import request_deadline as request_deadline
from .extension import Pools as Pools
from .extension import current_pools as current_pools

__all__ = ["Pools", "current_pools", "request_deadline"]
