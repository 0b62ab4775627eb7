"""Shrinking: copies the file of a stopped node's tables without its free pages, because LMDB never makes it smaller.

The command `forge-consensus storage compact` is this module; a program can call `compact_folder` itself. The copy is
made beside the tables, flushed, compared, and takes the file's name in one step: a crash leaves the old file or the new
one, and of an unfinished copy nothing after the next start.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lmdb

from forge_consensus.errors import StorageError, StorageFullError
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends.folder import TEMPORARY_SUFFIX, explain, fsync_directory, tell_step
from forge_consensus.storage.backends.lmdb_environment import open_databases, open_environment
from forge_consensus.storage.backends.lmdb_file import NAME
from forge_consensus.storage.backends.tables import TABLES
from forge_consensus.storage.stopped import StoppedFolder
from forge_consensus.storage.verify import check_tables

COPY: Final = f"tables-compacted{TEMPORARY_SUFFIX}"
"""The folder of the copy."""
SPARE_BYTES: Final = 16 << 20
"""So much of the disk stays free beside the copy."""
MAP_BYTES: Final = 1 << 40


@dataclass(slots=True)
class ShrinkReport:
    """The result of a compaction: whose tables were copied, and how long their file was and is."""

    data: str
    node_id: str
    cluster_id: str
    bytes_before: int
    bytes_after: int
    """The length of the tables' file."""


def compact_folder(data: Path, key: EncryptionKey | None = None) -> ShrinkReport:
    """Make the file of the tables as small as what is in it.

    `key` is the node's, if the folder is encrypted: nothing is written before everything was read. It needs room on the
    disk for a copy. Raises `StorageFullError` without it, `CorruptionError` for a damaged folder, `FolderNotFoundError`
    and `FolderLockedError` as every command for a stopped node does, and `StorageError`; then the tables are as they
    were.
    """
    with StoppedFolder(data, key) as folder:
        report = check_tables(folder)
        file, copy = folder.tables_path / NAME, folder.path / COPY
        before = file.stat()
        check_room(folder.path, file)
        folder.begin_changes()
        try:
            remove(copy)
            copy.mkdir(mode=0o700)
            tell_step(folder.path, "create", COPY)
            make_copy(folder.tables_path, copy, before)
            (copy / NAME).replace(file)
            tell_step(folder.tables_path, "rename", NAME, NAME)
            fsync_directory(folder.tables_path)
            remove(copy)
        except (lmdb.Error, OSError) as error:
            remove(copy)
            text = explain(error) if isinstance(error, OSError) else str(error)
            raise StorageError(f"the tables in {data} were not compacted and are as they were: {text}") from error
        return ShrinkReport(str(data), report.node_id, report.cluster_id, before.st_size, file.stat().st_size)


def check_room(folder: Path, file: Path) -> None:
    """Raise `StorageFullError` unless the disk has room for a copy of the file."""
    disk = os.statvfs(folder)
    free, needed = disk.f_bavail * disk.f_frsize, file.stat().st_size + SPARE_BYTES
    if free < needed:
        raise StorageFullError(
            f"a copy of {file} needs up to {needed:,} bytes, and {free:,} are free: make room, or move "
            "the folder to a larger disk first"
        )


def make_copy(tables: Path, copy: Path, before: os.stat_result) -> None:
    """Copy the tables without their free pages, durably, and compare. Raises `lmdb.Error`, `OSError`."""
    with open_environment(tables, MAP_BYTES, readonly=True, lock=False) as environment:
        environment.copy(os.fspath(copy), compact=True)
        held = counted(environment)
    tell_step(copy, "write", NAME)
    with (copy / NAME).open("rb+") as made:
        os.fchmod(made.fileno(), before.st_mode & 0o777)
        with suppress(PermissionError):  # the same user as before, unless another one than root does this
            os.fchown(made.fileno(), before.st_uid, before.st_gid)
        os.fsync(made.fileno())
    tell_step(copy, "flush", NAME)
    with open_environment(copy, MAP_BYTES, readonly=True, lock=False) as environment:
        if counted(environment) != held:
            raise OSError("the copy does not hold as many records as the tables")


def counted(environment: lmdb.Environment) -> dict[str, Any]:
    """How many records each table has."""
    with environment.begin() as txn:
        databases = open_databases(environment, txn)
        return {name: txn.stat(databases[name])["entries"] for name in TABLES}


def remove(copy: Path) -> None:
    """Remove the folder of a copy, if it is there."""
    shutil.rmtree(copy, ignore_errors=True)
