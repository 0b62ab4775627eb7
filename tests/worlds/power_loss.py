"""A disk that loses power: of the write-ahead log it keeps what was flushed, and of the rest any sectors that it likes.

LMDB writes its file in a commit only, so what is on the disk of it is what the last commit left.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from forge_consensus.storage.backends import write_ahead
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.lmdb_file import NAME as TABLES_FILE
from forge_consensus.storage.backends.lmdb_reading import LmdbView
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import TABLES, Batch, TablesView
from forge_consensus.storage.backends.write_ahead import NAME

SECTOR_BYTES: Final = 512
LOG_BYTES: Final = 16 << 10
"""So small that a life of some dozens of commits fills the log several times."""


class PowerLossError(BaseException):
    """The power went, in the middle of a step."""


@dataclass
class Disk:
    """What the disk was told about the log, and whether the power goes at a step.

    Steps are the writes and flushes of the log, and the beginnings and ends of LMDB's commits.
    """

    left: int
    """After so many steps the power goes."""
    flushed: bytes | None = None
    """What the file has for sure; None if there is none."""
    pending: list[tuple[int, bytes]] = field(default_factory=list)
    """What was written and not flushed since: place and bytes."""
    replaced: list[bytes | None] = field(default_factory=list)
    """What stood under the name before a rename that was not flushed."""
    off: bool = False

    def step(self) -> None:
        """Take one step, or none any more."""
        if self.left <= 0:
            self.off = True
            raise PowerLossError
        self.left -= 1

    def after_loss(self, chance: random.Random) -> bytes | None:
        """Return what the file holds when the power is back."""
        if self.replaced and chance.random() < 0.5:
            return self.replaced[0]
        if self.flushed is None:
            return None
        data = bytearray(self.flushed)
        for place, written in self.pending:
            for at in range(place - place % SECTOR_BYTES, place + len(written), SECTOR_BYTES):
                if chance.random() < 0.5:
                    first, last = max(at, place), min(at + SECTOR_BYTES, place + len(written))
                    data[first:last] = written[first - place : last - place]
        return bytes(data)


def watch(patch: pytest.MonkeyPatch, disk: Disk) -> None:
    """Let the disk know of everything that is done to the log of the tables that are opened from now on."""
    making: dict[int, bytearray] = {}
    real_pwrite, real_open = os.pwrite, os.open

    class Calls:
        """The module `os` as the write-ahead log sees it."""

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def open(self, *arguments: Any) -> int:
            descriptor = real_open(*arguments)
            making[descriptor] = bytearray()
            return descriptor

        def pwrite(self, descriptor: int, data: memoryview, place: int) -> int:
            disk.step()
            if descriptor in making:
                making[descriptor][place:] = data
            else:
                disk.pending.append((place, bytes(data)))
            return real_pwrite(descriptor, data, place)

        def fsync(self, descriptor: int) -> None:
            disk.step()
            # The name is flushed later: until then either file may be there.
            disk.replaced.append(disk.flushed)
            disk.flushed, disk.pending = bytes(making.pop(descriptor)), []

        def fdatasync(self, _: int) -> None:
            disk.step()
            assert disk.flushed is not None
            data = bytearray(disk.flushed)
            for place, written in disk.pending:
                data[place : place + len(written)] = written
            disk.flushed, disk.pending = bytes(data), []

    def fsync_directory(_: Path) -> None:
        disk.step()
        disk.replaced.clear()

    end_transaction = LmdbTables.end_transaction

    def watched(tables: LmdbTables) -> None:
        disk.step()
        end_transaction(tables)
        disk.step()

    patch.setattr(write_ahead, "os", Calls())
    patch.setattr(write_ahead, "fsync_directory", fsync_directory)
    patch.setattr(LmdbTables, "end_transaction", watched)


def content(tables: TablesView) -> dict[str, list[tuple[bytes, bytes]]]:
    """Everything that is in tables."""
    return {name: tables.scan(name) for name in TABLES}


def draw_batch(chance: random.Random, model: MemoryTables) -> Batch:
    """Draw what one turn of a node might write."""
    batch = Batch()
    last = model.last("log")
    begin = int.from_bytes(last[0], "big") + 1 if last else 1
    for _ in range(chance.randrange(1, 4)):
        kind = chance.randrange(7)
        if kind < 3:
            rows = chance.randrange(1, 5)
            batch.append("log", [((begin + n).to_bytes(8, "big"), chance.randbytes(40)) for n in range(rows)])
            begin += rows
        elif kind < 5:
            large = chance.random() < 0.02
            batch.put("kv", b"k%d" % chance.randrange(20), chance.randbytes(LOG_BYTES // 4 if large else 60))
        elif kind == 5:
            batch.delete("kv", b"k%d" % chance.randrange(20))
        else:
            batch.delete_range("log", b"", begin.to_bytes(8, "big"), chance.randrange(1, 6))
    batch.put("meta", b"turn", chance.randbytes(8))
    return batch


def live(chance: random.Random, tables: LmdbTables, model: MemoryTables) -> Callable[[], Batch | None]:
    """Commit drawn batches, to the tables and to the model, until the power goes; returns what asks for the last one.

    The model gets a batch when the tables have said that it is durable.
    """
    under_way: list[Batch] = []
    try:
        while True:
            batch = draw_batch(chance, model)
            under_way[:] = [batch]
            tables.commit(batch)
            under_way.clear()
            model.commit(batch)
            if chance.random() < 0.01:
                tables.sync()
            if chance.random() < 0.1:
                assert content(tables) == content(model)
    except PowerLossError:
        return lambda: under_way[0] if under_way else None


def live_and_lose_power(path: Path, seed: int, lives: int = 4) -> None:
    """Let a node's tables live through some losses of power, and check after each that nothing acknowledged is lost.

    What was under way is there as a whole, or not at all. The view of a stopped node shows it, and changes no byte.
    """
    chance = random.Random(seed)
    model, kept = MemoryTables(), None
    for life in range(lives):
        disk = Disk(chance.randrange(4, 250), kept)
        folder, found = path / f"life{life}", path / f"life{life + 1}"
        with pytest.MonkeyPatch.context() as patch:
            watch(patch, disk)
            tables = LmdbTables(folder, wal_bytes=LOG_BYTES)
            try:
                assert content(tables) == content(model)
                under_way = live(chance, tables, model)()
            finally:
                shutil.copytree(folder, found)
                tables.close()
        kept = disk.after_loss(chance)
        (found / NAME).unlink(missing_ok=True)
        if kept is not None:
            (found / NAME).write_bytes(kept)
        after = model.clone_durable()
        if under_way is not None:
            after.commit(under_way)
        file = (found / TABLES_FILE).read_bytes()
        with LmdbView(found, lock=False) as view:
            seen = content(view)
        assert file == (found / TABLES_FILE).read_bytes(), "a look changed the file"
        assert seen in (content(model), content(after)), "what was acknowledged is lost, or half a batch is there"
        model = after if seen == content(after) else model
