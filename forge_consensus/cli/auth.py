"""``forge-consensus auth``: who may do what on a cluster, by the list of access in its log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from forge_consensus.cli.connecting import client_of
from forge_consensus.cli.kv import hint, say
from forge_consensus.cli.main import Commands
from forge_consensus.cli.options import Duration, client_options
from forge_consensus.client.access_commands import TTL_SECONDS_MAX
from forge_consensus.client.access_records import AccessInfo, PrincipalInfo
from forge_consensus.client.access_rows import FILE, LOG, REVOKED, granted, key_rows, token_rows, user_rows
from forge_consensus.errors import InvalidConfigError
from forge_consensus.output import cell, json_text, moment_text, table
from forge_consensus.security.access import TOKEN_ID_CHARS
from forge_consensus.security.curve import KeyPair, is_key, read_key_file
from forge_consensus.security.permissions import ROLES

DAY_SECONDS = 86_400.0
Function = TypeVar("Function", bound=Callable[..., Any])


class Lifetime(Duration):
    """A time as other options take it, and in days: 90d."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        days = str(value).removesuffix("d")
        if days != str(value) and days.isdecimal():
            value = f"{int(days[:9]) * DAY_SECONDS:.0f}"
        return super().convert(value, param, ctx)


LIFETIME = Lifetime(1.0, TTL_SECONDS_MAX)
FORCE = click.option("--force", is_flag=True, help="Also if nobody with the role admin is left then.")


def grants(function: Function) -> Function:
    """Give a command the options for roles and rules."""
    role = click.option(
        "--role", "roles", multiple=True, type=click.Choice(ROLES), help="What it may do; may be given several times."
    )
    rule = click.option(
        "--rule",
        "rules",
        multiple=True,
        metavar="RULE",
        help="What it may do with the keys of a prefix: 'read app/*' or 'write app/*'; may be given several times.",
    )
    return role(rule(function))


@click.group(cls=Commands)
def auth() -> None:
    """Say who may do what: tokens, keys, and the users and members that have them.

    The list is in the cluster's log, so all nodes go by the same one. It takes the role admin.
    """


@auth.group(cls=Commands)
def token() -> None:
    """Create, list, rotate and revoke tokens, which programs show to the admin API."""


@auth.group(cls=Commands)
def key() -> None:
    """Add, list and revoke the public keys of clients and members."""


@auth.group(cls=Commands)
def user() -> None:
    """List, change and remove users and members."""


# --- tokens -----------------------------------------------------------------------------------------------------------


@token.command("create")
@click.argument("name")
@grants
@click.option("--ttl", type=LIFETIME, metavar="TIME", help="It ends after this time, such as 90d or 12h. [never]")
@client_options
def create_token(
    name: str,
    roles: tuple[str, ...],
    rules: tuple[str, ...],
    ttl: float | None,
    endpoints: list[str],
    timeout: float,
    output: str,
) -> None:
    """Make a token for NAME and print it, once: the cluster keeps a digest only.

    A user that is not there is added, with the roles and rules that are given.
    """
    with client_of(endpoints, timeout) as client:
        text = client.create_token(name, roles=roles, rules=rules, ttl=ttl)
    show_token(text, name, output)


@token.command("rotate")
@click.argument("token_id", metavar="ID")
@click.option("--ttl", type=LIFETIME, metavar="TIME", help="The new one ends after this time.")
@click.option(
    "--overlap", type=Lifetime(0.0, TTL_SECONDS_MAX), default=0.0, metavar="TIME", help="So long the old one counts."
)
@client_options
def rotate_token(
    token_id: str, ttl: float | None, overlap: float, endpoints: list[str], timeout: float, output: str
) -> None:
    """Make a token in the place of the one with this ID, and print it, once."""
    with client_of(endpoints, timeout) as client:
        text = client.rotate_token(token_id, ttl=ttl, overlap=overlap)
    show_token(text, None, output)


@token.command("revoke")
@click.argument("token_id", metavar="ID")
@FORCE
@client_options
def revoke_token(token_id: str, force: bool, endpoints: list[str], timeout: float, output: str) -> None:
    """Have all nodes refuse the token with this ID."""
    with client_of(endpoints, timeout) as client:
        differs = client.revoke_token(token_id, force=force)
    say(output, "revoked" if differs else "it was revoked before", {"id": token_id, "revoked": True, "new": differs})


@token.command("list")
@client_options
def list_tokens(endpoints: list[str], timeout: float, output: str) -> None:
    """List the tokens: their ids, whose they are, when they end, and which list says so.

    FROM is log, or file: the access file of the node that answers, which is the leader. STATE says whether a token lets
    its holder in. Where both name somebody, the log counts. Of a token that was revoked only the id is known.
    """
    with client_of(endpoints, timeout) as client:
        access = client.access()
    found, gone = token_rows(access, time.time()), revoked_rows(access, is_key=False)
    if output == "json":
        click.echo(json_text({"tokens": found, "revoked": [each for each, _ in gone]}))
        return
    lines = [
        (row["id"], cell(row["name"]), *grant_cells(row), ends_text(row["ends"]), row["state"], row["from"])
        for row in found
    ]
    lines += [(each, "-", "-", "-", "-", REVOKED, place) for each, place in gone]
    if lines:
        click.echo("\n".join(table(("ID", "NAME", "ROLES", "RULES", "ENDS", "STATE", "FROM"), lines)))
    else:
        hint("there are no tokens")


def show_token(text: str, name: str | None, output: str) -> None:
    """Print a new token alone, so that it can be piped; people are told what to do with it on stderr."""
    if output == "json":
        click.echo(json_text({"token": text, **({} if name is None else {"name": name})}))
        return
    click.echo(text)
    if sys.stdout.isatty():
        hint("keep it now: it is stored nowhere and cannot be shown again")


def ends_text(ends: float | None) -> str:
    """Return when a token ends, for people."""
    return "never" if ends is None else f"{moment_text(ends)[:-4]} UTC"


def revoked_rows(access: AccessInfo, *, is_key: bool) -> list[tuple[str, str]]:
    """Return the keys, or the ids of tokens, that were revoked, each with the list that says so."""
    lists = ((LOG, access.revoked), (FILE, access.revoked_in_file))
    return [(each, place) for place, found in lists for each in found if (len(each) != TOKEN_ID_CHARS) == is_key]


# --- keys -------------------------------------------------------------------------------------------------------------


@key.command("add")
@click.argument("name")
@click.argument("public_key", metavar="[KEY]", required=False)
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Take the public key of the pair in this file, which keygen wrote.",
)
@grants
@client_options
def add_key(
    name: str,
    public_key: str | None,
    file: Path | None,
    roles: tuple[str, ...],
    rules: tuple[str, ...],
    endpoints: list[str],
    timeout: float,
    output: str,
) -> None:
    """Admit NAME by the public KEY as well; two keys may count at a time, so that they can be exchanged.

    A user or member that is not there is added, with the roles and rules that are given; a member has the role peer.
    """
    if (public_key is None) == (file is None):
        raise click.UsageError("say which key: KEY, or --file with the file that keygen wrote")
    public = read_key_file(file).public if file is not None else str(public_key)
    with client_of(endpoints, timeout) as client:
        there = client.access().named(name) if roles or rules else None
        if there is not None and (set(there.roles), there.rules) != (set(roles), rules):
            raise InvalidConfigError(
                f"{name} is there with {describe(there)}: give no roles and rules, or change them with auth user set"
            )
        if (roles or rules) and there is None:
            differs = client.add_principal(name, roles=roles, rules=rules, keys=[public])
            hint(f"{cell(name)} is in the log now: what access files of nodes say of that name counts no more")
        else:
            differs = client.add_key(name, public)
    say(output, "added" if differs else "it was there before", {"name": name, "key": public, "new": differs})


@key.command("revoke")
@click.argument("public_key", metavar="KEY")
@FORCE
@client_options
def revoke_key(public_key: str, force: bool, endpoints: list[str], timeout: float, output: str) -> None:
    """Have all nodes refuse the public KEY, also where a node's access file lists it."""
    with client_of(endpoints, timeout) as client:
        check_public(public_key, client.access())
        differs = client.revoke_key(public_key, force=force)
    text = "revoked" if differs else "it was revoked before"
    say(output, text, {"key": public_key, "revoked": True, "new": differs})


def check_public(given: str, access: AccessInfo) -> None:
    """Raise `InvalidConfigError` for the secret key of somebody: it would be told to all, and the key count on."""
    public = KeyPair.of_secret(given).public if is_key(given) else None
    for one in (*access.principals, *access.in_file):
        if public in one.keys:
            raise InvalidConfigError(f"that is the secret key of {cell(one.name)}: name the public one, {public}")


@key.command("list")
@client_options
def list_keys(endpoints: list[str], timeout: float, output: str) -> None:
    """List the public keys, whose they are, what was revoked, and which list says so.

    FROM is log, or file: the access file of the node that answers, which is the leader. STATE says whether a key lets
    its holder in. Where both name somebody, the log counts.
    """
    with client_of(endpoints, timeout) as client:
        access = client.access()
    rows = key_rows(access)
    if output == "json":
        revoked = {"revoked": list(access.revoked), "revoked_in_file": list(access.revoked_in_file)}
        click.echo(json_text({"keys": rows, **revoked}))
        return
    lines = [(row["key"], cell(row["name"]), *grant_cells(row), row["state"], row["from"]) for row in rows]
    lines += [(each, "-", "-", "-", REVOKED, place) for each, place in revoked_rows(access, is_key=True)]
    if lines:
        click.echo("\n".join(table(("KEY", "NAME", "ROLES", "RULES", "STATE", "FROM"), lines)))
    else:
        hint("there are no keys")


# --- users ------------------------------------------------------------------------------------------------------------


@user.command("list")
@client_options
def list_users(endpoints: list[str], timeout: float, output: str) -> None:
    """List the users and members with what they may do."""
    with client_of(endpoints, timeout) as client:
        access = client.access()
    if output == "json":
        click.echo(json_text({"index": access.index, "users": user_rows(access)}))
    elif access.principals:
        rows = [
            (cell(one.name), *grant_cells(granted(one)), str(len(one.keys)), str(len(one.tokens)))
            for one in access.principals
        ]
        click.echo("\n".join(table(("NAME", "ROLES", "RULES", "KEYS", "TOKENS"), rows)))
    else:
        hint("there is nobody in the list of access of the log; auth key list shows what the access file of a node has")


@user.command("set")
@click.argument("name")
@grants
@FORCE
@client_options
def set_user(
    name: str,
    roles: tuple[str, ...],
    rules: tuple[str, ...],
    force: bool,
    endpoints: list[str],
    timeout: float,
    output: str,
) -> None:
    """Give NAME these roles and rules and no others; keys and tokens stay. A user that is not there is added."""
    with client_of(endpoints, timeout) as client:
        differs = client.add_principal(name, roles=roles, rules=rules, force=force)
    fields = {"name": name, "roles": list(roles), "rules": list(rules), "new": differs}
    say(output, "changed" if differs else "it was so before", fields)


@user.command("remove")
@click.argument("name")
@FORCE
@client_options
def remove_user(name: str, force: bool, endpoints: list[str], timeout: float, output: str) -> None:
    """Remove NAME, and revoke all of its keys and tokens."""
    with client_of(endpoints, timeout) as client:
        client.remove_principal(name, force=force)
    say(output, "removed; its keys and tokens are revoked", {"name": name, "removed": True})


def grant_cells(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return what somebody may do, as two cells of a table."""
    return joined(row["roles"]), joined(row["rules"])


def joined(texts: Iterable[str]) -> str:
    """Return texts as one cell, "-" for none."""
    return cell(", ".join(texts)) or "-"


def describe(one: PrincipalInfo) -> str:
    """Return what somebody may do as part of a sentence."""
    return f"the roles {joined(one.roles)} and the rules {joined(one.rules)}"
