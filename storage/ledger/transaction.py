"""The transaction: the data of one turn that must be on disk before its frames leave, and the ledger's own records."""

from __future__ import annotations

from collections.abc import Callable

from forge_consensus.storage.backends.sealed import seal, unseal
from forge_consensus.storage.backends.tables import Batch, TablesView

META = "meta"
"""The table of the ledger's own records: term and vote, base, identity, marks."""


class Transaction:
    """The table operations of one turn, and the changes in memory once they are on disk.

    Any operation costs the turn a flush, so data that can wait is kept out: the ledger adds it (the commit index as a
    hint, the mark of event numbers, applied state) when there is a flush anyway.
    """

    __slots__ = ("after", "base_index", "batch")

    def __init__(self) -> None:
        self.batch = Batch()
        self.after: list[Callable[[], None]] = []
        """Called in order after the commit; not called if the turn is rolled back."""
        self.base_index = 0
        """The index behind which the log begins once this turn is on disk; 0 if it moves the start nowhere."""

    def put_meta(self, key: bytes, value: bytes) -> None:
        """Write one of the ledger's own records with this turn."""
        put_meta(self.batch, key, value)


def put_meta(batch: Batch, key: bytes, value: bytes) -> None:
    """Stage one of the ledger's own records, with a checksum because a damaged vote is worse than a damaged entry."""
    batch.put(META, key, seal(key, value))


def get_meta(tables: TablesView, key: bytes) -> bytes | None:
    """One of the ledger's own records as it is on disk, or None. Raises `CorruptionError` for a damaged one."""
    stored = tables.get(META, key)
    return None if stored is None else unsealed(key, stored)


def unsealed(key: bytes, stored: bytes) -> bytes:
    """The value in the stored bytes of one of the ledger's own records.

    Raises `CorruptionError` if they are damaged.
    """
    return unseal(key, stored, f"the ledger's {key.decode()!r}")
