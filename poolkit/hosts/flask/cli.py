"""``flask pools``: the pools of the app, from the command line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import click
from flask.cli import AppGroup

from ...core.errors import PoolKitError
from ...kit.health import HealthChecker
from .current import current_kit

commands = AppGroup("pools", help="Look at the pools of the app.")

_as_json = click.option("--json", "as_json", is_flag=True, help="Write JSON instead of a table.")

_FIGURES = (
    "max_size",
    "size",
    "in_use",
    "idle",
    "waiting",
    "operations",
    "errors",
    "timeouts",
    "refused",
    "retries",
    "leaked",
)


@commands.command()
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 300),
    default=5.0,
    show_default=True,
    help="Seconds for each pool; they are asked side by side.",
)
@_as_json
def check(timeout: float, as_json: bool) -> None:
    """Connect to all backends, and report.

    Exits with 0 if all is healthy, 1 if something is degraded, 2 if something can't be reached.
    """
    kit = current_kit()
    try:
        health = HealthChecker(kit.pools, timeout=timeout).check()
    except PoolKitError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None
    if as_json:
        _print_json(health.as_dict())
    else:
        rows = [
            [
                backend,
                kit.pools[backend].name,
                found.status.value,
                f"{found.latency * 1000:.1f} ms" if found.latency is not None else "",
                "; ".join(found.reasons.values()),
            ]
            for backend, found in health.pools.items()
        ]
        _print_table([["pool", "", "status", "latency", "why"], *rows])
    raise SystemExit(health.status.severity)


@commands.command()
@_as_json
def stats(as_json: bool) -> None:
    """Show the figures of the pools in this process; each worker of a server has its own."""
    found = current_kit().stats()
    if as_json:
        _print_json({backend: dataclasses.asdict(stats) for backend, stats in found.items()})
        return
    rows = [
        [backend, *(str(getattr(stats, figure)) for figure in _FIGURES)]
        for backend, stats in found.items()
    ]
    _print_table([["pool", *(figure.replace("_", " ") for figure in _FIGURES)], *rows])


@commands.command()
def leaks() -> None:
    """Show who holds connections in this process, and which of them for too long: then it exits with 1."""
    kit = current_kit()
    click.echo(kit.leak_report())
    late = any(
        holder.held_for >= pool.config.leak_threshold
        for pool in kit.pools.values()
        for holder in pool.leases()
    )
    raise SystemExit(int(late))


def _print_json(found: Any) -> None:
    click.echo(json.dumps(found, indent=2, default=str))


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
