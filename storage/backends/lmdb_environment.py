"""One environment of LMDB: how it is opened, how a batch is carried out in it, and what its errors mean."""

import os
import resource
from pathlib import Path
from typing import Final, TypeAlias

import lmdb

from forge_consensus.errors import CorruptionError, StorageError
from forge_consensus.storage.backends.sealed import REJOIN
from forge_consensus.storage.backends.tables import TABLES, Batch, Delete, DeleteRange, Operation, PutRun
from forge_consensus.storage.backends.write_ahead import Mark, read_batches

MAP_BYTES_MIN: Final = 64 << 20
"""The smallest map size, in bytes, that is tried where address space is short."""
READERS_MAX: Final = 64
DAMAGE: Final = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError)
"""What LMDB raises for a file that does not hold what was written."""
MARKS: Final = b"wal"
"""A table beside those of `TABLES`, which only this backend knows: its one row is the mark of the write-ahead log."""
MARK: Final = b"mark"

# Quoted, because at run time these classes are not generic; only the type stubs say so.
LmdbTransaction: TypeAlias = "lmdb.Transaction[bytes]"
Cursor: TypeAlias = "lmdb.Cursor[bytes]"
Database: TypeAlias = "lmdb._Database"


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
                max_dbs=len(TABLES) + 1,
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


def mark_in(environment: lmdb.Environment, txn: LmdbTransaction) -> Mark | None:
    """Return what the tables say of the write-ahead log beside them; None if they hold everything."""
    try:
        row = txn.get(MARK, db=environment.open_db(MARKS, txn, create=False))
    except lmdb.NotFoundError:
        return None
    return None if row is None else Mark.unpack(row)


def repeat(path: Path, txn: LmdbTransaction, databases: dict[str, Database], mark: Mark) -> None:
    """Carry out in a transaction what the write-ahead log has and the tables have not.

    Raises `CorruptionError` if the log is not whole, `OSError` if it cannot be read, `lmdb.Error`.
    """
    for batch in read_batches(path, mark):
        write(txn, databases, batch)


def write(txn: LmdbTransaction, databases: dict[str, Database], batch: Batch) -> None:
    """Carry out a batch in a transaction.

    Raises `StorageError` if an append is out of order, `lmdb.Error`; then the transaction must not be committed.
    """
    for operation in batch.operations:
        execute(txn, databases[operation.table], operation)


def execute(txn: LmdbTransaction, database: Database, operation: Operation) -> None:
    """Execute one operation of a batch. Raises `StorageError` if an append is out of order, `lmdb.Error`."""
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


def delete_range(cursor: Cursor, operation: DeleteRange) -> None:
    """Remove the keys in [start, stop), lowest first, at most `limit`; None is no bound."""
    start, stop = operation.start, operation.stop
    found = cursor.set_range(start) if start else cursor.first()
    left = operation.limit
    while found and left != 0 and (stop is None or cursor.key() < stop):
        found = cursor.delete() and bool(cursor.key())
        if left is not None:
            left -= 1
