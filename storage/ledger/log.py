"""The log: entries by index, the newest cached in memory, changes staged for the turn's one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.tables import Batch, KeyValue, Tables
from forge_consensus.storage.ledger.record import REJOIN, damaged, index_of, intact, key_of, term_of

TABLE: Final = "log"
PAGE_FIRST: Final = 4
PAGE_MAX: Final = 1024
"""How many records one look at the table or the tail fetches: few at first, for a record may have a megabyte."""
VERIFY_BYTES: Final = 4 << 20


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
        self.fresh_bytes = 0
        """At most so many bytes wait for the turn's commit."""
        self.disk_last = 0

    def reload(self, base_index: int, base_term: int, last: int) -> None:
        """Read the bounds from disk; whatever was only in memory is gone.

        `last` is the newest entry that a commit noted beside the log. Raises `CorruptionError` when the table ends
        elsewhere: no crash does that, so acknowledged entries are missing.
        """
        newest = self.tables.last(TABLE)
        self.base_index, self.base_term = base_index, base_term
        self.disk_last = index_of(newest[0]) if newest else 0
        self.last = self.durable = max(self.disk_last, base_index)
        self.tail, self.tail_base, self.tail_bytes, self.fresh_bytes = [], self.last, 0, 0
        if self.last != max(last, base_index):
            raise CorruptionError(f"the log must end with entry {last} and ends with {self.disk_last}. {REJOIN}")

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, index: int) -> bytes:
        """The record at an index within (base_index, last].

        Raises `CorruptionError` when the table does not hold what it must.
        """
        if index > self.tail_base:
            return self.tail[index - self.tail_base - 1]
        record = self.tables.get(TABLE, key_of(index))
        if record is None:
            raise missing(index)
        if not intact(index, record):
            raise damaged(index)
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
        """Records from `first` on, up to `last`, until `bytes_max` are full; at least one if there is one.

        What is fetched and not given is little, however long the log and however large its records.
        """
        taken: list[bytes] = []
        count, room = PAGE_FIRST, bytes_max
        last = min(last, self.last)
        while first <= last:
            page = self.page(first, min(last, first + count - 1))
            size = sum(map(len, page))
            if size > room:
                taken += fitting(page, room) or ([] if taken else page[:1])
                break
            taken += page
            room -= size
            first += len(page)
            count = min(4 * count, PAGE_MAX, room * len(page) // size + 1)
        return taken

    def page(self, first: int, last: int) -> Sequence[bytes]:
        """Records from `first` on, at most up to `last`: those in memory, or those of the table before them."""
        if first > self.tail_base:
            return self.tail[first - self.tail_base - 1 : last - self.tail_base]
        return self.scan(first, min(last, self.tail_base))

    def scan(self, first: int, last: int) -> list[bytes]:
        """The records first..last as the table holds them, each checked."""
        rows = self.tables.scan(TABLE, key_of(first), key_of(last + 1))
        indexes = range(first, last + 1)
        records = [record for _, record in rows]
        if [key for key, _ in rows] != [*map(key_of, indexes)] or not all(map(intact, indexes, records)):
            raise first_wrong(rows, first)
        return records

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
        size = sum(map(len, records))
        self.tail.extend(records)
        self.tail_bytes += size
        self.fresh_bytes += size
        self.last += len(records)

    def truncate(self, first: int) -> int:
        """Take away `first` and everything behind it; returns how many went."""
        removed = self.last - first + 1
        if first > self.tail_base:
            self.tail_bytes -= sum(map(len, self.tail[first - self.tail_base - 1 :]))
            del self.tail[first - self.tail_base - 1 :]
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
        batch.append(TABLE, [(key_of(index), record) for index, record in enumerate(fresh, first)])
        return True

    def committed(self) -> None:
        """What was staged is on disk."""
        self.durable = self.disk_last = self.last
        self.fresh_bytes = 0
        while self.tail_bytes > self.tail_bytes_max:
            # Half at a time, so that every record is moved once in a while and not at each commit.
            self.forget_oldest((len(self.tail) + 1) // 2)

    def forget_oldest(self, count: int) -> None:
        """Drop records from the beginning of the tail; they can be read from the table."""
        self.tail_bytes -= sum(map(len, self.tail[:count]))
        del self.tail[:count]
        self.tail_base += count

    def rebase(self, index: int, term: int) -> None:
        """Everything up to `index` is compacted away, or was never here and came as a snapshot.

        Call it once the new base is on disk. What the table still holds below it is rubbish, which `sweep` clears.
        """
        self.base_index, self.base_term = index, term
        if index > self.tail_base:
            self.forget_oldest(index - self.tail_base)
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
        while first <= self.last:
            terms = [previous, *map(term_of, self.read(first, self.last, VERIFY_BYTES))]
            if terms != sorted(terms):
                index, earlier, later = next(
                    (index, earlier, later)
                    for index, (earlier, later) in enumerate(pairwise(terms), first)
                    if later < earlier
                )
                raise CorruptionError(f"log entry {index} has term {later}, its predecessor {earlier}. {REJOIN}")
            first += len(terms) - 1
            previous = terms[-1]


def fitting(records: Sequence[bytes], room: int) -> list[bytes]:
    """The first records, as many as have together at most `room` bytes."""
    taken = []
    for record in records:
        room -= len(record)
        if room < 0:
            break
        taken.append(record)
    return taken


def first_wrong(rows: Iterable[KeyValue], first: int) -> CorruptionError:
    """The error for the first of the rows, which begin at `first`, that is damaged or not there."""
    index = first
    for key, record in rows:
        if key != key_of(index):
            break
        if not intact(index, record):
            return damaged(index)
        index += 1
    return missing(index)


def missing(index: int) -> CorruptionError:
    """The error for an entry that is not there."""
    return CorruptionError(f"log entry {index} is missing, so the node does not run. {REJOIN}")
