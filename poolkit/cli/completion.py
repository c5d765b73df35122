"""``poolkit completion``: what a shell needs to complete the commands and their options."""

from __future__ import annotations

import click


@click.command(
    name="completion",
    epilog='Example: eval "$(poolkit completion bash)" in ~/.bashrc, or poolkit completion fish | source',
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a SHELL."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:  # pragma: no cover - click has all three
        raise click.ClickException(f"click can't complete in {shell}")
    click.echo(kind(ctx.find_root().command, {}, "poolkit", "_POOLKIT_COMPLETE").source())
