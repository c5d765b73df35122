"""What is nearly right: the words of a language in any order, with what has no place there in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from poolkit import ConfigError

SECRET = "geheim"
"""Part of what must not be shown."""

ODD = "\0\t\n\r\x0b\x1f \"#$%&'*+,/:;<=>?@[\\]^`{|}~\x7f\x80\x85\xa0\xdf²İ․。\ufeff\U0001f600\ud800\udcff"
"""Characters that parsers have stumbled over: controls, delimiters, digits that are none, halves of pairs."""

LONG_NUMBER = "9" * 5000
"""More digits than int() reads."""

anything = st.text(st.characters() | st.sampled_from(ODD), max_size=40)


def nearly(words: Sequence[str], most: int = 12) -> st.SearchStrategy[str]:
    """Return texts of *words* and of anything."""
    usual = st.sampled_from(words)
    odd = st.text(st.sampled_from(ODD + "aZ0"), min_size=1, max_size=3)
    return st.lists(st.one_of(usual, usual, usual, odd), max_size=most).map("".join)


secrets = st.builds(
    lambda before, after: f"{before}{SECRET}{after}",
    st.text(st.sampled_from(ODD + "aZ0"), max_size=3),
    st.text(st.sampled_from(ODD + "aZ0"), max_size=3),
)
"""Passwords, with whatever people have in theirs."""


def attempt(call: Callable[..., Any], *given: Any, **fields: Any) -> tuple[Any, str]:
    """Return what *call* makes of what it is given, and what it says against it; it raises nothing else."""
    try:
        return call(*given, **fields), ""
    except ConfigError as error:
        refusal = error
    assert str(refusal)
    assert refusal.__cause__ is None  # which might show what it was given
    return None, str(refusal)
