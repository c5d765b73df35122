"""Which HTTP failure means what."""

from __future__ import annotations

import ssl
import time
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    SSLError,
)

from ..core.errors import BackendUnavailable, OutcomeUnknown, PoolKitError
from ..core.verdict import OWN, Again, Phase, Verdict

if TYPE_CHECKING:
    from .response import Response

_NOT_RUN = Verdict(Again.SAFE)
_HOPELESS = Verdict(Again.NEVER, hopeless=True)
_LOST_UNKNOWN = Verdict(Again.IF_IDEMPOTENT, unknown=True)
_FAILED = Verdict(Again.IF_IDEMPOTENT)

_PASSING = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""Errors of TLS that are those of the connection beneath."""

RETRIED = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which a request may succeed if it is sent again."""


class NotSent(ProtocolError):
    """The connection was lost before the head of the request was sent, so the server has not seen it."""


class HungUp(ProtocolError):
    """The other side hung up before it said anything."""


class TooLate(Exception):
    """The deadline passed; *sent* tells whether something of the request had been sent."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("the deadline passed")
        self.sent = sent


class Final(Exception):
    """An *error* that could be tried again, but for a body that can't be sent twice."""

    def __init__(self, error: HTTPError) -> None:
        super().__init__(str(error))
        self.error = error


class Refused(HTTPError):
    """The server answered that it did not do it: the ``response`` says whether it may be asked again."""

    def __init__(self, response: Response, *, longest_wait: float) -> None:
        super().__init__(f"{response.request!r}: {response.status} {response.reason}")
        self.response = response
        self.longest_wait = longest_wait


def classify(error: BaseException, phase: Phase) -> Verdict:
    """Say what *error* means for a request that had come to *phase*."""
    if isinstance(error, Refused):
        return _of_status(error)
    if isinstance(error, BackendUnavailable):
        return OWN if error.retry_after is None else _NOT_RUN
    if isinstance(error, PoolKitError):
        return _LOST_UNKNOWN if isinstance(error, OutcomeUnknown) else OWN
    if not isinstance(error, HTTPError):
        return OWN
    if phase is Phase.CONNECTING:
        return _classify_connecting(error)
    if isinstance(error, NotSent):
        return _NOT_RUN
    if isinstance(error, (ProtocolError, SSLError)) and not isinstance(error, DecodeError):
        return _LOST_UNKNOWN
    return OWN


def is_hopeless(error: BaseException) -> bool:
    """Whether *error*, met while connecting, is one that only a person can mend."""
    return classify(error, Phase.CONNECTING).hopeless


def retry_after(text: str | None) -> float | None:
    """Return the seconds that a ``Retry-After`` says, in either form; None if it says nothing."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        when = parsedate_to_datetime(text)
        if when.tzinfo is None:  # the form of asctime() has none, and means UTC
            when = when.replace(tzinfo=timezone.utc)
        return max(0.0, when.timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def _of_status(error: Refused) -> Verdict:
    response = error.response
    wait = retry_after(response.headers.get("retry-after"))
    if wait is not None and wait > error.longest_wait:
        return OWN
    if response.status == 429 or (response.status == 503 and wait is not None):
        return Verdict(Again.SAFE, throttled=True, wait=wait or 0.0)
    return _FAILED


def _classify_connecting(error: HTTPError) -> Verdict:
    if isinstance(error, SSLError):
        cause = error.args[0] if error.args else None
        return _NOT_RUN if isinstance(cause, _PASSING) else _HOPELESS
    if isinstance(error, ProxyError):
        return _HOPELESS if " 407 " in f"{error} " else _NOT_RUN
    if isinstance(error, (NewConnectionError, ConnectTimeoutError, ProtocolError)):
        return _NOT_RUN
    return OWN
