"""The log: entries by index, the newest cached in memory, changes staged for the turn's one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.record import (
    decode,
    index_of,
    intact,
    key_of,
    term_of,
)
from forge_consensus.storage.tables import Batch, Tables

TABLE = "log"
READ_COUNT = 1024
"""How many records one scan of the table fetches."""


class Log:
    """The entries (base_index, last] of one node.

    (base_index, base_term) is the point up to which the log was compacted. Everything above `durable` exists in
    memory only until the turn commits: `stage` hands it to the turn's batch, `committed` notes that it is on disk,
    `reload` forgets it. Not thread-safe: it belongs to the node's thread.

    Invariant: base_index <= durable <= last, the tail cache holds (tail_base, last], tail_base <= durable.
    """

    def __init__(self, tables: Tables, tail_bytes_max: int) -> None:
        self.tables = tables
        self.tail_bytes_max = tail_bytes_max
        self.base_index = self.base_term = 0
        self.last = self.durable = 0
        self.tail: list[bytes] = []
        self.tail_base = self.tail_bytes = 0
        self.disk_last = 0

    def reload(self, base_index: int, base_term: int) -> None:
        """Read the bounds from disk; whatever was only in memory is gone."""
        newest = self.tables.last(TABLE)
        self.base_index, self.base_term = base_index, base_term
        self.disk_last = index_of(newest[0]) if newest else 0
        self.last = self.durable = max(self.disk_last, base_index)
        self.tail, self.tail_base, self.tail_bytes = [], self.last, 0

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, index: int) -> bytes:
        """The record at an index within (base_index, last].

        Raises `CorruptionError` when the table does not hold what it must.
        """
        if index > self.tail_base:
            return self.tail[index - self.tail_base - 1]
        record = self.tables.get(TABLE, key_of(index))
        if record is None or not intact(index, record):
            decode(index, record or b"")
        assert record is not None
        return record

    def term_at(self, index: int) -> int | None:
        """The term of an entry, or None for one that is compacted away or not there yet."""
        if index == self.base_index:
            return self.base_term
        if index > self.last or index < self.base_index:
            return None
        return term_of(self.get(index))

    @property
    def last_term(self) -> int:
        """The term of the newest entry."""
        return term_of(self.tail[-1]) if self.tail else self.term_at(self.last) or 0

    def read(self, first: int, last: int, bytes_max: int) -> list[bytes]:
        """Records from `first` on, up to `last` and at least one if there is one, until `bytes_max` are full."""
        if first > self.tail_base:
            found: Sequence[bytes] = self.tail[first - self.tail_base - 1 : last - self.tail_base]
        else:
            found = self.scan(first, min(last, self.tail_base, first + READ_COUNT - 1))
        total = sum(map(len, found))
        if total <= bytes_max:
            return list(found)
        taken, room = [], bytes_max
        for record in found:
            room -= len(record)
            if taken and room < 0:
                break
            taken.append(record)
        return taken

    def scan(self, first: int, last: int) -> list[bytes]:
        """The records first..last as the table holds them, each checked."""
        rows = self.tables.scan(TABLE, key_of(first), key_of(last + 1))
        if len(rows) != last - first + 1:
            raise CorruptionError(
                f"the log has a hole: of the entries {first} to {last} it holds {len(rows)}. Move the node's "
                "folder away and bring it back as a new member of the cluster"
            )
        for offset, (key, record) in enumerate(rows):
            if index_of(key) != first + offset or not intact(first + offset, record):
                decode(first + offset, record if index_of(key) == first + offset else b"")
        return [record for _, record in rows]

    def last_at_most(self, index: int, term: int) -> int:
        """The last index, at or below `index`, whose term is not above `term` (terms never fall along the log)."""
        low, high = self.base_index, min(index, self.last)
        while low < high:
            middle = (low + high + 1) // 2
            if (self.term_at(middle) or 0) > term:
                high = middle - 1
            else:
                low = middle
        return low

    # --- changing ----------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[bytes]) -> None:
        """Put records behind the last one."""
        self.tail.extend(records)
        self.tail_bytes += sum(map(len, records))
        self.last += len(records)

    def truncate(self, first: int) -> int:
        """Take away `first` and everything behind it; returns how many went."""
        removed = self.last - first + 1
        if first > self.tail_base:
            dropped = self.tail[first - self.tail_base - 1 :]
            del self.tail[first - self.tail_base - 1 :]
            self.tail_bytes -= sum(map(len, dropped))
        else:
            self.tail, self.tail_base, self.tail_bytes = [], first - 1, 0
        self.last = first - 1
        self.durable = min(self.durable, self.last)
        return removed

    def stage(self, batch: Batch) -> bool:
        """Put what is not on disk yet into the batch; returns whether there was anything."""
        if self.disk_last > self.durable:
            batch.delete_range(TABLE, key_of(self.durable + 1), None)
        elif self.last == self.durable:
            return False
        fresh = self.tail[self.durable - self.tail_base :]
        first = self.durable + 1
        batch.append(TABLE, [(key_of(first + i), record) for i, record in enumerate(fresh)])
        return True

    def committed(self) -> None:
        """What was staged is on disk."""
        self.durable = self.disk_last = self.last
        if self.tail_bytes > self.tail_bytes_max:
            half = len(self.tail) // 2
            self.tail_bytes -= sum(map(len, self.tail[:half]))
            del self.tail[:half]
            self.tail_base += half

    def rebase(self, index: int, term: int) -> None:
        """Everything up to `index` is compacted away, or was never here and came as a snapshot.

        Call it once the new base is on disk. What the table still holds below it is rubbish, which `sweep` clears.
        """
        self.base_index, self.base_term = index, term
        if index > self.tail_base:
            drop = index - self.tail_base
            self.tail_bytes -= sum(map(len, self.tail[:drop]))
            del self.tail[:drop]
            self.tail_base = index
        self.last = max(self.last, index)
        self.durable = max(self.durable, index)

    def sweep(self, batch: Batch, count: int) -> bool:
        """Stage the removal of at most `count` entries below the base; returns whether there were any."""
        oldest = self.tables.first(TABLE)
        if oldest is None or index_of(oldest[0]) > self.base_index:
            return False
        batch.delete_range(TABLE, key_of(0), key_of(self.base_index + 1), count)
        return True

    def verify(self, first: int) -> None:
        """Check every entry from `first` to the last: there, whole, terms never falling.

        Raises `CorruptionError`.
        """
        previous = self.term_at(first - 1) or 0
        for start in range(first, self.last + 1, READ_COUNT):
            records = self.scan(start, min(self.last, start + READ_COUNT - 1))
            terms = [previous, *map(term_of, records)]
            if any(later < earlier for earlier, later in pairwise(terms)):
                raise CorruptionError(f"terms fall along the log between entries {start} and {self.last}")
            previous = terms[-1]
