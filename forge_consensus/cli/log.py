"""``forge-consensus log``: a look at the log of a node that does not run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import msgpack

from forge_consensus.cli.main import Commands
from forge_consensus.cli.options import data_option, key_option, output_option
from forge_consensus.errors import CorruptionError
from forge_consensus.output import bytes_text, cell, json_text, moment_text, table
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends.sealed import REJOIN
from forge_consensus.storage.inspecting import ENTRIES_MAX, EntryView, LogView, inspect_log
from forge_consensus.storage.skipping import skip_entry
from forge_consensus.storage.verify import verify_folder

EXIT_DAMAGED = 65


@click.group(cls=Commands)
def log() -> None:
    """Check a node's log, look at it, or skip an entry that ends all nodes, while the nodes are stopped."""


@log.command()
@data_option
@click.option("--first", type=click.IntRange(min=1), metavar="INDEX", help="Begin here. [default: the last entries]")
@click.option(
    "--count",
    type=click.IntRange(0, ENTRIES_MAX),
    default=20,
    show_default=True,
    help="How many entries to show at the most.",
)
@click.option("--values", is_flag=True, help="Show what the entries carry, which may be anybody's data.")
@key_option
@output_option
@click.pass_context
def inspect(
    ctx: click.Context,
    data: Path,
    first: int | None,
    count: int,
    values: bool,
    key: EncryptionKey | None,
    output: str,
) -> None:
    """Show the entries of a log: term, kind, time, and the client session that sent it.

    Exit code 0, or 65 if one of them or the folder is damaged, 66 if there is no such folder, 78 if a node runs on it.
    """
    view = inspect_log(data, first, count, key)
    if output == "json":
        rows = [{**asdict(entry), "data": entry.data if values else None} for entry in view.entries]
        click.echo(json_text({**asdict(view), "entries": rows}))
    else:
        show_log(view, values=values)
    if view.damaged:
        numbers = ", ".join(map(str, view.damaged[:10]))
        click.echo(
            f"error[{CorruptionError.code}]: {len(view.damaged)} of these entries in {data} are damaged: {numbers}. "
            f"{REJOIN}",
            err=True,
        )
        ctx.exit(EXIT_DAMAGED)


def show_log(view: LogView, *, values: bool) -> None:
    """Print a log for people: a line about the node, then a line for each entry."""
    span = f"entries {view.first_index:,} to {view.last_index:,}"
    held = span if view.last_index >= view.first_index else f"no entries; the next is {view.first_index:,}"
    vote = f"voted for {view.vote}" if view.vote else "did not vote"
    click.echo(
        f"{view.node_id} of cluster {view.cluster_id}: term {view.term}, {vote}; {held}, committed at least to "
        f"{view.commit_index:,}"
    )
    head = ("INDEX", "TERM", "KIND", "TIME (UTC)", "SESSION", "NUMBER", "BYTES", "")
    if view.entries:
        for line in table(head, [entry_row(entry, values=values) for entry in view.entries]):
            click.echo(line)


def entry_row(entry: EntryView, *, values: bool) -> tuple[str, ...]:
    """An entry as the cells of a table."""
    sent = (str(entry.session), str(entry.seq)) if entry.session else ("-", "-")
    time = moment_text(entry.time_ms / 1000) if entry.time_ms else "-"
    said = cell(entry.text or (readable(entry.data) if values else ""))
    return (str(entry.index), str(entry.term), entry.kind, time, *sent, str(entry.size_bytes), said)


def readable(data: bytes) -> Any:
    """The data of an entry as a value if it is msgpack, as the clients' commands are; otherwise as it is."""
    try:
        return msgpack.unpackb(data)
    except ValueError:
        return data


@log.command()
@data_option
@key_option
@output_option
@click.pass_context
def verify(ctx: click.Context, data: Path, key: EncryptionKey | None, output: str) -> None:
    """Check every entry of a log and every snapshot beside it.

    Exit code 0 if all are whole, 65 if one is damaged, 66 if there is no such folder, 78 if a node runs on it.
    """
    report = verify_folder(data, key)
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


class Folders(click.ParamType[list[Path]]):
    """Folders of nodes, separated by commas."""

    name = "folders"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Path]:
        """Return the folders that a text names."""
        return value if isinstance(value, list) else [Path(part) for part in value.split(",") if part]


class EntryProof(click.ParamType[tuple[int, int]]):
    """Term and checksum of an entry."""

    name = "entry"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return term and checksum; anything else is wrong usage."""
        if isinstance(value, tuple):
            return value
        try:
            term, checksum = value.split(":")
            return int(term), int(checksum, 16)
        except ValueError:
            self.fail(f"{value!r} is not TERM:CHECKSUM, for example 3:9a0b1c2d", param, ctx)


@log.command()
@click.argument("index", type=click.IntRange(min=1))
@click.option(
    "--on-all", "folders", required=True, type=Folders(), metavar="FOLDER,...", help="The folders of all members."
)
@click.option(
    "--elsewhere",
    default="",
    metavar="ID,...",
    help="Members whose folders are on other machines, where the same command is run, or are lost.",
)
@click.option(
    "--entry",
    type=EntryProof(),
    metavar="TERM:CHECKSUM",
    help="The entry as this command printed it elsewhere; for the folder of a node that the entry did not end.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, say what would be done, and write nothing.")
@key_option
@output_option
def skip(
    index: int,
    folders: list[Path],
    elsewhere: str,
    entry: tuple[int, int] | None,
    dry_run: bool,
    key: EncryptionKey | None,
    output: str,
) -> None:
    """Have one entry, which ends every node that applies it, taken as a failed command on all nodes.

    All nodes are stopped. It is refused unless the entry is what ended a node, and unless the folders of all members
    are named. Its client gets an error, or keeps the one that it had.
    """
    members = [each for each in elsewhere.split(",") if each]
    report = skip_entry(index, folders, members, entry, dry_run=dry_run, key=key)
    if output == "json":
        click.echo(json_text(asdict(report)))
        return
    click.echo(
        f"entry {index} of term {report.term} with checksum {report.checksum}: {report.why or 'killed the node'}"
    )
    recorded, already = ", ".join(report.recorded) or "none", ", ".join(report.already)
    click.echo(f"{'would be skipped' if dry_run else 'is skipped now'} on: {recorded}")
    if already:
        click.echo(f"was skipped already on: {already}")
    if report.elsewhere:
        click.echo(
            f"not here: {', '.join(report.elsewhere)}. Before they are started, run there: forge-consensus log skip "
            f"{index} --on-all FOLDER --elsewhere ... --entry {report.term}:{report.checksum}"
        )
