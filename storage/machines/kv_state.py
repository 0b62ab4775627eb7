"""The state of the key-value machine: two layers over the table, the leases, the history; to disk and back."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

from forge_consensus.storage.backends.sealed import CRC_BYTES, seal, unseal
from forge_consensus.storage.backends.tables import Batch, Tables, TablesView
from forge_consensus.storage.machines.chunks import chunks_of
from forge_consensus.storage.machines.kv_history import History
from forge_consensus.storage.machines.kv_overlay import Overlay, Row, Span
from forge_consensus.storage.machines.kv_pages import closed, merged, over
from forge_consensus.storage.machines.kv_rows import (
    BIRTH_BYTES,
    OPEN_BYTE,
    UNSEEN,
    birth_of,
    head_of,
    in_new_form,
    is_open,
    own_birth,
    value_of,
    with_birth,
)
from forge_consensus.storage.machines.kv_tables import (
    CLOCK,
    ROW,
    TABLE,
    birth_in,
    births_in,
    paged,
    prefix_of,
    stored_rows,
    successor,
    table_rows,
)
from forge_consensus.storage.machines.kv_watches import Watches
from forge_consensus.storage.machines.leases import LEASES, Leases


class KeyValueState:
    """What the machine holds: keys with rows, leases, and the last changes.

    Two layers lie over the table. `fresh` takes what is applied; `checkpoint` moves it to `frozen`, which is forgotten
    only when its transaction is known to be on disk. So nothing is lost if commands are applied in between, nor if that
    transaction fails: the next checkpoint then writes both. A state that was never bound to tables has only the
    overlay. Not thread-safe.
    """

    def __init__(self) -> None:
        self.tables: Tables | None = None
        self.generation = 0
        self.prefix = prefix_of(0)
        self.fresh = Overlay()
        self.frozen = Overlay()
        """Rows in both may be open, see `kv_rows`."""
        self.leases = Leases()
        self.history = History()
        self.watches = Watches(self.history)

    # --- reading ---

    def row(self, key: str) -> bytes | None:
        """Return the row of a key, or None. It may be open."""
        if key in self.fresh.cells:
            return self.fresh.cells[key]
        return self.row_below(key)

    def row_below(self, key: str) -> bytes | None:
        """Return the row of a key below the overlay that takes what is applied, or None."""
        if key in self.frozen.cells:
            return self.frozen.cells[key]
        if self.tables is None:
            return None
        place = self.prefix + key.encode()
        row = self.tables.get(TABLE, place)
        return None if row is None else unseal(place, row, ROW)

    def fresh_row(self, key: str) -> bytes | None:
        """Return the row of a key in `fresh`, None if it is deleted there, or `UNSEEN`."""
        return self.fresh.cells.get(key, UNSEEN)

    def has(self, key: str) -> bool:
        """Return whether a key exists, without reading its value."""
        for overlay in (self.fresh, self.frozen):
            if key in overlay.cells:
                return overlay.cells[key] is not None
        if self.tables is None:
            return False
        return self.tables.look(TABLE, [self.prefix + key.encode()], birth_in)[0] is not None

    def created(self, key: str, row: bytes) -> int:
        """Return the index of the entry since which a key exists that has this row now."""
        return head_of(self.whole_row(key, row))[0]

    def whole_row(self, key: str, row: bytes) -> bytes:
        """Return the present row of a key, not open."""
        return with_birth(row, self.births_below([key])[0]) if is_open(row) else row

    def births_below(self, keys: list[str]) -> list[bytes | None]:
        """Return the births in the rows of these keys below `fresh`, None for one that is not there."""
        if not self.frozen.cells:
            return self.stored_births(keys)
        return list(map(self.birth_below, keys))

    def birth_below(self, key: str) -> bytes | None:
        """Return the birth in the row of a key below `fresh`, None if it is not there."""
        cells = self.frozen.cells
        stored = self.stored_births([key])[0] if is_open(cells.get(key)) or key not in cells else None
        row = cells.get(key)
        if row is None:
            return stored
        return stored or own_birth(row) if is_open(row) else birth_of(row)

    def stored_births(self, keys: list[str]) -> list[bytes | None]:
        """Return the births in the rows of these keys in the table, None for one that is not there."""
        return births_in(self.tables, self.prefix, keys) if self.tables is not None else [None] * len(keys)

    def read(self, key: str) -> bytes | None:
        """Return the packed value of a key, or None."""
        row = self.row(key)
        return None if row is None else value_of(row)

    def layers(self, span: Span) -> Iterator[Iterator[Row]]:
        """Yield all layers, the newest one first, each as its keys of a span with rows or None for a deleted key."""
        yield self.fresh.range(span)
        yield self.frozen.range(span)
        if self.tables is not None:
            yield table_rows(self.tables, self.prefix, span)

    def merged_rows(self, span: Span, *, whole: bool = False) -> Iterator[Row]:
        """Yield the keys of a span and their rows, None for a deleted one, from all layers; with `whole` none open."""
        return (closed if whole else merged)(*self.layers(span), reverse=span.reverse)

    def span_rows(self, span: Span) -> Iterator[tuple[str, bytes]]:
        """Yield the keys of a span and their rows, which may be open, from all layers."""
        for key, row in self.merged_rows(span):
            if row is not None:
                yield key, row

    def rows(self, prefix: str, after: str | None) -> Iterator[tuple[str, bytes]]:
        """Yield keys with that prefix, beyond `after`, and packed values, from all layers."""
        for key, row in self.span_rows(Span(prefix).beyond(after)):
            yield key, value_of(row)

    def whole_state(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows of all keys, then those of all leases, as a snapshot has them; the same for equal states."""
        for key, row in self.merged_rows(Span(), whole=True):
            if row is not None:
                yield key.encode(), in_new_form(row)
        yield from self.leases.rows()

    # --- to disk and back ---

    @property
    def dirty(self) -> tuple[int, int]:
        """(keys, bytes) that are applied and not yet on disk."""
        fresh, frozen = self.fresh, self.frozen
        rows, size = self.leases.dirty
        return len(fresh.cells) + len(frozen.cells) + rows, fresh.bytes + frozen.bytes + size

    def bind(self, tables: Tables, generation: int, index: int = 0, elapsed_ms: int = 0) -> None:
        """Take the state that those tables hold under that generation, and forget the overlay.

        It is the state after the entry `index`, whose elapsed time is given.
        """
        self.tables = tables
        self.generation = generation
        self.prefix = prefix_of(generation)
        self.fresh = Overlay()
        self.frozen = Overlay()
        self.begin_history(index)
        self.leases = Leases()
        self.leases.now_ms = elapsed_ms
        start, head = self.prefix + LEASES, len(self.prefix)
        rows = paged(tables, start, successor(start[:head]))
        self.leases.load(((key[head:], row) for key, row in rows), stored=True)

    def passed(self, elapsed_ms: int) -> None:
        """Note the elapsed time of the last applied entry: see `LedgerMachine`."""
        self.leases.now_ms = elapsed_ms

    def begin_history(self, index: int) -> None:
        """Let the history begin behind that entry."""
        self.history = History(index)
        self.watches.follow(self.history)

    def checkpoint(self, batch: Batch) -> None:
        """Stage the overlay in key order: writing random keys costs twice the time.

        Rows that are open are closed on their way to the disk, because there the row is that says when the key was
        created. What this costs for each key counts, because a busy node spends a tenth of its time here.
        """
        known = self.move_to_frozen()
        cells, prefix = self.frozen.cells, self.prefix
        keys = self.frozen.sorted_keys()
        rows = list(map(cells.__getitem__, keys))
        places = [prefix + key.encode() for key in keys]
        open_keys = [key for key, row in zip(keys, rows, strict=True) if row is not None and row[1] >= OPEN_BYTE]
        found = iter(self.stored_births(open_keys))
        births: list[bytes | None] = []
        items: list[tuple[bytes, bytes]] = []
        for place, row in zip(places, rows, strict=True):
            if row is None:
                continue
            stored = row
            if row[1] >= OPEN_BYTE:
                birth = next(found) or own_birth(row)
                births.append(birth)
                stored = birth + row[BIRTH_BYTES:]
            items.append((place, stored + crc32(stored, crc32(place)).to_bytes(CRC_BYTES, "little")))
        known.update(zip(open_keys, births, strict=True))
        self.history.close(known)
        batch.put_all(TABLE, items)
        for place, row in zip(places, rows, strict=True):
            if row is None:
                batch.delete(TABLE, place)
        self.leases.checkpoint(batch, TABLE, prefix)

    def move_to_frozen(self) -> dict[str, bytes | None]:
        """Move what was applied to `frozen`, over what a transaction that failed has left there.

        Returns the births of the keys whose rows were open and were replaced, None for those that were absent below.
        """
        fresh, frozen = self.fresh, self.frozen
        lost = sorted(fresh.lost)
        births = dict(zip(lost, self.births_below(lost), strict=True))
        if not frozen.cells:
            self.frozen = fresh
        for key, row in fresh.cells.items() if frozen.cells else ():
            laid = over(row, frozen.cells[key]) if key in frozen.cells else row
            if row is not None and laid is not None and is_open(row) and not is_open(laid):
                births[key] = birth_of(laid)
            frozen.put(key, laid)
        self.fresh = Overlay()
        return births

    def checkpointed(self) -> None:
        """Note that the last checkpoint is on disk."""
        self.frozen = Overlay()
        self.leases.checkpointed()

    @staticmethod
    def export(tables: TablesView, generation: int) -> Iterator[bytes]:
        """Yield the state on disk in chunks, each msgpack [[key, row], ...]."""
        start = prefix_of(generation)
        rows = paged(tables, start, successor(start))
        return chunks_of((key[len(start) :], row) for key, row in rows)

    @staticmethod
    def import_chunk(batch: Batch, generation: int, chunk: bytes) -> None:
        """Stage one exported chunk under a generation.

        Raises `CorruptionError`, with nothing staged, if the chunk is malformed.
        """
        prefix = prefix_of(generation)
        for key, row in stored_rows(chunk):
            if key == CLOCK:
                continue
            place = prefix + key
            batch.put(TABLE, place, seal(place, row))
