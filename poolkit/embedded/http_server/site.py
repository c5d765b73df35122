"""One server: its pages, its connections, what it counts, and its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from . import pages
from .messages import Answer, Request, as_json

if TYPE_CHECKING:
    from .connection import Connection


class Site:
    """What is served, and the counts of it."""

    def __init__(self, keep_alive: float | None) -> None:
        self.keep_alive = keep_alive
        self.connections = 0  # accepted on the port so far
        self.requests = 0  # that came in over it
        self.open: set[Connection] = set()
        self.ends = False
        self.pages: dict[str, pages.Page] = {**pages.PAGES, "count": self._count}
        self._listeners: list[asyncio.Server] = []
        self._ended = asyncio.Event()

    def answer(self, request: Request) -> Answer:
        """Return the answer to the request; what it doesn't know is 404."""
        return pages.answer(self.pages, request)

    def listens(self, *listeners: asyncio.Server) -> None:
        """Know what to close at the end."""
        self._listeners += listeners

    def end(self) -> None:
        """Take no connection any more; close those that are idle now, and the others after an answer."""
        self.ends = True
        for listener in self._listeners:
            listener.close()
        for connection in list(self.open):
            connection.close_if_idle()
        self.look_for_end()

    def look_for_end(self) -> None:
        """Be at the end when the last connection is gone."""
        if self.ends and not self.open:
            self._ended.set()

    async def ended(self) -> None:
        """Wait for the end."""
        await self._ended.wait()

    def _count(self, _request: Request, _argument: str) -> Answer:
        return as_json(
            {
                "connections": self.connections,
                "requests": self.requests,
                "open": sum(connection.counts for connection in self.open),
            }
        )
