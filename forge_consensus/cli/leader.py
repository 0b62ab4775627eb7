"""``forge-consensus leader``: who leads, and handing the leadership over."""

from __future__ import annotations

import click

from forge_consensus.cli.connecting import client_of
from forge_consensus.cli.main import Commands
from forge_consensus.cli.options import client_options
from forge_consensus.cli.progress import ProgressLine
from forge_consensus.output import json_text


@click.group(cls=Commands)
def leader() -> None:
    """Show who leads, or have the leader hand over to another voter."""


def tell(output: str, **facts: object) -> None:
    """Print facts as JSON, or who leads as a line."""
    if output == "json":
        click.echo(json_text(facts))
    else:
        click.echo(f"{facts['leader']} leads in term {facts['term']}")


@leader.command()
@client_options
def show(endpoints: list[str], timeout: float, output: str) -> None:
    """Show which node leads, in which term."""
    with client_of(endpoints, timeout=timeout) as client:
        located = client.locate()
    tell(output, leader=located.leader, address=located.address, term=located.term)


def hand_over(target: str, endpoints: list[str], timeout: float, output: str, *, no_wait: bool) -> None:
    """Hand the leadership over, and say who leads then."""
    with client_of(endpoints, timeout=timeout) as client:
        with ProgressLine(client) as line:
            line.write(f"handing over to {target or 'the best voter'}, which gets the rest of the log")
            client.carry_out(client.transfer_steps(target, None, wait=not no_wait, progress=line.follow))
        if no_wait:
            return
        located = client.locate()
    tell(output, leader=located.leader, address=located.address, term=located.term)


@leader.command()
@click.argument("node")
@click.option("--no-wait", is_flag=True, help="Do not wait until it leads.")
@client_options
def transfer(node: str, no_wait: bool, endpoints: list[str], timeout: float, output: str) -> None:
    """Have the voter NODE lead; it catches up first, and clients lose nothing."""
    hand_over(node, endpoints, timeout, output, no_wait=no_wait)


@leader.command()
@click.option("--no-wait", is_flag=True, help="Do not wait until another node leads.")
@client_options
def stepdown(no_wait: bool, endpoints: list[str], timeout: float, output: str) -> None:
    """Have the leader hand over to the best voter: it has all that is committed, and the highest priority."""
    hand_over("", endpoints, timeout, output, no_wait=no_wait)
