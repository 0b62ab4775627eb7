"""``forge-consensus status``: the cluster report on one screen."""

from __future__ import annotations

from typing import Final

import click

from forge_consensus.cli.options import client_options
from forge_consensus.client.sync import Client
from forge_consensus.events.text import seconds_text
from forge_consensus.output import bytes_text, json_text, table
from forge_consensus.service.cluster_report import ClusterReport, MemberReport, cluster_report

HEAD: Final = ("NODE", "ROLE", "ADDRESS", "STATE", "MATCH", "LAG", "LAST CONTACT", "SNAPSHOT", "DISK")


def number(value: int | None) -> str:
    """Return a number for people."""
    return "-" if value is None else f"{value:,}"


def headline(report: ClusterReport) -> str:
    """Return the first line: the answers that are looked for most."""
    spare = report.can_lose
    has_majority = report.reachable >= report.required
    lose = f"can lose {spare} node{'' if spare == 1 else 's'}" if has_majority else "NO QUORUM"
    leader = f"leader {report.leader_id} (term {report.term}, up {seconds_text(report.uptime)})"
    return "   ".join(
        (
            f"Cluster {report.cluster_id}  {report.health.upper()}",
            leader if report.leader_id else f"no leader (term {report.term})",
            f"quorum {report.reachable}/{report.members}, {lose}",
            f"commit {report.commit_index:,}",
            f"v{report.version}",
        )
    )


def cells_of(node: MemberReport, leader: str | None) -> tuple[str, ...]:
    """Return a node's line of the table; the leader has a star."""
    return (
        (node.node_id or "?") + ("*" if node.node_id and node.node_id == leader else ""),
        node.role or "-",
        node.address,
        node.state,
        number(node.match_index),
        number(node.lag),
        seconds_text(node.last_contact),
        number(node.snapshot_index),
        bytes_text(node.storage_used_bytes),
    )


@click.command()
@client_options
@click.pass_context
def status(ctx: click.Context, endpoints: list[str], timeout: float, output: str) -> None:
    """Show the whole cluster on one screen; every member that can be found is asked, a leader is not needed.

    MATCH is the last entry known to be in a node's log, LAG how far it is behind what is committed. Exit code 0 if
    the cluster serves, 1 if it does not (no leader or no quorum), 69 if no node answers.
    """
    with Client(endpoints, timeout) as client:
        report = cluster_report(client, endpoints, timeout)
    if output == "json":
        click.echo(json_text(report.to_dict()))
    else:
        rows = [cells_of(node, report.leader_id) for node in report.nodes]
        click.echo("\n".join([headline(report), *table(HEAD, rows)]))
        for text in report.warnings:
            click.echo(f"! {text}", err=True)
    if report.health == "unhealthy":
        ctx.exit(1)
