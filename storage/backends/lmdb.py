"""The tables on LMDB: one environment of a node, one durable transaction for a batch or for many."""

import errno
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from weakref import WeakSet

import lmdb

from forge_consensus.config.storage import MAP_BYTES, QUOTA_BYTES
from forge_consensus.errors import StorageError
from forge_consensus.process.fork import keep, tell_of_forks
from forge_consensus.storage.backends.folder import fsync_directory, remove_temporary_files
from forge_consensus.storage.backends.lmdb_environment import (
    MARK,
    MARKS,
    LmdbTransaction,
    failed,
    mark_in,
    open_databases,
    open_environment,
    repeat,
    write,
)
from forge_consensus.storage.backends.lmdb_file import check_file, make_lock_file, no_empty_file
from forge_consensus.storage.backends.lmdb_reading import LmdbReading, LmdbView, Opened, Result
from forge_consensus.storage.backends.tables import Batch, Looked, Space, TablesView
from forge_consensus.storage.backends.write_ahead import NAME as WRITE_AHEAD
from forge_consensus.storage.backends.write_ahead import WriteAheadLog

READING: Final = re.compile(r"^ *\d+ +\S+ +\d+$", re.MULTILINE)
"""A line of LMDB's table of readers, of one that has a transaction open."""
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
HOUSEKEEPING_SECONDS: Final = 1.0
HOUSEKEEPING_BYTES: Final = 1 << 20
"""The free space of the disk is also measured after this many bytes were written, because one second of writing can
fill the reserve."""


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
        wal_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open or create the environment in the folder `path`. Raises `StorageError`, `CorruptionError` for damage.

        The map is opened at `map_bytes`, a size that no node reaches, and never grown, because growing it under an open
        reader ended in SIGSEGV. Where address space is short the map is smaller, and `quota_bytes` is then cut to half
        of it: the other half is for copy-on-write and for pages that a snapshot's reader keeps from being used again.

        `wal_bytes` is the length of the write-ahead log, from the second commit on; without one each batch is a
        transaction of its own. Whatever a log of before holds is in the tables when this returns.

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
        self.held_back_bytes = 0
        """What a durable commit would add to `reusable_bytes`."""
        self.is_read = False
        """Whether a helper reads the tables, as far as is known."""
        self.views: WeakSet[LmdbView] = WeakSet()
        self.wal_bytes = wal_bytes
        self.log: WriteAheadLog | None = None
        self.transaction: LmdbTransaction | None = None
        """What was committed to the log and not to the tables' file yet. The thread that began it ends it."""
        self.unsynced_bytes = 0
        self.environment = self.opened_environment(map_bytes)
        try:
            self.open_tables()
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

    def opened_environment(self, map_bytes: int) -> lmdb.Environment:
        """Open the environment, a new one if there is none. Raises `StorageError`, `CorruptionError` for damage."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_file(self.path)
            make_lock_file(self.path)
            with no_empty_file(self.path):
                return open_environment(self.path, map_bytes, readonly=False)
        except (lmdb.Error, OSError, ValueError) as error:
            raise failed("cannot open", self.path, error) from error

    def open_tables(self) -> None:
        """Open the tables, creating those that are missing, and let them have what a crash left in the log.

        Raises `CorruptionError` if the log is not whole, `lmdb.Error`, `OSError`.
        """
        with self.environment.begin(write=True) as txn:
            self.databases = open_databases(self.environment, txn)
            self.marks = self.environment.open_db(MARKS, txn)
            if mark := mark_in(self.environment, txn):
                repeat(self.path, txn, self.databases, mark)
                txn.delete(MARK, db=self.marks)
        (self.path / WRITE_AHEAD).unlink(missing_ok=True)
        remove_temporary_files(self.path)
        # A new file is durable only when its name is durable in the folders above it.
        fsync_directory(self.path)
        fsync_directory(self.path.parent)

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
            if self.transaction is not None:
                return read(self.transaction)
            # Beginning a transaction takes 0.4 us, so keeping one open would gain nothing.
            with self.environment.begin() as txn:
                return read(txn)
        except lmdb.Error as error:
            self.failure = failed("cannot read", self.path, error)
            raise self.failure from error

    def look(
        self, table: str, keys: Sequence[bytes], read: Callable[[bytes, bytes | memoryview], Looked]
    ) -> list[Looked | None]:
        """Return `read(key, value)` for each of the keys, None for one that is not there; copies no synced value."""
        if self.failure is not None:
            raise self.poisoned()
        if self.transaction is not None:
            return super().look(table, keys, read)
        database = self.databases[table]
        try:
            with self.environment.begin(db=database, buffers=True) as txn:
                get = txn.get
                return [None if (value := get(key)) is None else read(key, value) for key in keys]
        except lmdb.Error as error:
            self.failure = failed("cannot read", self.path, error)
            raise self.failure from error

    def commit(self, batch: Batch) -> None:
        """Make the batch durable as a whole; see `Tables.commit`. Raises `StorageError`.

        It goes into the open transaction, and then into the write-ahead log; or, without a log or without room in it,
        the transaction is committed.
        """
        if self.failure is not None:
            raise self.poisoned()
        if not batch:
            return
        try:
            if self.transaction is None:
                self.transaction = self.environment.begin(write=True)
            # What cannot be carried out must not get into the log, because the next start would fail at it too.
            write(self.transaction, self.databases, batch)
            self.unsynced_bytes += batch.size_bytes
            self.written_bytes += batch.size_bytes
            if self.log is None or not self.log.append(batch):
                self.end_transaction()
        except BaseException as error:
            self.fail(error)
            raise
        self.commits += 1
        self.used_bytes = None
        self.unasked_bytes += batch.size_bytes
        if self.unasked_bytes >= HOUSEKEEPING_BYTES or self.clock() >= self.next_housekeeping:
            self.do_housekeeping()

    def end_transaction(self) -> None:
        """Make the open transaction durable, and let the log begin anew. Raises `lmdb.Error`, `OSError`.

        The first one of an opening announces the log, which is there before.
        """
        transaction = self.transaction
        assert transaction is not None, "a transaction is open"
        if self.log is None and self.wal_bytes:
            self.log = self.made_log()
        if self.log is not None:
            transaction.put(MARK, self.log.mark.pack(), db=self.marks)
        transaction.commit()
        self.transaction, self.unsynced_bytes = None, 0
        if self.log is not None:
            self.log.begin_anew()
        self.count_reusable_bytes(self.reading(self.count_used_bytes))

    def made_log(self) -> WriteAheadLog | None:
        """Make the write-ahead log; None while the disk has no room for it. Raises `OSError`.

        A node on a full disk must start and vote all the same, in pages that LMDB's file has already.
        """
        disk = os.statvfs(self.path)
        if disk.f_bavail * disk.f_frsize < 2 * self.wal_bytes:
            return None
        try:
            return WriteAheadLog(self.path, self.wal_bytes)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self.wal_bytes = 0  # a quota or a limit of the process, which the next attempt would meet too
            return None

    def sync(self) -> None:
        """Have the file of the tables hold everything that was committed; see `Tables.sync`. Raises `StorageError`."""
        if self.failure is not None:
            raise self.poisoned()
        if self.transaction is None:
            return
        try:
            self.end_transaction()
        except BaseException as error:
            self.fail(error)
            raise

    def fail(self, error: BaseException) -> None:
        """Let every later call raise `StorageError`, because nobody knows what of a commit reached the disk.

        Raises `StorageError` for an error; returns for an interrupt, which the caller lets through.
        """
        self.give_up()
        if not isinstance(error, Exception):
            self.failure = StorageError(f"a commit to {self.path} was interrupted")
            return
        self.failure = failed("cannot commit to", self.path, error)
        raise self.failure from error

    def give_up(self) -> None:
        """Abort the open transaction after a failure: the log has what was acknowledged of it."""
        transaction, self.transaction = self.transaction, None
        if transaction is not None:
            with suppress(lmdb.Error):  # its commit failed, which ended it
                transaction.abort()

    def view(self) -> TablesView:
        """Return what is committed now, unchanged by later commits; see `Tables.view`. Raises `StorageError`."""
        self.sync()
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
        # A page that changes is copied before the old one is free.
        disk_free_bytes = max(0, self.disk_free_bytes - 2 * self.unsynced_bytes)
        return Space(used_bytes, self.quota_bytes, disk_free_bytes, self.reusable_bytes)

    def count_reusable_bytes(self, used_bytes: int) -> None:
        """Note how much of the file holds nothing: freed pages, which LMDB writes again before the file grows.

        Without it a disk that the file once filled would stay full for ever, because the file never shrinks. A part of
        them does not count, because large values need pages in a row. While a helper reads, pages that are freed stay
        in use, so what was reusable before only shrinks; and so do those that the open transaction freed.
        """
        held_bytes = (self.environment.info()["last_pgno"] + 1) * self.page_bytes
        reusable_bytes = max(0, held_bytes - used_bytes) * 3 // 4
        self.held_back_bytes = 0
        if self.is_read or self.transaction is not None:
            left_bytes = max(0, self.reusable_bytes - 2 * (self.written_bytes - self.counted_bytes))
            if reusable_bytes > left_bytes:
                self.held_back_bytes = 0 if self.is_read else reusable_bytes - left_bytes
                reusable_bytes = left_bytes
        self.reusable_bytes, self.counted_bytes = reusable_bytes, self.written_bytes

    def count_used_bytes(self, txn: LmdbTransaction) -> int:
        """Return the bytes of live pages: two meta pages, the main table, that of the mark, and those of `TABLES`."""
        stats = [txn.stat(), *(txn.stat(database) for database in (self.marks, *self.databases.values()))]
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
        if self.held_back_bytes >= HOUSEKEEPING_BYTES:
            self.sync()
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
        """Return a view for another thread of this process, which ends with `close`. Raises `StorageError`.

        It shows what was committed before the last `sync`, which only the node's thread can call.
        """
        if self.failure is not None:
            raise self.poisoned()
        view = LmdbView(self.path, own=Opened(self.environment, self.databases))
        self.views.add(view)
        return view

    def close(self) -> None:
        """Close the environment; every later call raises `StorageError`.

        In an orderly end all is in the tables' file, and the log is removed. Otherwise the next opening repeats it.
        """
        try:
            if self.failure is None:
                with suppress(lmdb.Error, OSError):  # then the log stays
                    self.end_log()
        finally:
            self.failure = self.failure or StorageError(f"the tables in {self.path} are closed")
            self.give_up()
            if self.log is not None:
                self.log.close()
            for view in list(self.views):
                view.close()
            self.environment.close()

    def end_log(self) -> None:
        """Have the tables hold everything, and remove the log. Raises `lmdb.Error`, `OSError`."""
        if self.log is None:
            return
        transaction = self.transaction = self.transaction or self.environment.begin(write=True)
        transaction.delete(MARK, db=self.marks)
        transaction.commit()
        self.transaction = None
        (self.path / WRITE_AHEAD).unlink(missing_ok=True)

    def forked(self) -> None:
        """In a child process: touch the environment no more, not even to close it."""
        self.failure = StorageError(f"the tables in {self.path} belong to the process that this one was forked from")
        keep(self.environment, self.transaction, list(self.views))
        self.transaction = None
        if self.log is not None:
            self.log.close()


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
