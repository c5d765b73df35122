"""``poolkit presets``: the values that fit a kind of environment."""

from __future__ import annotations

import click

from poolkit.hosts.commands import as_json_option, print_json

from .output import print_table


@click.command(
    name="presets",
    epilog="Use one: POOLKIT_ENV=production poolkit config, or PoolKit.for_environment() in a program.",
)
@as_json_option
def command(as_json: bool) -> None:
    """List the presets."""
    from poolkit.kit.presets import PRESETS

    if as_json:
        print_json(
            {
                name: {part: dict(fields) for part, fields in found.items()}
                for name, found in PRESETS.items()
            }
        )
        return
    settings = [
        (backend, field) for backend, fields in PRESETS["production"].items() for field in fields
    ]
    print_table(
        ["", *PRESETS],
        [
            [f"{backend} {field}", *(f"{found[backend][field]:g}" for found in PRESETS.values())]
            for backend, field in settings
        ],
    )
