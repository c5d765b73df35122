"""Answering for one app: each error gets its answer, and the log no more lines than somebody can read."""

from __future__ import annotations

import logging
import os
import secrets
import threading
from dataclasses import dataclass, field
from time import monotonic

from ..core.errors import OutcomeUnknown
from .answers import ANSWERED, Answer, answer_to

logger = logging.getLogger("poolkit.hosts")

EVERY = 1.0
"""Seconds between two warnings of one kind of error."""

_lock = threading.Lock()
os.register_at_fork(after_in_child=_lock._at_fork_reinit)  # type: ignore[attr-defined]


@dataclass
class _Line:
    """A warning in the log, written ``at`` a time; so many ``more`` answers have its reference."""

    at: float
    reference: str = field(default_factory=lambda: secrets.token_hex(4))
    more: int = 0


class Answering:
    """Answers errors, and tells the log of them.

    Of each kind of error the first is told at once, then one a second. Those in between have the reference of the
    line before them, and the next line says how many they were; they are told one by one at the level DEBUG. An
    error after which nobody knows what took effect is always told, and with its traceback.
    """

    def __init__(self) -> None:
        # Guarded by _lock: the last line of each kind, of which there are as many as classes of errors.
        self._lines: dict[type[BaseException], _Line] = {}

    def answer(self, error: BaseException, name: str) -> Answer | None:
        """Return the answer to *error* in the request *name*, and log it; None if *error* means none."""
        if not isinstance(error, ANSWERED):
            return None
        if isinstance(error, OutcomeUnknown):
            answer = answer_to(error, _Line(monotonic()).reference)
            _tell(logging.WARNING, answer, error, name)
            return answer
        line, last = self._line(type(error))
        answer = answer_to(error, line.reference)
        if line is last:
            _tell(logging.DEBUG, answer, error, name)
        elif last is None or not last.more:
            _tell(logging.WARNING, answer, error, name)
        else:
            others = f"; {last.more} more have the reference {last.reference}"
            _tell(logging.WARNING, answer, error, name, others)
        return answer

    def _line(self, kind: type[BaseException]) -> tuple[_Line, _Line | None]:
        """Return the line that an error of that *kind* goes by, and the last one: the same, if it still does."""
        now = monotonic()
        with _lock:
            last = self._lines.get(kind)
            if last is not None and now < last.at + EVERY:
                last.more += 1
                return last, last
            line = self._lines[kind] = _Line(now)
            return line, last


def _tell(level: int, answer: Answer, error: BaseException, name: str, others: str = "") -> None:
    logger.log(
        level,
        "%s was answered with %s (reference %s%s): %s: %s",
        name,
        answer.status_line,
        answer.reference,
        others,
        answer.error,
        error,
        extra={"reference": answer.reference, "status": answer.status.value},
        exc_info=error if isinstance(error, OutcomeUnknown) else None,
    )
