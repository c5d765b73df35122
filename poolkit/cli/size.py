"""``poolkit size``: how many connections a database server serves best, and each instance's share."""

from __future__ import annotations

import dataclasses

import click

from poolkit.core.errors import PoolKitError
from poolkit.hosts.commands import as_json_option, print_json

from .output import print_table


@click.command(
    name="size",
    epilog="Example: poolkit size --cores 8 --instances 5 --postgres postgresql://db/app",
)
@click.option(
    "--cores", type=click.IntRange(1), default=4, show_default=True, help="Of the server."
)
@click.option(
    "--spindles", type=click.IntRange(0), default=1, show_default=True, help="Disks of the server."
)
@click.option(
    "--instances", type=click.IntRange(1), default=1, show_default=True, help="Of the program."
)
@click.option("--postgres", metavar="DSN", help="A server to ask how many connections it admits.")
@as_json_option
def command(cores: int, spindles: int, instances: int, postgres: str | None, as_json: bool) -> None:
    """Say how large pools should be.

    That is cores × 2 + spindles for a server, shared by all instances of the program.
    """
    from poolkit.kit.sizing import pool_size

    size = pool_size(cores=cores, spindles=spindles, instances=instances)
    found: dict[str, int | bool] = dataclasses.asdict(size)
    if postgres is not None:
        try:
            found["admitted"] = _admitted(postgres)
        except PoolKitError as error:
            click.echo(f"Error: {error}", err=True)
            raise SystemExit(2) from None
    if as_json:
        print_json(found)
        return
    rows = [
        ["connections in all", size.total],
        ["max_size of each instance", size.per_instance],
        ["min_size of each instance", size.min_size],
    ]
    if "admitted" in found:
        rows.append(["the server admits", found["admitted"]])
    print_table(["", ""], rows)
    if size.overcommitted:
        click.echo("All instances together may open more than that: run fewer, or a larger server.")


def _admitted(postgres: str) -> int:
    """Ask the server how many connections it admits."""
    from poolkit.core.deadline import deadline
    from poolkit.kit.watching import admitted
    from poolkit.postgres.pool import PostgresPool

    with PostgresPool(postgres, min_size=0, max_size=1) as pool, deadline(5):
        return admitted(pool)
