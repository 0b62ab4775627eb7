"""Encrypted tables: other tables, in which the value of each row is encrypted, and nothing else is different.

Batches stay the same batches: every operation in its place, in one transaction. The values that come out are those that
went in, with their checksums in them. A row that is damaged, or was moved here from another key, table or folder, comes
out as `DAMAGED`, which no checksum fits, so what reads it does as it does with any row that the disk spoilt.

Keys are not encrypted, because they are looked for in order. Nor is what `PLAIN_ROWS` names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from forge_consensus.errors import CorruptionError, InvalidConfigError, StorageError
from forge_consensus.security.encryption import ROW_BYTES, EncryptionKey, epoch_of, random_bytes
from forge_consensus.storage.backends.guard import NAME as GUARD
from forge_consensus.storage.backends.guard import Guard, read_guard, write_guard
from forge_consensus.storage.backends.keyring import KEYS, META, OWNER, PLAIN_ROWS, Keyring, key_id_in
from forge_consensus.storage.backends.sealed import REJOIN
from forge_consensus.storage.backends.tables import (
    TABLES,
    Batch,
    KeyValue,
    Looked,
    PutRun,
    Space,
    Tables,
    TablesView,
)

DAMAGED: Final = b"\0"
"""Stands for a value that cannot be read: too short for any checksum to fit."""
REWRITTEN_ROWS: Final = 500
REWRITTEN_BYTES: Final = 256 << 10
"""How many rows, and about how many bytes, one commit writes anew under the newest data key: some 2 ms."""
PAGE_ROWS: Final = 100
"""So many rows are read at once for that, at most; few at first, because each may have a megabyte."""
STAMP_BYTES: Final = 16


class EncryptedView(TablesView):
    """Reading encrypted tables.

    Args:
        inner: the tables with the encrypted rows.
        ring: the folder's keyring.

    """

    def __init__(self, inner: TablesView, ring: Keyring) -> None:
        self.inner = inner
        self.ring = ring
        self.bound = {name: ring.folder + bytes((number,)) for number, name in enumerate(TABLES)}
        """By table: what its rows are bound to beside their keys."""

    def value(self, table: str, key: bytes, row: bytes | memoryview) -> bytes:
        """Return the value in a row, `DAMAGED` if there is none."""
        if table == META and key in PLAIN_ROWS:
            return bytes(row)
        value = self.ring.value(row, self.bound[table] + key)
        return DAMAGED if value is None else value

    def values(self, table: str, rows: list[KeyValue]) -> list[KeyValue]:
        """Return rows with their values."""
        return [(key, self.value(table, key, row)) for key, row in rows]

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value of `key`, or None."""
        row = self.inner.get(table, key)
        return None if row is None else self.value(table, key, row)

    def look(
        self, table: str, keys: Sequence[bytes], read: Callable[[bytes, bytes | memoryview], Looked]
    ) -> list[Looked | None]:
        """Return `read(key, value)` for each of the keys, None for one that is not there."""
        value = self.value
        return self.inner.look(table, keys, lambda key, row: read(key, value(table, key, row)))

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int | None = None
    ) -> list[KeyValue]:
        """Return the pairs with keys in [start, stop), ascending, at most `limit`; None is no bound."""
        return self.values(table, self.inner.scan(table, start, stop, limit))

    def scan_reverse(self, table: str, limit: int, before: bytes | None = None) -> list[KeyValue]:
        """Return at most `limit` pairs with keys below `before`, descending; None is no bound."""
        return self.values(table, self.inner.scan_reverse(table, limit, before))

    def first(self, table: str) -> KeyValue | None:
        """Return the pair with the lowest key, or None if the table is empty."""
        pair = self.inner.first(table)
        return None if pair is None else (pair[0], self.value(table, *pair))

    def last(self, table: str) -> KeyValue | None:
        """Return the pair with the highest key, or None if the table is empty."""
        pair = self.inner.last(table)
        return None if pair is None else (pair[0], self.value(table, *pair))

    def count(self, table: str) -> int:
        """Return the number of keys."""
        return self.inner.count(table)

    def count_range(self, table: str, start: bytes, stop: bytes | None, limit: int) -> tuple[int, bytes]:
        """Return how many of the first `limit` keys from `start` on lie below `stop`, and the last of them."""
        return self.inner.count_range(table, start, stop, limit)

    def size_bytes(self, table: str) -> int:
        """Return the table's share of `Space.used_bytes`."""
        return self.inner.size_bytes(table)

    @property
    def files(self) -> Keyring:
        """The keyring, under whose key the files beside the tables are encrypted."""
        return self.ring

    def close(self) -> None:
        """Release everything that the tables hold. A second call does nothing."""
        self.inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class EncryptedTables(EncryptedView, Tables):
    """The tables of a node whose folder is encrypted.

    Args:
        inner: the tables with the encrypted rows; they are closed with these.
        key: the node's key.
        folder: the folder with the file that guards against older tables; None for tables in memory.
        ring: the keyring of tables that are new, if it is not to be a new one.

    Raises `InvalidConfigError` for another key than the folder's, and for tables that are neither encrypted nor new;
    `CorruptionError` if the keyring is damaged or exchanged, or the tables are older than the folder; `StorageError`.

    """

    def __init__(
        self, inner: Tables, key: EncryptionKey, folder: Path | None = None, ring: Keyring | None = None
    ) -> None:
        where = "the tables in memory" if folder is None else str(folder)
        super().__init__(inner, ring or ring_of(inner, key, where, may_be_new=True))
        self.tables = inner
        self.owner = inner.get(META, OWNER) or b""
        self.guard_path = None if folder is None else folder / GUARD
        self.untold = True
        """Whether the tables do not tell of this opening yet, which the first commit changes."""
        self.begin_guard()

    @property
    def commits(self) -> int:  # type: ignore[override]
        """The number of transactions that became durable."""
        return self.tables.commits

    def commit(self, batch: Batch) -> None:
        """Make the batch durable as a whole; see `Tables.commit`. Raises `StorageError`."""
        if not batch:
            self.tables.commit(batch)
            return
        ring, sealed = self.ring, Batch()
        owner, is_asked, rows = marks(batch, self.owner)
        rewrites = is_asked and ring.rewriting
        wants_ring = ring.reserve(rows + REWRITTEN_ROWS * rewrites)
        if rewrites:
            self.rewrite(sealed)
        for operation in batch.operations:
            sealed.operations.append(self.sealed(operation) if isinstance(operation, PutRun) else operation)
        sealed.size_bytes += batch.size_bytes + ROW_BYTES * rows
        if self.untold:
            ring.opened, ring.stamp = ring.opened + 1, b""
        if wants_ring or is_asked or self.untold or owner != self.owner:
            sealed.put(META, KEYS, ring.row(owner))
        self.tables.commit(sealed)
        self.owner = owner
        if self.untold:
            self.untold = False
            self.write_guard(Guard(ring.opened, begun=False))

    def sealed(self, run: PutRun) -> PutRun:
        """Return the run with its values encrypted, but for the rows that stay plain; that of the keyring is left out.

        It is added by the commit, because only the keyring knows it.
        """
        encrypt, bound = self.ring.newest.encrypt_all, self.bound[run.table]
        if run.table != META:
            return PutRun(run.table, encrypt(run.items, bound), run.append)
        items: list[KeyValue] = []
        for item in run.items:
            if item[0] == OWNER:
                items.append(item)
            elif item[0] != KEYS:
                items += encrypt((item,), bound)
        return PutRun(META, items, run.append)

    # --- the keys ----------------------------------------------------------------------------------------------------

    def take_key(self, key: EncryptionKey) -> bool:
        """Let another key of the node be in force; it is on disk when this returns. Raises `StorageError`.

        Returns whether it is another one than before. Rows are encrypted with a new data key from now on, and old ones
        are written anew by later commits.
        """
        if key == self.ring.key:
            return False
        self.ring.take_key(key)
        batch = Batch()
        ask_for_ring(batch)
        self.commit(batch)
        self.tables.sync()  # a helper is given the newest key, and must find the keyring under it
        self.write_guard(Guard(self.ring.opened, begun=False))
        return True

    def rewrite(self, batch: Batch) -> None:
        """Add rows under earlier data keys to a batch, under the newest one, before anything else is in it.

        They are what the tables hold now, so whatever the batch does to them comes after that.
        """
        ring = self.ring
        newest, left_rows, left_bytes = ring.newest, REWRITTEN_ROWS, REWRITTEN_BYTES
        table, start = ring.place or (TABLES[0], b"")
        count = 1
        while left_rows > 0 and left_bytes > 0:
            page = self.tables.scan(table, start, limit=min(count, left_rows))
            if not page:
                following = TABLES.index(table) + 1
                if following == len(TABLES):
                    ring.end_rewriting()
                    return
                table, start, count = TABLES[following], b"", 1
                continue
            old = [(key, row) for key, row in page if epoch_of(row) != newest.epoch]
            whole = [(key, value) for key, value in self.values(table, old) if value != DAMAGED]
            if table == META:
                whole = [(key, value) for key, value in whole if key not in PLAIN_ROWS]
            batch.put_all(table, newest.encrypt_all(whole, self.bound[table]))
            start = page[-1][0] + b"\0"
            size_bytes = sum(len(row) for _, row in page)
            left_rows -= len(page)
            left_bytes -= size_bytes
            count = max(1, min(4 * count, PAGE_ROWS, left_bytes * len(page) // max(1, size_bytes)))
        ring.place = table, start

    # --- the guard ---------------------------------------------------------------------------------------------------

    def begin_guard(self) -> None:
        """Compare the tables with the file that guards them, and announce their opening there."""
        ring, path = self.ring, self.guard_path
        if path is None:
            return
        if ring.opened:
            guard = read_guard(path, ring.node_keys, ring.folder)
            if guard is None:
                raise CorruptionError(
                    f"{path} is missing, so nobody knows whether the tables are those that this node had last. {REJOIN}"
                )
            guard.check(ring.opened, ring.stamp, str(path.parent))
        self.write_guard(Guard(ring.opened + 1, begun=True))

    def write_guard(self, guard: Guard) -> None:
        """Write the file that guards the tables, if there is one. Raises `StorageError`."""
        if self.guard_path is not None:
            write_guard(self.guard_path, guard, self.ring.key, self.ring.folder)

    def end_guard(self) -> None:
        """Leave the same stamp in the tables and beside them, so that the next start knows them again."""
        if self.guard_path is None or self.untold:
            return
        self.ring.stamp = random_bytes(STAMP_BYTES)
        batch = Batch()
        ask_for_ring(batch)
        self.commit(batch)
        self.write_guard(Guard(self.ring.opened, begun=False, stamp=self.ring.stamp))

    # --- what the tables do ------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Have helpers see everything that was committed; see `Tables.sync`. Raises `StorageError`."""
        self.tables.sync()

    def view(self) -> TablesView:
        """Return what is committed now, unchanged by later commits; see `Tables.view`. Raises `StorageError`."""
        return EncryptedView(self.tables.view(), self.ring)

    def space(self) -> Space:
        """Return the room left. Raises `StorageError`."""
        return self.tables.space()

    def take_quota(self, quota_bytes: int) -> None:
        """Let the room left be counted by this quota from now on."""
        self.tables.take_quota(quota_bytes)

    def close(self) -> None:
        """Close the tables, with their stamp if they can still be written to. A second call does nothing."""
        with suppress(StorageError):  # they failed before, or are closed
            self.end_guard()
        self.tables.close()


def ask_for_ring(batch: Batch) -> None:
    """Have the commit of a batch write the keyring, and rows under earlier data keys anew.

    The tables put the keyring's own row in the place of this one. Tables that are not encrypted never get it.
    """
    batch.put(META, KEYS, b"")


def marks(batch: Batch, owner: bytes) -> tuple[bytes, bool, int]:
    """Return the identity's row after a batch, whether the batch asks for the keyring, and how many rows it writes."""
    is_asked, rows = False, 0
    for operation in batch.operations:
        if isinstance(operation, PutRun):
            rows += len(operation.items)
            if operation.table == META:
                for key, value in operation.items:
                    if key == OWNER:
                        owner = value
                    elif key == KEYS:
                        is_asked = True
    return owner, is_asked, rows


def ring_of(tables: TablesView, key: EncryptionKey, where: str, *, may_be_new: bool = False) -> Keyring:
    """Return the keyring in these tables; `where` names them.

    Raises `InvalidConfigError` for another key, and for tables that are not encrypted; as `Keyring.read` besides.
    """
    row, owner = tables.get(META, KEYS), tables.get(META, OWNER)
    if row is not None:
        return Keyring.read(row, owner or b"", key, where)
    if owner is None and may_be_new:
        return Keyring.made(key)
    raise InvalidConfigError(
        f"{where} is not encrypted, and an encryption key was given. Encrypt it while its node is stopped: "
        "forge-consensus storage encrypt --data DIR --key-file FILE. That writes all of it anew, because a node that "
        "did it bit by bit would leave what it had written before in the free pages of the file"
    )


def check_plain(tables: TablesView, where: str) -> None:
    """Raise `InvalidConfigError` if these tables are encrypted, and no key was given."""
    row = tables.get(META, KEYS)
    if row is not None:
        raise InvalidConfigError(
            f"{where} is encrypted under the key {key_id_in(row, where)}, and no key was given: give it, in the "
            "settings as security.encryption_key_file with security.enable_encryption, to a command as --key-file"
        )
