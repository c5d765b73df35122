"""MCP servers: a kit that lives as long as the server, tools with a deadline that end when the client cancels them."""

from __future__ import annotations

try:
    import mcp.server.mcpserver as _mcp  # noqa: F401
except ImportError as error:
    raise ImportError(
        "poolkit.hosts.mcp needs mcp 2.3 or later: pip install 'poolkit[mcp]'"
    ) from error

from .failures import CallFailed
from .pools import Pools
from .server import PooledServer

__all__ = ["Pools", "PooledServer", "CallFailed"]
