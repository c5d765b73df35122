"""What was found to be broken: how often, and a few examples."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

from tests.faults.bookkeeper import AT_MOST, Violation


class Findings:
    """Takes what many threads find. A promise that is broken a million times takes no more room than one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._times: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, promise: str, detail: str) -> None:
        """Note that a promise was broken, and what shows it."""
        with self._lock:
            self._times[promise] += 1
            examples = self._examples.setdefault(promise, [])
            if len(examples) < AT_MOST:
                examples.append(detail)

    def violations(self) -> Sequence[Violation]:
        """Return each promise that was broken."""
        with self._lock:
            return [
                Violation(promise, "; ".join(examples) + _more(self._times[promise]))
                for promise, examples in self._examples.items()
            ]


def _more(times: int) -> str:
    return f"; and {times - AT_MOST} more" if times > AT_MOST else ""
