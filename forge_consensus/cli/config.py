"""``forge-consensus config``: check configuration files, show what they come to, and help to write them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

import click

from forge_consensus.cli.main import Commands
from forge_consensus.cli.options import output_option
from forge_consensus.config.example import example_text
from forge_consensus.config.loading import LoadedConfig, layers_of, settings_of
from forge_consensus.config.resolving import ROWS, resolve
from forge_consensus.config.schema import schema as schema_of_files
from forge_consensus.config.shown import shown, values_of
from forge_consensus.config.yaml_file import read_file
from forge_consensus.output import json_text, table
from forge_consensus.storage.stopped import stored_cluster

EXAMPLE_HEAD: Final = """\
# The configuration of one node of a forge-consensus cluster: forge-consensus node -c FILE
# As it stands it is a cluster of one. For a cluster of several, name all of them in peers, on each of them.
# Every setting is here. Those that are commented out have their defaults; forge-consensus settings explains each.
# Variables win over this file (FORGE_CONSENSUS_RAFT__HEARTBEAT_INTERVAL=250ms), and options of the command over both.
# ${NAME}, ${NAME:-default} and ${file:/path} stand for a variable or for what a file holds.
"""
EXAMPLE_VALUES: Final = {
    "node_id": "n1",
    "bind": "127.0.0.1:7001",
    "storage_path": "data/n1",
}
"""What an example gives instead of a default."""

files_argument = click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False))


@click.group(cls=Commands)
def config() -> None:
    """Check configuration files, show what they come to, and help to write them."""


def load(files: tuple[str, ...]) -> LoadedConfig:
    """Return what the files and the environment come to. Raises `InvalidConfigError`."""
    return settings_of(resolve(layers_of(files, os.environ)), stored_cluster)


@config.command()
@files_argument
def validate(files: tuple[str, ...]) -> None:
    """Check files.

    Of several FILES later ones win, and variables of the environment over all. Faults end with exit code 78; those of
    single values have their file, line and column. Prints what has another meaning here than in the Go original, or
    none.
    """
    loaded = load(files)
    for note in loaded.notes:
        click.echo(f"note: {note}")
    click.echo(f"ok: node {loaded.node.node_id} of cluster {loaded.node.cluster_id} at {loaded.node.bind}")


@config.command()
@files_argument
@click.option("--origin", is_flag=True, help="Also show where each value was given.")
@output_option
def show(files: tuple[str, ...], origin: bool, output: str) -> None:
    """Show what files and the environment come to.

    Every setting is shown, secrets are not. Of several FILES later ones win.
    """
    rows = shown(load(files))
    if output == "json":
        keys = ("name", "value", "origin") if origin else ("name", "value")
        click.echo(json_text([{key: row[key] for key in keys} for row in rows]))
        return
    head = ("NAME", "VALUE", "ORIGIN") if origin else ("NAME", "VALUE")
    cells = [(row["name"], row["text"], row["origin"])[: len(head)] for row in rows]
    click.echo("\n".join(table(head, cells)))


@config.command()
@click.argument("one", type=click.Path(dir_okay=False))
@click.argument("other", type=click.Path(dir_okay=False))
def diff(one: str, other: str) -> None:
    """Show what differs between two files.

    Exit code 1 if anything does. Variables count where the files name them, and not besides.
    """
    before, after = (settings_of(resolve([read_file(Path(file), os.environ)])) for file in (one, other))
    old, new = values_of(before), values_of(after)
    texts = [{row["name"]: row["text"] for row in shown(loaded)} for loaded in (before, after)]
    rows = [(name, texts[0][name], texts[1][name]) for name in ROWS if old[name] != new[name]]
    if rows:
        click.echo("\n".join(table(("NAME", one, other), rows)))
        raise click.exceptions.Exit(1)
    click.echo("the files come to the same settings")


@config.command()
def schema() -> None:
    """Print the JSON schema of a file, for editors."""
    click.echo(json.dumps(schema_of_files(), indent=2))


@config.command()
def example() -> None:
    """Print a commented file with every setting."""
    click.echo(example_text(EXAMPLE_HEAD, EXAMPLE_VALUES), nl=False)
