"""How long a request may take: by the settings, or shorter, by a header from a proxy that is trusted."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from ..core import checks

logger = logging.getLogger("poolkit.hosts")

DEADLINE = 15.0
"""Seconds a request may take where nothing else is said: half of what gunicorn and load balancers give it."""

_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?")
_SHOWN = 40


class Budget:
    """The seconds of each request: *deadline*, None for no limit; a request's *header* may ask for less.

    The header says seconds, as a decimal number; milliseconds if its name ends in ``-ms``. It is off unless named.
    """

    __slots__ = ("_header", "_key", "_per_second", "deadline")

    def __init__(self, deadline: float | None = DEADLINE, header: str | None = None) -> None:
        self.deadline = checks.limit("deadline", deadline)
        self._header = checks.header("deadline_header", header)
        self._key = f"HTTP_{self._header.upper().replace('-', '_')}" if self._header else ""
        self._per_second = 1000.0 if self._key.endswith("_MS") else 1.0

    def asked(self, environ: Mapping[str, Any]) -> float | None:
        """Return the seconds that the request asks for; None if it doesn't, or for what is no number above 0."""
        text = environ.get(self._key) if self._key else None
        if text is None:
            return None
        number = float(text) if _DECIMAL.fullmatch(text.strip()) else 0.0
        if number > 0.0:
            return number / self._per_second
        logger.debug("the header %s is ignored: %r is no time", self._header, text[:_SHOWN])
        return None
