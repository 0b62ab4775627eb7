"""The tables on LMDB: one environment, one durable transaction per commit."""

import os
import re
import resource
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, Self, TypeAlias, TypeVar
from weakref import WeakSet

import lmdb

from forge_consensus.config.storage import MAP_BYTES, QUOTA_BYTES
from forge_consensus.errors import CorruptionError, StorageError
from forge_consensus.process.fork import keep, tell_of_forks
from forge_consensus.storage.backends.folder import fsync_directory
from forge_consensus.storage.backends.lmdb_file import check_file
from forge_consensus.storage.backends.sealed import REJOIN
from forge_consensus.storage.backends.tables import (
    TABLES,
    Batch,
    Delete,
    DeleteRange,
    KeyValue,
    Looked,
    PutRun,
    Space,
    TablesView,
)

MAP_BYTES_MIN: Final = 64 << 20
"""The smallest map size, in bytes, that is tried where address space is short."""

READERS_MAX: Final = 64
READING: Final = re.compile(r"^ *\d+ +\S+ +\d+$", re.MULTILINE)
"""A line of LMDB's table of readers, of one that has a transaction open."""
DAMAGE: Final = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError)
"""What LMDB raises for a file that does not hold what was written."""
HOUSEKEEPING_SECONDS: Final = 1.0
HOUSEKEEPING_BYTES: Final = 1 << 20
"""The free space of the disk is also measured after this many bytes were written, because one second of writing can
fill the reserve."""

Result = TypeVar("Result")
# Quoted, because at run time these classes are not generic; only the type stubs say so.
LmdbTransaction: TypeAlias = "lmdb.Transaction[bytes]"
Cursor: TypeAlias = "lmdb.Cursor[bytes]"
Database: TypeAlias = "lmdb._Database"


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


class LmdbTables(LmdbReading):
    """The tables of a running node; one object per folder, used by one thread at a time.

    It is not used after a fork: there every call raises `StorageError`. Start helper processes with spawn or exec, and
    let them call `open_readonly`.
    LMDB's locks do not work on network file systems.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        quota_bytes: int = QUOTA_BYTES,
        map_bytes: int = MAP_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open or create the environment in the folder `path`. Raises `StorageError`.

        The map is opened at `map_bytes`, a size that no node reaches, and never grown, because growing it under an open
        reader ended in SIGSEGV. Where address space is short the map is smaller, and `quota_bytes` is then cut to half
        of it: the other half is for copy-on-write and for pages that a snapshot's reader keeps from being used again.

        `clock` returns seconds; it paces the housekeeping, which runs about once a second.
        """
        self.path = Path(path)
        self.commits = 0
        self.clock = clock
        self.failure: StorageError | None = None
        self.used_bytes: int | None = None
        self.disk_free_bytes = 0
        self.next_housekeeping = 0.0
        self.unasked_bytes = 0
        self.reusable_bytes = 0
        self.written_bytes = self.counted_bytes = 0
        """The bytes that were written, and those of them that `reusable_bytes` takes into account."""
        self.is_read = False
        """Whether a helper reads the tables, as far as is known."""
        self.views: WeakSet[LmdbView] = WeakSet()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_file(self.path)
            self.environment = open_environment(self.path, map_bytes, readonly=False)
        except (lmdb.Error, OSError, ValueError) as error:
            raise failed("cannot open", self.path, error) from error
        try:
            with self.environment.begin(write=True) as txn:
                self.databases = open_databases(self.environment, txn)
            # A new file is durable only when its name is durable in the folders above it.
            fsync_directory(self.path)
            fsync_directory(self.path.parent)
        except (lmdb.Error, OSError) as error:
            self.environment.close()
            raise failed("cannot open", self.path, error) from error
        except BaseException:
            self.environment.close()
            raise
        tell_of_forks(self)
        self.map_bytes = self.environment.info()["map_size"]
        self.page_bytes = self.environment.stat()["psize"]
        self.take_quota(quota_bytes)

    def take_quota(self, quota_bytes: int) -> None:
        """Let the room left be counted by this quota from now on; half of the map is the most."""
        self.quota_bytes = min(quota_bytes, self.map_bytes // 2)

    @staticmethod
    def open_readonly(path: str | os.PathLike[str], map_bytes: int = MAP_BYTES) -> "LmdbView":
        """Open the tables of a running node from another process. Raises `StorageError`."""
        return LmdbView(path, map_bytes)

    def reading(self, read: Callable[[LmdbTransaction], Result]) -> Result:
        """Return `read(transaction)` on a read transaction that ends with this call. Raises `StorageError`."""
        if self.failure is not None:
            raise self.poisoned()
        try:
            # Beginning a transaction takes 0.4 us, so keeping one open would gain nothing.
            with self.environment.begin() as txn:
                return read(txn)
        except lmdb.Error as error:
            self.failure = failed("cannot read", self.path, error)
            raise self.failure from error

    def look(
        self, table: str, keys: Sequence[bytes], read: Callable[[bytes, bytes | memoryview], Looked]
    ) -> list[Looked | None]:
        """Return `read(key, value)` for each of the keys, None for one that is not there; copies no value."""
        if self.failure is not None:
            raise self.poisoned()
        database = self.databases[table]
        try:
            with self.environment.begin(db=database, buffers=True) as txn:
                get = txn.get
                return [None if (value := get(key)) is None else read(key, value) for key in keys]
        except lmdb.Error as error:
            self.failure = failed("cannot read", self.path, error)
            raise self.failure from error

    def commit(self, batch: Batch) -> None:
        """Make the batch durable in one transaction; see `Tables.commit`. Raises `StorageError`."""
        if self.failure is not None:
            raise self.poisoned()
        if not batch:
            return
        try:
            with self.environment.begin(write=True) as txn:
                for operation in batch.operations:
                    self.execute(txn, operation)
        except Exception as error:
            self.failure = failed("cannot commit to", self.path, error)
            raise self.failure from error
        except BaseException:
            # After an interrupt nobody knows whether the transaction reached the disk.
            self.failure = StorageError(f"a commit to {self.path} was interrupted")
            raise
        self.commits += 1
        self.used_bytes = None
        self.unasked_bytes += batch.size_bytes
        self.written_bytes += batch.size_bytes
        if self.unasked_bytes >= HOUSEKEEPING_BYTES or self.clock() >= self.next_housekeeping:
            self.do_housekeeping()

    def execute(self, txn: LmdbTransaction, operation: PutRun | Delete | DeleteRange) -> None:
        """Execute one operation of a batch. Raises `StorageError` if an append is out of order, `lmdb.Error`."""
        database = self.databases[operation.table]
        if isinstance(operation, PutRun):
            items = operation.items
            _, added = txn.cursor(database).putmulti(items, append=operation.append)
            if added != len(items):
                # py-lmdb stops at a key that is out of order and raises nothing (seen with 3.0.0).
                raise StorageError(f"append to {operation.table}: a key is out of order")
        elif isinstance(operation, Delete):
            txn.delete(operation.key, db=database)
        elif operation.start == b"" and operation.stop is None and operation.limit is None:
            txn.drop(database, delete=False)
        else:
            delete_range(txn.cursor(database), operation)

    def view(self) -> TablesView:
        """Return what is committed now, unchanged by later commits; see `Tables.view`. Raises `StorageError`."""
        if self.failure is not None:
            raise self.poisoned()
        return OwnView(self)

    def space(self) -> Space:
        """Return the room left. Raises `StorageError`.

        Used bytes are the pages of all tables, which LMDB counts with each table's root (4 us). The length of the file
        is no measure: it never shrinks, and LMDB uses freed pages in it again.
        """
        if self.clock() >= self.next_housekeeping:
            self.do_housekeeping()
        used_bytes = self.used_bytes
        if used_bytes is None:
            used_bytes = self.used_bytes = self.reading(self.count_used_bytes)
            self.count_reusable_bytes(used_bytes)
        elif self.failure is not None:
            raise self.poisoned()
        return Space(used_bytes, self.quota_bytes, self.disk_free_bytes, self.reusable_bytes)

    def count_reusable_bytes(self, used_bytes: int) -> None:
        """Note how much of the file holds nothing: freed pages, which LMDB writes again before the file grows.

        Without it a disk that the file once filled would stay full for ever, because the file never shrinks. A part of
        them does not count, because large values need pages in a row. While a helper reads, pages that are freed stay
        in use, so what was reusable before only shrinks.
        """
        held_bytes = (self.environment.info()["last_pgno"] + 1) * self.page_bytes
        reusable_bytes = max(0, held_bytes - used_bytes) * 3 // 4
        if self.is_read:
            left_bytes = self.reusable_bytes - 2 * (self.written_bytes - self.counted_bytes)
            reusable_bytes = max(0, min(reusable_bytes, left_bytes))
        self.reusable_bytes, self.counted_bytes = reusable_bytes, self.written_bytes

    def count_used_bytes(self, txn: LmdbTransaction) -> int:
        """Return the bytes of live pages: two meta pages, the main table, and the tables of `TABLES`."""
        stats = [txn.stat(), *(txn.stat(database) for database in self.databases.values())]
        pages = 2 + sum(s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"] for s in stats)
        return pages * stats[0]["psize"]

    def do_housekeeping(self) -> None:
        """Measure the free space of the disk, and free the reader slots of processes that died. Raises `StorageError`.

        Without this, a helper that was killed while reading would keep its pages from being used again forever.
        """
        if self.failure is not None:
            raise self.poisoned()
        self.next_housekeeping = self.clock() + HOUSEKEEPING_SECONDS
        self.unasked_bytes = 0
        self.used_bytes = None  # counted anew without a commit: when a helper has ended, what it held is reusable
        try:
            self.environment.reader_check()
            self.is_read = READING.search(self.environment.readers()) is not None
            disk = os.statvfs(self.path)
        except (lmdb.Error, OSError) as error:
            self.failure = StorageError(f"cannot ask {self.path} for its room: {error}")
            raise self.failure from error
        self.disk_free_bytes = disk.f_bavail * disk.f_frsize

    def poisoned(self) -> StorageError:
        """Return the error that every call raises after a failure."""
        return StorageError(f"the tables stopped after an earlier error: {self.failure}")

    def thread_view(self) -> "LmdbView":
        """Return a view for another thread of this process, which ends with `close`. Raises `StorageError`."""
        if self.failure is not None:
            raise self.poisoned()
        view = LmdbView(self.path, own=self)
        self.views.add(view)
        return view

    def close(self) -> None:
        """Close the environment; every later call raises `StorageError`."""
        if self.failure is None:
            self.failure = StorageError(f"the tables in {self.path} are closed")
        for view in list(self.views):
            view.close()
        self.environment.close()

    def forked(self) -> None:
        """In a child process: touch the environment no more, not even to close it."""
        self.failure = StorageError(f"the tables in {self.path} belong to the process that this one was forked from")
        keep(self.environment, list(self.views))


class OwnView(LmdbReading):
    """One unchanging view of a node's own tables, on the node's thread, while commits go on beside it."""

    def __init__(self, tables: LmdbTables) -> None:
        self.tables = tables
        self.databases = tables.databases
        self.transaction: LmdbTransaction | None = tables.environment.begin()

    def reading(self, read: Callable[[LmdbTransaction], Result]) -> Result:
        """Return `read(transaction)` on the view's one transaction. Raises `StorageError`."""
        if self.transaction is None:
            raise StorageError(f"the view of {self.tables.path} is closed")
        if self.tables.failure is not None:
            raise self.tables.poisoned()
        try:
            return read(self.transaction)
        except lmdb.Error as error:
            raise failed("cannot read", self.tables.path, error) from error

    def close(self) -> None:
        """End the view, so that LMDB can use its pages again. A second call does nothing."""
        transaction, self.transaction = self.transaction, None
        if transaction is not None:
            transaction.abort()


class LmdbView(LmdbReading):
    """One unchanging view of a running node's tables, for a helper process or another thread.

    All reads use one read transaction, so a header and a state that are read through it belong together. LMDB cannot
    reuse the pages of that view until `close`: close it soon. Any thread may close it; a read under way ends first.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        map_bytes: int = MAP_BYTES,
        *,
        own: LmdbTables | None = None,
        lock: bool = True,
    ) -> None:
        """Open the environment in the folder `path`, which another process may be writing if `lock`.

        A process must open a folder once only, so a view within the node's process is given the node's own tables.
        Raises `StorageError`.
        """
        self.path = Path(path)
        self.closed = False
        self.owner = own is None
        self.using = threading.Lock()
        """Held while the transaction is read or ended."""
        try:
            if own is None:
                self.environment = open_environment(self.path, map_bytes, readonly=True, lock=lock)
            else:
                self.environment = own.environment
        except (lmdb.Error, OSError) as error:
            raise failed("cannot read", self.path, error) from error
        try:
            self.transaction = self.environment.begin()
            self.databases = open_databases(self.environment, self.transaction) if own is None else own.databases
        except (lmdb.Error, OSError) as error:
            if self.owner:
                self.environment.close()
            raise failed("cannot read", self.path, error) from error

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


def failed(what: str, path: Path, error: Exception) -> StorageError:
    """Return the error for what LMDB or the system raised at the tables in `path`."""
    if isinstance(error, DAMAGE):
        return CorruptionError(f"{what} the tables in {path}: they are damaged ({error}): {REJOIN}")
    return StorageError(f"{what} the tables in {path}: {error}")


def open_environment(path: Path, map_bytes: int, *, readonly: bool, lock: bool = True) -> lmdb.Environment:
    """Open the environment with the largest map that the address space allows, at most `map_bytes`.

    Without `lock` nobody may write meanwhile, and LMDB's own lock file is neither made nor changed.

    Raises `lmdb.Error`, the last one if even the smallest map is refused.
    """
    smallest = min(map_bytes, MAP_BYTES_MIN)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        # The largest map that fits would leave no address space for anything else.
        map_bytes = max(smallest, min(map_bytes, limit // 2))
    while True:
        try:
            return lmdb.open(
                os.fspath(path),
                map_size=map_bytes // resource.getpagesize() * resource.getpagesize(),
                readonly=readonly,
                create=not readonly,
                lock=lock,
                max_dbs=len(TABLES),
                max_readers=READERS_MAX,
                mode=0o600,
                # Only replay and snapshots read from the disk instead of the cache, and both read in order.
                readahead=True,
            )
        except (lmdb.MemoryError, MemoryError):
            if map_bytes <= smallest:
                raise
            map_bytes = max(smallest, map_bytes // 2)


def open_databases(environment: lmdb.Environment, txn: LmdbTransaction) -> dict[str, Database]:
    """Return the handle of every table, creating missing tables if the environment is writable.

    Handles that were opened in a read transaction end with it; those of a committed write transaction stay valid.
    """
    create = not environment.flags()["readonly"]
    return {name: environment.open_db(name.encode(), txn, create=create) for name in TABLES}


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


def delete_range(cursor: Cursor, operation: DeleteRange) -> None:
    """Remove the keys in [start, stop), lowest first, at most `limit`; None is no bound."""
    start, stop = operation.start, operation.stop
    found = cursor.set_range(start) if start else cursor.first()
    left = operation.limit
    while found and left != 0 and (stop is None or cursor.key() < stop):
        found = cursor.delete() and bool(cursor.key())
        if left is not None:
            left -= 1
