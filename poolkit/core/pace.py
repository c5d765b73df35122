"""How many threads may lead, and how large batches may be, as answers come in; see combining.py."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time

LARGEST = 32
"""Requests in one batch at most. More save nothing: the wake-ups cost what they cost."""

GROWTH = 200
"""Requests to be answered quickly before batches, made smaller by a slow one, grow by one.

So at most one request in 200 waits behind a slow one, however many slow ones there are: a batch grows by
1 in 200 requests, and half of it is lost with each slow one.
"""

WINDOW = 0.020
"""Seconds between looks at how busy the interpreter is."""

IDLE, BUSY = 0.25, 0.50
"""Shares of a core that this process uses: below the one, requests wait though the interpreter is idle, and more
lanes help; above the other, more lanes only make smaller batches.

Low, since a process that gets only a part of a core from a busy machine looks idle too: what is in doubt has
the lanes it began with.
"""


class Pace:
    """The number of lanes and the size of batches. Guarded by its owner's lock; numbers may be read without it.

    It begins with *lanes*; there can be as many as *most* says.
    """

    def __init__(self, lanes: int, most: Callable[[], int]) -> None:
        self.lanes = lanes
        self.largest = LARGEST
        self._first = lanes
        self._most = most
        self._quick = 0  # requests answered quickly since the size last changed
        self._gathered = False  # whether requests had to gather since the last look
        self._slowed = False  # whether a batch was slow since then
        self._looked = self._cpu = 0.0

    def __repr__(self) -> str:
        return f"<Pace: {self.lanes} lanes, batches of at most {self.largest}>"

    def note_gathered(self) -> None:
        """Note that requests had to gather."""
        self._gathered = True

    def note_slow(self) -> None:
        """Make batches smaller, and use one more lane: a batch was slow."""
        self.largest = max(1, self.largest // 2)
        self.lanes = min(self._most(), self.lanes + 1)
        self._quick = 0
        self._slowed = True

    def note_quick(self, requests: int) -> None:
        """Let batches grow again: so many *requests* were answered quickly."""
        self._quick += requests
        if self._quick >= GROWTH:
            self._quick = 0
            self.largest = min(LARGEST, self.largest + 1)

    def is_due(self, now: float) -> bool:
        """Whether it is time for a :meth:`look`, at *now* on the monotonic clock."""
        return now - self._looked >= WINDOW

    def look(self, now: float) -> None:
        """Use more lanes if the interpreter is idle while requests gather, fewer if it is busy with quick ones."""
        since = now - self._looked
        if since < WINDOW:
            return  # another thread was quicker
        cpu = process_time()
        share = (cpu - self._cpu) / since
        gathered, self._gathered = self._gathered, False
        slowed, self._slowed = self._slowed, False
        self._looked, self._cpu = now, cpu
        if since >= 10 * WINDOW:
            self.lanes = self._first  # what was learnt is old
        elif share > BUSY and not slowed:
            self.lanes = max(1, self.lanes - 1)
        elif share < IDLE and gathered:
            self.lanes = min(self._most(), self.lanes + 1 + self.lanes // 2)
