"""``poolkit check``: whether all that is configured can be reached."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from poolkit.core.errors import PoolKitError
from poolkit.hosts.commands import CHECKED, as_json_option, checked, print_json, timeout_option

from .output import print_table
from .sources import kit_from, source_options

_STYLES = {"healthy": "green", "degraded": "yellow", "unavailable": "bold red"}


@click.command(
    name="check",
    epilog="Examples: poolkit check --env-file .env; poolkit check --file poolkit.toml --json",
)
@source_options
@timeout_option
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
        rows = [
            [backend, name, (status, _STYLES[status]), latency, why]
            for backend, name, status, latency, why in checked(health, names)
        ]
        print_table(CHECKED, rows)
    raise SystemExit(health.status.severity)
