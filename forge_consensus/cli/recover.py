"""``forge-consensus recover``: makes one survivor a cluster of its own, after a majority was lost for good."""

from __future__ import annotations

import secrets
import sys
from dataclasses import asdict
from pathlib import Path

import click

from forge_consensus.cli.options import data_option, key_option, output_option
from forge_consensus.output import json_text
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.recovery import RecoveryPlan, recover_folder


def show(plan: RecoveryPlan) -> None:
    """Say what the recovery does, and what may be lost, on stderr."""
    lines = [
        f"{plan.node_id} of cluster {plan.cluster_before}, which had the members {plan.members_before}",
        f"last entry on this disk: {plan.last_index} of term {plan.last_term}; known to be committed: up to "
        f"{plan.commit_index}",
        f"lost: whatever the cluster acknowledged behind entry {plan.last_index}",
    ]
    if plan.uncommitted:
        lines.append(
            f"kept, though nobody can tell whether it was acknowledged: the last {plan.uncommitted} entries. Clients "
            "that were told that their command failed or is unknown may find it carried out"
        )
    lines += [
        f"! {each.node} is known to have had entry {each.last_index}, {each.lacking} more than this disk: if its "
        "folder is still there, recover that one instead"
        for each in plan.ahead
    ]
    lines.append(
        f"the node becomes the only member, at {plan.address}, of the new cluster {plan.cluster}. No other node of the "
        "old cluster can join it with its folder"
    )
    for line in lines:
        click.echo(line, err=True)


@click.command()
@data_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--address",
    default="",
    metavar="HOST:PORT",
    help="Where the node is reached from now on. [default: as in the old cluster]",
)
@key_option
@output_option
def recover(data: Path, yes: bool, address: str, key: EncryptionKey | None, output: str) -> None:
    """Make the stopped node of a folder the only member of a new cluster with the same data.

    For a majority that is lost for good, and only then. It says what may be lost and asks; --yes answers. The node is
    then started as before, with the same id, address and folder, and the others join anew on empty folders.
    """

    def confirmed(plan: RecoveryPlan) -> bool:
        show(plan)
        if yes:
            return True
        if not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked here: add --yes to recover this folder; nothing was changed")
        return click.confirm("recover this folder?", err=True)

    plan = recover_folder(data, confirmed, new_text=lambda: secrets.token_hex(8), address=address, key=key)
    if plan is None:
        click.echo("nothing was changed", err=True)
        raise click.exceptions.Exit(1)
    if output == "json":
        click.echo(json_text(asdict(plan)))
    else:
        click.echo(f"{plan.node_id} is the only member of cluster {plan.cluster} now: start it as before")
