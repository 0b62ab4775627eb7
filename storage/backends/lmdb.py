"""The tables on LMDB: one environment, one durable transaction per commit."""

import os
import resource
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Final, Self, TypeAlias, TypeVar

import lmdb

from forge_consensus.config.storage import MAP_BYTES, QUOTA_BYTES
from forge_consensus.errors import StorageError
from forge_consensus.storage.backends.folder import fsync_directory
from forge_consensus.storage.backends.tables import (
    TABLES,
    Batch,
    Delete,
    DeleteRange,
    KeyValue,
    PutRun,
    Space,
    TablesView,
)

MAP_BYTES_MIN: Final = 64 << 20
"""The smallest map that is tried where address space is short."""

READERS_MAX: Final = 64
HOUSEKEEPING_SECONDS: Final = 1.0
HOUSEKEEPING_BYTES: Final = 1 << 20
"""The disk is asked for its room after so much was written too: a second is enough to fill a reserve."""

Result = TypeVar("Result")
# Written as text, because the stubs' generic classes are plain ones at run time.
LmdbTransaction: TypeAlias = "lmdb.Transaction[bytes]"
Cursor: TypeAlias = "lmdb.Cursor[bytes]"
Database: TypeAlias = "lmdb._Database"


class LmdbReading(TablesView):
    """The reads, on whatever transaction `reading` provides."""

    databases: dict[str, Database]

    def reading(self, read: Callable[[LmdbTransaction], Result]) -> Result:
        """Return `read(transaction)`; LMDB's own errors become StorageError."""
        raise NotImplementedError

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value of `key`, or None."""
        database = self.databases[table]
        # LMDB refuses to look for an empty key; nothing can be stored under one.
        return self.reading(lambda txn: txn.get(key, db=database) if key else None)

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int | None = None
    ) -> list[KeyValue]:
        """Return what lies in [start, stop), ascending, at most `limit` pairs."""
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
        """Return the number of keys, which LMDB keeps with the root of the table."""
        database = self.databases[table]
        return self.reading(lambda txn: txn.stat(database)["entries"])

    def size_bytes(self, table: str) -> int:
        """Return the bytes of the pages that the table takes."""
        database = self.databases[table]
        stat = self.reading(lambda txn: txn.stat(database))
        return (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]) * stat["psize"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class LmdbTables(LmdbReading):
    """The tables of a running node; one object per folder, used by one thread at a time.

    It must not live across a fork: start helper processes with spawn or exec, and let them use
    `open_readonly`. LMDB's locks do not work on network file systems.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        quota_bytes: int = QUOTA_BYTES,
        map_bytes: int = MAP_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open or create the environment in the folder `path`.

        The map is opened at a size that no node reaches and never grown, because growing it
        under an open reader ended in SIGSEGV; where address space is short it is smaller, and
        `quota_bytes` is then cut to half of it: the other half is for copy-on-write and for the
        pages that a snapshot's reader keeps from being used again.

        `clock` gives seconds, for what is done once a second. Raises StorageError.
        """
        self.path = Path(path)
        self.commits = 0
        self.clock = clock
        self.failure: StorageError | None = None
        self.used_bytes: int | None = None
        self.disk_free_bytes = 0
        self.next_housekeeping = 0.0
        self.unasked_bytes = 0
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.environment = open_environment(self.path, map_bytes, readonly=False)
            with self.environment.begin(write=True) as txn:
                self.databases = open_databases(self.environment, txn)
            # A new file is only as durable as its names in the folders above it.
            fsync_directory(self.path)
            fsync_directory(self.path.parent)
        except (lmdb.Error, OSError) as error:
            raise StorageError(f"cannot open the tables in {self.path}: {error}") from error
        self.map_bytes = self.environment.info()["map_size"]
        self.quota_bytes = min(quota_bytes, self.map_bytes // 2)

    @staticmethod
    def open_readonly(path: str | os.PathLike[str], map_bytes: int = MAP_BYTES) -> "LmdbView":
        """Open the tables of a running node from another process. Raises StorageError."""
        return LmdbView(path, map_bytes)

    def reading(self, read: Callable[[LmdbTransaction], Result]) -> Result:
        """Return `read(transaction)` on a read transaction that ends with this call."""
        if self.failure is not None:
            raise self.poisoned()
        try:
            # Beginning one takes 0.4 us, so there is nothing to gain from keeping one.
            with self.environment.begin() as txn:
                return read(txn)
        except lmdb.Error as error:
            self.failure = StorageError(f"cannot read the tables in {self.path}: {error}")
            raise self.failure from error

    def commit(self, batch: Batch) -> None:
        """Make the batch durable in one transaction; see `Tables.commit`."""
        if self.failure is not None:
            raise self.poisoned()
        if not batch:
            return
        try:
            with self.environment.begin(write=True) as txn:
                for operation in batch.operations:
                    self.execute(txn, operation)
        except Exception as error:
            self.failure = StorageError(f"cannot commit to the tables in {self.path}: {error}")
            raise self.failure from error
        except BaseException:
            # An interrupt leaves unknown whether the transaction reached the disk.
            self.failure = StorageError(f"a commit to {self.path} was interrupted")
            raise
        self.commits += 1
        self.used_bytes = None
        self.unasked_bytes += batch.size_bytes
        if self.unasked_bytes >= HOUSEKEEPING_BYTES or self.clock() >= self.next_housekeeping:
            self.do_housekeeping()

    def execute(self, txn: LmdbTransaction, operation: PutRun | Delete | DeleteRange) -> None:
        """Carry out one operation of a batch."""
        database = self.databases[operation.table]
        if isinstance(operation, PutRun):
            items = operation.items
            _, added = txn.cursor(database).putmulti(items, append=operation.append)
            if added != len(items):
                # py-lmdb stops at a key out of order and raises nothing (tried with 3.0.0).
                raise StorageError(f"append to {operation.table}: a key is out of order")
        elif isinstance(operation, Delete):
            txn.delete(operation.key, db=database)
        elif operation.start == b"" and operation.stop is None and operation.limit is None:
            txn.drop(database, delete=False)
        else:
            delete_range(txn.cursor(database), operation)

    def space(self) -> Space:
        """Return the room left.

        Used are the pages of all tables, which LMDB counts with each table's root (4 us). The
        file's length says nothing: it never shrinks, and pages freed in it are used again.
        """
        if self.clock() >= self.next_housekeeping:
            self.do_housekeeping()
        used_bytes = self.used_bytes
        if used_bytes is None:
            used_bytes = self.used_bytes = self.reading(self.count_used_bytes)
        elif self.failure is not None:
            raise self.poisoned()
        return Space(used_bytes, self.quota_bytes, self.disk_free_bytes)

    def count_used_bytes(self, txn: LmdbTransaction) -> int:
        """Return the bytes of live pages: two meta pages, the main table, ours."""
        stats = [txn.stat(), *(txn.stat(database) for database in self.databases.values())]
        pages = 2 + sum(s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"] for s in stats)
        return pages * stats[0]["psize"]

    def do_housekeeping(self) -> None:
        """Ask the disk for its room, and drop the reader slots of processes that died.

        A helper that was killed while it read would otherwise hold its pages for good.
        """
        if self.failure is not None:
            raise self.poisoned()
        self.next_housekeeping = self.clock() + HOUSEKEEPING_SECONDS
        self.unasked_bytes = 0
        try:
            self.environment.reader_check()
            disk = os.statvfs(self.path)
        except (lmdb.Error, OSError) as error:
            self.failure = StorageError(f"cannot ask {self.path} for its room: {error}")
            raise self.failure from error
        self.disk_free_bytes = disk.f_bavail * disk.f_frsize

    def poisoned(self) -> StorageError:
        """Return the error that every call after a failure raises."""
        return StorageError(f"the tables stopped after an earlier error: {self.failure}")

    def close(self) -> None:
        """Close the environment; every call after it raises StorageError."""
        if self.failure is None:
            self.failure = StorageError(f"the tables in {self.path} are closed")
        self.environment.close()


class LmdbView(LmdbReading):
    """One unchanging view of a running node's tables, for a helper process.

    All reads come from one read transaction, so a header and a state read through it belong
    together. The pages it sees cannot be used again until `close`: keep it short.
    """

    def __init__(self, path: str | os.PathLike[str], map_bytes: int = MAP_BYTES) -> None:
        """Open the environment in the folder `path` of another process. Raises StorageError."""
        self.path = Path(path)
        self.closed = False
        try:
            self.environment = open_environment(self.path, map_bytes, readonly=True)
            self.transaction = self.environment.begin()
            self.databases = open_databases(self.environment, self.transaction)
        except (lmdb.Error, OSError) as error:
            raise StorageError(f"cannot read the tables in {self.path}: {error}") from error

    def reading(self, read: Callable[[LmdbTransaction], Result]) -> Result:
        """Return `read(transaction)` on the view's one transaction."""
        if self.closed:
            raise StorageError(f"the view of {self.path} is closed")
        try:
            return read(self.transaction)
        except lmdb.Error as error:
            raise StorageError(f"cannot read the tables in {self.path}: {error}") from error

    def close(self) -> None:
        """End the view and let its pages go."""
        if not self.closed:
            self.closed = True
            self.transaction.abort()
            self.environment.close()


def open_environment(path: Path, map_bytes: int, *, readonly: bool) -> lmdb.Environment:
    """Open with the largest map that the process' address space allows, `map_bytes` at most.

    Raises lmdb.Error, the last one if even the smallest map is refused.
    """
    smallest = min(map_bytes, MAP_BYTES_MIN)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        # Taking the largest map that fits would leave no address space for anything else.
        map_bytes = max(smallest, min(map_bytes, limit // 2))
    while True:
        try:
            return lmdb.open(
                os.fspath(path),
                map_size=map_bytes // resource.getpagesize() * resource.getpagesize(),
                readonly=readonly,
                create=not readonly,
                max_dbs=len(TABLES),
                max_readers=READERS_MAX,
                mode=0o600,
                # What comes from the disk and not from the cache is replay and snapshots,
                # and both read in order.
                readahead=True,
            )
        except (lmdb.MemoryError, MemoryError):
            if map_bytes <= smallest:
                raise
            map_bytes = max(smallest, map_bytes // 2)


def open_databases(environment: lmdb.Environment, txn: LmdbTransaction) -> dict[str, Database]:
    """Return the handle of every table; a transaction that may write makes missing ones.

    Handles opened in a read transaction end with it, those of a committed one stay.
    """
    create = not environment.flags()["readonly"]
    return {name: environment.open_db(name.encode(), txn, create=create) for name in TABLES}


def scan_forward(cursor: Cursor, start: bytes, stop: bytes | None, limit: int | None) -> list[KeyValue]:
    """Return the pairs in [start, stop) from the cursor's table, at most `limit`."""
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


def scan_backward(cursor: Cursor, limit: int, before: bytes | None) -> list[KeyValue]:
    """Return at most `limit` pairs below `before` from the cursor's table, descending."""
    if before == b"":
        return []
    positioned = before is not None and cursor.set_range(before)
    found = cursor.prev() if positioned else cursor.last()
    return list(islice(cursor.iterprev(), limit)) if found else []


def delete_range(cursor: Cursor, operation: DeleteRange) -> None:
    """Remove the keys in [start, stop), at most `limit`."""
    start, stop = operation.start, operation.stop
    found = cursor.set_range(start) if start else cursor.first()
    left = operation.limit
    while found and left != 0 and (stop is None or cursor.key() < stop):
        found = cursor.delete() and bool(cursor.key())
        if left is not None:
            left -= 1
