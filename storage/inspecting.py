"""Inspection: reads entries of a stopped node's log, and what its folder says of itself, changing nothing.

The command `forge-consensus log inspect` prints the result of `inspect_log`; a program can call it itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgpack

from forge_consensus.errors import CorruptionError, InvalidConfigError, UnsupportedVersionError
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends.sealed import REJOIN
from forge_consensus.storage.backends.tables import TablesView
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.identity import IDENTITY
from forge_consensus.storage.ledger.ledger import BASE, HARD, NO_BASE
from forge_consensus.storage.ledger.log import TABLE
from forge_consensus.storage.ledger.record import UNTIMED, Kind, Record, index_of, intact, key_of, parse
from forge_consensus.storage.ledger.transaction import get_meta
from forge_consensus.storage.stopped import StoppedFolder

PAGE_RECORDS: Final = 2_000
ENTRIES_MAX: Final = 100_000
"""The most entries that one inspection returns: they are held in memory."""
DAMAGED: Final = "damaged"
"""Stands for the kind of an entry that fails its checksum."""


@dataclass(frozen=True, slots=True)
class EntryView:
    """One entry of a log, as it is stored."""

    index: int
    term: int
    """0 in a damaged entry, as are all numbers but the index and the bytes."""
    kind: str
    """"command", "configuration", "noop", "session", or "damaged" for one that fails its checksum."""
    time_ms: int
    """The wall time that its leader gave it, in milliseconds since 1970."""
    elapsed_ms: int
    """For how many milliseconds the cluster had been running, -1 in an entry that was written before entries had it."""
    session: int
    seq: int
    """The client session and the number of the command in it; 0 for an entry that no client sent."""
    size_bytes: int
    """The size of the whole record."""
    data: bytes
    """The command or whatever else the entry carries; empty in a damaged one."""
    text: str
    """The members, in a configuration; otherwise empty."""


@dataclass(frozen=True, slots=True)
class LogView:
    """What a stopped node's folder says of its log."""

    node_id: str
    cluster_id: str
    term: int
    vote: str
    """The node that it voted for in that term, empty if it voted for nobody."""
    commit_index: int
    """The commit index that it last wrote down; more may be committed."""
    first_index: int
    last_index: int
    """The log holds the entries first_index..last_index; it is empty if the first is beyond the last."""
    entries: list[EntryView]

    @property
    def damaged(self) -> list[int]:
        """The indexes of the returned entries that fail their checksum."""
        return [entry.index for entry in self.entries if entry.kind == DAMAGED]


def inspect_log(data: Path, first: int | None = None, count: int = 20, key: EncryptionKey | None = None) -> LogView:
    """Read entries of a stopped node's log, locking its folder meanwhile.

    Args:
        data: the node's folder.
        first: the index of the first entry to read; None for the last `count` entries. Indexes that were compacted away
            are passed over.
        count: how many entries to read at the most, 0 to `ENTRIES_MAX`.
        key: the node's key, if its folder is encrypted.

    A damaged entry is returned as such and raises nothing; `forge-consensus log verify` looks at all of them. Raises
    `InvalidConfigError` for a count, an index or a key that cannot be, `FolderLockedError` if a node runs on the
    folder, `FolderNotFoundError` if there is no node's folder, `CorruptionError` if its tables or its own records are
    damaged, `StorageError` if they cannot be read.

    """
    if not 0 <= count <= ENTRIES_MAX:
        raise InvalidConfigError(f"{count} entries cannot be read at once: name 0 to {ENTRIES_MAX}")
    if first is not None and first < 1:
        raise InvalidConfigError(f"there is no entry {first}: indexes begin at 1")
    with StoppedFolder(data, key) as folder, folder.reading() as tables:
        identity, hard = own_row(tables, IDENTITY), own_row(tables, HARD)
        _, node_id, cluster_id, *_ = msgpack.unpackb(identity)
        term, vote, commit_index, last = msgpack.unpackb(hard)
        base_index, _, _ = msgpack.unpackb(get_meta(tables, BASE) or NO_BASE)
        commit_index, last = max(commit_index, base_index), max(last, base_index)
        start = last - count + 1 if first is None else first
        entries = read_entries(tables, max(start, base_index + 1), count)
    return LogView(node_id, cluster_id, term, vote, commit_index, base_index + 1, last, entries)


def own_row(tables: TablesView, key: bytes) -> bytes:
    """One of the ledger's own records. Raises `CorruptionError` if it is damaged or missing."""
    row = get_meta(tables, key)
    if row is None:
        raise CorruptionError(f"the store does not hold its record {key.decode()}. {REJOIN}")
    return row


def read_entries(tables: TablesView, start: int, count: int) -> list[EntryView]:
    """The entries from `start` on, at most `count`."""
    entries: list[EntryView] = []
    while len(entries) < count:
        page = tables.scan(TABLE, key_of(start), limit=min(PAGE_RECORDS, count - len(entries)))
        if not page:
            break
        entries += [view_of(index_of(key), record) for key, record in page]
        start = entries[-1].index + 1
    return entries


def view_of(index: int, stored: bytes) -> EntryView:
    """An entry as it is returned."""
    if not intact(index, stored):
        return EntryView(index, 0, DAMAGED, 0, UNTIMED, 0, 0, len(stored), b"", "")
    record = parse(index, stored)
    return EntryView(
        index=index,
        term=record.term,
        kind=kind_text(record.kind),
        time_ms=record.time_ms,
        elapsed_ms=record.elapsed_ms,
        session=record.session,
        seq=record.seq,
        size_bytes=len(stored),
        data=record.data,
        text=members_text(record),
    )


def kind_text(kind: int) -> str:
    """The name of a kind of entries; a later version may have written others."""
    try:
        return Kind(kind).name.lower()
    except ValueError:
        return f"kind {kind}"


def members_text(record: Record) -> str:
    """The members that an entry names, if it is a configuration."""
    if record.kind != Kind.CONFIGURATION:
        return ""
    try:
        return Configuration.decode(record.data).text
    except (CorruptionError, UnsupportedVersionError) as error:
        return str(error)
