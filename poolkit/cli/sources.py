"""The options that say where a command's settings come from."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from poolkit.kit.kit import PoolKit

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def source_options(command: FunctionT) -> FunctionT:
    """Add ``--file`` and ``--env-file`` to *command*."""
    file = click.option(
        "--file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Settings in TOML or INI, instead of the environment.",
    )
    env_file = click.option(
        "--env-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Variables beside those of the environment, which win.",
    )
    return file(env_file(command))


def kit_from(file: Path | None, env_file: Path | None) -> PoolKit:
    """Return the kit that the options say, unwatched. Raises :class:`~poolkit.ConfigError`."""
    from poolkit.kit.kit import PoolKit

    if file is not None:
        return PoolKit.from_file(file, watch=None)
    return PoolKit.from_env(_environment(env_file), watch=None)


def _environment(env_file: Path | None) -> Mapping[str, str]:
    if env_file is None:
        return os.environ
    from dotenv import dotenv_values

    read = {name: value for name, value in dotenv_values(env_file).items() if value is not None}
    return {**read, **os.environ}
