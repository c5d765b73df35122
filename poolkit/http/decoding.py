"""What urllib3's decoders do not tell by themselves."""

from __future__ import annotations

from typing import Any


def is_cut_off(decoder: Any) -> bool:
    """Whether *decoder*, which was given all there is, waits for more.

    That of zstd raises by itself; of those of gzip, deflate and br nobody asks, so a body that a proxy cut off, and
    framed well, would pass for a whole one.
    """
    parts = getattr(decoder, "_decoders", None)
    if parts is not None:
        return any(map(is_cut_off, parts))
    state: Any = getattr(decoder, "_obj", None)
    if hasattr(state, "is_finished"):  # br
        return not state.is_finished()
    return not getattr(state, "eof", True)
