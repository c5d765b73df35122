"""How commands show what they found to people: as a table, with colours on a terminal only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_WIDTH_IN_A_FILE = 100


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
    """Print *rows*; a cell may be a pair of a text and a style."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_IN_A_FILE
    table = Table(*columns, title=title or None, box=SIMPLE_HEAD, title_justify="left")
    for row in rows:
        table.add_row(
            *(Text(*cell) if isinstance(cell, tuple) else Text(str(cell)) for cell in row)
        )
    console.print(table)
