"""What becomes of bytes on their way: told to a proxy, which may be in another process."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.proxy import Reset, Way

SHARE = 0.1

Change = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Tampering:
    """Changes a share of what goes one way, as chance has it."""

    way: Way
    change: Change
    dice: random.Random

    def __call__(self, way: Way, data: bytes) -> bytes:
        """Return what is forwarded instead of *data*, or raise :class:`Reset`."""
        if way != self.way or self.dice.random() >= SHARE:
            return data
        return self.change(data, self.dice)


def break_off(data: bytes, dice: random.Random) -> bytes:
    """Forward nothing any more."""
    raise Reset


def break_off_midway(data: bytes, dice: random.Random) -> bytes:
    """Forward a part, and nothing any more."""
    raise Reset(data[: dice.randrange(len(data) or 1)])


def scramble(data: bytes, dice: random.Random) -> bytes:
    """Forward garbage, which is no text either."""
    return bytes(dice.randrange(0x80, 0x100) for _ in range(min(len(data), 200)))
