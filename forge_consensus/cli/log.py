"""``forge-consensus log``: a look at the log of a node that does not run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from forge_consensus.cli.main import Commands
from forge_consensus.cli.options import output_option
from forge_consensus.errors import CorruptionError
from forge_consensus.output import bytes_text, json_text
from forge_consensus.storage.backends.sealed import REJOIN
from forge_consensus.storage.verify import is_folder, verify_folder

EXIT_DAMAGED = 65
EXIT_MISSING = 66


@click.group(cls=Commands)
def log() -> None:
    """Check a node's log while the node is stopped."""


@log.command()
@click.option("--data", required=True, type=click.Path(path_type=Path, file_okay=False), help="The node's folder.")
@output_option
@click.pass_context
def verify(ctx: click.Context, data: Path, output: str) -> None:
    """Check every entry of a log and every snapshot beside it.

    Exit code 0 if all are whole, 65 if one is damaged, 66 if there is no such folder, 78 if a node runs on it.
    """
    if not is_folder(data):
        text = f"{data} is no node's folder: name the one given to the node as --data"
        click.echo(f"error[NO_SUCH_FOLDER]: {text}", err=True)
        ctx.exit(EXIT_MISSING)
    report = verify_folder(data)
    if output == "json":
        click.echo(json_text(asdict(report)))
    else:
        span = f"{report.first_index:,} to {report.last_index:,}"
        entries = f"{report.entries:,} entries ({span}, {bytes_text(report.bytes)})"
        kept = f"{report.snapshots} snapshots" if report.snapshots != 1 else "1 snapshot"
        state = f"{report.faults_total} faults" if report.faults_total else "all whole"
        click.echo(f"{report.node_id} of cluster {report.cluster_id}: {entries}, {kept}: {state}")
    if report.faults_total:
        for text in report.faults[:10]:
            click.echo(f"! {text}", err=True)
        click.echo(
            f"error[{CorruptionError.code}]: {report.faults_total} faults in {data}: what this node acknowledged may "
            f"be damaged. {REJOIN}",
            err=True,
        )
        ctx.exit(EXIT_DAMAGED)
