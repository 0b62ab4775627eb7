"""``forge-consensus keygen``: a pair of keys by which a node or a client proves who it is."""

from __future__ import annotations

from pathlib import Path

import click

from forge_consensus.cli.kv import say
from forge_consensus.cli.options import output_option
from forge_consensus.errors import AlreadyExistsError, StorageError
from forge_consensus.security.curve import KeyPair, read_key_file, write_key_file


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--show", is_flag=True, help="Make nothing: print the public key of the FILE that is there.")
@output_option
def keygen(file: Path | None, show: bool, output: str) -> None:
    """Make a pair of keys: FILE gets the secret one, which only you may read, and the public one is printed.

    Without FILE both are printed, for a store of secrets. Who is admitted by a public key is in the list of access:
    see 'forge-consensus auth key add'.
    """
    if show:
        if file is None:
            raise click.UsageError("say which FILE, such as: keygen --show node.key")
        public = read_key_file(file).public
        say(output, public, {"public": public})
        return
    made = KeyPair.made()
    if file is None:
        say(output, f"public {made.public}\nsecret {made.secret}", {"public": made.public, "secret": made.secret})
        return
    try:
        write_key_file(file, made)
    except FileExistsError as error:
        raise AlreadyExistsError(
            f"{str(file)!r} is there, and no key is overwritten: name another file, or remove it if nobody uses it"
        ) from error
    except OSError as error:
        raise StorageError(f"{str(file)!r} cannot be written: {error.strerror}") from error
    say(output, made.public, {"public": made.public, "file": str(file)})
