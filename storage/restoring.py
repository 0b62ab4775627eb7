"""Restoring: makes a node's folder of a snapshot file, as a member of a new cluster that begins with its state.

The commands `forge-consensus snapshot inspect` and `snapshot restore` are this module; a program can call its functions
itself.

The nodes of the new cluster are made one by one, each from the same file with the same list of members, and must come
out as one cluster without talking to each other. So the cluster's id follows from the file, the list, and a token that
the operator may give (the model is etcd's `--initial-cluster-token`). A cluster of one agrees with nobody, and draws
its own. Everything else that must be equal is in the configuration that the snapshot is given.

Clients' sessions are left behind: a client is bound to the id of its cluster, so none can go on with a session of
before, and a command that was acknowledged before the backup is never applied again by a client's repetition.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, cast

import msgpack

from forge_consensus.config.cluster_id import made_anew, name_of, token_of
from forge_consensus.errors import (
    AlreadyExistsError,
    CorruptionError,
    FolderNotFoundError,
    InvalidConfigError,
    StorageError,
)
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends.encrypted_file import FileKeys, OneKey, key_id_of
from forge_consensus.storage.backends.folder import Folder, explain
from forge_consensus.storage.backends.folder_tables import open_tables
from forge_consensus.storage.backends.tables import Batch, Tables
from forge_consensus.storage.ledger.applying import Point, point_of, put_point
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.identity import FORMAT, IDENTITY, INITIAL, MACHINE
from forge_consensus.storage.ledger.ledger import BASE, HARD
from forge_consensus.storage.ledger.skips import put_skips, skips_of
from forge_consensus.storage.ledger.transaction import put_meta
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import LedgerMachine
from forge_consensus.storage.machines.naming import BUILT_IN
from forge_consensus.storage.machines.naming import name_of as name_of_machine
from forge_consensus.storage.machines.session_rows import ID_BYTES, rows_in_chunk
from forge_consensus.storage.snapshots.file import (
    SnapshotInfo,
    SnapshotReader,
    open_snapshot,
    read_chunks,
    write_snapshot,
)
from forge_consensus.storage.snapshots.origin import CLUSTER, origin_of

GENERATION: Final = 1
"""The generation of tables that takes the state."""
BATCH_BYTES: Final = 8 << 20
"""The state is written in transactions of about this size."""
READ_BYTES: Final = 1 << 20
DEFAULT_NAME: Final = "default"


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """What is in a snapshot file that was read to its end and found whole."""

    file: str
    index: int
    term: int
    """The last entry that its state has applied."""
    time_ms: int
    """The wall time of that entry, in milliseconds since 1970."""
    elapsed_ms: int
    """For how many milliseconds its cluster had been running."""
    cluster: str
    """The id of its cluster; empty for a file of before it was written down."""
    machine: str
    machine_version: int
    in_ledger: bool
    """Whether the machine keeps its state in the ledger, as the built-in one does."""
    members: dict[str, str]
    """The address of each member, by node id."""
    configuration: str
    """The members with the part that each has, as text."""
    level: int
    """The feature level of the cluster."""
    sessions: int
    """How many client sessions are in it."""
    chunks: int
    size_bytes: int
    sha256: str
    """The checksum of the whole file, before it was encrypted."""
    key_id: str = ""
    """The id of the key that it is encrypted with; empty if it is not encrypted."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A folder that was made of a snapshot."""

    data: str
    node_id: str
    cluster: str
    """The id of the new cluster, the same on all its members."""
    members: dict[str, str]
    index: int
    term: int


def inspect_snapshot(file: Path, key: EncryptionKey | None = None) -> SnapshotReport:
    """Read a snapshot file to its end, check it, and say what it is; `key` is its key, if it is encrypted.

    Raises `InvalidConfigError` for a key that is missing or another one, `FolderNotFoundError` if there is no such
    file, `CorruptionError` for one that is damaged or no snapshot, `UnsupportedVersionError` for one of a later
    version, `StorageError` if it cannot be read.
    """
    return opened(file, keys_of(file, key))[0]


def keys_of(file: Path, key: EncryptionKey | None) -> FileKeys | None:
    """The keys of a file; None for one that is not encrypted, whatever key is given.

    Backups come from anywhere, so a plain one is read too. Raises as `inspect_snapshot`.
    """
    if not file.is_file():
        raise FolderNotFoundError(f"there is no file {file}: name a file that snapshot save made")
    try:
        is_encrypted = bool(key_id_of(file))
    except OSError as error:
        raise StorageError(f"cannot read {file}: {explain(error)}") from error
    return OneKey(key) if is_encrypted and key is not None else None


def opened(file: Path, keys: FileKeys | None) -> tuple[SnapshotReport, dict[str, Any]]:
    """The report of a file, and its header; raises as `inspect_snapshot`."""
    try:
        with open_snapshot(file, keys) as stream:
            reader = SnapshotReader(file, stream)
            header = reader.header()
            chunks = sum(1 for _ in reader.chunks())
            stream.seek(0)
            digest = sha256()
            while part := stream.read(READ_BYTES):
                digest.update(part)
    except CorruptionError as error:
        raise CorruptionError(f"{file} is no whole snapshot: {error}. Take another backup") from error
    except OSError as error:
        raise StorageError(f"cannot read {file}: {explain(error)}") from error
    point, sessions = point_of(header)
    configuration = Configuration.decode(point.configuration)
    origin = origin_of(header, configuration.machine)
    report = SnapshotReport(
        file=str(file),
        index=point.index,
        term=point.term,
        time_ms=point.time_ms,
        elapsed_ms=point.elapsed_ms,
        cluster=origin.cluster,
        machine=origin.machine.name,
        machine_version=origin.machine.version,
        in_ledger=origin.in_ledger,
        members=dict(configuration.members),
        configuration=configuration.text,
        level=configuration.level,
        sessions=counted(sessions),
        chunks=chunks,
        size_bytes=reader.size_bytes,
        sha256=digest.hexdigest(),
        key_id="" if keys is None else keys.key.id,
    )
    return report, header


def counted(chunks: Iterable[bytes]) -> int:
    """How many sessions are in the chunks of a header."""
    return sum(len(key) == ID_BYTES for chunk in chunks for key, _ in rows_in_chunk(chunk))


def restore_snapshot(
    file: Path,
    data: Path,
    node_id: str,
    members: Mapping[str, str],
    *,
    new_text: Callable[[], str],
    cluster: str = "",
    token: str = "",
    machine: type[LedgerMachine] | None = None,
    key: EncryptionKey | None = None,
    file_key: EncryptionKey | None = None,
) -> Restored:
    """Make a folder for a node of a new cluster that begins with the state in a snapshot file.

    Args:
        file: the snapshot; it is read to its end before anything is written.
        data: the folder to be made; one that is there must be empty.
        node_id: the id of the node.
        members: address ("host:port") by node id of all members of the new cluster, this node among them; the same on
            all of them.
        new_text: returns a new random text of hexadecimal digits each time.
        cluster: the name of the new cluster; empty for that of the old one.
        token: tells this restore from another one of the same file with the same members, which must not mix with it;
            the same on all members.
        machine: the class of the machine, if it keeps its state in the ledger and is not the built-in one.
        key: the key of the node, with which the new folder is encrypted; None leaves it plain.
        file_key: the key of the file, if it is encrypted with another one.

    Raises `AlreadyExistsError` if the folder is not empty, `InvalidConfigError` for what does not fit together, and as
    `inspect_snapshot`, `Folder` and `write_snapshot` do. Then nothing is left in the folder.

    """
    if node_id not in members:
        raise InvalidConfigError(f"node {node_id!r} is not among the members {', '.join(members)}: name it too")
    report, header = opened(file, keys := keys_of(file, file_key or key))
    importing = importer(report, machine)
    check_empty(data)
    anew = new_id(report, members, cluster, token or ("" if len(members) > 1 else new_text()))
    point, _ = point_of(header)
    configuration = begun_with(point.configuration, members, anew)
    there = data.exists()
    with Folder(data) as folder:
        check_empty(data, {folder.lock_path, folder.snapshots_path})
        try:
            changed = header | {"configuration": configuration.encode(), "sessions": [], CLUSTER: anew}
            with open_tables(folder, key) as tables:
                info = write_snapshot(folder.snapshots_path, changed, read_chunks(file, keys), tables.files)
                if importing is not None:
                    import_state(tables, importing, info)
                batch = Batch()
                begin(batch, replace(point, configuration=configuration.encode()), in_ledger=importing is not None)
                put_meta(batch, IDENTITY, packed((FORMAT, node_id, anew, new_text(), 0)))
                put_meta(batch, MACHINE, packed((report.machine, report.machine_version)))
                put_skips(batch, skips_of(header.get("skips", ())))
                tables.commit(batch)
        except BaseException:
            clear(data, keep=there)
            raise
    return Restored(str(data), node_id, anew, dict(configuration.members), report.index, report.term)


def packed(value: Any) -> bytes:
    """The msgpack of a row."""
    return cast("bytes", msgpack.packb(value))


def begun_with(before: bytes, members: Mapping[str, str], cluster: str) -> Configuration:
    """The configuration with which the new cluster begins, from that of the snapshot."""
    return Configuration.decode(before).begun_anew(members, cluster.rpartition("~")[2])


def new_id(report: SnapshotReport, members: Mapping[str, str], cluster: str, token: str) -> str:
    """The id of the new cluster, which every member computes alike."""
    listed = ",".join(f"{node}={address}" for node, address in sorted(members.items()))
    name = name_of(cluster or report.cluster or DEFAULT_NAME)
    return made_anew(name, token_of(report.sha256.encode(), listed.encode(), name.encode(), token.encode()))


def importer(report: SnapshotReport, machine: type[LedgerMachine] | None) -> type[LedgerMachine] | None:
    """The class that imports the state into the tables; None for a machine of the user's, which restores it itself.

    Raises `InvalidConfigError` if the class is needed and is not the one of the snapshot.
    """
    if not report.in_ledger:
        return None
    if report.machine == BUILT_IN and machine is None:
        return KeyValueMachine
    given = None if machine is None else name_of_machine(machine).name
    if machine is None or given != report.machine:
        raise InvalidConfigError(
            f"the snapshot holds the state of the machine {report.machine!r}, which keeps it in the ledger, and was "
            f"given {given!r}: name its class, as for the node"
        )
    return machine


def check_empty(data: Path, spare: Collection[Path] = ()) -> None:
    """Raise `AlreadyExistsError` unless the path is free, or that of a folder with nothing but `spare` in it."""
    try:
        if not data.exists():
            return
        if data.is_dir() and not {data.absolute() / each.name for each in data.iterdir()}.difference(spare):
            return
    except OSError as error:
        raise StorageError(f"cannot look into {data}: {explain(error)}") from error
    raise AlreadyExistsError(
        f"{data} is not empty: a snapshot is restored into a new folder only, so that it mixes with nothing. Name "
        "another one, or move it away"
    )


def import_state(tables: Tables, machine: type[LedgerMachine], snapshot: SnapshotInfo) -> None:
    """Write the state in a snapshot into the tables, a few MiB in each transaction."""
    batch = Batch()
    for chunk in read_chunks(snapshot.path, snapshot.keys):
        machine.import_chunk(batch, GENERATION, chunk)
        if batch.size_bytes >= BATCH_BYTES:
            tables.commit(batch)
            batch = Batch()
    if batch:
        tables.commit(batch)


def begin(batch: Batch, point: Point, *, in_ledger: bool) -> None:
    """Stage the records of a ledger whose log begins behind the snapshot."""
    index, term, configuration = point.index, point.term, point.configuration
    put_meta(batch, BASE, packed((index, term, configuration)))
    put_meta(batch, HARD, packed((term, "", index, index)))
    put_meta(batch, INITIAL, configuration)
    if in_ledger:
        put_point(batch, GENERATION, point)


def clear(data: Path, *, keep: bool) -> None:
    """Remove what was made in a folder that was empty, and the folder too unless it is to be kept."""
    with suppress(OSError):
        for each in data.iterdir():
            if each.is_dir():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink()
        if not keep:
            data.rmdir()
