"""``forge-consensus settings``: every setting of nodes and clients, with its default and the reason for it."""

from __future__ import annotations

import textwrap
from dataclasses import MISSING
from typing import Any, Final

import click

from forge_consensus.cli.options import output_option
from forge_consensus.config.client import ClientSettings
from forge_consensus.config.example import default_text
from forge_consensus.config.node import NodeSettings
from forge_consensus.config.program import ProgramSettings
from forge_consensus.config.rows import unknown
from forge_consensus.config.setting import Setting, describe
from forge_consensus.output import json_text, table

HEAD: Final = ("NAME", "DEFAULT", "UNIT", "RELOAD")
WIDTH_CHARS: Final = 110


@click.command()
@click.argument("text", default="")
@output_option
def settings(text: str, output: str) -> None:
    """List the settings, all of them or those whose name contains TEXT, such as raft or heartbeat.

    RELOAD says when a changed value takes effect: founding at the first start of a new cluster only, restart at a
    node's next start, hot at once. Set them with an option of forge-consensus node, with its --set NAME=VALUE, in a
    file or by a variable; those of clients, which begin with client., are given to the client.
    """
    rows = (*describe(NodeSettings), *describe(ProgramSettings), *describe(ClientSettings))
    chosen = [row for row in rows if text in row.name]
    if not chosen:
        raise unknown(text, (row.name for row in rows))
    if output == "json":
        click.echo(json_text([fields_of(row) for row in chosen]))
        return
    head, *lines = table(HEAD, [cells_of(row) for row in chosen])
    click.echo(head)
    for line, row in zip(lines, chosen, strict=True):
        click.echo(line)
        for sentence in (row.described.what, f"Default: {row.described.why}"):
            click.echo(textwrap.fill(sentence, WIDTH_CHARS, initial_indent="    ", subsequent_indent="    "))


def cells_of(row: Setting) -> tuple[str, ...]:
    """Return a setting's line of the table."""
    return (row.name, default_text(row), row.described.unit or row.kind, row.described.reload)


def fields_of(row: Setting) -> dict[str, Any]:
    """Return everything that is known of a setting, for JSON."""
    described = row.described
    return {
        "name": row.name,
        "type": row.kind,
        "default": None if row.default is MISSING else row.default,
        "required": row.default is MISSING,
        "unit": described.unit,
        "minimum": described.minimum,
        "maximum": described.maximum,
        "reload": described.reload,
        "what": described.what,
        "why": described.why,
        "original": described.original,
    }
