"""A stopped node's folder: found, locked, read and checked by the commands for it, without a byte of it changed.

Every such command refuses what is no node's folder, a folder in use and a damaged one in the same way, here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import lmdb
import msgpack

from forge_consensus.errors import CorruptionError, FolderNotFoundError, StorageError
from forge_consensus.process.fork import tell_of_forks
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends.encrypted_file import FileKeys
from forge_consensus.storage.backends.folder import Folder, explain
from forge_consensus.storage.backends.folder_tables import open_tables, view_with_key
from forge_consensus.storage.backends.keyring import KEYS, META, key_id_in
from forge_consensus.storage.backends.lmdb_file import NAME, check_file
from forge_consensus.storage.backends.lmdb_reading import LmdbView
from forge_consensus.storage.backends.tables import Tables, TablesView
from forge_consensus.storage.ledger.identity import IDENTITY
from forge_consensus.storage.ledger.transaction import get_meta

NO_FOLDER: Final = "{} is no node's folder: name the one that was given to the node as --data"


def is_folder(data: Path) -> bool:
    """Whether a node has its tables in this folder; without them, opening would make a new store there."""
    try:
        return (data / "tables" / NAME).is_file()
    except OSError:
        return False


class StoppedFolder(Folder):
    """The folder of a node that does not run, locked against its start for as long as this object holds it.

    Until `begin_changes` it is left as it was found, to the byte.
    """

    def __init__(self, path: str | os.PathLike[str], key: EncryptionKey | None = None) -> None:
        """Lock the folder, whose `key` is needed if it is encrypted.

        Raises `FolderNotFoundError` for what is no node's folder, `FolderLockedError` if a node runs on it,
        `StorageError` if it cannot be used.
        """
        self.path = Path(path).absolute()
        self.key = key
        self.lock_path = self.path / "LOCK"
        self.lock_fd: int | None = None
        self.changed = False
        if not is_folder(self.path):
            raise FolderNotFoundError(NO_FOLDER.format(path))
        try:
            self.had_lock = self.lock_path.exists()
            self.lock_fd = self.take_lock()
            tell_of_forks(self)
        except OSError as error:
            self.release()
            raise StorageError(f"cannot use {self.path}: {explain(error)}") from error

    def sign(self, descriptor: int) -> None:
        """Leave the locked file as it is, until the folder is to be changed. Raises `OSError`."""
        if self.changed:
            super().sign(descriptor)

    def begin_changes(self) -> None:
        """Note that from now on the folder is changed. Raises `StorageError` if the disk refuses."""
        self.changed = True
        assert self.lock_fd is not None, "the folder is locked"
        try:
            self.sign(self.lock_fd)
        except OSError as error:
            raise StorageError(f"cannot write to {self.path}: {explain(error)}") from error

    @contextmanager
    def reading(self) -> Iterator[TablesView]:
        """The tables, to be read.

        Raises `FolderNotFoundError` for those of another program, `CorruptionError` for damaged ones,
        `InvalidConfigError` for a key that is missing or another one, `StorageError` if they cannot be read.
        """
        with self.viewing() as view:
            yield view_with_key(view, self.key, str(self.path))

    @property
    def key_id(self) -> str:
        """The id of the key that the tables are encrypted with; empty if they are not. Raises as `reading`."""
        with self.viewing() as view:
            row = view.get(META, KEYS)
            return "" if row is None else key_id_in(row, str(self.path))

    @contextmanager
    def viewing(self) -> Iterator[TablesView]:
        """The tables as they are on the disk. Raises as `reading`, but for the key."""
        try:
            check_file(self.tables_path)
            view = LmdbView(self.tables_path, lock=False)
        except OSError as error:
            raise StorageError(f"cannot read {self.tables_path}: {explain(error)}") from error
        except StorageError as error:
            if isinstance(error.__cause__, lmdb.NotFoundError):
                raise FolderNotFoundError(NO_FOLDER.format(self.path)) from error
            raise
        with view:
            yield view

    def writing(self) -> Tables:
        """Open the tables to be written to, after `begin_changes`. Raises as `open_tables`."""
        return open_tables(self, self.key)

    @property
    def files(self) -> FileKeys | None:
        """The keys of the files in the folder, if it is encrypted. Raises as `reading`."""
        if self.key is None:
            return None
        with self.reading() as tables:
            return tables.files

    def release(self) -> None:
        """Unlock the folder; a lock file that was made for a folder that nothing was changed in is removed."""
        if self.lock_fd is not None and not self.had_lock and not self.changed:
            with suppress(OSError):
                self.lock_path.unlink()  # it is still locked, so whoever opened it meanwhile looks again
        super().release()


def stored_cluster(data: Path) -> str:
    """The id of the cluster that a folder belongs to; empty if there is none, or none that can be read.

    It is a look without a lock, for a node that was started without an id: whatever is wrong, its opening finds out.
    """
    if not is_folder(data):
        return ""
    try:
        check_file(data / "tables")
        with LmdbView(data / "tables") as view:
            row = get_meta(view, IDENTITY)
            return str(msgpack.unpackb(row)[2]) if row is not None else ""
    except (StorageError, OSError, ValueError, LookupError, CorruptionError):
        return ""
