"""``forge-consensus context``: name clusters, and choose the one that commands ask."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import click

from forge_consensus.cli.contexts import (
    HOW_TO_ADD,
    Contexts,
    change,
    check_name,
    complete_names,
    contexts_file,
    known,
    read,
)
from forge_consensus.cli.main import CONTEXT_VARIABLE, ENDPOINTS_VARIABLE, PRECEDENCE, PROGRAM, Commands
from forge_consensus.cli.options import Endpoints, named_context, output_option
from forge_consensus.errors import InvalidConfigError
from forge_consensus.output import json_text, printable, table

HEAD: Final = ("CURRENT", "NAME", "ENDPOINTS")
HELP: Final = f"""Name clusters, and choose the one that commands ask.

A context is a name for the endpoints of a cluster, for all commands that take --endpoints. To find the cluster that a
command asks, {PRECEDENCE}.

The contexts are in $XDG_CONFIG_HOME/forge-consensus/contexts.yaml, or ~/.config/forge-consensus/contexts.yaml;
FORGE_CONSENSUS_CONTEXTS names another file. They need PyYAML, which the extra config installs.
"""

name_argument = click.argument("name", shell_complete=complete_names)


@click.group(cls=Commands, help=HELP)
def context() -> None:
    """Name clusters, and choose the one that commands ask."""


@context.command("list")
@output_option
def list_contexts(output: str) -> None:
    """List the contexts with their endpoints; the current one has a star."""
    path = contexts_file(os.environ)
    found = read(path)
    if output == "json":
        rows = [
            {"name": name, "is_current": name == found.current, "endpoints": endpoints}
            for name, endpoints in found.endpoints.items()
        ]
        click.echo(json_text({"file": str(path), "current": found.current, "contexts": rows}))
        return
    if not found.endpoints:
        click.echo(f"no contexts in {printable(str(path))}; {HOW_TO_ADD}", err=True)
        return
    marked = [("*" if name == found.current else "", name, ",".join(held)) for name, held in found.endpoints.items()]
    click.echo("\n".join(table(HEAD, marked)))
    warn_of_variables()


@context.command()
@click.argument("name", required=False, shell_complete=complete_names)
@output_option
@click.pass_context
def show(ctx: click.Context, name: str | None, output: str) -> None:
    """Show the endpoints of one context.

    Without NAME it is the one of --context, of FORGE_CONSENSUS_CONTEXT, or the current one.
    """
    path = contexts_file(os.environ)
    found = read(path)
    named = named_context(ctx)
    is_option = named is not None and named.place != CONTEXT_VARIABLE
    chosen, place = (name, "") if name is not None else named or (found.current, "")
    if chosen is None:
        raise InvalidConfigError(f"there is no current context in {path}: choose one with {PROGRAM} context use NAME")
    endpoints = known(found, chosen, path, place)
    if output == "json":
        row = {"name": chosen, "is_current": chosen == found.current, "endpoints": endpoints, "file": str(path)}
        click.echo(json_text(row))
    else:
        click.echo(f"{chosen}{' (current)' if chosen == found.current else ''}: {','.join(endpoints)}")
    if name is None and not is_option:
        warn_of_variables(but=place)


@context.command("set")
@name_argument
@click.option(
    "--endpoints",
    type=Endpoints(),
    required=True,
    metavar="HOST:PORT,...",
    help="Where the nodes of the cluster listen.",
)
def set_context(name: str, endpoints: list[str]) -> None:
    """Add a context, or give it other endpoints.

    Other contexts stay as they are, and so does the choice of the current one.
    """
    check_name(name)
    path = contexts_file(os.environ)
    found = change(path, lambda held: held.with_context(name, endpoints))
    click.echo(f"{name}: {','.join(found.endpoints[name])}")
    if found.current is None:
        click.echo(f"ask it with {PROGRAM} --context NAME, or by default after {PROGRAM} context use NAME", err=True)


@context.command()
@name_argument
def use(name: str) -> None:
    """Make a context the current one, which commands ask by default."""
    edit(name, lambda held: held.with_current(name))
    click.echo(f"{name} is the current context")
    warn_of_variables()


@context.command()
@name_argument
def remove(name: str) -> None:
    """Remove a context; if it was the current one, there is none any more."""
    left = edit(name, lambda held: held.without(name))
    click.echo(f"removed {name}" + ("; there is no current context" if left.current is None else ""))


def edit(name: str, one: Callable[[Contexts], Contexts]) -> Contexts:
    """Change the file by a context that must be in it, and return what it holds then.

    Raises `InvalidConfigError` if there is no such context, and what `change` raises.
    """
    path = contexts_file(os.environ)
    known(read(path), name, path)  # before the file's folder is made for nothing

    def checked(held: Contexts) -> Contexts:
        known(held, name, path)
        return one(held)

    return change(path, checked)


def warn_of_variables(but: str = "") -> None:
    """Say on stderr which variables win over the current context, without the one that `but` names."""
    for variable in (ENDPOINTS_VARIABLE, CONTEXT_VARIABLE):
        if variable == but:
            return
        if os.environ.get(variable):
            click.echo(f"note: {variable} is set and wins over {but or 'the current context'}", err=True)
