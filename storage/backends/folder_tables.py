"""The tables of a node's folder: opened with the node's key if it is encrypted, and refused if the two do not fit."""

from __future__ import annotations

from forge_consensus.config.storage import MAP_BYTES, QUOTA_BYTES
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends.encrypted import EncryptedTables, EncryptedView, check_plain, ring_of
from forge_consensus.storage.backends.folder import Folder
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.lmdb_reading import LmdbView
from forge_consensus.storage.backends.tables import Tables, TablesView


def open_tables(
    folder: Folder,
    key: EncryptionKey | None,
    *,
    quota_bytes: int = QUOTA_BYTES,
    map_bytes: int = MAP_BYTES,
    wal_bytes: int = 0,
) -> Tables:
    """Open or create the tables in a folder that is locked.

    Args:
        folder: the folder.
        key: the node's key; None for a folder that is not encrypted, and then nothing stands between the ledger and
            LMDB.
        quota_bytes: how many bytes the tables may have.
        map_bytes: how much of the address space they take.
        wal_bytes: the length of their write-ahead log; 0 for none, as fits the commands for a stopped node.

    Raises `InvalidConfigError` for a key that is missing, wrong, or given for a folder that is not encrypted,
    `CorruptionError` for damage and for tables that are older than the folder, `StorageError`.

    """
    tables = LmdbTables(folder.tables_path, quota_bytes=quota_bytes, map_bytes=map_bytes, wal_bytes=wal_bytes)
    try:
        if key is not None:
            return EncryptedTables(tables, key, folder.path)
        check_plain(tables, str(folder.path))
    except BaseException:
        tables.close()
        raise
    return tables


def view_with_key(view: TablesView, key: EncryptionKey | None, where: str) -> TablesView:
    """Return a view that is read with the node's key; `where` names the folder. Raises as `open_tables`."""
    if key is None:
        check_plain(view, where)
        return view
    return EncryptedView(view, ring_of(view, key, where))


def lmdb_of(tables: Tables) -> LmdbTables:
    """Return the tables on the disk that these stand on."""
    inner = tables.tables if isinstance(tables, EncryptedTables) else tables
    assert isinstance(inner, LmdbTables), "a node's folder has its tables in LMDB"
    return inner


def thread_view(tables: Tables) -> TablesView:
    """Return a view of a node's tables for another thread of its process. Raises `StorageError`."""
    view: LmdbView = lmdb_of(tables).thread_view()
    return EncryptedView(view, tables.ring) if isinstance(tables, EncryptedTables) else view
