"""What is logged, and whether there is a secret in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence


class Ears(logging.Handler):
    """Hears all that is logged while the block lasts, and keeps what has a secret in it."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__(logging.DEBUG)
        self._secrets = secrets
        self._logger = logging.getLogger()
        self._level = self._logger.level
        self.spilled: list[str] = []

    def __enter__(self) -> Ears:
        self._logger.addHandler(self)
        self._logger.setLevel(logging.DEBUG)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        self.see(f"{record.name}: {self.format(record)}")

    def see(self, text: str) -> None:
        """Look for secrets in a text."""
        for secret in self._secrets:
            if secret in text:
                self.spilled.append(text.replace(secret, "<a secret>"))
