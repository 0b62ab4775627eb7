"""Reading tables on LMDB: by the node itself, by its helpers, and by the commands for a stopped node."""

import os
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import lmdb

from forge_consensus.config.storage import MAP_BYTES
from forge_consensus.errors import StorageError
from forge_consensus.storage.backends.lmdb_environment import (
    Cursor,
    Database,
    LmdbTransaction,
    failed,
    mark_in,
    open_databases,
    open_environment,
    repeat,
)
from forge_consensus.storage.backends.tables import KeyValue, Looked, TablesView
from forge_consensus.storage.backends.write_ahead import Mark

Result = TypeVar("Result")


class Opened(NamedTuple):
    """An environment that this process has open already, and its tables."""

    environment: lmdb.Environment
    databases: dict[str, Database]


class LmdbReading(TablesView):
    """The read methods, on the transaction that `reading` provides."""

    databases: dict[str, Database]

    def reading(self, read: Callable[[LmdbTransaction], Result]) -> Result:
        """Return `read(transaction)`. Raises `StorageError` for LMDB's own errors."""
        raise NotImplementedError

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value of `key`, or None."""
        database = self.databases[table]
        # LMDB raises for an empty key, and none can be stored.
        return self.reading(lambda txn: txn.get(key, db=database) if key else None)

    def look(
        self, table: str, keys: Sequence[bytes], read: Callable[[bytes, bytes | memoryview], Looked]
    ) -> list[Looked | None]:
        """Return `read(key, value)` for each of the keys, None for one that is not there."""
        database = self.databases[table]

        def looked(txn: LmdbTransaction) -> list[Looked | None]:
            return [None if (value := txn.get(key, db=database)) is None else read(key, value) for key in keys]

        return self.reading(looked)

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int | None = None
    ) -> list[KeyValue]:
        """Return the pairs with keys in [start, stop), ascending, at most `limit`; None is no bound."""
        database = self.databases[table]
        return self.reading(lambda txn: scan_forward(txn.cursor(database), start, stop, limit))

    def scan_reverse(self, table: str, limit: int, before: bytes | None = None) -> list[KeyValue]:
        """Return at most `limit` pairs whose keys are below `before`, descending."""
        database = self.databases[table]
        return self.reading(lambda txn: scan_backward(txn.cursor(database), limit, before))

    def first(self, table: str) -> KeyValue | None:
        """Return the pair with the lowest key, or None if the table is empty."""
        pairs = self.scan(table, limit=1)
        return pairs[0] if pairs else None

    def last(self, table: str) -> KeyValue | None:
        """Return the pair with the highest key, or None if the table is empty."""
        pairs = self.scan_reverse(table, 1)
        return pairs[0] if pairs else None

    def count(self, table: str) -> int:
        """Return the number of keys; cheap, because LMDB keeps it with the root of the table."""
        database = self.databases[table]
        return self.reading(lambda txn: txn.stat(database)["entries"])

    def count_range(self, table: str, start: bytes, stop: bytes | None, limit: int) -> tuple[int, bytes]:
        """Return how many of the first `limit` keys from `start` on lie below `stop`, and the last of them."""
        database = self.databases[table]
        keys = self.reading(lambda txn: keys_forward(txn.cursor(database), start, limit))
        count = len(keys) if stop is None or not keys or keys[-1] < stop else bisect_left(keys, stop)
        return count, keys[count - 1] if count else b""

    def size_bytes(self, table: str) -> int:
        """Return the bytes of the pages that the table occupies."""
        database = self.databases[table]
        stat = self.reading(lambda txn: txn.stat(database))
        return (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]) * stat["psize"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class LmdbView(LmdbReading):
    """One unchanging view of a running node's tables, for a helper process or another thread.

    All reads use one read transaction, so a header and a state that are read through it belong together. LMDB cannot
    reuse the pages of that view until `close`: close it soon. Any thread may close it; a read under way ends first.

    Of a running node it shows what was committed before the last `Tables.sync`; of a stopped one, everything.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        map_bytes: int = MAP_BYTES,
        *,
        own: Opened | None = None,
        lock: bool = True,
    ) -> None:
        """Open the environment in the folder `path`, which another process may be writing if `lock`.

        Without `lock` nothing is written either, but if a crash left a write-ahead log, the right to write is needed.

        A process must open a folder once only, so a view within the node's process is given the node's own tables.
        Raises `StorageError`.
        """
        self.path = Path(path)
        self.closed = False
        self.owner = own is None
        self.using = threading.Lock()
        """Held while the transaction is read or ended."""
        try:
            self.environment = (
                own.environment if own else open_environment(self.path, map_bytes, readonly=True, lock=lock)
            )
            try:
                self.transaction = self.environment.begin()
                self.databases = own.databases if own else open_databases(self.environment, self.transaction)
                if not lock and (mark := mark_in(self.environment, self.transaction)):
                    self.repeat(mark, map_bytes)
            except BaseException:
                if self.owner:
                    self.environment.close()
                raise
        except (lmdb.Error, OSError) as error:
            raise failed("cannot read", self.path, error) from error

    def repeat(self, mark: Mark, map_bytes: int) -> None:
        """Let the view show what a crash left in the write-ahead log, in a transaction that is never committed.

        Raises `CorruptionError`, `OSError`, `lmdb.Error`, `StorageError` without the right to write to the file.
        """
        self.transaction.abort()
        self.environment.close()
        try:
            self.environment = open_environment(self.path, map_bytes, readonly=False, lock=False)
        except lmdb.Error as error:
            raise StorageError(
                f"cannot read the tables in {self.path}: {error}. Their node was killed, and LMDB shows what the "
                "write-ahead log has only where it may write, although nothing is written: run this as a user who may "
                "write there, or on a copy of the folder"
            ) from error
        self.transaction = self.environment.begin(write=True)
        self.databases = open_databases(self.environment, self.transaction)
        repeat(self.path, self.transaction, self.databases, mark)

    def reading(self, read: Callable[[LmdbTransaction], Result]) -> Result:
        """Return `read(transaction)` on the view's one transaction. Raises `StorageError`."""
        with self.using:
            if self.closed:
                raise StorageError(f"the view of {self.path} is closed")
            try:
                return read(self.transaction)
            except lmdb.Error as error:
                raise failed("cannot read", self.path, error) from error

    def close(self) -> None:
        """End the view, so that LMDB can use its pages again. A second call does nothing."""
        with self.using:
            if self.closed:
                return
            self.closed = True
            self.transaction.abort()
            if self.owner:
                self.environment.close()


def scan_forward(cursor: Cursor, start: bytes, stop: bytes | None, limit: int | None) -> list[KeyValue]:
    """Return the pairs with keys in [start, stop), ascending, at most `limit`; None is no bound."""
    if not (cursor.set_range(start) if start else cursor.first()):
        return []
    pairs = islice(cursor.iternext(), limit)
    if stop is None:
        return list(pairs)
    found: list[KeyValue] = []
    for pair in pairs:
        if pair[0] >= stop:
            break
        found.append(pair)
    return found


def keys_forward(cursor: Cursor, start: bytes, limit: int) -> list[bytes]:
    """Return the first `limit` keys from `start` on."""
    if not (cursor.set_range(start) if start else cursor.first()):
        return []
    return list(islice(cursor.iternext(values=False), limit))


def scan_backward(cursor: Cursor, limit: int, before: bytes | None) -> list[KeyValue]:
    """Return at most `limit` pairs with keys below `before`, descending; None is no bound."""
    if before == b"":
        return []
    positioned = before is not None and cursor.set_range(before)
    found = cursor.prev() if positioned else cursor.last()
    return list(islice(cursor.iterprev(), limit)) if found else []
