"""``forge-consensus kv transaction``: compare, then do one thing or another, as one."""

from __future__ import annotations

from typing import Any, BinaryIO

import click

from forge_consensus.cli.connecting import client_of
from forge_consensus.cli.options import client_options
from forge_consensus.output import json_text, load_json
from forge_consensus.storage.machines.machine import Command

FIELDS = ("if", "then", "else")


@click.command()
@click.argument("file", type=click.File("rb"), default="-")
@client_options
@click.pass_context
def transaction(ctx: click.Context, file: BinaryIO, endpoints: list[str], timeout: float, output: str) -> None:
    """Carry out commands if all comparisons hold, and others if not: all or none.

    FILE (- for stdin) has one JSON object:

    \b
    {"if": [["value", "a", "==", 1], ["exists", "b", "==", false], ["modified", "a", "<", 900]],
     "then": [{"type": "set", "key": "a", "value": 2}, {"type": "delete", "key": "c"}],
     "else": [{"type": "get", "key": "a"}]}

    Compared are value, exists and lease (==, !=), created and modified (==, !=, <, >). Commands are those of kv batch.
    The result of each command that was carried out is written; exit code 1 if a comparison did not hold.
    """  # noqa: D301 - click wants the backspace itself
    command = Command("transaction", parts_of(file.read()))
    try:
        command.encode()
    except ValueError as error:
        raise click.UsageError(f"the transaction cannot be sent: {error}") from None
    with client_of(endpoints, timeout) as client:
        outcome = client.apply(command)
    if output == "json":
        click.echo(json_text(outcome))
    else:
        for result in outcome["results"]:
            click.echo(json_text(result))
    if not outcome["succeeded"]:
        click.echo("a comparison did not hold" + (", so else was carried out" if outcome["results"] else ""), err=True)
        ctx.exit(1)


def parts_of(data: bytes) -> dict[str, Any]:
    """Return the parts of a transaction. Raises `click.UsageError` for what is none; the machine checks the rest."""
    try:
        fields = load_json(data.decode())
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"the input is no JSON: {error}") from None
    if not isinstance(fields, dict) or not fields.keys() <= set(FIELDS):
        raise click.UsageError('a transaction is an object with "if", "then" and "else", as the help shows')
    for name, part in fields.items():
        if not isinstance(part, list):
            raise click.UsageError(f'"{name}" is a list, as the help shows')
    return {"if": [], "then": [], **fields}
