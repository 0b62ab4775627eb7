"""The transaction: the data of one turn that must be on disk before its frames leave, and the ledger's own records."""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.tables import Batch, TablesView
from forge_consensus.storage.ledger.record import CRC_BYTES, REJOIN, RESIDUE

META = "meta"
"""The table of the ledger's own records: term and vote, base, identity, marks."""


class Transaction:
    """The table operations of one turn, and the changes in memory once they are on disk.

    Any operation costs the turn a flush, so data that can wait is kept out: the ledger adds it (the commit index as a
    hint, the mark of event numbers, applied state) when there is a flush anyway.
    """

    __slots__ = ("after", "batch")

    def __init__(self) -> None:
        self.batch = Batch()
        self.after: list[Callable[[], None]] = []
        """Called in order after the commit; not called if the turn is rolled back."""

    def put_meta(self, key: bytes, value: bytes) -> None:
        """Write one of the ledger's own records with this turn."""
        put_meta(self.batch, key, value)


def put_meta(batch: Batch, key: bytes, value: bytes) -> None:
    """Stage one of the ledger's own records, with a checksum because a damaged vote is worse than a damaged entry."""
    batch.put(META, key, value + crc32(value, crc32(key)).to_bytes(CRC_BYTES, "little"))


def get_meta(tables: TablesView, key: bytes) -> bytes | None:
    """One of the ledger's own records as it is on disk, or None. Raises `CorruptionError` for a damaged one."""
    stored = tables.get(META, key)
    return None if stored is None else unsealed(key, stored)


def unsealed(key: bytes, stored: bytes) -> bytes:
    """The value in the stored bytes of one of the ledger's own records.

    Raises `CorruptionError` if they are damaged.
    """
    if crc32(stored, crc32(key)) != RESIDUE:
        raise CorruptionError(f"the ledger's {key.decode()!r} fails its checksum: the node does not run. {REJOIN}")
    return stored[:-CRC_BYTES]
