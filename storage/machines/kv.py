"""The key-value machine: its state is in the ledger's tables, with unsaved changes in an overlay in memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import Any, Final

import msgpack

from forge_consensus.storage.backends.sealed import seal, unseal
from forge_consensus.storage.backends.tables import Batch, Tables, TablesView
from forge_consensus.storage.machines.chunks import chunks_of, rows_of
from forge_consensus.storage.machines.kv_commands import (
    BATCH_OPS_MAX,
    OP_BYTES_MIN,
    OPERATIONS,
    Writes,
    check_batch,
    check_fields,
    check_key,
)
from forge_consensus.storage.machines.kv_pages import (
    check_text,
    fill,
    filling,
    first_of,
    merged,
    page_of,
)
from forge_consensus.storage.machines.machine import Command, Entry
from forge_consensus.storage.machines.steps import Encoded, finished

TABLE: Final = "kv"
ROW: Final = "a stored key or its value"
CELL_BYTES: Final = 120
"""About how much memory a key in the overlay takes beside its own text and value."""
PAGE_BYTES: Final = 256 << 10
PAGE_ROWS_MIN: Final = 16
PAGE_ROWS_MAX: Final = 1000
COUNT_ROWS: Final = 2000
"""How many keys one step of counting passes or looks up: less than a millisecond."""


class Overlay:
    """Packed values by key, None for a deleted one; knows its size and gives ranges in key order.

    A key is never removed, so `order` stays sorted by adding only what came since it was last asked for.
    """

    __slots__ = ("bytes", "cells", "order")

    def __init__(self) -> None:
        self.cells: Writes = {}
        self.bytes = 0
        self.order: list[str] = []

    def put(self, key: str, value: bytes | None) -> None:
        """Note a value, or None for a deleted key."""
        cells = self.cells
        if key in cells:
            old = cells[key]
            self.bytes -= len(old) if old else 0
        else:
            self.bytes += len(key) + CELL_BYTES
        self.bytes += len(value) if value else 0
        cells[key] = value

    def sorted_keys(self) -> list[str]:
        """All keys in order, which for str is the order of their UTF-8 bytes in the table."""
        if len(self.order) != len(self.cells):
            self.order.extend(islice(self.cells, len(self.order), None))
            self.order.sort()
        return self.order

    def range(self, prefix: str, after: str | None) -> Iterator[tuple[str, bytes | None]]:
        """Keys with that prefix, beyond `after`, in order, one after another."""
        keys = self.sorted_keys()
        for place in range(first_place(keys, prefix, after), len(keys)):
            key = keys[place]
            if not key.startswith(prefix):
                return
            yield key, self.cells[key]

    def taken(self, prefix: str, after: str | None) -> Iterator[tuple[str, bytes | None]]:
        """As `range`, but all are taken at once, at less than 0.1 us each, so that later changes do not matter."""
        keys = self.sorted_keys()
        first = first_place(keys, prefix, after)
        stop = bisect_left(keys, True, first, key=lambda key: not key.startswith(prefix))
        found = keys[first:stop]
        return zip(found, list(map(self.cells.__getitem__, found)), strict=True)


def first_place(keys: list[str], prefix: str, after: str | None) -> int:
    """Return the place of the first key with that prefix, beyond `after`, in sorted keys."""
    first = bisect_left(keys, prefix)
    return first if after is None else max(first, bisect_right(keys, after))


class KeyValueMachine:
    """Keys (str) to msgpack values; the commands are in `kv_commands`, the queries in `query`.

    Two layers lie over the table. `fresh` takes what is applied; `checkpoint` moves it to `frozen`, which is forgotten
    only when its transaction is known to be on disk. So nothing is lost if commands are applied in between, nor if that
    transaction fails: the next checkpoint then writes both. A machine that was never bound to tables has only the
    overlay, and works by itself as a `StateMachine`. Not thread-safe.
    """

    def __init__(self) -> None:
        self.tables: Tables | None = None
        self.generation = 0
        self.prefix = prefix_of(0)
        self.fresh = Overlay()
        self.frozen = Overlay()
        # four times as fast as packb, since a packer keeps its buffer; so it is for one thread
        self.pack: Callable[[Any], bytes] = msgpack.Packer().pack

    # --- commands and queries ---

    admit_bytes_min = BATCH_OPS_MAX * OP_BYTES_MIN
    """Only a longer command is decoded and handed to `admit`, because no shorter one holds too large a batch."""

    @staticmethod
    def admit(command: Command) -> None:
        """Refuse a command that could only fail, before it enters the log. Raises `ValueError` or `TypeError`."""
        if command.type == "batch":
            check_fields(command.type, command.payload)
            check_batch(command.payload["ops"])

    def apply(self, entry: Entry) -> Any:
        """Apply one command, entirely or not at all.

        Raises `ValueError` or `TypeError` with the reason for a command that cannot be carried out.
        """
        command = entry.command
        operation = OPERATIONS.get(command.type)
        if operation is None:
            known = ", ".join(sorted(OPERATIONS))
            raise ValueError(f"unknown command {command.type!r}; there are {known}")
        if command.payload.keys() != operation.fields:
            check_fields(command.type, command.payload)
        writes: Writes = {}
        result = operation.run(self, command.payload, writes)
        for key, value in writes.items():
            self.fresh.put(key, value)
        return result

    def read(self, key: str) -> bytes | None:
        """Return the packed value of a key, or None."""
        if key in self.fresh.cells:
            return self.fresh.cells[key]
        if key in self.frozen.cells:
            return self.frozen.cells[key]
        if self.tables is None:
            return None
        place = self.prefix + key.encode()
        row = self.tables.get(TABLE, place)
        return None if row is None else unseal(place, row, ROW)

    def query(self, query: Any) -> Any:
        """Answer a query.

        - a key, or {"get": key}: the value, or None
        - {"scan": prefix, "limit": 1000, "after": key}: [[key, value], ...] in key order. The next
          page is `after` the last key; a page with fewer than `limit` keys is the last one
        - {"count": prefix}: how many keys have it. Counting all keys costs as much as looking up the keys that changed
          since the last checkpoint; with a prefix every key that has it is passed, in steps (see `query_steps`)

        Raises ValueError or TypeError for any other, and for a page of more than `SCAN_BYTES_MAX`.
        """
        if isinstance(query, str):
            query = {"get": query}
        if isinstance(query, dict):
            if query.keys() == {"get"}:
                value = self.read(check_key(query["get"]))
                return None if value is None else msgpack.unpackb(value)
            if query.keys() == {"count"}:
                return finished(self.counting(check_text("count", query["count"])))
            if is_scan(query):
                return msgpack.unpackb(finished(self.scanning(query)).data)
        raise ValueError(
            'a query is a key, {"get": key}, {"count": prefix} or {"scan": prefix, "limit": n, "after": key}'
        )

    def query_steps(self, query: Any) -> Any:
        """As `query`, but for a query that may take long it returns a generator, which returns the answer in the end.

        Its first step fixes the state that it answers from; commands may be applied between its steps. A page is
        returned as `Encoded`, and at once if one step is enough; otherwise it is begun anew in the first step, because
        the state may be another one by then.
        """
        if isinstance(query, dict):
            if query.keys() == {"count"}:
                return self.counting(check_text("count", query["count"]))
            if is_scan(query):
                page = page_of(query)
                return page.encoded() if fill(page, self.changes(page.prefix, page.last)) else self.scanning(query)
        return self.query(query)

    def counting(self, prefix: str) -> Generator[None, None, int]:
        """Count the keys with that prefix in the state of the first step."""
        changed: dict[str, bool] = {}
        for overlay in (self.frozen, self.fresh):
            changed.update((key, value is not None) for key, value in overlay.cells.items() if key.startswith(prefix))
        total = sum(changed.values())
        if self.tables is None:
            return total
        with self.tables.view() as view:
            base = self.prefix
            start = base + prefix.encode()
            stop = successor(start)
            if not prefix and alone(view, base):
                total += view.count(TABLE)
            else:
                count = COUNT_ROWS
                while count == COUNT_ROWS:
                    count, last = view.count_range(TABLE, start, stop, COUNT_ROWS)
                    total += count
                    start = last + b"\0"
                    yield
            for number, key in enumerate(changed, 1):
                total -= view.get(TABLE, base + key.encode()) is not None
                if number % COUNT_ROWS == 0:
                    yield
        return total

    def scanning(self, query: dict[str, Any]) -> Generator[None, None, Encoded]:
        """Make one page of keys and values, see `query`, from the state of the first step."""
        page = page_of(query)
        if fill(page, self.changes(page.prefix, page.last)):
            return page.encoded()
        changed: Writes = {}
        for overlay in (self.frozen, self.fresh):
            changed.update(overlay.taken(page.prefix, page.last))
        rest = iter(sorted(changed.items(), key=first_of))
        if self.tables is None:
            yield
            yield from filling(page, rest)
            return page.encoded()
        with self.tables.view() as view:
            stored = table_rows(view, self.prefix, page.prefix, page.last)
            yield
            yield from filling(page, merged(rest, stored))
        return page.encoded()

    def changes(self, prefix: str, after: str | None) -> Iterator[tuple[str, bytes | None]]:
        """Yield keys with that prefix, beyond `after`, and packed values or None for a deleted one, from all layers."""
        stored: Iterator[tuple[str, bytes | None]] = iter(())
        if self.tables is not None:
            stored = table_rows(self.tables, self.prefix, prefix, after)
        return merged(self.fresh.range(prefix, after), self.frozen.range(prefix, after), stored)

    def rows(self, prefix: str, after: str | None) -> Iterator[tuple[str, bytes]]:
        """Yield keys with that prefix, beyond `after`, and packed values, from all layers."""
        for key, value in self.changes(prefix, after):
            if value is not None:
                yield key, value

    # --- in the ledger ---

    @property
    def dirty(self) -> tuple[int, int]:
        """(keys, bytes) that are applied and not yet on disk."""
        fresh, frozen = self.fresh, self.frozen
        return len(fresh.cells) + len(frozen.cells), fresh.bytes + frozen.bytes

    def bind(self, tables: Tables, generation: int) -> None:
        """Take the state that those tables hold under that generation, and forget the overlay."""
        self.tables = tables
        self.generation = generation
        self.prefix = prefix_of(generation)
        self.fresh = Overlay()
        self.frozen = Overlay()

    def checkpoint(self, batch: Batch) -> None:
        """Stage the overlay in key order: writing random keys costs twice the time."""
        if self.frozen.cells:
            for key, value in self.fresh.cells.items():
                self.frozen.put(key, value)
        else:
            self.frozen = self.fresh
        self.fresh = Overlay()
        cells, prefix = self.frozen.cells, self.prefix
        rows = [(prefix + key.encode(), cells[key]) for key in self.frozen.sorted_keys()]
        batch.put_all(TABLE, [(key, seal(key, value)) for key, value in rows if value is not None])
        for row, value in rows:
            if value is None:
                batch.delete(TABLE, row)

    def checkpointed(self) -> None:
        """Note that the last checkpoint is on disk."""
        self.frozen = Overlay()

    @staticmethod
    def export(tables: TablesView, generation: int) -> Iterator[bytes]:
        """Yield the state on disk in chunks, each msgpack [[key, packed value], ...]."""
        start = prefix_of(generation)
        rows = paged(tables, start, successor(start))
        return chunks_of((key[len(start) :], value) for key, value in rows)

    @staticmethod
    def import_chunk(batch: Batch, generation: int, chunk: bytes) -> None:
        """Stage one exported chunk under a generation.

        Raises `CorruptionError`, with nothing staged, if the chunk is malformed.
        """
        prefix = prefix_of(generation)
        for key, value in stored_rows(chunk):
            place = prefix + key
            batch.put(TABLE, place, seal(place, value))

    # --- by itself ---

    def snapshot(self) -> Iterable[bytes]:
        """Return the whole state in chunks.

        Keys and values are copied at once; they are packed only when the result is iterated over.
        """
        return chunks_of((key.encode(), value) for key, value in list(self.rows("", None)))

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the state, entirely or not at all.

        Raises `CorruptionError` when a chunk is none.
        """
        rows = [(key.decode(), value) for chunk in chunks for key, value in stored_rows(chunk)]
        fresh = Overlay()
        for key, _ in self.rows("", None):
            fresh.put(key, None)
        for key, value in rows:
            fresh.put(key, value)
        self.fresh = fresh


def is_scan(query: dict[Any, Any]) -> bool:
    """Whether a query asks for a page of keys and values."""
    return "scan" in query and query.keys() <= {"scan", "limit", "after"}


def alone(view: TablesView, prefix: bytes) -> bool:
    """Whether the table holds no other generation's keys, as it does while a snapshot is installed or removed."""
    return not view.scan(TABLE, b"", prefix, 1) and not view.scan(TABLE, successor(prefix), None, 1)


def prefix_of(generation: int) -> bytes:
    """Return the prefix of a generation's keys in the table."""
    return generation.to_bytes(4)


def successor(prefix: bytes) -> bytes:
    """Return the first key beyond a prefix; a generation may end in 0xff, UTF-8 never."""
    return (int.from_bytes(prefix) + 1).to_bytes(len(prefix))


def paged(tables: TablesView, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a range, fetched in pages of about `PAGE_BYTES`. Raises `CorruptionError`."""
    count = PAGE_ROWS_MIN
    while True:
        page = tables.scan(TABLE, start, stop, count)
        for key, row in page:
            yield key, unseal(key, row, ROW)
        if len(page) < count:
            return
        start = page[-1][0] + b"\0"
        row_bytes = sum(len(key) + len(value) for key, value in page) // len(page) + 1
        count = max(1, min(PAGE_ROWS_MAX, PAGE_BYTES // row_bytes))


def table_rows(tables: TablesView, base: bytes, prefix: str, after: str | None) -> Iterator[tuple[str, bytes | None]]:
    """Yield keys with that prefix, beyond `after`, and packed values; the generation's keys begin with `base`."""
    start = base + prefix.encode()
    stop = successor(start)
    if after is not None:
        start = max(start, base + after.encode() + b"\0")
    for key, value in paged(tables, start, stop):
        yield key[len(base) :].decode(), value


def check_stored_key(key: bytes) -> None:
    """Raise ValueError, TypeError or AttributeError unless these are the bytes of a key."""
    check_key(key.decode())


def stored_rows(chunk: bytes) -> list[tuple[bytes, bytes]]:
    """The (key, packed value) rows in an exported chunk. Raises `CorruptionError` if it is none."""
    return rows_of(chunk, "keys and values", check_stored_key)
