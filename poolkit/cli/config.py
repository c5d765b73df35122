"""``poolkit config``: the settings in effect, and where each comes from. Secrets are not shown."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poolkit.core.errors import PoolKitError
from poolkit.hosts.commands import as_json_option, print_json

from .output import print_table
from .sources import kit_from, source_options

if TYPE_CHECKING:
    from poolkit.kit.kit import PoolKit

HIDDEN = "(hidden)"


@click.command(name="config", epilog="Example: poolkit config --env-file .env")
@source_options
@as_json_option
def command(file: Path | None, env_file: Path | None, as_json: bool) -> None:
    """Show the settings in effect and their sources."""
    try:
        found = _settings(kit_from(file, env_file))
    except PoolKitError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None
    if as_json:
        print_json(found)
        return
    for backend, fields in found.items():
        rows = [
            [name, item["value"], (item["source"], "dim" if item["source"] == "default" else "")]
            for name, item in fields.items()
        ]
        print_table(["setting", "value", "from"], rows, title=backend)


def _settings(kit: PoolKit) -> dict[str, dict[str, dict[str, Any]]]:
    """Return value and source of each field, by backend."""
    sources = {(backend, field): setting.source for backend, field, setting in kit.settings or ()}
    return {
        backend: {
            item.name: {
                "value": _shown(getattr(pool.config, item.name), item),
                "source": sources.get((backend, item.name), "default"),
            }
            for item in dataclasses.fields(pool.config)
            if item.init and item.name not in ("listeners", "before_request", "after_response")
        }
        for backend, pool in kit.pools.items()
    }


def _shown(value: Any, field: dataclasses.Field[Any]) -> Any:
    if not field.repr:
        return HIDDEN if value else ""
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)
