"""A page to watch the pools of a kit: a WSGI app without anything but itself, off unless it is mounted."""

from __future__ import annotations

from .access import LOCAL
from .app import Dashboard

__all__ = ["LOCAL", "Dashboard"]
