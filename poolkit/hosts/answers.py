"""Which error of poolkit means which HTTP answer, and what a client is told. What the log is told: answering.py."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from http import HTTPStatus

from ..core.errors import (
    BackendUnavailable,
    DeadlineExceeded,
    OutcomeUnknown,
    PoolClosed,
    PoolOverloaded,
    PoolTimeout,
)

RETRY_AFTER = 1
"""Seconds after which a client may come again, where nothing better is known: queues and outages are short."""

_MEANINGS: dict[type[Exception], tuple[HTTPStatus, str]] = {
    PoolTimeout: (HTTPStatus.SERVICE_UNAVAILABLE, "no connection became free in time"),
    PoolOverloaded: (HTTPStatus.SERVICE_UNAVAILABLE, "too many requests are waiting already"),
    BackendUnavailable: (HTTPStatus.SERVICE_UNAVAILABLE, "a backend can't be reached"),
    PoolClosed: (HTTPStatus.SERVICE_UNAVAILABLE, "the service is being shut down"),
    DeadlineExceeded: (HTTPStatus.GATEWAY_TIMEOUT, "the time for this request ran out"),
}

ANSWERED = tuple(_MEANINGS)
"""The errors that have an answer. All others are the app's own: a 500, unless it knows better."""


@dataclass(frozen=True)
class Answer:
    """What a client is told of an error: nothing that only an operator should know.

    ``reference`` is in the log beside the error. ``retry_after`` is in whole seconds.
    """

    status: HTTPStatus
    error: str
    message: str
    reference: str
    retry_after: int | None

    @property
    def status_line(self) -> str:
        """The status as WSGI has it."""
        return f"{self.status.value} {self.status.phrase}"

    def render(self, accept: str) -> tuple[list[tuple[str, str]], bytes]:
        """Return headers and body, for a client that accepts what the header *accept* says: JSON, or else text."""
        again = self.retry_after
        if "json" in accept.lower():
            kind = "application/json"
            fields = {
                "error": self.error,
                "message": self.message,
                "reference": self.reference,
                "retry_after": again,
            }
            text = json.dumps(fields)
        else:
            kind = "text/plain; charset=utf-8"
            hint = "" if again is None else f" Try again in {again} s."
            text = f"{self.status_line}: {self.message}.{hint} ({self.error}, reference {self.reference})"
        body = f"{text}\n".encode()
        headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
        if again is not None:
            headers.append(("Retry-After", str(again)))
        return headers, body


def answer_to(error: BaseException, reference: str) -> Answer:
    """Return the answer that *error* means, which is one of :data:`ANSWERED`."""
    status, message = next(_MEANINGS[kind] for kind in ANSWERED if isinstance(error, kind))
    if isinstance(error, OutcomeUnknown):
        message += ", and what it did last may have taken effect"
    return Answer(
        status=status,
        error=type(error).__name__,
        message=message,
        reference=reference,
        retry_after=_retry_after(error) if status is HTTPStatus.SERVICE_UNAVAILABLE else None,
    )


def _retry_after(error: BaseException) -> int:
    seconds = error.retry_after if isinstance(error, BackendUnavailable) else None
    return RETRY_AFTER if seconds is None else max(RETRY_AFTER, math.ceil(seconds))
