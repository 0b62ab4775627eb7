"""The file of the tables when it was cut, emptied or overwritten: an error names it, and no process ends."""

from __future__ import annotations

import random
from pathlib import Path

import lmdb
import pytest

from forge_consensus.errors import CorruptionError, StorageError
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.lmdb_file import LOCK_BYTES, NAME, check_file
from forge_consensus.storage.backends.tables import TABLES, Batch
from forge_consensus.storage.verify import verify_folder

PAGE = 4096


def filled(path: Path) -> Path:
    """Tables with some hundred pages, of small and of large values; returns their file."""
    with LmdbTables(path) as tables:
        for number in range(40):
            batch = Batch()
            for table in TABLES:
                for row in range(20):
                    batch.put(table, (number * 100 + row).to_bytes(8), bytes([number]) * (30 if row else 9_000))
            tables.commit(batch)
    return path / NAME


def scan_all(path: Path) -> int:
    with LmdbTables(path) as tables:
        return sum(len(tables.scan(table)) for table in TABLES)


def test_a_file_that_was_cut_anywhere_is_corruption_or_holds_everything(tmp_path: Path) -> None:
    """Reading a page beyond the end of the file would end this very process with SIGBUS."""
    path = filled(tmp_path / "tables")
    whole = path.read_bytes()
    assert len(whole) > 200 * PAGE
    rows, found = scan_all(path.parent), 0
    for share in range(100):
        path.unlink()  # LMDB keeps the inode of an open file in mind
        path.write_bytes(whole[: len(whole) * share // 100])
        try:
            assert scan_all(path.parent) <= rows
        except CorruptionError as error:
            found += 1
            assert str(path.parent) in str(error)
    assert found > 90


@pytest.mark.parametrize("at", [0, 16, 20, 40, PAGE + 16])
def test_a_file_of_something_else_is_corruption(tmp_path: Path, at: int) -> None:
    path = filled(tmp_path / "tables")
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + b"garbage!" * 20 + whole[at + 160 :])
    with pytest.raises(CorruptionError, match="does not begin like a store"):
        LmdbTables(path.parent)


def test_an_empty_and_a_tiny_file_are_corruption_and_a_missing_one_is_new(tmp_path: Path) -> None:
    path = filled(tmp_path / "tables")
    path.write_bytes(b"")
    with pytest.raises(CorruptionError, match="is empty"):
        LmdbTables(path.parent)
    path.write_bytes(b"x" * 100)
    with pytest.raises(CorruptionError, match="does not begin"):
        LmdbTables(path.parent)
    path.unlink()
    check_file(path.parent)
    with LmdbTables(path.parent) as tables:
        assert tables.count("log") == 0


@pytest.mark.parametrize("seed", [5, 7, 11, 57])
def test_pages_at_the_end_that_hold_nothing_may_be_missing(tmp_path: Path, seed: int) -> None:
    """LMDB itself does not write pages that its last transaction took and gave back."""
    chance, kept = random.Random(seed), dict[bytes, bytes]()
    path = tmp_path / "tables" / NAME
    path.parent.mkdir()
    with lmdb.open(str(path.parent), map_size=1 << 30, max_dbs=1, sync=False) as environment:
        table = environment.open_db(b"kv")
        for _ in range(30):
            with environment.begin(write=True) as txn:
                for _ in range(chance.choice((1, 3, 30))):
                    key = chance.randrange(300).to_bytes(8)
                    if chance.random() < 0.55:
                        kept[key] = bytes(chance.choice((10, 100, 1500, 2500, 9000, 50000)))
                        txn.put(key, kept[key], db=table)
                    else:
                        kept.pop(key, None)
                        txn.delete(key, db=table)
            if path.stat().st_size < (environment.info()["last_pgno"] + 1) * PAGE:
                break
        else:
            raise AssertionError("this seed leaves no page unwritten")
    with LmdbTables(path.parent) as tables:
        assert dict(tables.scan("kv")) == kept


def test_a_damaged_page_is_a_fault_in_the_report(tmp_path: Path) -> None:
    path = filled(tmp_path / "tables")
    whole = path.read_bytes()
    path.write_bytes(whole[: 2 * PAGE] + bytes(len(whole) - 2 * PAGE))
    report = verify_folder(tmp_path)
    assert not report.whole
    assert "damaged" in report.faults[0]


def test_freed_pages_count_as_room_except_while_a_helper_reads(tmp_path: Path) -> None:
    """The file never shrinks, so a disk that it once filled would stay full for ever."""
    path = filled(tmp_path / "tables")
    size = path.stat().st_size
    moments = iter(range(1_000))
    with LmdbTables(path.parent, clock=lambda: 10.0 * next(moments)) as tables:
        before = tables.space().reusable_bytes
        batch = Batch()
        for table in TABLES:
            batch.delete_range(table, b"", None)
        tables.commit(batch)
        freed = tables.space().reusable_bytes
        assert before < freed < size
        assert freed > size // 2
        with tables.thread_view():
            tables.space()
            batch = Batch()
            batch.put("kv", b"k", bytes(50 * PAGE))
            tables.commit(batch)
            batch = Batch()
            batch.delete("kv", b"k")
            tables.commit(batch)
            assert tables.space().reusable_bytes <= freed - 2 * 50 * PAGE


def test_a_new_folder_on_a_full_disk_ends_nothing_by_a_signal_and_stays_new(tmp_path: Path) -> None:
    """LMDB maps its lock, and a page of it that the disk has no block for is SIGBUS; of its file an empty one stays."""

    def on_a_full_disk(path: Path, *_: object, **__: object) -> None:
        lock = (path / "lock.mdb").read_bytes()
        assert len(lock) == LOCK_BYTES, "the blocks of the lock are there before LMDB maps it"
        (path / NAME).touch()
        raise lmdb.DiskError("No space left on device")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(StorageError, match="No space left"):
        patch.setattr("forge_consensus.storage.backends.lmdb.open_environment", on_a_full_disk)
        LmdbTables(tmp_path)
    assert (tmp_path / "lock.mdb").stat().st_mode & 0o777 == 0o600
    with LmdbTables(tmp_path) as tables:
        assert tables.count("kv") == 0
