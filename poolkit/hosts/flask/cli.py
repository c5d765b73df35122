"""``flask pools``: the pools of the app, from the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import click
from flask.cli import AppGroup

from ...core.errors import PoolKitError
from ...kit.health import HealthChecker
from ..commands import CHECKED, as_json_option, checked, print_json, timeout_option
from .current import current_kit

commands = AppGroup("pools", help="Look at the pools of the app.")

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
@timeout_option
@as_json_option
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
        print_json(health.as_dict())
    else:
        names = {backend: pool.name for backend, pool in kit.pools.items()}
        _print_table([CHECKED, *checked(health, names)])
    raise SystemExit(health.status.severity)


@commands.command()
@as_json_option
def stats(as_json: bool) -> None:
    """Show the figures of the pools in this process; each worker of a server has its own."""
    found = current_kit().stats()
    if as_json:
        print_json({backend: dataclasses.asdict(stats) for backend, stats in found.items()})
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


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
