"""The tables in memory: the equivalent of LMDB for tests and simulations, with faults on demand."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from forge_consensus.errors import StorageError
from forge_consensus.storage.backends.tables import (
    RECORD_OVERHEAD_BYTES,
    TABLES,
    Batch,
    Delete,
    KeyValue,
    Looked,
    Operation,
    PutRun,
    Space,
    Tables,
)

Undo = list[tuple[bytes, bytes | None]]
"""Keys with their values before an operation; None for a key that was absent."""

QUOTA_BYTES: Final = 64 << 30
DISK_FREE_BYTES: Final = 1 << 40


@dataclass(slots=True)
class MemoryTable:
    """One table: its keys in order, and the values by key."""

    keys: list[bytes] = field(default_factory=list)
    values: dict[bytes, bytes] = field(default_factory=dict)
    used_bytes: int = 0

    def copy(self) -> "MemoryTable":
        """Return an independent copy (keys and values are immutable)."""
        return MemoryTable(self.keys.copy(), self.values.copy(), self.used_bytes)

    def put(self, key: bytes, value: bytes) -> None:
        """Set one key, and update `used_bytes`."""
        old = self.values.get(key)
        if old is None:
            self.used_bytes += len(key) + len(value) + RECORD_OVERHEAD_BYTES
            if not self.keys or key > self.keys[-1]:
                self.keys.append(key)
            else:
                self.keys.insert(bisect_left(self.keys, key), key)
        else:
            self.used_bytes += len(value) - len(old)
        self.values[key] = value

    def remove(self, start: int, stop: int) -> None:
        """Remove the keys at the positions [start, stop)."""
        for key in self.keys[start:stop]:
            value = self.values.pop(key)
            self.used_bytes -= len(key) + len(value) + RECORD_OVERHEAD_BYTES
        del self.keys[start:stop]

    def execute(self, operation: Operation) -> Undo:
        """Execute one operation and return what undoes it. Raises `StorageError` for an append that is out of order."""
        if isinstance(operation, PutRun):
            if operation.append:
                return self.append(operation.items)
            undo: Undo = []
            for key, value in operation.items:
                undo.append((key, self.values.get(key)))
                self.put(key, value)
            return undo
        if isinstance(operation, Delete):
            begin, end = self.positions(operation.key, operation.key + b"\0", None)
        else:
            begin, end = self.positions(operation.start, operation.stop, operation.limit)
        removed: Undo = [(key, self.values[key]) for key in self.keys[begin:end]]
        self.remove(begin, end)
        return removed

    def append(self, items: list[KeyValue]) -> Undo:
        """Add ascending keys above all present ones. Otherwise raises `StorageError` and changes nothing."""
        keys = [key for key, _ in items]
        last = self.keys[-1] if self.keys else b""  # below every key: the shortest has one byte
        used_bytes = 0
        for key, value in items:
            if key <= last:
                raise StorageError("append: a key is out of order")
            last = key
            used_bytes += len(key) + len(value) + RECORD_OVERHEAD_BYTES
        self.keys.extend(keys)
        self.values.update(items)
        self.used_bytes += used_bytes
        return [(key, None) for key in keys]

    def restore(self, undo: Undo) -> None:
        """Undo an operation: set its keys to their earlier values, and remove those that were absent."""
        for key, value in reversed(undo):
            if value is None:
                begin, end = self.positions(key, key + b"\0", None)
                self.remove(begin, end)
            else:
                self.put(key, value)

    def positions(self, start: bytes, stop: bytes | None, limit: int | None) -> tuple[int, int]:
        """Return the positions [begin, end) of the first `limit` keys in [start, stop); None is no bound."""
        begin = bisect_left(self.keys, start)
        end = len(self.keys) if stop is None else bisect_left(self.keys, stop)
        return begin, end if limit is None else min(end, begin + limit)

    def pairs(self, keys: list[bytes]) -> list[KeyValue]:
        """Return the keys with their values, in the given order."""
        return [(key, self.values[key]) for key in keys]


class MemoryTables(Tables):
    """Tables in memory, with the semantics of `LmdbTables`; both pass the same tests.

    For tests: `fail_next_commit`, `before_commit`, `clone_durable`, and the plain attributes `quota_bytes` and
    `disk_free_bytes`.
    """

    def __init__(self, *, quota_bytes: int = QUOTA_BYTES, disk_free_bytes: int = DISK_FREE_BYTES) -> None:
        self.quota_bytes = quota_bytes
        self.disk_free_bytes = disk_free_bytes
        self.commits = 0
        self.before_commit: Callable[[Batch], None] | None = None
        """Called with each batch that is not empty; an exception that it raises fails the commit."""
        self.ordered_failure: Exception | None = None
        self.failure_is_late = False
        self.failure: StorageError | None = None
        self.tables = {name: MemoryTable() for name in TABLES}

    def take_quota(self, quota_bytes: int) -> None:
        """Let the room left be counted by this quota from now on."""
        self.quota_bytes = quota_bytes

    def fail_next_commit(self, error: Exception, *, written: bool = False) -> None:
        """Make the next commit fail with `error`, as a `StorageError`.

        With `written` the batch becomes durable anyway: a disk may hold the data although its flush reported a failure.
        """
        self.ordered_failure = error
        self.failure_is_late = written

    def clone_durable(self) -> "MemoryTables":
        """Return new tables with the last committed state, as a restart after a crash finds it.

        It works on closed and failed tables, and copies no fault that was ordered.
        """
        clone = MemoryTables(quota_bytes=self.quota_bytes, disk_free_bytes=self.disk_free_bytes)
        clone.tables = {name: table.copy() for name, table in self.tables.items()}
        return clone

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value of `key`, or None."""
        return self.readable(table).values.get(key)

    def look(
        self, table: str, keys: Sequence[bytes], read: Callable[[bytes, bytes | memoryview], Looked]
    ) -> list[Looked | None]:
        """Return `read(key, value)` for each of the keys, None for one that is not there."""
        values = self.readable(table).values
        return [read(key, values[key]) if key in values else None for key in keys]

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int | None = None
    ) -> list[KeyValue]:
        """Return the pairs with keys in [start, stop), ascending, at most `limit`; None is no bound."""
        found = self.readable(table)
        begin, end = found.positions(start, stop, limit)
        return found.pairs(found.keys[begin:end])

    def scan_reverse(self, table: str, limit: int, before: bytes | None = None) -> list[KeyValue]:
        """Return at most `limit` pairs whose keys are below `before`, descending."""
        found = self.readable(table)
        _, end = found.positions(b"", before, None)
        return found.pairs(found.keys[max(0, end - limit) : end][::-1])

    def first(self, table: str) -> KeyValue | None:
        """Return the pair with the lowest key, or None if the table is empty."""
        found = self.readable(table)
        return found.pairs(found.keys[:1])[0] if found.keys else None

    def last(self, table: str) -> KeyValue | None:
        """Return the pair with the highest key, or None if the table is empty."""
        found = self.readable(table)
        return found.pairs(found.keys[-1:])[0] if found.keys else None

    def count(self, table: str) -> int:
        """Return the number of keys."""
        return len(self.readable(table).keys)

    def count_range(self, table: str, start: bytes, stop: bytes | None, limit: int) -> tuple[int, bytes]:
        """Return how many of the first `limit` keys from `start` on lie below `stop`, and the last of them."""
        found = self.readable(table)
        begin, end = found.positions(start, stop, limit)
        return end - begin, found.keys[end - 1] if end > begin else b""

    def sync(self) -> None:
        """Do nothing, because no helper opens these tables. Raises `StorageError`."""
        if self.failure is not None:
            raise self.poisoned()

    def view(self) -> "MemoryTables":
        """Return what is committed now, unchanged by later commits. Raises `StorageError`."""
        if self.failure is not None:
            raise self.poisoned()
        return self.clone_durable()

    def size_bytes(self, table: str) -> int:
        """Return the bytes of the table's records; there are no pages in memory."""
        return self.readable(table).used_bytes

    def readable(self, table: str) -> MemoryTable:
        """Return a table. Raises `StorageError` if the tables have failed or are closed."""
        found = self.tables[table]
        if self.failure is not None:
            raise self.poisoned()
        return found

    def commit(self, batch: Batch) -> None:
        """Execute the whole batch or nothing of it; see `Tables.commit`. Raises `StorageError`."""
        if self.failure is not None:
            raise self.poisoned()
        if not batch:
            return
        try:
            if self.before_commit is not None:
                self.before_commit(batch)
            error, self.ordered_failure = self.ordered_failure, None
            if error is not None and not self.failure_is_late:
                raise error
            self.execute(batch)
            if error is not None:
                raise error
        except Exception as error:
            self.failure = StorageError(f"cannot commit to the tables in memory: {error}")
            raise self.failure from error
        except BaseException:
            self.failure = StorageError("a commit to the tables in memory was interrupted")
            raise
        self.commits += 1

    def execute(self, batch: Batch) -> None:
        """Execute the operations in order; if one fails, undo the earlier ones and raise its error."""
        done: list[tuple[MemoryTable, Undo]] = []
        try:
            for operation in batch.operations:
                table = self.tables[operation.table]
                done.append((table, table.execute(operation)))
        except Exception:
            for table, undo in reversed(done):
                table.restore(undo)
            raise

    def space(self) -> Space:
        """Return the room left; used bytes are those of the records, as memory has no pages. Raises `StorageError`."""
        if self.failure is not None:
            raise self.poisoned()
        used_bytes = sum(table.used_bytes for table in self.tables.values())
        return Space(used_bytes, self.quota_bytes, self.disk_free_bytes)

    def poisoned(self) -> StorageError:
        """Return the error that every call raises after a failure."""
        return StorageError(f"the tables stopped after an earlier error: {self.failure}")

    def close(self) -> None:
        """Close the tables; every later call raises `StorageError`."""
        if self.failure is None:
            self.failure = StorageError("the tables in memory are closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
