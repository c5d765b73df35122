"""How commands show what they found: as a table for people, with colours on a terminal only, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Write JSON instead of a table.")
"""The option that all commands have."""

_WIDTH_IN_A_FILE = 100


def print_json(found: Any) -> None:
    """Print *found* as JSON."""
    click.echo(json.dumps(found, indent=2, default=str))


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
