"""Taking over a folder of format 2: its rows of state and events get the checksums that format 3 has.

Sessions are another matter: their rows are read as they are, and written anew at the next checkpoint. The takeover
happens at the first start with this version, before anything reads the rows, in slices of one transaction each. The
folder has the newest format from the first slice on, so that an earlier version refuses it, and a record says how far
it is: a start that was interrupted goes on from there.
"""

from __future__ import annotations

from typing import Any, Final, cast

import msgpack

from forge_consensus.storage.backends.sealed import seal
from forge_consensus.storage.backends.tables import Batch, KeyValue, Tables
from forge_consensus.storage.ledger.identity import FORMAT, IDENTITY
from forge_consensus.storage.ledger.transaction import META, get_meta, put_meta

PLACE: Final = b"taking-over"
"""The key of (table, key): the rows before it are taken over. It is gone when all are."""
SEALED_TABLES: Final = ("kv", "events")
SLICE_ROWS: Final = 2_000
SLICE_BYTES: Final = 4 << 20
UNSEALED_FORMAT: Final = 2


def take_over(tables: Tables) -> None:
    """Seal the rows of a folder of format 2. Does nothing to a folder of a later format that is complete.

    Raises `CorruptionError`, and `StorageError` if the disk fails.
    """
    place = get_meta(tables, PLACE)
    if place is None:
        identity = get_meta(tables, IDENTITY)
        if identity is None or msgpack.unpackb(identity)[0] != UNSEALED_FORMAT:
            return
        begin(tables, msgpack.unpackb(identity))
        place = get_meta(tables, PLACE)
    table, start = msgpack.unpackb(cast("bytes", place))
    for name in SEALED_TABLES[SEALED_TABLES.index(table) :]:
        seal_table(tables, name, start)
        start = b""
    batch = Batch()
    batch.delete(META, PLACE)
    tables.commit(batch)


def begin(tables: Tables, identity: list[Any]) -> None:
    """Give the folder the new format, and note that no row is taken over yet."""
    batch = Batch()
    put_meta(batch, IDENTITY, cast("bytes", msgpack.packb([FORMAT, *identity[1:]])))
    put_place(batch, SEALED_TABLES[0], b"")
    tables.commit(batch)


def put_place(batch: Batch, table: str, key: bytes) -> None:
    """Stage how far the folder is taken over."""
    put_meta(batch, PLACE, cast("bytes", msgpack.packb((table, key))))


def seal_table(tables: Tables, table: str, start: bytes) -> None:
    """Seal the rows of a table from the key `start` on, one slice in each transaction."""
    count = SLICE_ROWS
    while rows := tables.scan(table, start, None, count):
        size_bytes = sum(len(value) for _, value in rows)
        if size_bytes > SLICE_BYTES and count > 1:
            count = max(1, count // 4)
            continue
        start = seal_rows(tables, table, rows)


def seal_rows(tables: Tables, table: str, rows: list[KeyValue]) -> bytes:
    """Seal these rows; returns the key with which the next slice begins."""
    batch = Batch()
    batch.put_all(table, [(key, seal(key, value)) for key, value in rows])
    following = rows[-1][0] + b"\0"
    put_place(batch, table, following)
    tables.commit(batch)
    return following
