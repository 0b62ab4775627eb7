"""Compaction: when a snapshot is due, and how far the log may be cut, in entries and in bytes.

Entries are of very different sizes, so a bound in entries alone would let a log fill the disk, and then neither a
snapshot, which cuts it, nor a command finds room. So a snapshot is taken while there is room for it. If there is none,
a machine that is kept in the ledger needs no file: its log is cut behind the checkpoint in the tables.
"""

from __future__ import annotations

from typing import Final

from forge_consensus.errors import StorageFullError
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.storage.snapshots.file import SnapshotInfo

LOG_SHARE: Final = 4
"""When room is short, a snapshot is taken after this part of the log is new, and as much of the room left may trail."""


class Compaction:
    """The rules; they read the ledger and change nothing. `newest` is the newest usable snapshot file."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def is_due(self, newest: SnapshotInfo | None) -> bool:
        """Whether enough was applied since the newest snapshot: entries, bytes, or too much for the room left."""
        ledger, settings = self.ledger, self.ledger.settings
        lag = ledger.applier.index - (newest.index if newest else ledger.log.base_index)
        if lag <= 0:
            return False
        if lag >= settings.snapshot_entries:
            return True
        new_bytes = lag * self.entry_bytes()
        if new_bytes >= max(settings.snapshot_log_bytes, self.state_bytes(newest)):
            return True
        return self.room_is_short() and LOG_SHARE * new_bytes >= self.log_bytes

    @property
    def log_bytes(self) -> int:
        """The bytes of the log's pages."""
        return self.ledger.tables.size_bytes("log")

    def entry_bytes(self) -> int:
        """The bytes of an entry, on the average."""
        return self.log_bytes // max(1, self.ledger.tables.count("log"))

    def state_bytes(self, newest: SnapshotInfo | None) -> int:
        """About how large a snapshot file is."""
        ledger = self.ledger
        if ledger.applier.ledger_machine is None:
            return newest.size_bytes if newest else 0
        return ledger.tables.size_bytes("kv") + ledger.tables.size_bytes("sessions")

    def room_is_short(self) -> bool:
        """Whether the log takes more than half of the room that entries still have; a short log is worth no trouble."""
        log_bytes = self.log_bytes
        return log_bytes > self.ledger.room.margin_bytes and 2 * log_bytes > self.room_left()

    def room_left(self) -> int:
        """The bytes that entries still have, at least 0."""
        ledger = self.ledger
        return max(0, ledger.room.left(ledger.tables.space()))

    def check_file(self, newest: SnapshotInfo | None) -> None:
        """Raise `StorageFullError` unless the disk has room for a snapshot file."""
        self.ledger.room.check_file(self.state_bytes(newest))

    def fits(self, newest: SnapshotInfo | None) -> bool:
        """Whether the disk has room for a snapshot file."""
        try:
            self.check_file(newest)
        except StorageFullError:
            return False
        return True

    def target(self, newest: SnapshotInfo | None) -> int:
        """The index up to which the log may be cut if no follower needs its entries; 0 without a snapshot."""
        return min(newest.index, self.behind_state()) if newest else 0

    def behind_state(self) -> int:
        """As `target`, for a state that is on disk without a snapshot file."""
        ledger = self.ledger
        return min(ledger.applier.on_disk, ledger.log.durable - self.trailing_entries())

    def trailing_entries(self) -> int:
        """How many entries stay behind a snapshot for followers that were away for a moment."""
        settings = self.ledger.settings
        bytes_max = settings.trailing_bytes_max
        if self.room_is_short():
            bytes_max = min(bytes_max, self.room_left() // LOG_SHARE)
        return min(settings.trailing_entries, bytes_max // max(1, self.entry_bytes()))
