"""What a piece of work has got from the pools in its thread, and still holds at its end."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ..kit.backends import AnyPool

logger = logging.getLogger("poolkit.hosts")

Span = tuple[float, float]
"""From when to when, in seconds of :func:`time.perf_counter`."""


def holds(pools: Iterable[AnyPool], spans: Iterable[Span]) -> bool:
    """Whether the calling thread still holds anything of *pools* that it got in one of the *spans*."""
    return any(pool.holds(since=since, until=until) for pool in pools for since, until in spans)


def recall(pools: Iterable[AnyPool], spans: Iterable[Span], *, reason: str) -> None:
    """Take back what the calling thread still holds of *pools* and got in one of the *spans*. Never raises."""
    for pool in pools:
        try:
            if pool.holds():  # mostly not, and then there is no need to look span by span
                for since, until in spans:
                    pool.recall(since=since, until=until, reason=reason)
        except Exception:
            logger.exception("pool %r: what %s could not be taken back", pool.name, reason)
