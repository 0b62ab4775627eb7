"""The backends of tables that tests run on: the disk's, its twin in memory, and both with every value encrypted."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends.encrypted import EncryptedTables
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import Tables

BACKENDS: Final = ("lmdb", "memory", "encrypted")
KEY: Final = EncryptionKey(bytes(range(32)))


def new_tables(backend: str, folder: Path) -> Tables:
    """The tables of a node's folder, new or opened again; those in memory are always new."""
    if backend == "memory":
        return MemoryTables()
    tables = LmdbTables(folder / "tables")
    if backend == "lmdb":
        return tables
    try:
        return EncryptedTables(tables, KEY, folder)
    except BaseException:
        tables.close()
        raise
