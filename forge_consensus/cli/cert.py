"""``forge-consensus cert``: an authority, the certificates that it issues, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from forge_consensus.cli.main import Commands
from forge_consensus.cli.options import output_option
from forge_consensus.config.node import is_name
from forge_consensus.errors import InvalidConfigError
from forge_consensus.output import json_text, printable
from forge_consensus.security.certificate_files import (
    AUTHORITY,
    certificate_file,
    key_file,
    read_authority,
    read_certificate,
    read_private_key,
    write_pair,
)
from forge_consensus.security.certificates import (
    AUTHORITY_DAYS,
    DAYS,
    CertificateFacts,
    Certified,
    facts_of,
    issue,
    make_authority,
    renewed,
)
from forge_consensus.security.x509_names import LOCAL

FOLDER: Final = "certs"
OVER: Final = 1
"""The exit code for a certificate that is over."""

Function = TypeVar("Function", bound=Callable[..., Any])


def folder_option(name: str, what: str) -> Callable[[Function], Function]:
    """Return an option that names a folder."""
    return click.option(
        name,
        "folder",
        type=click.Path(file_okay=False, path_type=Path),
        default=FOLDER,
        show_default=True,
        metavar="DIR",
        help=what,
    )


@click.group(cls=Commands)
def cert() -> None:
    """Make an authority, issue and renew certificates of nodes and clients, and look at them."""


@cert.command("init-ca")
@folder_option("--dir", "Where the files of the authority go; it is made if need be.")
@click.option("--name", default="forge-consensus", show_default=True, help="The authority's name.")
@click.option("--days", type=int, default=AUTHORITY_DAYS, show_default=True, help="For how many days it lasts.")
@click.option("--force", is_flag=True, help="Replace files that are there: all that the old one issued is void then.")
def init_ca(folder: Path, name: str, days: int, force: bool) -> None:
    """Make an authority: DIR/ca.crt, which everybody gets, and DIR/ca.key, which stays where it is.

    Whoever has ca.key can make a certificate for any name: keep it away from the nodes.
    It needs 'forge-consensus[crypto]'.
    """
    place = certificate_file(folder, AUTHORITY)
    made = make_authority(name, days)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_pair(made, place, replace=force)
    tell(place, made)


@cert.command("issue")
@click.argument("name")
@folder_option("--dir", "Where the files of the authority are.")
@click.option("--cluster", default="default", show_default=True, help="The id of the cluster.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    help=f"A DNS name or an IP address at which the node is reached; may be given several times. "
    f"[default: {', '.join(LOCAL)}]",
)
@click.option("--client", is_flag=True, help="It is for a client: no server may show it, and it names no host.")
@click.option("--days", type=int, default=DAYS, show_default=True, help="For how many days it lasts.")
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file of the certificate; the key goes beside it. [default: NAME.crt in the folder of the authority]",
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
def issue_command(
    name: str,
    folder: Path,
    cluster: str,
    hosts: tuple[str, ...],
    client: bool,
    days: int,
    file: Path | None,
    force: bool,
) -> None:
    """Issue a certificate with a new key for NAME, a node's id or a client's name.

    It names its holder by the URI forge-consensus://CLUSTER/NAME, which is what nodes go by. The key is mode 0600.
    """
    for what, text in (("NAME", name), ("--cluster", cluster)):
        if not is_name(text):
            raise InvalidConfigError(f"{what} is {text[:80]!r}: it must be a printable text of 1 to 128 characters")
    if client and hosts:
        raise click.UsageError("--client and --host are both given: a client is reached nowhere")
    if name == AUTHORITY and file is None:
        raise InvalidConfigError(f"{AUTHORITY}.crt is the file of the authority: give another one with --file")
    place = certificate_file(folder, name) if file is None else file
    names = () if client else hosts or LOCAL
    made = issue(read_authority(folder), cluster, name, names, days, client_only=client)
    write_pair(made, place, replace=force)
    tell(place, made)


@cert.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@folder_option("--dir", "Where the files of the authority are.")
@click.option("--days", type=int, help="For how many days they last. [default: as long as before]")
@click.option("--new-key", is_flag=True, help="Make new keys too; the present ones are kept otherwise.")
def renew(files: tuple[Path, ...], folder: Path, days: int | None, new_key: bool) -> None:
    """Replace the certificates in FILES by ones with the same names that last from now on.

    A running node takes them by itself within seconds, for the connections that begin then.
    """
    authority = read_authority(folder)
    for file in files:
        present = read_certificate(file)
        key = None if new_key else read_private_key(key_file(file))
        try:
            made = renewed(authority, present, key, days)
        except InvalidConfigError as error:
            raise InvalidConfigError(f"{str(file)!r}: {error}") from error
        write_pair(made, file, replace=True)
        tell(file, made)


@cert.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@output_option
@click.pass_context
def show(ctx: click.Context, files: tuple[Path, ...], output: str) -> None:
    """Show what the certificates in FILES say, and for how many days they last; exit code 1 if one is over."""
    now = datetime.now(UTC)
    found = [(file, read_facts(file)) for file in files]
    if output == "json":
        click.echo(json_text([json_row(file, facts, now) for file, facts in found]))
    else:
        click.echo("\n\n".join(text_of(file, facts, now) for file, facts in found))
    if any(not facts.begins <= now < facts.ends for _, facts in found):
        ctx.exit(OVER)


def read_facts(file: Path) -> CertificateFacts:
    """Return what the certificate in a file says. Raises `InvalidConfigError`."""
    data = read_certificate(file)
    try:
        return facts_of(data)
    except InvalidConfigError as error:
        raise InvalidConfigError(f"{str(file)!r}: {error}") from error


def json_row(file: Path, facts: CertificateFacts, now: datetime) -> dict[str, Any]:
    """Return what a certificate says as JSON has it."""
    told = {**asdict(facts), "begins": facts.begins.isoformat(), "ends": facts.ends.isoformat()}
    return {"file": str(file), **told, "days_left": round(facts.days_left(now), 3)}


def text_of(file: Path, facts: CertificateFacts, now: datetime) -> str:
    """Return what a certificate says as lines for people."""
    left = facts.days_left(now)
    if now < facts.begins:
        lasts = f"it is not valid before {facts.begins:%Y-%m-%d %H:%M} UTC"
    elif left <= 0:
        lasts = f"it is over since {facts.ends:%Y-%m-%d %H:%M} UTC"
    else:
        lasts = f"{left:.0f} days left, until {facts.ends:%Y-%m-%d %H:%M} UTC"
    rows = {
        "subject": facts.subject or "-",
        "issuer": facts.issuer,
        "names": ", ".join((*facts.uris, *facts.hosts)) or "-",
        "kind": "authority" if facts.is_authority else "certificate",
        "lasts": lasts,
        "sha256": facts.sha256,
    }
    return "\n".join([printable(str(file)), *(f"  {name:<8} {printable(text)}" for name, text in rows.items())])


def tell(place: Path, made: Certified) -> None:
    """Say what was written."""
    ends = facts_of(made.certificate).ends
    click.echo(f"wrote {place} and {key_file(place)}, until {ends:%Y-%m-%d}")
