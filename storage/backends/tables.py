"""The few table operations that a ledger needs from its backend: reading, and one atomic batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

TABLES = ("meta", "log", "kv", "sessions", "events")
"""The tables of one node; all live in one environment, so that one transaction spans them."""

KEY_BYTES_MAX = 511
"""The longest key (LMDB's compiled-in limit); the shortest is one byte."""

RECORD_OVERHEAD_BYTES = 16
"""What a record costs beside its key and value, roughly (LMDB: node header and page pointer)."""

KeyValue = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class PutRun:
    """Write `items`; with `append`, every key must be above the one before it and all present."""

    table: str
    items: list[KeyValue]
    append: bool


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove one key; a missing one is no error."""

    table: str
    key: bytes


@dataclass(frozen=True, slots=True)
class DeleteRange:
    """Remove the keys in [start, stop), at most `limit` of them, lowest first."""

    table: str
    start: bytes
    stop: bytes | None
    limit: int | None


Operation = PutRun | Delete | DeleteRange


class Batch:
    """An ordered list of table operations that become durable together or not at all.

    A later operation sees the effect of an earlier one. Building a batch touches no table.
    """

    __slots__ = ("operations", "size_bytes")

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.size_bytes = 0
        """Approximate bytes that the batch will write; deletions count their keys."""

    def __bool__(self) -> bool:
        return bool(self.operations)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Set `key` to `value`.

        Raises KeyError for an unknown table, ValueError for a key that no backend could hold.
        """
        check_table(table)
        check_key(key)
        self.size_bytes += len(key) + len(value) + RECORD_OVERHEAD_BYTES
        # Neighbouring puts join one run, because a backend writes a run three times as fast.
        last = self.operations[-1] if self.operations else None
        if isinstance(last, PutRun) and not last.append and last.table == table:
            last.items.append((key, value))
        else:
            self.operations.append(PutRun(table, [(key, value)], append=False))

    def append(self, table: str, items: Sequence[KeyValue]) -> None:
        """Write `items`, whose keys ascend and lie above every key that the table then holds.

        The order is checked when the batch is committed: a violation is a StorageError.
        Raises KeyError and ValueError like `put`.
        """
        check_table(table)
        if not items:
            return
        size_bytes = 0
        for key, value in items:
            if not 0 < len(key) <= KEY_BYTES_MAX:
                check_key(key)
            size_bytes += len(key) + len(value)
        self.size_bytes += size_bytes + RECORD_OVERHEAD_BYTES * len(items)
        self.operations.append(PutRun(table, list(items), append=True))

    def delete(self, table: str, key: bytes) -> None:
        """Remove `key`; a missing one is no error. Raises KeyError and ValueError like `put`."""
        check_table(table)
        check_key(key)
        self.size_bytes += len(key)
        self.operations.append(Delete(table, key))

    def delete_range(self, table: str, start: bytes, stop: bytes | None, limit: int | None = None) -> None:
        """Remove the keys in [start, stop), lowest first and at most `limit`; None is no bound.

        Slices of up to 1,000 keys add about 0.4 ms to a commit. Raises KeyError like `put`.
        """
        check_table(table)
        self.size_bytes += len(start)
        self.operations.append(DeleteRange(table, start, stop, limit))

    def clear(self) -> None:
        """Forget every operation."""
        self.operations.clear()
        self.size_bytes = 0


@dataclass(frozen=True, slots=True)
class Space:
    """How much room the tables have left; what a leader asks before it takes proposals."""

    used_bytes: int
    """Bytes of pages that hold live data; pages freed by deletions do not count."""
    quota_bytes: int
    """What `used_bytes` must stay below; our own bound, far under the map's size."""
    disk_free_bytes: int
    """What the file system would still give to this process (statvfs, at most a second old)."""

    @property
    def room_bytes(self) -> int:
        """What can still be written: the smaller of quota left and disk left, never negative."""
        return max(0, min(self.quota_bytes - self.used_bytes, self.disk_free_bytes))


class TablesView(Protocol):
    """Reading tables. Keys order as bytes; an unknown table is a KeyError.

    Every call raises StorageError if the backend cannot read, or is closed.
    """

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value of `key`, or None."""
        ...

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int | None = None
    ) -> list[KeyValue]:
        """Return what lies in [start, stop), ascending, at most `limit` pairs."""
        ...

    def scan_reverse(self, table: str, limit: int, before: bytes | None = None) -> list[KeyValue]:
        """Return at most `limit` pairs whose keys are below `before`, descending."""
        ...

    def first(self, table: str) -> KeyValue | None:
        """Return the pair with the lowest key, or None if the table is empty."""
        ...

    def last(self, table: str) -> KeyValue | None:
        """Return the pair with the highest key, or None if the table is empty."""
        ...

    def count(self, table: str) -> int:
        """Return the number of keys."""
        ...

    def size_bytes(self, table: str) -> int:
        """Return what the table takes of `Space.used_bytes`."""
        ...

    def close(self) -> None:
        """Give everything back; calling it again does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


class Tables(TablesView, Protocol):
    """Tables that one owner reads and commits to.

    Reads see what was committed and return copies: nothing stays open between two calls, since
    one forgotten read transaction let a file of 0.4 MB grow to 43 MB.
    """

    commits: int
    """How many transactions became durable; an empty batch is none."""

    def commit(self, batch: Batch) -> None:
        """Make the batch durable in one transaction; it is on disk when this returns.

        Raises StorageError on any failure, and from then on in every call but `close`: a flush
        that is repeated after it failed can lie (invariant I16).
        """
        ...

    def space(self) -> Space:
        """Return the room left; cheap enough to be asked for every batch of proposals."""
        ...


def check_table(table: str) -> None:
    """Raise KeyError unless `table` is one of TABLES."""
    if table not in TABLES:
        raise KeyError(table)


def check_key(key: bytes) -> None:
    """Raise ValueError unless `key` has 1 to KEY_BYTES_MAX bytes."""
    if not 0 < len(key) <= KEY_BYTES_MAX:
        raise ValueError(f"a key has 1 to {KEY_BYTES_MAX} bytes, this one {len(key)}")
