"""``forge-consensus kv watch``: the changes of keys, as they happen."""

from __future__ import annotations

from typing import Any

import click

from forge_consensus.cli.connecting import client_of
from forge_consensus.cli.kv import Key, described, hint
from forge_consensus.cli.options import TIMEOUT_SECONDS, Duration, endpoints_option, output_option
from forge_consensus.client.key_records import KeyChange
from forge_consensus.client.routes import INDEX_MAX
from forge_consensus.errors import ConsensusTimeoutError
from forge_consensus.output import cell, json_text, kind_text

SILENCE_SECONDS_MAX = 365 * 86_400.0


@click.command()
@click.argument("key", type=Key(), required=False)
@click.option("--prefix", type=Key(), help="All keys that begin with this, instead of KEY; say '' for all keys.")
@click.option(
    "--since",
    type=click.IntRange(0, INDEX_MAX),
    metavar="INDEX",
    help="Begin with the changes of this log entry, such as the one after an applied_index; otherwise with new ones.",
)
@click.option("--count", type=click.IntRange(1), help="End after so many changes.")
@click.option(
    "--timeout",
    type=Duration(0.001, SILENCE_SECONDS_MAX),
    metavar="TIME",
    help="End after so long without a change, such as 30s; otherwise never.",
)
@endpoints_option
@output_option
@click.pass_context
def watch(
    ctx: click.Context,
    key: str | None,
    prefix: str | None,
    since: int | None,
    count: int | None,
    timeout: float | None,
    endpoints: list[str],
    output: str,
) -> None:
    """Print the changes of KEY, or of all keys with a prefix, one a line, each once and in order.

    A line has the index of the log entry, what became of the key (put, delete, or expire if it went with its lease),
    the key and its new value. It goes on over failovers until Ctrl-C. Exit code 75 if --timeout came before --count
    changes, 1 if the changes from --since on are not kept any more.
    """
    if (key is None) == (prefix is None):
        raise click.UsageError("say what to watch: KEY or --prefix PREFIX, and not both")
    with (
        client_of(endpoints, TIMEOUT_SECONDS) as client,
        client.watch(key, prefix=prefix, since=since, timeout=timeout) as watched,
    ):
        if since is None:
            hint(f"watching from entry {watched.next_index} on; Ctrl-C ends it")
        told = 0
        for change in watched:
            click.echo(json_text(change_row(change)) if output == "json" else change_text(change))
            told += 1
            if told == count:
                return
        if count is not None:
            raise ConsensusTimeoutError(
                f"{told} of {count} changes came, and then none for {timeout:g} s: go on with --since "
                f"{watched.next_index}"
            )


def change_row(change: KeyChange) -> dict[str, Any]:
    """Return a change as JSON has it."""
    facts = {"index": change.index, "change": change.kind, "key": change.key, **described(change.value)}
    return {**facts, "created": change.created, "lease": change.lease}


def change_text(change: KeyChange) -> str:
    """Return a change as a line for people."""
    told = f"{change.index:>8}  {change.kind:<6}  {cell(change.key)}"
    return f"{told}  {kind_text(change.value)}  {cell(change.value)}" if change.kind == "put" else told
