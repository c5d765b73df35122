"""The table of commands. A command is a module whose ``command`` is a :class:`click.Command`.

Such a module imports click and nothing heavier at its top: ``poolkit --help`` loads them all.
"""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS = {
    "demo": "poolkit.cli.demo",
    "check": "poolkit.cli.check",
    "config": "poolkit.cli.config",
    "presets": "poolkit.cli.presets",
    "size": "poolkit.cli.size",
    "completion": "poolkit.cli.completion",
}


class Commands(click.Group):
    """A group that loads a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name]).command
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="poolkit", message="%(package)s %(version)s")
def app() -> None:
    """Connection pools for threads, from the command line."""
