"""The numbers of events: never used twice, even after a crash, and without a flush of their own."""

from __future__ import annotations

from typing import Final

from forge_consensus.storage.backends.tables import Batch, Tables
from forge_consensus.storage.ledger.transaction import get_meta, put_meta

EVENTS_MARK: Final = b"events"
BLOCK: Final = 100_000
FEW: Final = 1_000
"""With at most this many numbers left the turn's commit raises the mark, even if it has nothing else to write."""


class EventNumbers:
    """Gives out numbers up to a mark that is on disk.

    After a restart numbering continues after the mark, so unused numbers become a gap.
    """

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.sequence = self.mark = 0

    def load(self) -> None:
        """Continue after the mark on disk, because it is unknown which numbers up to it were used.

        Raises `CorruptionError`.
        """
        self.sequence = self.mark = int.from_bytes(get_meta(self.tables, EVENTS_MARK) or b"")

    @property
    def few(self) -> bool:
        """Whether so few numbers are left that this turn must raise the mark."""
        return self.mark - self.sequence <= FEW

    def stage(self, batch: Batch) -> int:
        """Raise the mark in a transaction that happens anyway; returns the mark, to be set once it is on disk."""
        mark = self.mark
        if mark - self.sequence < BLOCK // 2:
            mark = self.sequence + BLOCK
            put_meta(batch, EVENTS_MARK, mark.to_bytes(8))
        return mark

    def next(self) -> int:
        """The next number. A turn with more than `FEW` events may need a flush here, which may raise `StorageError`."""
        if self.sequence >= self.mark:
            batch = Batch()
            mark = self.stage(batch)
            self.tables.commit(batch)
            self.mark = mark
        self.sequence += 1
        return self.sequence
