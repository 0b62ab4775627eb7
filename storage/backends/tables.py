"""The few operations that a ledger needs from its backend: reads, and one atomic batch of writes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

from forge_consensus.storage.backends.keyring import Keyring

TABLES = ("meta", "log", "kv", "sessions", "events")
"""The tables of one node; all live in one environment, because one transaction has to span them."""

KEY_BYTES_MAX = 511
"""The longest key, in bytes (LMDB's compiled-in limit); the shortest has one byte."""

RECORD_OVERHEAD_BYTES = 16
"""Roughly what a record occupies beside its key and value, in bytes (LMDB: node header and page pointer)."""

KeyValue = tuple[bytes, bytes]
Looked = TypeVar("Looked")


@dataclass(frozen=True, slots=True)
class PutRun:
    """Write `items`. With `append`, the keys must ascend and lie above every key in the table."""

    table: str
    items: list[KeyValue]
    append: bool


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove one key; a missing key is no error."""

    table: str
    key: bytes


@dataclass(frozen=True, slots=True)
class DeleteRange:
    """Remove the keys in [start, stop), lowest first, at most `limit`; None is no bound."""

    table: str
    start: bytes
    stop: bytes | None
    limit: int | None


Operation = PutRun | Delete | DeleteRange


class Batch:
    """An ordered list of table operations that become durable together or not at all.

    A later operation sees the effect of an earlier one. Building a batch changes no table.
    """

    __slots__ = ("operations", "size_bytes")

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.size_bytes = 0
        """Approximate bytes that the batch will write; a deletion counts the bytes of its key."""

    def __bool__(self) -> bool:
        return bool(self.operations)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Set `key` to `value`.

        Raises `KeyError` for an unknown table, `ValueError` for a key that no backend can hold.
        """
        check_table(table)
        check_key(key)
        self.size_bytes += len(key) + len(value) + RECORD_OVERHEAD_BYTES
        # Consecutive puts are merged into one run, because a backend writes a run three times as fast.
        last = self.operations[-1] if self.operations else None
        if isinstance(last, PutRun) and not last.append and last.table == table:
            last.items.append((key, value))
        else:
            self.operations.append(PutRun(table, [(key, value)], append=False))

    def put_all(self, table: str, items: list[KeyValue]) -> None:
        """Set many keys, in order; the batch takes the list over. Raises `KeyError` and `ValueError` like `put`."""
        self.add_run(table, items, append=False)

    def append(self, table: str, items: Sequence[KeyValue]) -> None:
        """Write `items`, whose keys ascend and lie above every key that the table holds at that moment.

        The order is checked at the commit, which raises `StorageError` if it is wrong. Raises `KeyError` and
        `ValueError` like `put`.
        """
        self.add_run(table, list(items), append=True)

    def add_run(self, table: str, items: list[KeyValue], *, append: bool) -> None:
        """Add a run of writes, and count its bytes."""
        check_table(table)
        if not items:
            return
        size_bytes = 0
        for key, value in items:
            if not 0 < len(key) <= KEY_BYTES_MAX:
                check_key(key)
            size_bytes += len(key) + len(value)
        self.size_bytes += size_bytes + RECORD_OVERHEAD_BYTES * len(items)
        self.operations.append(PutRun(table, items, append=append))

    def delete(self, table: str, key: bytes) -> None:
        """Remove `key`; a missing key is no error. Raises `KeyError` and `ValueError` like `put`."""
        check_table(table)
        check_key(key)
        self.size_bytes += len(key)
        self.operations.append(Delete(table, key))

    def delete_range(self, table: str, start: bytes, stop: bytes | None, limit: int | None = None) -> None:
        """Remove the keys in [start, stop), lowest first and at most `limit`; None is no bound.

        A slice of 1,000 keys adds about 0.4 ms to a commit. Raises `KeyError` like `put`.
        """
        check_table(table)
        self.size_bytes += len(start)
        self.operations.append(DeleteRange(table, start, stop, limit))

    def clear(self) -> None:
        """Remove every operation, so that the batch can be used again."""
        self.operations.clear()
        self.size_bytes = 0


@dataclass(frozen=True, slots=True)
class Space:
    """The room left in the tables; a leader reads it before it accepts proposals."""

    used_bytes: int
    """Bytes of pages that hold live data; pages freed by deletions do not count."""
    quota_bytes: int
    """The limit of `used_bytes`: our own bound, far below the size of the map."""
    disk_free_bytes: int
    """The bytes that the file system would still give to this process (statvfs, at most a second old)."""
    reusable_bytes: int = 0
    """About how many bytes of the tables' own file hold nothing and can be written without more of the disk."""

    @property
    def room_bytes(self) -> int:
        """The bytes that can still be written: the smaller of quota left and disk left, never negative."""
        return max(0, min(self.quota_bytes - self.used_bytes, self.disk_free_bytes + self.reusable_bytes))


class TablesView(Protocol):
    """Reading tables. Keys are ordered as bytes.

    Every call raises `KeyError` for an unknown table, and `StorageError` if the backend cannot read or is closed.
    """

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value of `key`, or None."""
        ...

    def look(
        self, table: str, keys: Sequence[bytes], read: Callable[[bytes, bytes | memoryview], Looked]
    ) -> list[Looked | None]:
        """Return `read(key, value)` for each of the keys, None for one that is not there.

        Values are not copied, so `read` must keep nothing of them. Keys in ascending order are read at half the cost.
        """
        ...

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int | None = None
    ) -> list[KeyValue]:
        """Return the pairs with keys in [start, stop), ascending, at most `limit`; None is no bound."""
        ...

    def scan_reverse(self, table: str, limit: int, before: bytes | None = None) -> list[KeyValue]:
        """Return at most `limit` pairs with keys below `before`, descending; None is no bound."""
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

    def count_range(self, table: str, start: bytes, stop: bytes | None, limit: int) -> tuple[int, bytes]:
        """Return how many of the first `limit` keys from `start` on lie below `stop`, and the last of them.

        With fewer than `limit` there are no more, and the key is meaningless. Values are not read.
        """
        ...

    def size_bytes(self, table: str) -> int:
        """Return the table's share of `Space.used_bytes`."""
        ...

    @property
    def files(self) -> Keyring | None:
        """The keyring under whose key the files beside the tables are encrypted; None if they are not."""
        return None

    def close(self) -> None:
        """Release everything that the tables hold. A second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


class Tables(TablesView, Protocol):
    """Tables that one owner reads and commits to.

    A read returns copies of what was committed. No read transaction stays open between two calls, because one forgotten
    transaction let a file of 0.4 MB grow to 43 MB; the one exception is a `view`.
    """

    commits: int
    """The number of batches that became durable; an empty one does not count."""

    def commit(self, batch: Batch) -> None:
        """Make the batch durable, all of it or nothing; it is on disk when this returns.

        Raises `StorageError` on any failure. From then on every call except `close` raises it too, because a flush that
        is repeated after a failure can report success without writing (invariant I16).
        """
        ...

    def sync(self) -> None:
        """Have helpers that open the tables for themselves, or on another thread, see everything that was committed.

        It is durable before; this moves it from the write-ahead log, if the backend has one. Raises `StorageError`.
        """
        ...

    def view(self) -> TablesView:
        """Return what is committed now, unchanged by later commits, for the owner's thread; close it soon.

        Raises `StorageError`.
        """
        ...

    def space(self) -> Space:
        """Return the room left; cheap enough to be called for every batch of proposals."""
        ...

    def take_quota(self, quota_bytes: int) -> None:
        """Let the room left be counted by this quota from now on."""
        ...


def check_table(table: str) -> None:
    """Raise `KeyError` unless `table` is one of `TABLES`."""
    if table not in TABLES:
        raise KeyError(table)


def check_key(key: bytes) -> None:
    """Raise `ValueError` unless `key` has 1 to `KEY_BYTES_MAX` bytes."""
    if not 0 < len(key) <= KEY_BYTES_MAX:
        raise ValueError(f"a key has 1 to {KEY_BYTES_MAX} bytes, this one {len(key)}")
