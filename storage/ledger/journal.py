"""The journal: the events that a node published, as numbered rows of bytes, for subscribers that were not connected.

It costs no flush: rows wait in memory for the next transaction that happens anyway. So a crash may lose rows of events
that were published already, and old rows are discarded. A reader learns of both as gaps and never skips a number
unknowingly.

Each write to a cluster makes events of the log. They have a share of the rows, beyond which they are discarded first:
otherwise a minute of load would push out what one looks for afterwards, such as the elections of the night.

A row's age is the time for which this node has been running since the event. Wall clocks count for nothing, because one
clock that is years ahead for a moment would make every older event too old.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple

from forge_consensus.storage.backends.sealed import CRC_BYTES, is_sealed, seal
from forge_consensus.storage.backends.tables import Batch, Tables
from forge_consensus.storage.ledger.numbers import EVENTS_MARK, EventNumbers
from forge_consensus.storage.ledger.transaction import get_meta, put_meta

TABLE: Final = "events"
FLOOR: Final = b"events-floor"
"""The key of the number up to which rows were discarded."""
THINNED: Final = b"events-thinned"
"""The key of the number up to which frequent rows were discarded."""
FREQUENT_SHARE: Final = 5
"""Frequent rows have this part of all rows."""
FREQUENT_BIT: Final = 1 << 63
"""Set in the time of a frequent row."""
WALL_MS_MIN: Final = 10**12
"""A stored time from here on is a wall time, in milliseconds since 1970, as format 2 wrote it. It does not tell an age,
which begins when the node first runs with a later format."""
WAITING_MAX: Final = 4_096
"""How many rows may wait in memory for a transaction; beyond that the oldest are lost."""
SLICE_MAX: Final = 500
"""How many rows one transaction discards at most: some 0.2 ms."""
SLACK_MS_MAX: Final = 60_000
SCAN_MAX: Final = 2_000
"""How many rows one `read` looks at: some 1 ms of the node's time."""
CHUNK_ROWS: Final = 256
READ_BYTES_MAX: Final = 512 << 10
TIME_BYTES: Final = 8

Reason = Literal["discarded", "lost"]


class Gap(NamedTuple):
    """The numbers first..last are missing: discarded, or lost in a crash before they were written or used."""

    first: int
    last: int
    reason: Reason


class Page(NamedTuple):
    """Rows from `since` on, ascending, and the gaps among them; the next page begins at `next`."""

    rows: list[tuple[int, bytes]]
    first: int
    """The lowest number that may still be there."""
    next: int
    end: int
    """The newest number that was given out; the reader is level when `next` is above it."""
    gaps: list[Gap]


class Row(NamedTuple):
    """One event that waits to be written."""

    sequence: int
    time_ms: int
    """For how long the node had been running, in all its boots since the journal has rows."""
    data: bytes
    frequent: bool


class Staged(NamedTuple):
    """The changes of the transaction in progress; they take effect once it is durable."""

    written: int
    removed: int
    floor: int
    oldest_ms: int
    frequent: int
    thinned: int


def key_of(sequence: int) -> bytes:
    """The key of a row."""
    return sequence.to_bytes(8)


def sealed(row: Row) -> bytes:
    """The bytes of a row in the table."""
    stamp = row.time_ms | (FREQUENT_BIT if row.frequent else 0)
    return seal(key_of(row.sequence), stamp.to_bytes(TIME_BYTES) + row.data)


def time_of(value: bytes) -> int:
    """For how long the node had been running when a stored row was written, in milliseconds; 0 in a row of format 2."""
    time_ms = int.from_bytes(value[:TIME_BYTES]) & (FREQUENT_BIT - 1)
    return time_ms if time_ms < WALL_MS_MIN else 0


def is_frequent(value: bytes) -> bool:
    """Whether a stored row is of a frequent event."""
    return value[0] >= FREQUENT_BIT >> 56


class Journal:
    """The rows of one node's events. It belongs to the node's thread.

    `rows_max` and `seconds_max` bound the rows on disk, within one slice and a minute. A row's age is measured
    against the newest row. Every method may raise `CorruptionError` and `StorageError`.
    """

    def __init__(self, tables: Tables, numbers: EventNumbers, rows_max: int, seconds_max: float) -> None:
        self.tables = tables
        self.numbers = numbers
        self.take_bounds(rows_max, seconds_max)
        self.floor = int.from_bytes(get_meta(tables, FLOOR) or b"")
        self.count = tables.count(TABLE)
        oldest = tables.first(TABLE)
        self.oldest_ms = time_of(oldest[1]) if oldest else 0
        self.time_ms = self.time_of_newest()
        """For how long the node had been running when it last published an event."""
        self.told_at: float | None = None
        """The second of real time at which that was; None before the first event of this boot."""
        self.waiting: list[Row] = []
        self.thinned = int.from_bytes(get_meta(tables, THINNED) or b"")
        self.frequent = self.count_frequent()
        self.staged = Staged(0, 0, self.floor, self.oldest_ms, self.frequent, self.thinned)

    def take_bounds(self, rows_max: int, seconds_max: float) -> None:
        """Keep so many rows, each for so long, from now on; what is too much goes by slices."""
        self.rows_max = rows_max
        self.frequent_max = rows_max // FREQUENT_SHARE
        self.age_ms_max = int(seconds_max * 1000)
        self.slack_ms = min(SLACK_MS_MAX, self.age_ms_max // 10)
        self.slice_rows = min(SLICE_MAX, max(1, rows_max // 8))

    def time_of_newest(self) -> int:
        """Return the time of the newest row, from which the time goes on; that of the oldest if the newest is damaged.

        So damage makes no event older than it is.
        """
        newest = self.tables.last(TABLE)
        return time_of(newest[1]) if newest is not None and is_sealed(*newest) else self.oldest_ms

    def count_frequent(self) -> int:
        """How many frequent rows are on disk; those up to `thinned` are gone, so few rows are read."""
        found, start = 0, self.thinned + 1
        while rows := self.tables.scan(TABLE, key_of(start), limit=CHUNK_ROWS):
            found += sum(is_frequent(value) for _, value in rows)
            start = int.from_bytes(rows[-1][0]) + 1
        return found

    # --- writing -----------------------------------------------------------------------------------------------------

    def append(self, sequence: int, now: float, data: bytes, *, frequent: bool = False) -> None:
        """Add a row, to be on disk after the next transaction.

        `sequence` is the newest event number, `now` the present second of the node's real time, which never goes back.
        """
        if self.told_at is None:
            self.told_at = now
        passed_ms = int((now - self.told_at) * 1000)
        if passed_ms > 0:  # what is less than a millisecond counts with the next event
            self.time_ms += passed_ms
            self.told_at += passed_ms / 1000
        self.waiting.append(Row(sequence, self.time_ms, data, frequent))
        if len(self.waiting) > WAITING_MAX:
            del self.waiting[: WAITING_MAX // 8]

    def stage(self, batch: Batch) -> None:
        """Add the waiting rows to a transaction, and the removal of a slice of rows that are too many or too old."""
        waiting = self.waiting
        if waiting:
            rows = [(key_of(row.sequence), sealed(row)) for row in waiting]
            batch.append(TABLE, rows)
        oldest_ms = waiting[0].time_ms if waiting and not self.count else self.oldest_ms
        frequent = self.frequent + sum(row.frequent for row in waiting)
        self.staged = Staged(len(waiting), 0, self.floor, oldest_ms, frequent, self.thinned)
        if waiting and self.discard_is_due(waiting[-1].time_ms):
            self.discard(batch, waiting[-1].time_ms)
        elif self.frequent - self.frequent_max >= self.slice_rows:
            self.thin(batch)

    def discard_is_due(self, now_ms: int) -> bool:
        """Whether a whole slice is too much, or the oldest row is too old."""
        too_old = self.count > 0 and now_ms - self.oldest_ms > self.age_ms_max + self.slack_ms
        return too_old or self.count - self.rows_max >= self.slice_rows

    def thin(self, batch: Batch) -> None:
        """Stage the removal of at most one slice of the oldest frequent rows, and note how far it goes."""
        rows = self.tables.scan(TABLE, key_of(self.thinned + 1), limit=SLICE_MAX + self.slice_rows)
        removed = 0
        start: bytes | None = None
        thinned = self.thinned
        for key, value in rows:
            if removed >= self.slice_rows:
                break
            thinned = int.from_bytes(key)
            if is_frequent(value):
                removed += 1
                start = start or key
            elif start is not None:
                batch.delete_range(TABLE, start, key)
                start = None
        if start is not None:
            batch.delete_range(TABLE, start, key_of(thinned + 1))
        put_meta(batch, THINNED, key_of(thinned))
        staged = self.staged
        self.staged = staged._replace(removed=removed, frequent=staged.frequent - removed, thinned=thinned)

    def discard(self, batch: Batch, now_ms: int) -> None:
        """Stage the removal of at most one slice of the oldest rows, and note how far it goes."""
        oldest = self.tables.scan(TABLE, limit=self.slice_rows + 1)
        too_many = min(self.count - self.rows_max, self.slice_rows)
        removed, frequent = 0, self.staged.frequent
        for key, value in oldest[: self.slice_rows]:
            if removed >= too_many and now_ms - time_of(value) <= self.age_ms_max:
                break
            floor, removed = key, removed + 1
            frequent -= is_frequent(value)
        if not removed:
            return
        batch.delete_range(TABLE, b"", key_of(int.from_bytes(floor) + 1))
        put_meta(batch, FLOOR, floor)
        left = oldest[removed:]
        oldest_ms = time_of(left[0][1]) if left else self.waiting[0].time_ms
        floor_number = int.from_bytes(floor)
        self.staged = self.staged._replace(removed=removed, floor=floor_number, oldest_ms=oldest_ms, frequent=frequent)

    def committed(self) -> None:
        """Note that the staged rows are durable."""
        written, removed, self.floor, self.oldest_ms, self.frequent, self.thinned = self.staged
        self.count += written - removed
        del self.waiting[:written]
        self.staged = Staged(0, 0, self.floor, self.oldest_ms, self.frequent, self.thinned)

    def seal(self, batch: Batch | None = None) -> None:
        """Write the waiting rows and the last number used, so that an orderly end leaves no gap. It takes one flush.

        `batch` holds what is to be written with them, if anything.

        Raises `StorageError`.
        """
        batch = Batch() if batch is None else batch
        self.stage(batch)
        mark = self.numbers.sequence
        put_meta(batch, EVENTS_MARK, mark.to_bytes(8))
        self.tables.commit(batch)
        self.numbers.mark = mark
        self.committed()

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(
        self,
        since: int,
        limit: int,
        wanted: Callable[[bytes], bool] = lambda data: True,
        bytes_max: int = READ_BYTES_MAX,
        *,
        frequent: bool = True,
    ) -> Page:
        """At most `limit` rows that are `wanted`, from number `since` on, with those that are not on disk yet.

        `wanted` is called with a row's bytes; `bytes_max` bounds the page, within one row. Only `SCAN_MAX` rows are
        looked at, so a page may be short or empty without being the last. Without `frequent` no gaps are told of
        frequent rows that were discarded, because the reader does not want such rows.
        """
        place = max(since, 1)
        page = Page([], self.floor + 1, place, self.numbers.sequence, [])
        if place <= self.floor:
            page.gaps.append(Gap(place, self.floor, "discarded"))
            place = self.floor + 1
        for looked, (sequence, data) in enumerate(self.rows_from(place)):
            if looked >= SCAN_MAX or len(page.rows) >= limit or bytes_max <= 0:
                return page._replace(next=place)
            if sequence > place:
                page.gaps.extend(self.gaps_between(place, sequence - 1, frequent=frequent))
            place = sequence + 1
            if wanted(data):
                page.rows.append((sequence, data))
                bytes_max -= len(data)
        if place <= self.numbers.sequence:
            page.gaps.append(Gap(place, self.numbers.sequence, "lost"))
            place = self.numbers.sequence + 1
        return page._replace(next=place)

    def gaps_between(self, first: int, last: int, *, frequent: bool) -> Iterator[Gap]:
        """Yield the gaps in place of missing rows: up to `thinned` they were discarded, behind it lost."""
        if first <= self.thinned:
            if frequent:
                yield Gap(first, min(last, self.thinned), "discarded")
            first = self.thinned + 1
        if first <= last:
            yield Gap(first, last, "lost")

    def rows_from(self, first: int) -> Iterator[tuple[int, bytes]]:
        """Yield (number, data) from `first` on: rows on disk, then those that wait.

        Do not keep it over a transaction.
        """
        start = first
        while found := self.tables.scan(TABLE, key_of(start), limit=CHUNK_ROWS):
            for key, value in found:
                if is_sealed(key, value):  # a damaged one is missing: a reader learns of it as a gap
                    yield int.from_bytes(key), value[TIME_BYTES:-CRC_BYTES]
            start = int.from_bytes(found[-1][0]) + 1
            if len(found) < CHUNK_ROWS:
                break
        for row in self.waiting:
            if row.sequence >= first:
                yield row.sequence, row.data
