"""`ipcctl completion`: what makes the shell complete commands, options and the names of services."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

# The variable that the shell's function sets when it asks for completions; click's own default for this name.
VARIABLE = "_IPCCTL_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    Examples:
      eval "$(ipcctl completion bash)"                       in ~/.bashrc
      eval "$(ipcctl completion zsh)"                        in ~/.zshrc, after compinit
      ipcctl completion fish > ~/.config/fish/completions/ipcctl.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"this version of click has no completion for {shell}")
    made = kind(ctx.find_root().command, {}, "ipcctl", VARIABLE)
    # Not made.source(): for bash that runs a bash to ask for its version, and there may be none where this is built.
    click.echo(made.source_template % made.source_vars())
