"""The table of the key-value machine: where its rows lie, read in pages; and the chunks in which they travel.

A key's row is under the number of the generation and the key's UTF-8. The rows of leases are under the generation and
0xff, a byte that UTF-8 never has. So they are behind all keys of their generation, a start reads them without passing
the keys, and whatever is done to a generation or to the table (removing, verifying, copying) is done to them too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from zlib import crc32

import msgpack

from forge_consensus.storage.backends.sealed import RESIDUE, unseal
from forge_consensus.storage.backends.tables import TablesView
from forge_consensus.storage.machines.chunks import rows_of
from forge_consensus.storage.machines.kv_commands import check_key
from forge_consensus.storage.machines.kv_history import UNKNOWN
from forge_consensus.storage.machines.kv_overlay import Row, Span
from forge_consensus.storage.machines.kv_pages import whole_number
from forge_consensus.storage.machines.kv_rows import BIRTH_BYTES, FIRST_BIRTH, MARK, check_row
from forge_consensus.storage.machines.leases import LEASES, check_lease_row

TABLE: Final = "kv"
ROW: Final = "a stored key or its value"
CLOCK: Final = LEASES
"""The key of a row that only a snapshot of the machine by itself has: the index and the time of its state."""
PAGE_BYTES: Final = 256 << 10
PAGE_ROWS_MIN: Final = 16
PAGE_ROWS_MAX: Final = 1000


def prefix_of(generation: int) -> bytes:
    """Return the prefix of a generation's keys in the table."""
    return generation.to_bytes(4)


def successor(prefix: bytes) -> bytes:
    """Return the first key beyond a prefix; a generation may end in 0xff, UTF-8 never."""
    return (int.from_bytes(prefix) + 1).to_bytes(len(prefix))


def end_of_keys(base: bytes, prefix: str) -> bytes:
    """Return the first place beyond the keys with a prefix, in the generation whose rows begin with `base`."""
    return successor(base + prefix.encode()) if prefix else base + LEASES


def alone(view: TablesView, base: bytes) -> bool:
    """Whether the table holds no other generation's rows, as it does while a snapshot is installed or removed."""
    return not view.scan(TABLE, b"", base, 1) and not view.scan(TABLE, successor(base), None, 1)


def paged(tables: TablesView, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and rows of a range, fetched in pages of about `PAGE_BYTES`. Raises `CorruptionError`."""
    count = PAGE_ROWS_MIN
    while True:
        page = tables.scan(TABLE, start, stop, count)
        for key, row in page:
            yield key, unseal(key, row, ROW)
        if len(page) < count:
            return
        start = page[-1][0] + b"\0"
        count = rows_in_page(page)


def paged_down(tables: TablesView, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
    """As `paged`, in descending order."""
    count = PAGE_ROWS_MIN
    while True:
        page = tables.scan_reverse(TABLE, count, stop)
        for key, row in page:
            if key < start:
                return
            yield key, unseal(key, row, ROW)
        if len(page) < count:
            return
        stop = page[-1][0]
        count = rows_in_page(page)


def rows_in_page(page: list[tuple[bytes, bytes]]) -> int:
    """Return how many rows the page behind this one has, so that it has about `PAGE_BYTES`."""
    row_bytes = sum(len(key) + len(value) for key, value in page) // len(page) + 1
    return max(1, min(PAGE_ROWS_MAX, PAGE_BYTES // row_bytes))


def table_rows(tables: TablesView, base: bytes, span: Span) -> Iterator[Row]:
    """Yield the keys of a span and their rows; the generation's rows begin with `base`. Raises `CorruptionError`."""
    start, stop = base + span.low.encode(), end_of_keys(base, span.prefix)
    if span.end is not None:
        stop = min(stop, base + span.end.encode())
    if start >= stop:
        return
    head = len(base)
    for key, row in (paged_down if span.reverse else paged)(tables, start, stop):
        yield key[head:].decode(), row


def check_stored_key(key: bytes) -> None:
    """Raise ValueError, TypeError or AttributeError unless these are the bytes of a key, or of a lease's row."""
    if key[:1] != LEASES:
        check_key(key.decode())


def stored_rows(chunk: bytes) -> list[tuple[bytes, bytes]]:
    """The (key, row) pairs in an exported chunk. Raises `CorruptionError` if it is none."""
    return rows_of(chunk, "keys and values", check_stored_key, check_stored_row)


def check_stored_row(key: bytes, row: bytes) -> None:
    """Raise ValueError or TypeError unless this is the row of such a key."""
    if key == CLOCK:
        index, now_ms = msgpack.unpackb(row)
        whole_number("index", index, 0, UNKNOWN)
        whole_number("time", now_ms, 0, UNKNOWN)
    elif key[:1] == LEASES:
        check_lease_row(key, row)
    else:
        check_row(row)


def births_in(tables: TablesView, base: bytes, keys: list[str]) -> list[bytes | None]:
    """Return the births in the rows of these keys, None for one that is not there. Raises `CorruptionError`."""
    return tables.look(TABLE, [base + key.encode() for key in keys], birth_in)


def birth_in(place: bytes, row: bytes | memoryview) -> bytes:
    """Return the birth in a row that is on disk. Raises `CorruptionError` if it is damaged."""
    if crc32(row, crc32(place)) != RESIDUE:
        unseal(place, bytes(row), ROW)
    return bytes(row[:BIRTH_BYTES]) if row[0] == MARK else FIRST_BIRTH
