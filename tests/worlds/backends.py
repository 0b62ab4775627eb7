"""The backends of tables that tests run on: the disk's, with a write-ahead log or encrypted; its twin in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends.encrypted import EncryptedTables
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import Tables

BACKENDS: Final = ("lmdb", "logged", "memory", "encrypted")
WAL_BYTES: Final = 256 << 10
KEY: Final = EncryptionKey(bytes(range(32)))


def new_tables(backend: str, folder: Path) -> Tables:
    """The tables of a node's folder, new or opened again; those in memory are always new."""
    if backend == "memory":
        return MemoryTables()
    tables = LmdbTables(folder / "tables", wal_bytes=0 if backend == "lmdb" else WAL_BYTES)
    if backend in {"lmdb", "logged"}:
        return tables
    try:
        return EncryptedTables(tables, KEY, folder)
    except BaseException:
        tables.close()
        raise
