"""The limits: what a ledger bounds, in entries, bytes and seconds."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """Bounds of one node's memory and disk; the defaults suit a small machine."""

    tail_bytes_max: int = 32 * MIB
    """How much of the log's end is kept in memory, for followers in step."""
    uncommitted_entries_max: int = 50_000
    uncommitted_bytes_max: int = 64 * MIB
    """What may wait for a majority; beyond it proposals are answered "busy"."""
    checkpoint_entries: int = 20_000
    checkpoint_bytes: int = 16 * MIB
    checkpoint_seconds: float = 30.0
    """When applied state moves to disk, whichever comes first; it bounds what a restart replays."""
    reserve_bytes: int = 16 * MIB
    """Room that proposals never take: votes, compaction and copy-on-write need it."""
    verify_entries: int = 10_000
    """How many of the newest entries are checked at start, besides all that is replayed."""
    snapshot_entries: int = 100_000
    """A snapshot is taken when so many entries were applied since the last (the seed's snapshot_threshold)."""
    snapshot_seconds_min: float = 10.0
    """Snapshots are at least this far apart."""
    snapshot_seconds_max: float = 600.0
    """A snapshot that takes longer is ended and reported."""
    trailing_entries: int = 10_000
    """How many entries stay behind a snapshot for followers that lag a little (the seed's trailing_logs)."""
    sweep_entries: int = 1_000
    """How many compacted entries one turn deletes: 1,000 cost a turn 0.4 ms."""
    events_kept: int = 50_000
    events_seconds: float = 24 * 3600.0
    """How many events the journal keeps, and how old; some 200 bytes each."""
