"""``forge-consensus status``: the cluster report on one screen."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import click

from forge_consensus.cli.connecting import client_of
from forge_consensus.cli.options import client_options
from forge_consensus.errors import ConnectionFailedError
from forge_consensus.events.text import seconds_text
from forge_consensus.finite_range import FiniteRange
from forge_consensus.output import bytes_text, json_text, moment_text, table
from forge_consensus.service.cluster_report import ClusterReport, MemberReport, cluster_report

COLORS: Final = {"healthy": "green", "ok": "green", "unhealthy": "red", "no answer": "red", "no member": "red"}
"""The color of a health or a state; any other is yellow."""
CLEAR: Final = "\x1b[H\x1b[2J"
"""Moves the cursor to the first cell of a terminal and clears the screen."""
INTERVAL_SECONDS: Final = 2.0


class Column(NamedTuple):
    """A column of the table; those with the highest `spare` go first where the terminal is too narrow."""

    head: str
    spare: int


COLUMNS: Final = (
    Column("NODE", 0),
    Column("ROLE", 1),
    Column("ADDRESS", 0),
    Column("STATE", 0),
    Column("MATCH", 2),
    Column("LAG", 0),
    Column("HEARD", 3),
    Column("SNAPSHOT", 5),
    Column("LEADS", 7),
    Column("DISK", 4),
    Column("VERSION", 6),
)


def number(value: int | None) -> str:
    """Return a number for people."""
    return "-" if value is None else f"{value:,}"


def cells_of(node: MemberReport, leader: str | None) -> tuple[str, ...]:
    """Return a node's line of the table, one cell for each of `COLUMNS`; the leader has a star."""
    return (
        (node.node_id or "?") + ("*" if node.node_id and node.node_id == leader else ""),
        node.role or "-",
        node.address,
        node.state,
        number(node.match_index),
        number(node.lag),
        seconds_text(node.last_contact),
        number(node.snapshot_index),
        f"{node.priority}" if node.may_lead else "never",
        bytes_text(node.storage_used_bytes),
        node.version or "-",
    )


def fitting(rows: Sequence[tuple[str, ...]], width: int) -> list[str]:
    """Return the lines of the table, without the columns that one can do without if it is wider than that."""
    kept = sorted(range(len(COLUMNS)), key=lambda place: COLUMNS[place].spare)
    while True:
        places = sorted(kept)
        lines = table([COLUMNS[place].head for place in places], [[row[place] for place in places] for row in rows])
        if max(map(len, lines)) <= width or not COLUMNS[kept[-1]].spare:
            return lines
        kept.pop()


def colored(text: str, word: str) -> str:
    """Return the text in the color of a health or a state; click takes colors away where no terminal shows them."""
    return click.style(text, COLORS.get(word, "yellow"))


def headlines(report: ClusterReport) -> list[str]:
    """Return the first two lines: the answers that are looked for most."""
    spare = report.can_lose
    lose = f"can lose {spare} node{'' if spare == 1 else 's'}" if report.has_majority else "NO QUORUM"
    leads = f"leader {report.leader_id} (term {report.term}, up {seconds_text(report.uptime)})"
    return [
        f"Cluster {report.cluster_id}  {colored(report.health.upper(), report.health)}"
        f"   quorum {report.connected}/{report.members}, {lose}",
        f"{leads if report.leader_id else f'no leader (term {report.term})'}   commit {report.commit_index:,}",
    ]


def screen(report: ClusterReport, width: int) -> str:
    """Return the report for people; only addresses and names can make its table wider than `width` characters."""
    head, *rows = fitting([cells_of(node, report.leader_id) for node in report.nodes], width)
    lines = [
        row.replace(f"  {node.state}  ", f"  {colored(node.state, node.state)}  ", 1)
        for row, node in zip(rows, report.nodes, strict=True)
    ]
    change = [f"change of members: {report.change}"] if report.change else []
    return "\n".join([*headlines(report), *change, head, *lines])


def notes(report: ClusterReport, width: int) -> str:
    """Return the warnings, and what nodes say besides and is no fault of the cluster, wrapped to `width` characters."""
    texts = [colored("! ", "warning") + wrapped(text, width) for text in report.warnings]
    if report.advice:
        texts.append(colored("> ", "warning") + wrapped(report.advice, width))
    for node in report.nodes:
        if refused := node.unusual_refusals():
            counts = ", ".join(f"{reason} {count:,}" for reason, count in refused.items())
            texts.append("  " + wrapped(f"{node.node_id} has refused since its start: {counts}", width))
        if node.pending_restart:
            text = f"{node.node_id} waits for a restart to take {', '.join(node.pending_restart)}"
            texts.append("  " + wrapped(text, width))
        if node.snapshot_doing:
            texts.append("  " + wrapped(f"{node.node_id} {node.snapshot_doing}", width))
        if node.snapshots_why:
            text = f"{node.node_id} writes snapshots on a thread of its process, which costs it time"
            texts.append("  " + wrapped(f"{text}: {node.snapshots_why}", width))
    return "\n".join(texts)


def wrapped(text: str, width: int) -> str:
    """Return a text in lines that fit behind two characters; the later ones are indented."""
    return click.wrap_text(text, max(20, width), initial_indent="  ", subsequent_indent="  ")[2:]


@click.command()
@client_options
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=FiniteRange(min=0.1),
    default=INTERVAL_SECONDS,
    show_default=True,
    help="How many seconds --watch waits in between.",
)
@click.pass_context
def status(ctx: click.Context, endpoints: list[str], timeout: float, output: str, watch: bool, interval: float) -> None:
    """Show the whole cluster on one screen; every member that can be found is asked, a leader is not needed.

    Members are counted as the leader hears them; "can lose" counts on those only that answer here too and take entries.
    MATCH is the last entry known to be in a node's log, LAG how far it is behind what is committed, HEARD how long ago
    the leader heard it. A narrow terminal shows fewer columns; json has all of them. Exit code 0 if the cluster serves,
    1 if it does not (no leader or no quorum), 69 if no node answers.
    """
    with client_of(endpoints, timeout) as client:
        while watch:
            try:
                show(cluster_report(client, endpoints, timeout), output, clear=True)
            except ConnectionFailedError as error:
                click.echo(error, err=True)
            time.sleep(interval)
        report = cluster_report(client, endpoints, timeout)
    show(report, output, clear=False)
    if report.health == "unhealthy":
        ctx.exit(1)


def show(report: ClusterReport, output: str, *, clear: bool) -> None:
    """Write the report; for people, the notes go to stderr. `clear` empties a terminal's screen first."""
    if output == "json":
        click.echo(json_text(report.to_dict()))
        return
    width = shutil.get_terminal_size().columns
    if clear and sys.stdout.isatty():
        click.echo(CLEAR + moment_text(time.time()) + " UTC")
    click.echo(screen(report, width))
    if text := notes(report, width):
        click.echo(text, err=True)
