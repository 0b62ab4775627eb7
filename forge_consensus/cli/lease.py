"""``forge-consensus lease``: leases from the shell."""

from __future__ import annotations

from typing import Any

import click

from forge_consensus.cli.connecting import client_of
from forge_consensus.cli.kv import LEASE_ID, TTL, say
from forge_consensus.cli.main import Commands
from forge_consensus.cli.options import client_options
from forge_consensus.client.key_records import LeaseInfo
from forge_consensus.client.lease_keeper import running_clock
from forge_consensus.client.leases import Lease
from forge_consensus.output import cell, json_text, table
from forge_consensus.storage.machines.machine import Command

LIST_LIMIT = 1000


@click.group(cls=Commands)
def lease() -> None:
    """Grant, keep alive and revoke leases: keys that are attached to a lease go when it ends.

    Attach a key with: kv put KEY VALUE --lease ID
    """


@lease.command()
@click.argument("ttl", type=TTL)
@client_options
def grant(ttl: float, endpoints: list[str], timeout: float, output: str) -> None:
    """Grant a lease that lives for TTL, such as 30s, and write its id."""
    with client_of(endpoints, timeout) as client:
        granted = client.lease(ttl)
    say(output, str(granted.id), {"lease": granted.id, "ttl": granted.ttl})


@lease.command(name="keep-alive")
@click.argument("lease_id", metavar="ID", type=LEASE_ID)
@click.option("--once", is_flag=True, help="Have it live for its time from now on, and end.")
@client_options
@click.pass_context
def keep_alive(
    ctx: click.Context, lease_id: int, once: bool, endpoints: list[str], timeout: float, output: str
) -> None:
    """Keep a lease alive until Ctrl-C; it then ends by itself after its time. Exit code 1 if it is lost."""
    with client_of(endpoints, timeout) as client:
        sent_at = running_clock()
        ttl = client.apply(Command("lease_keep_alive", {"lease": lease_id})) / 1000
        say(output, f"lease {lease_id} lives for {ttl:g} s", {"lease": lease_id, "ttl": ttl})
        if once:
            return
        with Lease(client, lease_id, ttl, sent_at).kept() as kept:
            click.echo("it is kept alive; Ctrl-C ends that", err=True)
            kept.lost.wait()
    click.echo(f"lease {lease_id} is lost: it was revoked, or no keep-alive was answered for {ttl:g} s", err=True)
    ctx.exit(1)


@lease.command()
@click.argument("lease_id", metavar="ID", type=LEASE_ID)
@client_options
def revoke(lease_id: int, endpoints: list[str], timeout: float, output: str) -> None:
    """End a lease now, and delete its keys."""
    with client_of(endpoints, timeout) as client:
        gone = client.apply(Command("lease_revoke", {"lease": lease_id}))
    keys = "1 key" if gone == 1 else f"{gone:,} keys"
    say(output, f"revoked, {keys} deleted", {"lease": lease_id, "deleted": gone})


@lease.command(name="list")
@click.option("--after", type=click.IntRange(0), default=0, metavar="ID", help="Only leases with higher ids.")
@click.option("--limit", type=click.IntRange(1, LIST_LIMIT), default=LIST_LIMIT, show_default=True)
@client_options
def list_leases(after: int, limit: int, endpoints: list[str], timeout: float, output: str) -> None:
    """List the leases in the order in which they were granted."""
    with client_of(endpoints, timeout) as client:
        found = client.leases(after, limit)
    if output == "json":
        click.echo(json_text({"count": len(found), "leases": [row_of(each) for each in found]}))
    elif found:
        click.echo("\n".join(lease_table(found)))
    if len(found) == limit:
        click.echo(f"there may be more than {limit}: go on with --after {found[-1].id}", err=True)
    elif not found:
        click.echo("there are no leases", err=True)


@lease.command()
@click.argument("lease_id", metavar="ID", type=LEASE_ID)
@client_options
@click.pass_context
def show(ctx: click.Context, lease_id: int, endpoints: list[str], timeout: float, output: str) -> None:
    """Show a lease and its keys; exit code 1 if there is none of that ID."""
    with client_of(endpoints, timeout) as client:
        found = client.lease_info(lease_id)
    if found is None:
        if output == "json":
            click.echo(json_text({"lease": lease_id, "found": False}))
        click.echo(f"there is no lease {lease_id}: it expired or was revoked", err=True)
        ctx.exit(1)
    if output == "json":
        click.echo(json_text({**row_of(found), "found": True, "keys": found.keys}))
    else:
        click.echo(
            "\n".join([*lease_table([found]), *(["", "its keys:"] if found.keys else []), *map(cell, found.keys)])
        )


def row_of(found: LeaseInfo) -> dict[str, Any]:
    """Return a lease as JSON has it."""
    return {"lease": found.id, "ttl": found.ttl, "left": found.left, "count": found.count}


def lease_table(found: list[LeaseInfo]) -> list[str]:
    """Return leases as the lines of a table."""
    rows = [(str(each.id), f"{each.ttl:g} s", f"{each.left:.1f} s", f"{each.count:,}") for each in found]
    return table(("LEASE", "LIVES FOR", "LEFT", "KEYS"), rows)
