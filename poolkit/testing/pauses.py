"""Retries without the waiting between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..core.retry import set_pauses


@contextmanager
def no_pauses() -> Iterator[None]:
    """Have retries follow one another at once, in all pools of the process, for the length of the block."""
    before = set_pauses(False)
    try:
        yield
    finally:
        set_pauses(before)
