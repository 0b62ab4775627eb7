"""Rekeying: a stopped node's folder under another key, under one for the first time, or under none any more.

The commands `forge-consensus storage encrypt`, `decrypt` and `rotate-key` are this module, and `snapshot reencrypt`,
which does the same to a backup; a program can call its functions itself. All of the tables is copied into a new file,
which takes the place of the old one in one step, so nothing of before is left in its free pages. What a crash leaves,
the same command brings to its end.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from forge_consensus.errors import AlreadyExistsError, InvalidConfigError, StorageError
from forge_consensus.security.encryption import DataKey, EncryptionKey
from forge_consensus.storage.backends.encrypted import EncryptedTables
from forge_consensus.storage.backends.encrypted_file import FileKeys, OneKey, key_id_of
from forge_consensus.storage.backends.folder import TEMPORARY_SUFFIX, explain, fsync_directory, tell_step
from forge_consensus.storage.backends.guard import NAME as GUARD
from forge_consensus.storage.backends.guard import Guard, write_guard
from forge_consensus.storage.backends.keyring import FORMER_MAX, KEYS, META, Keyring
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.lmdb_file import NAME
from forge_consensus.storage.backends.tables import TABLES, Batch, Tables, TablesView
from forge_consensus.storage.backends.write_ahead import NAME as WRITE_AHEAD
from forge_consensus.storage.restoring import keys_of
from forge_consensus.storage.shrinking import check_room
from forge_consensus.storage.snapshots.file import SnapshotWriter, create, list_snapshots, open_snapshot, publish
from forge_consensus.storage.snapshots.receiver import remove_parts
from forge_consensus.storage.stopped import StoppedFolder
from forge_consensus.storage.verify import check_tables

COPY: Final = f"tables-rekeyed{TEMPORARY_SUFFIX}"
"""The folder of the copy."""
PAGE_ROWS: Final = 100
BATCH_BYTES: Final = 8 << 20
READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class RekeyReport:
    """What was done to a folder."""

    data: str
    node_id: str
    key_before: str
    key: str
    """The ids of the keys; empty for a folder that is not encrypted."""
    snapshots: int
    """How many snapshot files were written anew."""


def rekey_folder(data: Path, key: EncryptionKey | None, new_key: EncryptionKey | None) -> RekeyReport:
    """Write all that a stopped node's folder holds anew, under another key.

    Args:
        data: the folder.
        key: its key; None if it is not encrypted.
        new_key: the key that it gets; None to have it plain.

    Raises `InvalidConfigError` for a key that is not the folder's and for two that are the same, `CorruptionError` for
    a damaged folder, `StorageFullError` without room for a copy, `FolderNotFoundError` and `FolderLockedError` as every
    command for a stopped node does, and `StorageError`; the folder is then as it was, or the same call goes on.

    """
    if key == new_key:
        raise InvalidConfigError("both keys are the same: give the one that it has, and the one that it gets")
    with StoppedFolder(data, key) as folder:
        has_new = folder.key_id == id_of(new_key)
        if has_new:  # a call before this one was interrupted, or there is nothing to do
            folder.key = new_key
        report = check_tables(folder)
        check_room(folder.path, folder.tables_path / NAME)
        folder.begin_changes()
        remove_parts(folder.snapshots_path)
        try:
            before: FileKeys | None = None if key is None else folder.files or OneKey(key)
            after: FileKeys | None = None if new_key is None else OneKey(new_key)
            # Plain files are written first, because the node reads none once its tables are encrypted; others last,
            # because the new keyring still opens them.
            written = rewrite_files(folder.snapshots_path, before, after) if before is None else 0
            if has_new:
                LmdbTables(folder.tables_path).close()  # the log of before may be there still, and readable
            else:
                replace_tables(folder, new_key)
            written += rewrite_files(folder.snapshots_path, before, after) if before is not None else 0
        except OSError as error:
            raise StorageError(f"the folder {data} has not got its key everywhere: {explain(error)}") from error
        finally:
            shutil.rmtree(folder.path / COPY, ignore_errors=True)
    return RekeyReport(str(data), report.node_id, id_of(key), id_of(new_key), written)


def id_of(key: EncryptionKey | None) -> str:
    """Return the id of a key, empty for none."""
    return "" if key is None else key.id


def replace_tables(folder: StoppedFolder, new_key: EncryptionKey | None) -> None:
    """Copy the tables under the new key, and put the copy in their place. Raises `OSError`, `StorageError`."""
    copy, file, guard = folder.path / COPY, folder.tables_path / NAME, folder.path / GUARD
    shutil.rmtree(copy, ignore_errors=True)
    with folder.reading() as source:
        ring = None if new_key is None else ring_after(source.files, new_key)
        copy.mkdir(mode=0o700)
        inner = LmdbTables(copy)
        with inner if ring is None else EncryptedTables(inner, ring.key, ring=ring) as target:
            copy_rows(source, target)
        before = source.files
    if ring is not None:
        # Until the copy is in its place the old tables must open the guard, and from then on the new ones.
        opener = ring.key if before is None else before.key
        write_guard(guard, Guard(ring.opened, begun=True), opener, ring.folder)
    (copy / NAME).replace(file)
    tell_step(folder.tables_path, "rename", NAME, NAME)
    fsync_directory(folder.tables_path)  # before the log goes, without which the tables of before do not open
    (folder.tables_path / WRITE_AHEAD).unlink(missing_ok=True)  # the copy holds it
    tell_step(folder.tables_path, "remove", WRITE_AHEAD)
    fsync_directory(folder.tables_path)
    if ring is None:
        guard.unlink(missing_ok=True)
    else:
        write_guard(guard, Guard(ring.opened, begun=False), ring.key, ring.folder)


def ring_after(before: Keyring | None, key: EncryptionKey) -> Keyring:
    """Return the keyring of the copy: that of a new folder, or the folder's with another key and one new data key."""
    if before is None:
        return Keyring.made(key)
    epoch = max(before.known) + 1
    former = (*(one for one in before.former if one != key), before.key)[-FORMER_MAX:]
    return Keyring(key, before.folder, {epoch: DataKey.made(epoch)}, former, before.opened)


def copy_rows(source: TablesView, target: Tables) -> None:
    """Copy every row, some MiB in each transaction. Raises `StorageError`."""
    batch = Batch()
    for table in TABLES:
        start = b""
        while page := source.scan(table, start, limit=PAGE_ROWS):
            start = page[-1][0] + b"\0"
            batch.append(table, [row for row in page if table != META or row[0] != KEYS])
            if batch.size_bytes >= BATCH_BYTES:
                target.commit(batch)
                batch = Batch()
    target.commit(batch)


def rewrite_files(folder: Path, before: FileKeys | None, after: FileKeys | None) -> int:
    """Write every snapshot file in a folder anew that has not the new key yet; returns how many that were."""
    written = 0
    for path in list_snapshots(folder):
        if key_id_of(path) == ("" if after is None else after.key.id):
            continue
        rewrite(path, path, before, after)
        written += 1
    return written


def rewrite(path: Path, target: Path, before: FileKeys | None, after: FileKeys | None) -> None:
    """Write a snapshot file, under other keys, to `target`, in one step. Raises `OSError`, `CorruptionError`."""
    temporary = target.with_name(f"{target.name}.rekeying{TEMPORARY_SUFFIX}")
    try:
        with open_snapshot(path, before) as source, create(temporary) as file:
            writer = SnapshotWriter(file, temporary, after)
            while part := source.read(READ_BYTES):
                writer.write(part)
            writer.finish()
        publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def reencrypt_snapshot(
    file: Path, target: Path, key: EncryptionKey | None, new_key: EncryptionKey | None, *, force: bool = False
) -> None:
    """Write a backup anew under another key, to be sent elsewhere.

    Args:
        file: the snapshot.
        target: the new file; it must not be there, unless `force`.
        key: the key of the snapshot, if it is encrypted.
        new_key: the key of the new file; None for a plain one.
        force: whether `target` is replaced.

    Raises `AlreadyExistsError`, `FolderNotFoundError`, `InvalidConfigError`, `CorruptionError`, `StorageError`.

    """
    if target.exists() and not force:
        raise AlreadyExistsError(f"{target} is there already: name another file, or replace it with --force")
    try:
        rewrite(file, target, keys_of(file, key), None if new_key is None else OneKey(new_key))
    except OSError as error:
        raise StorageError(f"cannot write {target}: {explain(error)}") from error
