"""``forge-consensus audit``: checks and shows the audit files of nodes."""

from __future__ import annotations

import string
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from forge_consensus.cli.main import Commands
from forge_consensus.cli.options import output_option
from forge_consensus.errors import FolderNotFoundError
from forge_consensus.output import json_text, printable
from forge_consensus.security.audit_chain import HASH_CHARS, NOTHING, Check, Verdict, line_in

BAD_DATA: Final = 65


@click.group(cls=Commands)
def audit() -> None:
    """Check and show the audit files of nodes (security.audit_file)."""


@audit.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--head",
    metavar="HASH",
    help="A hash that was noted elsewhere: some line must have it, else the file was cut or made anew.",
)
@output_option
@click.pass_context
def verify(ctx: click.Context, files: tuple[Path, ...], head: str | None, output: str) -> None:
    """Check that no line of FILES was changed, removed, added or moved; exit code 65 if one was.

    Files that took each other's place are given in the order in which they were written. Prints the hash of the last
    line: note it elsewhere, and give it by --head the next time, because lines that were cut off at the end are not
    noticed otherwise, and whoever can write the file can make all of it anew.
    """
    if head is not None and (len(head) != HASH_CHARS or not set(head) <= set(string.hexdigits.lower())):
        raise click.BadParameter(f"a hash has {HASH_CHARS} hexadecimal digits", param_hint="--head")
    check = Check()
    for file in files:
        try:
            with file.open("rb") as lines:
                check.file(str(file), lines)
        except OSError as error:
            raise FolderNotFoundError(f"{str(file)!r} cannot be read: {error.strerror}") from error
    found = check.verdict
    lacks_head = head is not None and head not in (found.heads or ()) and found.broken is None
    if output == "json":
        row = {**asdict(found), "holds": found.broken is None and not lacks_head}
        row.pop("heads")
        click.echo(json_text(row))
    else:
        click.echo(text_of(found))
    if lacks_head:
        click.echo(f"no line has the hash {head}: lines were cut off, or the file was made anew", err=True)
    if found.broken is not None or lacks_head:
        ctx.exit(BAD_DATA)


def text_of(found: Verdict) -> str:
    """Return what was found, for people."""
    lines = []
    if found.broken is not None:
        broken = found.broken
        lines.append(f"BROKEN: {printable(broken.file)}, line {broken.line}: {broken.why}")
    told = f" of {found.events} events" if found.events != found.records else ""
    upto = " before that" if found.broken is not None else ""
    when = f", from {found.first_time} to {found.last_time}" if found.first_time else ""
    lines.append(f"{found.records} records{told} of node {printable(found.node) or '?'} hold{upto}{when}")
    if found.missing:
        lines.append(f"{found.missing} records are missing, because the node could not write them")
    if found.torn:
        lines.append(f"{found.torn} lines were cut, as by a crash")
    if found.after != NOTHING:
        lines.append(f"continues {found.after}, the last hash of an earlier file")
    lines.append(f"head: {found.head}")
    return "\n".join(lines)


@audit.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def show(file: Path) -> None:
    """Print the records in FILE, one a line, without checking them."""
    try:
        with file.open("rb") as lines:
            for data in lines:
                line = line_in(data.removesuffix(b"\n"))
                if line is not None and line.kind == "record":
                    click.echo(printable(row_of(line.fields)))
    except OSError as error:
        raise FolderNotFoundError(f"{str(file)!r} cannot be read: {error.strerror}") from error


def row_of(fields: object) -> str:
    """Return a record as a line for people."""
    told = dict(fields) if isinstance(fields, dict) else {}
    who = told.get("who") or f"({told.get('identity')})"
    facts = [told.get("time"), told.get("outcome"), f"{told.get('count')} x" if told.get("count", 1) != 1 else ""]
    by = f" by way of {told['via']}" if told.get("via") else ""
    rest = [who, f"from {told.get('origin') or '?'}{by}:", told.get("action"), told.get("subject"), told.get("code")]
    return " ".join(str(each) for each in (*facts, *rest) if each)
