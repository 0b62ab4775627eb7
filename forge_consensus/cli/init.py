"""``forge-consensus init``: asks what a node needs, and writes its commented configuration file."""

from __future__ import annotations

import shlex
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Final

import click

from forge_consensus.cli.main import PROGRAM
from forge_consensus.cli.secure_set import next_steps as steps_of_secure_set
from forge_consensus.cli.secure_set import write_secure_set
from forge_consensus.config.address import IPC, is_wildcard, parse_endpoint, takes_free_port
from forge_consensus.config.checks import CHECKS
from forge_consensus.config.example import example_text
from forge_consensus.config.given import Given, Layer
from forge_consensus.config.loading import LoadedConfig, settings_of
from forge_consensus.config.node import no_peer
from forge_consensus.config.resolving import ROWS, resolve
from forge_consensus.config.rows import parse
from forge_consensus.errors import AlreadyExistsError, FolderNotFoundError, InvalidConfigError, StorageError
from forge_consensus.storage.backends.folder import explain

STDOUT: Final = "-"
HEAD: Final = f"""\
# The configuration of one node of a forge-consensus cluster, written by {PROGRAM} init: {PROGRAM} node -c FILE
# The other nodes have the same cluster_id and the same peers, and their own node_id, bind and storage_path.
# Every setting is here. Those that are commented out have their defaults; {PROGRAM} settings explains each.
# Variables win over this file (FORGE_CONSENSUS_RAFT__HEARTBEAT_INTERVAL=250ms), and options of the command over both.
# ${{NAME}}, ${{NAME:-default}} and ${{file:/path}} stand for a variable or for what a file holds.
"""
OPTIONS: Final = {"node_id": "id", "cluster_id": "cluster", "bind": "listen", "peers": "peers", "storage_path": "data"}
"""Setting -> the option that gives it, in the order in which they are asked for."""
QUESTIONS: Final = {
    "node_id": "Id of this node, unique in the cluster",
    "cluster_id": "Id of the cluster, the same on all its nodes",
    "bind": "Where this node listens, HOST:PORT",
    "peers": "All nodes of the cluster, this one too, and where the others reach each, ID=HOST:PORT,...",
    "storage_path": "Folder of this node's data",
}
NODE_ID: Final = "n1"
CLUSTER_ID: Final = "default"
BIND: Final = "127.0.0.1:7001"

Texts = dict[str, str]
"""Setting -> the text that was given for it."""


@click.command()
@click.argument("file", default="config.yaml", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--id", "node_id", help=f"The node's id. [default: {NODE_ID}]")
@click.option("--cluster", "cluster_id", help=f"The cluster's id. [default: {CLUSTER_ID}]")
@click.option("--listen", "bind", metavar="HOST:PORT", help=f"Where the node listens. [default: {BIND}]")
@click.option("--peers", metavar="ID=HOST:PORT,...", help="All members, this node too. [default: this node alone]")
@click.option("--data", "storage_path", help="The folder of the node's data. [default: data/ID]")
@click.option("--yes", is_flag=True, help="Do not ask: take the defaults for what is not given.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option(
    "--secure", is_flag=True, help="Write keys and configurations for a whole cluster; with --nodes and --out."
)
@click.option("--nodes", metavar="ID=HOST:PORT,...", help="With --secure: all members, and where each listens.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="With --secure: the folder of the files.")
def init(
    file: str, yes: bool, force: bool, secure: bool, nodes: str | None, out: Path | None, **options: str | None
) -> None:
    """Ask what a node needs, and write its configuration to FILE.

    The file has a comment for every setting, and forge-consensus node -c FILE starts the node. What an option gives is
    not asked. A FILE of - is stdout. A file that is there is kept, unless --force is given; wrong values end with 78.

    With --secure nothing is asked: --out gets a configuration and a key for each of --nodes, and for two clients:
    admin.yaml may do everything, reader.yaml may read; commands take them by --config. What is there is not replaced.
    """
    if secure or nodes is not None or out is not None:
        secure_cluster(secure=secure, nodes=nodes, out=out, cluster=options["cluster_id"] or CLUSTER_ID)
        return
    if file != STDOUT and not force:
        refuse_existing(Path(file))
    given = {name: text.strip() for name, text in options.items() if text is not None}
    # click writes a space to stdout at every question, also where the question goes to stderr
    with redirect_stdout(sys.stderr if file == STDOUT else sys.stdout):
        texts = taken(given) if yes else asked(given)
    config = checked(texts)
    text = example_text(HEAD, values_of(texts, config))
    if file == STDOUT:
        click.echo(text, nl=False)
    else:
        write(Path(file), text, force=force)
    steps = next_steps(file, texts, config)
    click.echo("\n".join(steps if file == STDOUT else [f"wrote {file}", *steps]), err=file == STDOUT)


def secure_cluster(*, secure: bool, nodes: str | None, out: Path | None, cluster: str) -> None:
    """Write the files of a secure cluster, and say what to do with them. Raises click's `UsageError` without all."""
    if not secure or not nodes or out is None:
        raise click.UsageError("--secure, --nodes ID=HOST:PORT,... and --out DIR belong together: give all three")
    members = parse(ROWS["peers"], nodes)
    ROWS["peers"].check(members)
    for node, address in members.items():
        settings_of(resolve([Layer([Given("node_id", node, "--nodes"), Given("bind", address, "--nodes")])]))
    paths = write_secure_set(members, cluster, out)
    click.echo("\n".join([f"wrote {len(paths)} files to {out}", *steps_of_secure_set(members, out)]))


# --- the values ------------------------------------------------------------------------------------------------------


def default_of(name: str, texts: Mapping[str, str]) -> str:
    """Return the default of a setting, which may follow from those before it."""
    if name == "peers":
        host, _, port = texts["bind"].rpartition(":")
        address = f"{reachable_host()}:{port}" if is_wildcard(texts["bind"]) else f"{host}:{port}"
        return f"{texts['node_id']}={address}"
    return {"node_id": NODE_ID, "cluster_id": CLUSTER_ID, "bind": BIND}.get(name) or f"data/{texts['node_id']}"


def reachable_host() -> str:
    """Return the name of this host, if an address can have it."""
    name = socket.gethostname()
    try:
        parse_endpoint(f"{name}:1")
    except InvalidConfigError:
        return "127.0.0.1"
    return name


def taken(given: Mapping[str, str]) -> Texts:
    """Return what was given, and the defaults for the rest. Raises `InvalidConfigError`."""
    texts: Texts = {}
    for name in OPTIONS:
        texts[name] = given[name] if name in given else default_of(name, texts)
        check(name, texts)
    return texts


def asked(given: Mapping[str, str]) -> Texts:
    """Return what was given, and the answers to questions for the rest. Raises `InvalidConfigError` for the former."""
    texts: Texts = {}
    for name, question in QUESTIONS.items():
        if name in given:
            texts[name] = given[name]
            check(name, texts)
        else:
            texts[name] = answer(question, default_of(name, texts), partial(checked_answer, name, texts))
    return texts


def answer(question: str, default: str, convert: Callable[[str], str]) -> str:
    """Ask a question on stderr until the answer can be used; `convert` raises click's `UsageError` for one that cannot.

    Raises click's `UsageError` where nobody answers.
    """
    try:
        text: str = click.prompt(question, default=default, value_proc=convert, err=True)
    except click.Abort as abort:
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise
        raise click.UsageError("nobody answers here: add --yes to take the defaults; nothing was written") from None
    return text


def checked_answer(name: str, texts: Mapping[str, str], text: str) -> str:
    """Return an answer. Raises click's `UsageError`, which has it asked again."""
    try:
        check(name, {**texts, name: text.strip()})
    except InvalidConfigError as error:
        raise click.UsageError(str(error)) from error
    return text.strip()


def check(name: str, texts: Mapping[str, str]) -> None:
    """Check one value, and that it fits to those before it. Raises `InvalidConfigError`."""
    if not texts[name]:
        raise InvalidConfigError(f"{name} is empty: give a value")
    value = parse(ROWS[name], texts[name])
    ROWS[name].check(value)
    if name in CHECKS:
        CHECKS[name](value)
    if name == "bind" and takes_free_port(value):
        raise InvalidConfigError(f"bind is {value}: nobody would know which port the node took, so give it a port")
    if name == "peers" and texts["node_id"] not in value:
        raise no_peer(texts["node_id"], value)


def checked(texts: Mapping[str, str]) -> LoadedConfig:
    """Return what a loader makes of the values. Raises `InvalidConfigError` for those that do not fit together."""
    return settings_of(resolve([Layer([Given(name, text, f"--{OPTIONS[name]}") for name, text in texts.items()])]))


def values_of(texts: Mapping[str, str], config: LoadedConfig) -> dict[str, str | Mapping[str, str]]:
    """Return the values as the file has them: the members as a map."""
    return {**texts, "peers": config.node.peers}


# --- the file --------------------------------------------------------------------------------------------------------


def refuse_existing(file: Path) -> None:
    """Raise `AlreadyExistsError` for a file that is there."""
    if file.exists() or file.is_symlink():
        raise AlreadyExistsError(f"{file} is there already: name another file, or replace it with --force")


def write(file: Path, text: str, *, force: bool) -> None:
    """Write the file. Raises `AlreadyExistsError`, `FolderNotFoundError`, or `StorageError` if the disk refuses."""
    made = False
    try:
        with file.open("w" if force else "x", encoding="utf-8") as stream:
            made = not force
            stream.write(text)
    except FileExistsError:
        refuse_existing(file)
        raise
    except FileNotFoundError as error:
        raise FolderNotFoundError(f"there is no folder {file.parent}: make it first, or name another file") from error
    except OSError as error:
        if made:
            with suppress(OSError):
                file.unlink()
        raise StorageError(f"{file} cannot be written: {explain(error)}") from error


# --- what to do next -------------------------------------------------------------------------------------------------


def next_steps(file: str, texts: Mapping[str, str], config: LoadedConfig) -> list[str]:
    """Return the commands that start every node of the cluster, one line each."""
    own, peers = config.node.node_id, config.node.peers
    lines = [f"start {own}:", f"  {command('node', '-c', 'FILE' if file == STDOUT else file)}"]
    for node, address in peers.items():
        if node != own:
            other = f"{node}.yaml"
            given = ["--id", node, "--cluster", config.node.cluster_id, "--listen", listens(config.node.bind, address)]
            given += ["--peers", ",".join(f"{name}={place}" for name, place in peers.items())]
            given += ["--data", folder_of(node, own, texts["storage_path"])]
            lines += [
                f"on the host of {node}:",
                f"  {command('init', other, '--yes', *given)}",
                f"  {command('node', '-c', other)}",
            ]
    return [*lines, "see whether they serve:", f"  {command('status', '--endpoints', ','.join(peers.values()))}"]


def command(*words: str) -> str:
    """Return a command of this program as a shell reads it."""
    return shlex.join([PROGRAM, *words])


def listens(own: str, address: str) -> str:
    """Return where another node listens: at all addresses of its host if this one does so, else where it is reached."""
    if is_wildcard(own) and not address.startswith(IPC):
        return f"{own.rpartition(':')[0]}:{address.rpartition(':')[2]}"
    return address


def folder_of(node: str, own: str, folder: str) -> str:
    """Return a folder for another node: beside that of this one, because they may share a host."""
    path = Path(folder)
    return str(path.with_name(node if path.name == own else f"{path.name}-{node}")) if path.name else f"{folder}{node}"
