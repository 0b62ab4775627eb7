"""``forge-consensus snapshot``: backups of the cluster's state, and new clusters made of them."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import click

from forge_consensus.cli.connecting import client_of
from forge_consensus.cli.main import Commands
from forge_consensus.cli.options import client_options, endpoints_option, key_option, output_option
from forge_consensus.cli.progress import ProgressLine
from forge_consensus.client.backup import SAVE_SECONDS, SnapshotTaken
from forge_consensus.config.address import bind_address, takes_free_port
from forge_consensus.config.node import NodeSettings, checked_peers, is_node_id, no_peer
from forge_consensus.config.rows import parse
from forge_consensus.config.setting import describe
from forge_consensus.errors import ConsensusError, InvalidConfigError
from forge_consensus.finite_range import FiniteRange
from forge_consensus.output import bytes_text, json_text, table
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.security.encryption_key import read_encryption_key
from forge_consensus.service.machines import MachineChoice
from forge_consensus.storage.machines.machine import LedgerMachine
from forge_consensus.storage.rekeying import reencrypt_snapshot
from forge_consensus.storage.restoring import inspect_snapshot, restore_snapshot


@click.group(cls=Commands)
def snapshot() -> None:
    """Take, save and look at snapshots of the state, and restore one into a new cluster."""


def patient_option(function: Any) -> Any:
    """Give a command the option ``--timeout`` with a time that a large state takes."""
    return click.option(
        "--timeout",
        type=FiniteRange(min=0, min_open=True),
        default=SAVE_SECONDS,
        show_default=True,
        help="Seconds after which the command gives up; a leader is looked for at most 5.",
    )(function)


key_file_option = click.option(
    "--key-file", type=click.Path(path_type=Path), help="The file with the key of the node, if it encrypts its disk."
)
from_option = click.option(
    "--from", "source", metavar="HOST:PORT", help="The node to ask. [default: one of the endpoints]"
)


@snapshot.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@click.option("--stale", is_flag=True, help="Take what the node itself has; it works without a leader.")
@from_option
@endpoints_option
@patient_option
@key_file_option
@output_option
def save(
    file: Path,
    force: bool,
    stale: bool,
    source: str | None,
    endpoints: list[str],
    timeout: float,
    key_file: Path | None,
    output: str,
) -> None:
    """Save a backup of the state to FILE: a snapshot from any node, checked to its last byte and durable.

    Everything that the leader had committed when the command began is in it. A node that encrypts its disk gives the
    file as it is, under the node's key; with --key-file what is in it is checked.
    """
    key = None if key_file is None else read_encryption_key(key_file)
    with client_of(endpoints) as client, ProgressLine(client) as line:
        line.write("waiting for a node's snapshot")
        backup, endpoint = client.backup(timeout), client.endpoint_name(source)
        report = client.carry_out(backup.save(file, endpoint, stale=stale, force=force, progress=line.arrived, key=key))
    if output == "json":
        click.echo(json_text(asdict(report)))
    else:
        known = [bytes_text(report.size_bytes)]
        known += [f"sha256 {report.sha256[:16]}..."] if report.sha256 else []
        known += [f"encrypted with the key {report.key_id}"] if report.key_id else []
        click.echo(
            f"saved cluster {report.cluster} as of entry {report.index} of term {report.term}: {', '.join(known)}, in "
            f"{report.file}"
        )


@snapshot.command()
@from_option
@endpoints_option
@click.option("--no-wait", is_flag=True, help="Return when the node has begun.")
@patient_option
@output_option
def take(source: str | None, endpoints: list[str], no_wait: bool, timeout: float, output: str) -> None:
    """Have a node take a snapshot now, and cut its log behind it."""
    with client_of(endpoints) as client:
        if no_wait:
            node, index = client.carry_out(client.backup(timeout).begin(client.endpoint_name(source)))
            told = {"node": node, "min_index": index, "waited": False}
            text = f"{node} takes a snapshot as of entry {index} or later: snapshot list shows it when it is durable"
            click.echo(json_text(told) if output == "json" else text)
            return
        taken = client.snapshot(source, timeout)
    if output == "json":
        click.echo(json_text(asdict(taken)))
    else:
        size = bytes_text(taken.size_bytes)
        click.echo(f"{taken.node} has a snapshot as of entry {taken.index} of term {taken.term}: {size}")


@snapshot.command(name="list")
@client_options
def list_snapshots(endpoints: list[str], timeout: float, output: str) -> None:
    """List the snapshot files of all members that answer, the newest first."""
    silent: list[str] = []
    rows: list[SnapshotTaken] = []
    with client_of(endpoints, timeout=timeout) as client:
        for member in client.members().members:
            try:
                rows += client.snapshots(member.address)
            except ConsensusError as error:
                silent.append(f"{member.id} did not tell: {error}")
    if output == "json":
        click.echo(json_text([asdict(row) for row in rows]))
    else:
        found = [(row.node, f"{row.index:,}", str(row.term), bytes_text(row.size_bytes)) for row in rows]
        for line in table(("NODE", "INDEX", "TERM", "SIZE"), found):
            click.echo(line)
    for text in silent:
        click.echo(f"! {text}", err=True)


@snapshot.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@key_option
@output_option
def inspect(file: Path, key: EncryptionKey | None, output: str) -> None:
    """Read the snapshot FILE to its end, and say what is in it.

    Exit code 65 if it is damaged or no snapshot, 66 if it is missing.
    """
    report = inspect_snapshot(file, key)
    if output == "json":
        click.echo(json_text(asdict(report)))
        return
    when = datetime.fromtimestamp(report.time_ms / 1000, UTC).isoformat(timespec="seconds")
    version = f", version {report.machine_version}" if report.machine_version else ""
    for name, text in (
        ("entry", f"{report.index:,} of term {report.term}, written at {when}"),
        ("cluster", report.cluster or "not written down"),
        ("members", report.configuration),
        ("machine", report.machine + version),
        ("sessions", f"{report.sessions:,}"),
        ("size", f"{bytes_text(report.size_bytes)} in {report.chunks:,} chunks"),
        ("sha256", report.sha256),
        *((("key", report.key_id),) if report.key_id else ()),
    ):
        click.echo(f"{name:9} {text}")
    click.echo("whole     every checksum fits")


@snapshot.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--new-key-file", type=click.Path(path_type=Path), help="The file with the key of TARGET.")
@click.option("--plain", is_flag=True, help="Instead of --new-key-file: TARGET is not encrypted.")
@click.option("--force", is_flag=True, help="Replace TARGET if it is there.")
@key_option
def reencrypt(
    file: Path, target: Path, new_key_file: Path | None, plain: bool, force: bool, key: EncryptionKey | None
) -> None:
    """Write the snapshot FILE to TARGET under another key, with which it can be sent elsewhere."""
    reencrypt_snapshot(file, target, key, new_key(new_key_file, plain=plain), force=force)
    click.echo(f"wrote {target}")


def new_key(new_key_file: Path | None, *, plain: bool) -> EncryptionKey | None:
    """Return the key of the new file. Raises `InvalidConfigError` unless there is one, or none is wanted."""
    if plain == (new_key_file is not None):
        raise InvalidConfigError("say what the new file is to be: give --new-key-file FILE, or --plain")
    return None if new_key_file is None else read_encryption_key(new_key_file)


@snapshot.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--id", "node_id", required=True, help="The node's id, unique in the new cluster.")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The node's folder; it is made, or is empty.",
)
@click.option(
    "--peers",
    metavar="ID=HOST:PORT,...",
    default="",
    help="All members of the new cluster, this node too; the same for each of them.",
)
@click.option("--listen", metavar="HOST:PORT", help="Instead of --peers: where the only member of the new cluster is.")
@click.option("--cluster", default="", help="The name of the new cluster. [default: that of the old one]")
@click.option(
    "--token",
    default="",
    help="Any text, the same for each member: it tells this restore from an earlier one of the same file and peers.",
)
@click.option(
    "--machine",
    default="",
    metavar="MODULE:CLASS",
    help="The state machine, only if it is one of your own that keeps its state in the ledger.",
)
@click.option(
    "--file-key-file",
    type=click.Path(path_type=Path),
    help="The file with the encryption key of FILE, if it is another one than that of the node.",
)
@key_option
@output_option
def restore(
    file: Path,
    node_id: str,
    data: Path,
    peers: str,
    listen: str | None,
    cluster: str,
    token: str,
    machine: str,
    file_key_file: Path | None,
    key: EncryptionKey | None,
    output: str,
) -> None:
    """Make the folder of a node of a new cluster, which begins with the state in the snapshot FILE.

    Run it once for each member, with the same file and --peers, and start the nodes. The new cluster has an id of its
    own: no node of the old one can join it by mistake. With a key the folder is encrypted under it.
    """
    kind = cast("type[LedgerMachine]", MachineChoice(machine).kind) if machine else None
    done = restore_snapshot(
        file,
        data,
        node_id,
        members_of(node_id, peers, listen),
        new_text=lambda: secrets.token_hex(8),
        cluster=cluster,
        token=token,
        machine=kind,
        key=key,
        file_key=None if file_key_file is None else read_encryption_key(file_key_file),
    )
    if output == "json":
        click.echo(json_text(asdict(done)))
        return
    count = f"{len(done.members)} members" if len(done.members) > 1 else "1 member"
    click.echo(f"{done.node_id} of cluster {done.cluster}, {count}, begins at entry {done.index} in {done.data}")


def members_of(node_id: str, peers: str, listen: str | None) -> dict[str, str]:
    """Return the members of a new cluster, address by id. Raises `InvalidConfigError` for what cannot be."""
    if bool(peers) == bool(listen):
        raise InvalidConfigError("name all members of the new cluster with --peers, or with --listen a cluster of one")
    if not is_node_id(node_id):
        raise InvalidConfigError(f"{node_id!r} cannot be a node's id, which is a word such as n1")
    if listen:
        if takes_free_port(listen):
            raise InvalidConfigError("port 0 is another port at each start: name the one that the node will have")
        return {node_id: bind_address(listen)}
    setting = next(each for each in describe(NodeSettings) if each.name == "peers")
    given: dict[str, Any] = parse(setting, peers)
    if node_id not in given:
        raise no_peer(node_id, given)
    return checked_peers(given)
