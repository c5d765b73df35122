"""A clock that goes when the test says so."""

from __future__ import annotations

from types import ModuleType

import pytest


class Clock:
    """Stands for :func:`time.monotonic` in the *modules* that it is given to."""

    def __init__(self, patch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
        self.now = 1000.0
        for module in modules:
            patch.setattr(module, "monotonic", lambda: self.now)

    def sleep(self, seconds: float) -> None:
        """Let *seconds* pass."""
        self.now += seconds
