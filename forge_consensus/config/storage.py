"""The settings of a node's storage: what its ledger, its snapshots and its journal may hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from forge_consensus.config.setting import INT_MAX, check, setting
from forge_consensus.errors import InvalidConfigError

MIB = 1 << 20
QUOTA_BYTES: Final = 64 << 30
MAP_BYTES: Final = 1 << 40
WAL_BYTES: Final = 1 << 20
WAL_BYTES_MIN: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """Bounds of one node's memory and disk; the defaults suit a small machine.

    Raises `InvalidConfigError` for a value beyond its bounds.
    """

    SECTION: ClassVar = "storage"

    tail_bytes_max: int = setting(
        16 * MIB,
        reload="hot",
        unit="bytes",
        minimum=0,
        original="raft.log_cache_size",
        what="How much of the log's end is kept in memory.",
        why="Followers in step are served from memory, also over a pause of a second; others from disk.",
    )
    uncommitted_entries_max: int = setting(
        50_000,
        reload="hot",
        unit="entries",
        minimum=1,
        what="How many entries may wait for a majority; further proposals are answered with busy.",
        why="About a second of the highest throughput: what waits longer than that has lost its client.",
    )
    uncommitted_bytes_max: int = setting(
        64 * MIB,
        reload="hot",
        unit="bytes",
        minimum=1,
        what="How many bytes of entries may wait for a majority; further proposals are answered with busy.",
        why="It bounds the memory of a leader that has lost its majority.",
    )
    checkpoint_entries: int = setting(
        20_000,
        reload="hot",
        unit="entries",
        minimum=1,
        what="After how many applied entries, or keys that they changed, the applied state moves to disk.",
        why="A restart replays at most so many, which takes less than a second; and so many keys can be written in one "
        "turn: ten times as many took a second on a busy host, in which a leader lost its leadership.",
    )
    checkpoint_bytes: int = setting(
        16 * MIB,
        reload="hot",
        unit="bytes",
        minimum=1,
        what="After how many changed bytes the applied state moves to disk.",
        why="A checkpoint of that size fits into one turn: 10,000 random keys in one commit took 169 ms.",
    )
    checkpoint_seconds: float = setting(
        30.0,
        reload="hot",
        unit="s",
        minimum=0.0,
        what="After this time without one, a checkpoint moves the applied state to disk.",
        why="So an idle node has little to replay, at the cost of two writes a minute.",
    )
    reserve_bytes: int = setting(
        16 * MIB,
        reload="hot",
        unit="bytes",
        minimum=0,
        what="The space on the disk and in the store that proposals never take.",
        why="Votes, compaction and copy-on-write need it after proposals have filled the rest.",
    )
    verify_entries: int = setting(
        10_000,
        unit="entries",
        minimum=0,
        what="How many of the newest entries are verified at a start, besides all that is replayed.",
        why="That takes some tens of milliseconds; all entries are verified by `forge-consensus log verify`.",
    )
    snapshot_entries: int = setting(
        100_000,
        reload="hot",
        unit="entries",
        minimum=1,
        original="raft.snapshot_threshold",
        what="A snapshot is taken when so many entries were applied since the last one.",
        why="Each snapshot writes the whole state; more often would cost more than the log that it saves.",
    )
    snapshot_log_bytes: int = setting(
        128 * MIB,
        reload="hot",
        unit="bytes",
        minimum=1,
        what="A snapshot is also taken when the log has grown by so many bytes, and by the size of the state.",
        why="Large entries fill a disk long before their number is large. When room is short it is taken earlier.",
    )
    snapshot_interval: float = setting(
        0.0,
        reload="hot",
        unit="s",
        minimum=0.0,
        original="raft.snapshot_interval",
        what="A snapshot is also taken so long after the last one, or after the start, if anything was applied since; "
        "0 is never.",
        why="The bounds above keep the log short; an interval is for those who copy the files away.",
    )
    snapshot_seconds_min: float = setting(
        10.0,
        reload="hot",
        unit="s",
        minimum=0.0,
        what="Snapshots are at least this far apart.",
        why="Under full load the number of entries alone would have a node write snapshots all the time.",
    )
    snapshot_seconds_max: float = setting(
        600.0,
        unit="s",
        minimum=0.0,
        what="A snapshot that takes longer is ended and reported.",
        why="A helper process that hangs keeps an old view of the store open, and the file grows.",
    )
    trailing_entries: int = setting(
        10_000,
        reload="hot",
        unit="entries",
        minimum=0,
        original="raft.trailing_logs",
        what="How many entries stay in the log behind a snapshot.",
        why="A follower that was away for a moment gets these entries instead of the whole snapshot.",
    )
    trailing_bytes_max: int = setting(
        64 * MIB,
        reload="hot",
        unit="bytes",
        minimum=0,
        what="About how many bytes these entries may have; fewer when room is short.",
        why="Sending a snapshot is cheaper than sending more, and ten thousand entries of a megabyte fill a disk.",
    )
    sweep_entries: int = setting(
        1_000,
        reload="hot",
        unit="entries",
        minimum=1,
        what="How many compacted entries one turn deletes.",
        why="1,000 cost a turn 0.4 ms; deleting 500,000 at once took 350 ms.",
    )
    events_kept: int = setting(
        50_000,
        reload="hot",
        minimum=0,
        what="How many events the journal keeps; those of appended and committed entries have a fifth of them.",
        why="Some 200 bytes each: 10 MB hold days of a quiet cluster.",
    )
    events_seconds: float = setting(
        24 * 3600.0,
        reload="hot",
        unit="s",
        minimum=0.0,
        what="For how long of its own running time a node keeps an event in its journal.",
        why="A day is what somebody looks back who was called in the night.",
    )
    quota_bytes: int = setting(
        QUOTA_BYTES,
        reload="hot",
        unit="bytes",
        minimum=1,
        maximum=INT_MAX,
        what="The size of the store beyond which proposals are refused; nothing is lost then.",
        why="It is far above what a node with snapshots reaches, and below the disks of servers.",
    )
    map_bytes: int = setting(
        MAP_BYTES,
        unit="bytes",
        minimum=1,
        maximum=INT_MAX,
        what="The address space that the store may map; it is no memory and no disk.",
        why="The map never grows while the node runs; 1 TiB of sparse address space opens in 2 ms.",
    )
    wal_bytes: int = setting(
        WAL_BYTES,
        unit="bytes",
        minimum=0,
        maximum=1 << 30,
        what="The length of the write-ahead log, which makes a turn durable by one write and one flush. With 0 each "
        "turn is a durable transaction of LMDB, which writes several pages and flushes twice.",
        why="When it is full, all of it becomes one durable transaction, which takes a few milliseconds for so much. A "
        "turn that writes more than an eighth of it is a transaction of its own.",
    )

    def __post_init__(self) -> None:
        check(self)
        if 0 < self.wal_bytes < WAL_BYTES_MIN:
            raise InvalidConfigError(
                f"storage.wal_bytes is {self.wal_bytes}, and a write-ahead log has {WAL_BYTES_MIN} bytes at least: "
                "give it that many, or 0 to have none"
            )
        room_bytes = min(self.quota_bytes, self.map_bytes // 2)
        if room_bytes < self.reserve_bytes + self.reserve_bytes // 4:
            name, value = ("quota_bytes", self.quota_bytes)
            if self.map_bytes // 2 < self.quota_bytes:
                name, value = "map_bytes", self.map_bytes
            half = ", of which half can be filled" if name == "map_bytes" else ""
            raise InvalidConfigError(
                f"storage.{name} is {value} bytes{half}, and storage.reserve_bytes keeps {self.reserve_bytes} of them: "
                f"every write would be refused, so raise storage.{name} or lower storage.reserve_bytes"
            )
