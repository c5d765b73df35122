"""What all threads of a pool may spend on retries together, so that an outage is not multiplied by them."""

from __future__ import annotations

import threading


class RetryBudget:
    """What all threads of a pool may spend on retries, refilled by successes.

    500 tokens, 14 for a transient failure and 5 for a throttled one; each success gives one back, a
    retry that succeeds gives its price back (the standard mode of botocore's retries, version 2.1).
    """

    CAPACITY = 500
    TRANSIENT = 14
    THROTTLED = 5

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens = self.CAPACITY

    @property
    def tokens(self) -> int:
        """How many tokens are left."""
        return self._tokens

    def spend(self, price: int) -> bool:
        """Take *price* tokens if there are so many; return whether there were."""
        with self._lock:
            if self._tokens < price:
                return False
            self._tokens -= price
            return True

    def refund(self, price: int = 1) -> None:
        """Give tokens back after a success."""
        if self._tokens < self.CAPACITY:
            with self._lock:
                self._tokens = min(self.CAPACITY, self._tokens + price)
