"""What a socket tells of the other end, without a round trip."""

from __future__ import annotations

import select


def hung_up(descriptor: int) -> bool:
    """Whether the connection behind *descriptor* has ended, even if another thread reads from it now."""
    poller = select.poll()
    try:
        poller.register(descriptor, getattr(select, "POLLRDHUP", 0))
        return bool(poller.poll(0))
    except (OSError, ValueError):
        return True  # closed meanwhile
