"""The log: entries by index, with the newest cached in memory and changes staged for the turn's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.sealed import REJOIN
from forge_consensus.storage.backends.tables import Batch, KeyValue, Tables
from forge_consensus.storage.ledger.record import damaged, index_of, intact, key_of, term_of

TABLE: Final = "log"
PAGE_FIRST: Final = 4
PAGE_MAX: Final = 1024
"""How many records one look at the table or the tail fetches: few at first, because a record may have a megabyte."""
VERIFY_BYTES: Final = 4 << 20


class Log:
    """The entries (base_index, last] of one node.

    (base_index, base_term) is the point up to which the log was compacted. Entries above `durable` exist in memory only
    until the turn commits: `stage` adds them to the turn's batch, `committed` notes that they are on disk, `reload`
    forgets them. It belongs to the node's thread.

    Always base_index <= durable <= last and tail_base <= durable; the tail cache holds the entries (tail_base, last].
    """

    def __init__(self, tables: Tables, tail_bytes_max: int) -> None:
        self.tables = tables
        self.tail_bytes_max = tail_bytes_max
        self.base_index = self.base_term = 0
        self.last = self.durable = 0
        self.tail: list[bytes] = []
        self.tail_base = self.tail_bytes = 0
        self.fresh_bytes = 0
        """How many bytes wait for the turn's commit, at most."""
        self.disk_last = 0

    def reload(self, base_index: int, base_term: int, last: int) -> None:
        """Read the bounds from disk; entries that were only in memory are gone.

        `last` is the last index as the hard state has it. Raises `CorruptionError` if the table ends elsewhere, because
        no crash does that: acknowledged entries are missing.
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

        Raises `CorruptionError` if the table lacks an entry within these bounds.
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
        """The term of the entry at `index`, or None if it is compacted away or not there yet."""
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

        It fetches little more than it returns, however long the log and however large its records.
        """
        taken: list[bytes] = []
        count, bytes_left = PAGE_FIRST, bytes_max
        last = min(last, self.last)
        while first <= last:
            page = self.page(first, min(last, first + count - 1))
            size = sum(map(len, page))
            if size > bytes_left:
                taken += fitting(page, bytes_left) or ([] if taken else page[:1])
                break
            taken += page
            bytes_left -= size
            first += len(page)
            count = min(4 * count, PAGE_MAX, bytes_left * len(page) // size + 1)
        return taken

    def page(self, first: int, last: int) -> Sequence[bytes]:
        """Records from `first` on, at most up to `last`: from the tail, or from the table before the tail begins."""
        if first > self.tail_base:
            return self.tail[first - self.tail_base - 1 : last - self.tail_base]
        return self.scan(first, min(last, self.tail_base))

    def scan(self, first: int, last: int) -> list[bytes]:
        """The records first..last from the table. Raises `CorruptionError` if one is missing or damaged."""
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
        """Add records at the end of the log."""
        size = sum(map(len, records))
        self.tail.extend(records)
        self.tail_bytes += size
        self.fresh_bytes += size
        self.last += len(records)

    def truncate(self, first: int) -> int:
        """Remove the entries from `first` on; returns how many."""
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
        """Add the entries that are not on disk to the batch; returns whether there were any."""
        if self.disk_last > self.durable:
            batch.delete_range(TABLE, key_of(self.durable + 1), None)
        elif self.last == self.durable:
            return False
        fresh = self.tail[self.durable - self.tail_base :]
        first = self.durable + 1
        batch.append(TABLE, [(key_of(index), record) for index, record in enumerate(fresh, first)])
        return True

    def committed(self) -> None:
        """Note that the staged entries are on disk."""
        self.durable = self.disk_last = self.last
        self.fresh_bytes = 0
        while self.tail_bytes > self.tail_bytes_max:
            # Half at a time, so that the list is moved once in a while and not at each commit.
            self.forget_oldest((len(self.tail) + 1) // 2)

    def forget_oldest(self, count: int) -> None:
        """Drop records from the beginning of the tail; they are on disk and can be read from the table."""
        self.tail_bytes -= sum(map(len, self.tail[:count]))
        del self.tail[:count]
        self.tail_base += count

    def forget_tail(self) -> None:
        """Drop all records in memory that are on disk, because a follower found one damaged: memory may be to blame.

        They are read from the table from now on, where each is checked.
        """
        self.forget_oldest(self.durable - self.tail_base)

    def rebase(self, index: int, term: int) -> None:
        """Note that the log now begins behind `index`: the entries before it are in a snapshot.

        Call it once the new base is on disk. `sweep` removes the entries that the table still holds before it.
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
        """Check that every entry from `first` on is there and whole, and that terms never fall.

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


def fitting(records: Sequence[bytes], bytes_left: int) -> list[bytes]:
    """The first records, as many as together have at most `bytes_left` bytes."""
    taken = []
    for record in records:
        bytes_left -= len(record)
        if bytes_left < 0:
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
