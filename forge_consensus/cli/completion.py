"""``forge-consensus completion``: the script by which a shell completes commands and options."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

from forge_consensus.cli.main import PROGRAM, cli

SHELLS: Final = ("bash", "zsh", "fish")
HELP: Final = """\
Print the script by which SHELL completes commands and options.

\b
bash, in ~/.bashrc:
    eval "$(forge-consensus completion bash)"
zsh, in ~/.zshrc, behind compinit:
    eval "$(forge-consensus completion zsh)"
fish, once:
    forge-consensus completion fish > ~/.config/fish/completions/forge-consensus.fish

The program must be found by its name in PATH, and bash must be of version 4.4 or newer.
"""


@click.command(help=HELP)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script by which a shell completes commands and options."""
    kind = get_completion_class(shell)
    assert kind is not None, "click knows these shells"
    script = kind(cli, {}, PROGRAM, f"_{PROGRAM}_COMPLETE".replace("-", "_").upper())
    # `source()` would run bash here to see its version, although the script may be for another machine.
    click.echo(script.source_template % script.source_vars())
