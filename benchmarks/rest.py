"""Tables in reStructuredText, for files that people read and READMEs they paste them into."""

from __future__ import annotations

from collections.abc import Sequence


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a simple table. An empty first cell is written so that its row remains one of its own."""
    lines = [[_cell(text, not place) for place, text in enumerate(row)] for row in (headers, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    head, *body = (_line(line, widths) for line in lines)
    return "\n".join([rule, head, rule, *body, rule])


def heading(text: str, underline: str = "-") -> str:
    return f"{text}\n{underline * len(text)}"


def escaped(text: str) -> str:
    """Return text of which nothing is markup."""
    return "".join(f"\\{sign}" if sign in "\\*`|_" else sign for sign in text)


def _cell(text: str, first: bool) -> str:
    return text or ("\\" if first else "")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()
