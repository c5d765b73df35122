"""``poolkit check``: whether all that is configured can be reached."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poolkit.core.errors import PoolKitError

from .output import as_json as as_json_option
from .output import print_json, print_table
from .sources import kit_from, source_options

if TYPE_CHECKING:
    from poolkit.kit.health import KitHealth

_STYLES = {"healthy": "green", "degraded": "yellow", "unavailable": "bold red"}


@click.command(
    name="check",
    epilog="Examples: poolkit check --env-file .env; poolkit check --file poolkit.toml --json",
)
@source_options
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 300),
    default=5.0,
    show_default=True,
    help="Seconds for each pool; they are asked side by side.",
)
@as_json_option
def command(file: Path | None, env_file: Path | None, timeout: float, as_json: bool) -> None:
    """Connect to all that is configured, and report.

    Exits with 0 if all is healthy, 1 if something is degraded, 2 if something can't be reached or
    the settings are wrong.
    """
    from poolkit.kit.health import HealthChecker

    logging.getLogger("poolkit").setLevel(logging.CRITICAL)  # what it would say is in the table
    try:
        kit = kit_from(file, env_file)
        with kit:
            health = HealthChecker(kit.pools, timeout=timeout).check()
            names = {backend: pool.name for backend, pool in kit.pools.items()}
    except PoolKitError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None
    if as_json:
        print_json(health.as_dict())
    else:
        print_table(["pool", "", "status", "latency", "why"], _rows(health, names))
    raise SystemExit(health.status.severity)


def _rows(health: KitHealth, names: Mapping[str, str]) -> list[list[Any]]:
    return [
        [
            backend,
            names[backend],
            (found.status.value, _STYLES[found.status.value]),
            f"{found.latency * 1000:.1f} ms" if found.latency is not None else "",
            "; ".join(found.reasons.values()),
        ]
        for backend, found in health.pools.items()
    ]
