"""``forge-consensus storage``: the files of a node that does not run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from forge_consensus.cli.main import Commands
from forge_consensus.cli.options import data_option, key_option, output_option
from forge_consensus.errors import AlreadyExistsError, InvalidConfigError, StorageError
from forge_consensus.output import bytes_text, json_text
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.security.encryption_key import read_encryption_key, write_encryption_key
from forge_consensus.storage.backends.folder import explain
from forge_consensus.storage.rekeying import RekeyReport, rekey_folder
from forge_consensus.storage.shrinking import compact_folder


@click.group(cls=Commands)
def storage() -> None:
    """Look after the files of a node while it is stopped."""


@storage.command()
@data_option
@key_option
@output_option
def compact(data: Path, key: EncryptionKey | None, output: str) -> None:
    """Make the file of a stopped node's tables as small as what is in it.

    The file grows when it has to and never shrinks by itself; what is free in it is used again, so this is needed only
    to give the disk back its space. It makes a copy first, for which the disk must have room.
    """
    report = compact_folder(data, key)
    if output == "json":
        click.echo(json_text(asdict(report)))
    else:
        before, after = bytes_text(report.bytes_before), bytes_text(report.bytes_after)
        click.echo(f"{report.node_id} of cluster {report.cluster_id}: the tables had {before} and now have {after}")


@storage.command(name="new-key")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def new_key(file: Path) -> None:
    """Write a new encryption key to FILE, which only its owner may read, and print the key's id.

    Keep a copy of it somewhere else: without the key the data are lost.
    """
    try:
        click.echo(write_encryption_key(file).id)
    except FileExistsError as error:
        raise AlreadyExistsError(f"{file} is there already, and a key is never overwritten: name another") from error
    except OSError as error:
        raise StorageError(f"cannot write {file}: {explain(error)}") from error


@storage.command()
@data_option
@key_option
@output_option
def encrypt(data: Path, key: EncryptionKey | None, output: str) -> None:
    """Encrypt the folder of a stopped node, which was plain until now.

    All of it is written anew. The disk may still hold what it held before, in blocks that belong to no file now.
    """
    show(rekey_folder(data, None, required(key)), output)


@storage.command()
@data_option
@key_option
@output_option
def decrypt(data: Path, key: EncryptionKey | None, output: str) -> None:
    """Make the encrypted folder of a stopped node a plain one."""
    show(rekey_folder(data, required(key), None), output)


@storage.command(name="rotate-key")
@data_option
@key_option
@click.option(
    "--new-key-file", required=True, type=click.Path(path_type=Path), help="The file with the key that it gets."
)
@output_option
def rotate_key(data: Path, key: EncryptionKey | None, new_key_file: Path, output: str) -> None:
    """Write the encrypted folder of a stopped node anew, under another key.

    A node that runs takes another key without a stop: change security.encryption_key_file and reload.
    """
    show(rekey_folder(data, required(key), read_encryption_key(new_key_file)), output)


def required(key: EncryptionKey | None) -> EncryptionKey:
    """Return the key. Raises `InvalidConfigError` if none was given."""
    if key is None:
        raise InvalidConfigError("this needs the key of the folder: give --key-file, or the node's configuration (-c)")
    return key


def show(report: RekeyReport, output: str) -> None:
    """Print what was done."""
    if output == "json":
        click.echo(json_text(asdict(report)))
        return
    before, now = (f"the key {key}" if key else "no key" for key in (report.key_before, report.key))
    click.echo(f"{report.node_id}: {report.data} had {before} and now has {now}")
