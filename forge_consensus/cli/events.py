"""``forge-consensus events``: the events of the nodes, as they happen and from their journals."""

from __future__ import annotations

import click

from forge_consensus.cli.by_time import HOLD_SECONDS, by_time
from forge_consensus.cli.connecting import given_credentials
from forge_consensus.cli.main import Commands
from forge_consensus.cli.options import endpoints_option, output_option, timeout_option
from forge_consensus.errors import InvalidConfigError
from forge_consensus.events.encoding import to_json_line
from forge_consensus.events.types import EVENT_TYPES
from forge_consensus.feed.event_feed import EventFeed
from forge_consensus.output import event_text, moment_text

FAMILIES = {kind.split(".")[1] for kind in EVENT_TYPES}
RARE = tuple(f"{family}.*" for family in sorted(FAMILIES - {"log"}))
"""Patterns of all kinds but those of the log, as `EventFeed` takes them."""


@click.group(cls=Commands)
def events() -> None:
    """Show the events of the nodes."""


@events.command()
@endpoints_option
@timeout_option
@output_option
@click.option("--kind", "kinds", multiple=True, help="Only such events, as 'leader.*'; may be given several times.")
@click.option("--all", "everything", is_flag=True, help="Also the events of the log, which come with every write.")
@click.option(
    "--since",
    type=click.IntRange(min=0),
    help="Begin at this event number; 0 is all that is kept.",
)
@click.option("--follow", is_flag=True, help="Go on with new events; without --since, begin with them.")
@click.option("--node-only", is_flag=True, help="Only the nodes at the endpoints, not the whole cluster.")
def watch(
    endpoints: list[str],
    timeout: float,
    output: str,
    kinds: tuple[str, ...],
    everything: bool,
    since: int | None,
    follow: bool,
    node_only: bool,
) -> None:
    """Print the events of the cluster, one a line: those in the journals, or as they happen with --follow.

    Each event is printed once, in order for each node; the nodes are merged by the time of their clocks, which is
    shown in UTC. In place of events that a node no longer has stands a consensus.feed.gap. Without --kind and --all,
    the events log.* are left out, because they come with every write. Exit code 69 if no node answers; with --follow it
    goes on trying, and says so.
    """
    if kinds and everything:
        raise click.UsageError("--all shows every kind: leave out --kind or --all")
    start = since if since is not None or follow else 0
    try:
        feed = EventFeed(
            endpoints,
            kinds or (() if everything else RARE),
            start,
            scope="node" if node_only else "cluster",
            follow=follow,
            connect_seconds=timeout,
            credentials=given_credentials(),
            on_silence=lambda error: click.echo(f"{error}; still trying", err=True),
        )
    except InvalidConfigError as error:
        raise click.BadParameter(str(error), param_hint="--kind") from error
    with feed:
        for event in by_time(feed.get, HOLD_SECONDS if follow else None):
            if output == "json":
                click.echo(to_json_line(event))
            else:
                click.echo(f"{moment_text(event.time)}  {event.sequence:>8}  {event_text(event)}")
        for address in feed.silent:
            click.echo(f"{address} did not answer within {timeout:g} s: its events are missing", err=True)
