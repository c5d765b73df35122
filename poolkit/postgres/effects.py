"""What statements leave behind, told from their text: a changed session, or a part of what they were to do.

Asking the server after each use would cost a round trip. The text tells it for free, with one blind spot:
a function of the database that changes the session from inside (SET or advisory locks in its body) is not
seen. Doubt counts as a change: it costs one reset, not a wrong answer. What leaves nothing behind may be sent with
others' statements.
"""

from __future__ import annotations

import re
from functools import lru_cache

from psycopg import sql

_HARMLESS_START = re.compile(
    r"""\s*\(*\s*(?:select|insert|update|delete|merge|with|values|table|show|explain|
        begin|start|commit|end|rollback|abort|savepoint|release|set\s+(?:local|transaction|constraints)|
        fetch|move|close|copy|notify|lock|truncate|analyze|vacuum|reindex|refresh|comment|grant|revoke|
        create|alter|drop|checkpoint|cluster)\b""",
    re.IGNORECASE | re.VERBOSE,
)
_COMBINES = re.compile(
    r"\s*\(*\s*(?:select|insert|update|delete|merge|with|values|table)\b", re.IGNORECASE
)
_HARMFUL_ANYWHERE = re.compile(
    r"""set_config|pg_settings|advisory|\btemp(?:orary)?\b|;\s*\S|\bpg_temp\b|\bdblink|\blo_(?:open|creat)""",
    re.IGNORECASE | re.VERBOSE,
)
_IN_PARTS = re.compile(r"\A\s*(?:call|do)\b|;\s*\S", re.IGNORECASE)
_COMMENTS = re.compile(r"\A(?:\s|--[^\n]*\n|/\*.*?\*/)*", re.DOTALL)


def changes_session(query: object) -> bool:
    """Whether *query* may leave something behind in its session: settings, locks, temporary tables, …"""
    if isinstance(query, str):
        return _text_changes_session(query)
    if isinstance(query, bytes):
        return _text_changes_session(query.decode("utf-8", "replace"))
    if isinstance(query, sql.Composable):
        return _text_changes_session(query.as_string(None))
    return True


def takes_effect_in_parts(query: object) -> bool:
    """Whether *query* may commit a part of itself: a procedure, a DO block, or several statements."""
    if isinstance(query, str):
        return _text_takes_effect_in_parts(query)
    return isinstance(query, bytes) and _text_takes_effect_in_parts(
        query.decode("utf-8", "replace")
    )


@lru_cache(maxsize=2048)
def combines(text: str) -> bool:
    """Whether *text* is a single statement that may share a connection with others'."""
    body = text[_COMMENTS.match(text).end() :]  # type: ignore[union-attr]
    return (
        _COMBINES.match(body) is not None
        and not _text_changes_session(text)
        and not _text_takes_effect_in_parts(text)
    )


@lru_cache(maxsize=2048)
def _text_changes_session(text: str) -> bool:
    body = text[_COMMENTS.match(text).end() :]  # type: ignore[union-attr]
    if not body:
        return False
    return not _HARMLESS_START.match(body) or _HARMFUL_ANYWHERE.search(body) is not None


@lru_cache(maxsize=2048)
def _text_takes_effect_in_parts(text: str) -> bool:
    return _IN_PARTS.search(text[_COMMENTS.match(text).end() :]) is not None  # type: ignore[union-attr]
