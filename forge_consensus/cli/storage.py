"""``forge-consensus storage``: the files of a node that does not run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from forge_consensus.cli.main import Commands
from forge_consensus.cli.options import data_option, output_option
from forge_consensus.output import bytes_text, json_text
from forge_consensus.storage.shrinking import compact_folder


@click.group(cls=Commands)
def storage() -> None:
    """Look after the files of a node while it is stopped."""


@storage.command()
@data_option
@output_option
def compact(data: Path, output: str) -> None:
    """Make the file of a stopped node's tables as small as what is in it.

    The file grows when it has to and never shrinks by itself; what is free in it is used again, so this is needed only
    to give the disk back its space. It makes a copy first, for which the disk must have room.
    """
    report = compact_folder(data)
    if output == "json":
        click.echo(json_text(asdict(report)))
    else:
        before, after = bytes_text(report.bytes_before), bytes_text(report.bytes_after)
        click.echo(f"{report.node_id} of cluster {report.cluster_id}: the tables had {before} and now have {after}")
