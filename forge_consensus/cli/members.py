"""``forge-consensus members``: who belongs to the cluster, and changes of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import click

from forge_consensus.actors.messages import MembersPlanned
from forge_consensus.cli.connecting import client_of
from forge_consensus.cli.main import Commands
from forge_consensus.cli.options import TIMEOUT_SECONDS, client_options, endpoints_option, output_option
from forge_consensus.cli.progress import ProgressLine
from forge_consensus.client.members import ClusterMembers, Member, MembersPlan, Step
from forge_consensus.client.steps import Steps
from forge_consensus.client.sync import Client
from forge_consensus.finite_range import FiniteRange
from forge_consensus.output import json_text, table
from forge_consensus.storage.ledger.changes import Action, Change, steps
from forge_consensus.storage.ledger.configuration import Configuration

CHANGE_SECONDS: Final = 600.0
"""How long a change that is begun may take by default: a new member has to get the whole state."""
HEAD: Final = ("NODE", "PART", "LEADS", "ADDRESS")


class NamedNode(click.ParamType[tuple[str, str]]):
    """A node's id and its address."""

    name = "ID=HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return id and address; anything else is wrong usage."""
        if isinstance(value, tuple):
            return value
        node, equals, address = str(value).partition("=")
        if not (node and equals and address):
            self.fail(f"{value!r} is not ID=HOST:PORT, for example n4=10.0.0.4:7000", param, ctx)
        return node, address


@click.group(cls=Commands)
def members() -> None:
    """List the members of the cluster, and add, remove, promote, demote, replace or move them."""


def part_text(part: str, *, joining: bool) -> str:
    """Return a member's part for people."""
    return f"{part} (votes once it has caught up)" if joining else part


def leads_text(member: Member) -> str:
    """Return whether a member is to lead, for people."""
    return f"priority {member.priority}" if member.may_lead else "never"


def show_members(found: ClusterMembers) -> None:
    """Print the members as a table."""
    rows = [
        (
            each.id + ("*" if each.id == found.leader else ""),
            part_text(each.part, joining=each.joining),
            leads_text(each),
            each.address,
        )
        for each in found.members
    ]
    for line in table(HEAD, rows):
        click.echo(line)
    if not found.settled:
        click.echo(f"a change is under way, as {found.node} sees it")


def step_text(step: Step) -> str:
    """Return a step for people: who votes, and how many of them are a quorum."""
    voters = ", ".join(
        each.id + (" (leaving)" if each.part == "leaving" else "") for each in step.members if is_voter(each.part)
    )
    learners = ", ".join(each.id for each in step.members if not is_voter(each.part))
    both = ", a majority of the voters before and of those after" if step.joint else ""
    return f"{step.required} of {step.voters} voters ({voters}){both}" + (f", learners {learners}" if learners else "")


def is_voter(part: str) -> bool:
    """Whether a member with this part votes."""
    return part != "learner"


def show_plan(plan: MembersPlan, *, dry_run: bool) -> None:
    """Print what a change does, or did, to the quorum."""
    click.echo(f"before: {step_text(plan.before)}")
    for step in plan.steps if plan.after != plan.steps[-1] else plan.steps[:-1]:
        click.echo(f"during: {step_text(step)}")
    click.echo(f"after:  {step_text(plan.after)}")
    if dry_run:
        click.echo("nothing was changed")


@members.command(name="list")
@client_options
def list_members(endpoints: list[str], timeout: float, output: str) -> None:
    """List the members with their part and address, as the leader knows them."""
    with client_of(endpoints, timeout=timeout) as client:
        found = client.members()
    if output == "json":
        click.echo(json_text(asdict(found)))
    else:
        show_members(found)


def change_options(function: Any) -> Any:
    """Give a command the options of every command that changes members."""
    for option in (
        click.option("--no-wait", is_flag=True, help="Do not wait until the change is complete."),
        click.option("--force", is_flag=True, help="Change even if those that answer now would be no quorum."),
        click.option("--dry-run", is_flag=True, help="Only say what the change would do."),
    ):
        function = option(function)
    patient = click.option(
        "--timeout",
        type=FiniteRange(min=0, min_open=True),
        envvar="FORGE_CONSENSUS_TIMEOUT",
        help="Seconds after which the command gives up, all in all; what is begun goes on. "
        f"[default: {TIMEOUT_SECONDS:g} until it is begun, and {CHANGE_SECONDS:g} until it is complete]",
    )
    return endpoints_option(patient(output_option(function)))


def change(
    changes: Sequence[Change],
    *,
    endpoints: list[str],
    timeout: float | None,
    output: str,
    no_wait: bool,
    force: bool,
    dry_run: bool,
) -> None:
    """Make a change, wait for it, and say what it did."""
    patience = CHANGE_SECONDS if timeout is None else None
    with client_of(endpoints, timeout=timeout or TIMEOUT_SECONDS) as client, ProgressLine(client) as line:
        plan = client.carry_out(
            client.change_steps(
                changes,
                timeout,
                force=force,
                dry_run=dry_run,
                wait=not no_wait,
                patience=patience,
                progress=line.look,
            )
        )
    tell_plan(plan, output, dry_run=dry_run)


def tell_plan(plan: MembersPlan, output: str, *, dry_run: bool) -> None:
    """Print what a change does, or did, for people or for programs."""
    if output == "json":
        click.echo(json_text({**asdict(plan), "after": asdict(plan.after)}))
    else:
        show_plan(plan, dry_run=dry_run)


@members.command()
@click.argument("node", type=NamedNode())
@click.option("--learner", is_flag=True, help="Let it stay a learner, which has the log and does not vote.")
@change_options
def add(node: tuple[str, str], learner: bool, **options: Any) -> None:
    """Add a node, which was started with --join; it votes once it has caught up."""
    change([Change(Action.ADD_LEARNER if learner else Action.ADD, *node)], **options)


@members.command()
@click.argument("node")
@change_options
def remove(node: str, **options: Any) -> None:
    """Remove the member NODE; if it leads, it leads until that is committed."""
    change([Change(Action.REMOVE, node)], **options)


@members.command()
@click.argument("node")
@change_options
def promote(node: str, **options: Any) -> None:
    """Let the learner NODE vote, once it has almost all of the log."""
    change([Change(Action.PROMOTE, node)], **options)


@members.command()
@click.argument("node")
@change_options
def demote(node: str, **options: Any) -> None:
    """Let the voter NODE be a learner, which has the log and does not vote."""
    change([Change(Action.DEMOTE, node)], **options)


@members.command()
@click.argument("node")
@click.option("--address", metavar="HOST:PORT", help="Where the member is reached from now on.")
@click.option("--priority", type=int, help="How much it is preferred as the leader; 0 is usual, the highest leads.")
@click.option("--no-leader/--may-lead", "unwilling", default=None, help="Whether it never leads, though it votes.")
@change_options
def update(node: str, address: str | None, priority: int | None, unwilling: bool | None, **options: Any) -> None:
    """Tell the cluster of the member NODE's address, or how much it is to lead."""
    changes = [] if address is None else [Change(Action.UPDATE, node, address)]
    if priority is not None:
        changes.append(Change(Action.PRIORITY, node, str(priority)))
    if unwilling is not None:
        changes.append(Change(Action.NO_LEADER if unwilling else Action.MAY_LEAD, node))
    if not changes:
        raise click.UsageError("nothing is to be updated: give --address, --priority, --no-leader or --may-lead")
    change(changes, **options)


def planned_replacement(
    client: Client, first: list[Change], second: list[Change], timeout: float | None, *, force: bool
) -> Steps[MembersPlan]:
    """What a replacement would do, whose second change the leader cannot plan before the first one is made."""
    told: MembersPlanned = yield client.change_query(first or second, timeout, force=force, dry_run=True)
    if not first:
        return MembersPlan.of(told)
    before, *path = map(Configuration.decode, told.configurations)
    path += steps(path[-1], second)
    return MembersPlan(0, Step.of(before), tuple(map(Step.of, path)))


@members.command()
@click.argument("old")
@click.argument("new", type=NamedNode())
@change_options
def replace(old: str, new: tuple[str, str], **options: Any) -> None:
    """Put the node NEW, which was started with --join, in the place of the member OLD.

    The new node catches up as a learner first; then both change in one step. The same command goes on with a
    replacement that was left in between, for example because the time was up. With --no-wait the command still waits
    until the new node is a learner that has caught up, because the change of both is refused before that.
    """
    second = [Change(Action.PROMOTE, new[0]), Change(Action.REMOVE, old)]
    with client_of(options["endpoints"], timeout=options["timeout"] or TIMEOUT_SECONDS) as client:
        present = client.members().members
        learns = any((each.id, each.address, each.part) == (*new, "learner") for each in present)
        first = [] if learns else [Change(Action.ADD_LEARNER, *new)]
        if options["dry_run"]:
            planned = planned_replacement(client, first, second, options["timeout"], force=options["force"])
            tell_plan(client.carry_out(planned), options["output"], dry_run=True)
            return
    if first:
        change(first, **{**options, "no_wait": False})
    change(second, **options)
