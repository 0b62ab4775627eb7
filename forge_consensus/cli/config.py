"""``forge-consensus config``: check configuration files, show what they come to, help to write them, reload them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

import click

from forge_consensus.cli.connecting import client_of
from forge_consensus.cli.main import Commands
from forge_consensus.cli.options import client_options, output_option
from forge_consensus.config.changes import ReloadReport
from forge_consensus.config.example import example_text
from forge_consensus.config.loading import ConfigSource, LoadedConfig, settings_of
from forge_consensus.config.resolving import ROWS, resolve
from forge_consensus.config.schema import schema as schema_of_files
from forge_consensus.config.shown import shown, values_of
from forge_consensus.config.yaml_file import read_file
from forge_consensus.errors import ConsensusError
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
    """Check configuration files, show what they come to, help to write them, and have nodes read them again."""


def load(files: tuple[str, ...]) -> LoadedConfig:
    """Return what the files and the environment come to. Raises `InvalidConfigError`."""
    return ConfigSource(files).load(stored_cluster)


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

    Every setting is shown, secrets are not. Of several FILES later ones win. RELOAD says when a running node takes
    another value: hot at once, restart at its next start, founding never.
    """
    rows = shown(load(files))
    if output == "json":
        keys = ("name", "value", "reload", *(("origin",) if origin else ()))
        click.echo(json_text([{key: row[key] for key in keys} for row in rows]))
        return
    head = ("NAME", "VALUE", "RELOAD", "ORIGIN") if origin else ("NAME", "VALUE", "RELOAD")
    cells = [(row["name"], row["text"], row["reload"], row["origin"])[: len(head)] for row in rows]
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
@client_options
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@click.pass_context
def reload(ctx: click.Context, endpoints: list[str], timeout: float, output: str, dry_run: bool) -> None:
    """Have running nodes read their files again.

    Every node of --endpoints reads the files with which it was started, checks them as a whole, and takes what is
    marked hot (forge-consensus settings) at once; the rest waits for a restart and is named. A node whose files have
    faults changes nothing; then all faults are told, and the exit code is 78. The same as SIGHUP.
    """
    reports, failed = [], 0
    with client_of(endpoints, timeout) as client:
        for endpoint in endpoints:
            try:
                reports.append(ReloadReport.from_dict(client.reload_config(endpoint, dry_run=dry_run)))
            except ConsensusError as error:
                click.echo(f"{endpoint}: error[{error.code}]: {error}", err=True)
                failed = failed or error.exit_code
    if output == "json":
        click.echo(json_text([report.to_dict() for report in reports]))
    else:
        for report in reports:
            for line in report.lines():
                click.echo(f"{report.node_id}: {line}")
    ctx.exit(failed)


@config.command()
def schema() -> None:
    """Print the JSON schema of a file, for editors."""
    click.echo(json.dumps(schema_of_files(), indent=2))


@config.command()
def example() -> None:
    """Print a commented file with every setting."""
    click.echo(example_text(EXAMPLE_HEAD, EXAMPLE_VALUES), nl=False)
