"""What commands share, those of a host and ``poolkit`` itself: options, and how a check of the pools is shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..kit.health import KitHealth

as_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Write JSON instead of a table."
)
"""The option of all commands that have something to show."""

timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(0.1, 300),
    default=5.0,
    show_default=True,
    help="Seconds for each pool; they are asked side by side.",
)
"""The option of a check."""

CHECKED = ("pool", "", "status", "latency", "why")
"""The columns of what a check found."""


def checked(health: KitHealth, names: Mapping[str, str]) -> list[list[str]]:
    """Return what a check found, a row for each pool; *names* are what they are called, by backend."""
    return [
        [
            backend,
            names[backend],
            found.status.value,
            f"{found.latency * 1000:.1f} ms" if found.latency is not None else "",
            "; ".join(found.reasons.values()),
        ]
        for backend, found in health.pools.items()
    ]


def print_json(found: Any) -> None:
    """Print *found* as JSON."""
    click.echo(json.dumps(found, indent=2, default=str))
