"""A command as it is sent: packed by hiredis, which is the faster one, where redis-py need not help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis.utils import HIREDIS_AVAILABLE

pack_fast: Callable[[tuple[Any, ...]], bytes] | None = None
if HIREDIS_AVAILABLE:
    from hiredis import pack_command as pack_fast


def pack(args: Sequence[Any]) -> bytes | None:
    """Return a command as it is sent; None if that is for redis-py's packer, which may as well refuse it."""
    name = args[0]
    if pack_fast is None or type(args) is not tuple or type(name) is not str or " " in name:
        return None
    try:
        return pack_fast(args)
    except TypeError:
        return None
