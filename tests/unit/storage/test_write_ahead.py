"""The write-ahead log: what a loss of power leaves of it, what damage is noticed, and when it is there."""

from __future__ import annotations

import errno
import os
import shutil
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import CorruptionError, InvalidConfigError, StorageError
from forge_consensus.storage.backends import lmdb_environment, lmdb_reading, write_ahead
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.lmdb_reading import LmdbView
from forge_consensus.storage.backends.tables import Batch, Tables
from forge_consensus.storage.backends.write_ahead import FIRST_AT, NAME, WriteAheadLog, decode, encode
from tests.worlds.power_loss import live_and_lose_power

KIB = 1 << 10
Patch = pytest.MonkeyPatch


def put(tables: Tables, number: int, size: int = 100) -> None:
    batch = Batch()
    batch.put("kv", b"key %d" % number, b"%d" % number * size)
    tables.commit(batch)


def crashed(path: Path, numbers: range = range(8), size: int = 100) -> Path:
    """A folder whose node was killed after these puts, the first of which the tables themselves hold."""
    tables = LmdbTables(path / "running", wal_bytes=64 * KIB)
    for number in numbers:
        put(tables, number, size)
    shutil.copytree(path / "running", path / "crashed")
    tables.close()
    return path / "crashed"


def records(folder: Path) -> Iterator[tuple[int, int]]:
    """Where each record of the file begins and ends."""
    data = (folder / NAME).read_bytes()
    at = FIRST_AT
    while size := int.from_bytes(data[at : at + 4], "little"):
        yield at, at + 16 + size
        at += 16 + size


def change(folder: Path, at: int, new: bytes) -> None:
    with (folder / NAME).open("r+b") as file:
        file.seek(at)
        file.write(new)


def flip(folder: Path, at: int) -> None:
    change(folder, at, bytes(((folder / NAME).read_bytes()[at] ^ 8,)))


# --- a loss of power --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
def test_a_loss_of_power_takes_nothing_that_was_acknowledged(tmp_path: Path, seed: int) -> None:
    live_and_lose_power(tmp_path, seed)


def no_flush(patch: Patch) -> None:
    patch.setattr(WriteAheadLog, "append", unflushed())


def unflushed() -> Callable[[WriteAheadLog, Batch], bool]:
    append = WriteAheadLog.append

    def changed(log: WriteAheadLog, batch: Batch) -> bool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("forge_consensus.storage.backends.write_ahead.os.fdatasync", lambda _: None, raising=False)
            return append(log, batch)

    return changed


def no_checksum(patch: Patch) -> None:
    patch.setattr(write_ahead, "checksum", lambda *_: 0)


def any_number(patch: Patch) -> None:
    end_of = write_ahead.end_of

    def careless(data: bytes, at: int, epoch: bytes, number: int) -> int | None:
        found = int.from_bytes(data[at + 8 : at + 16], "little")
        return end_of(data, at, epoch, found)

    patch.setattr(write_ahead, "end_of", careless)


def begins_anew_too_early(patch: Patch) -> None:
    append = WriteAheadLog.append

    def changed(log: WriteAheadLog, batch: Batch) -> bool:
        if append(log, batch):
            return True
        log.begin_anew()
        return append(log, batch)

    patch.setattr(WriteAheadLog, "append", changed)


def numbers_begin_anew_too(patch: Patch) -> None:
    def changed(log: WriteAheadLog) -> None:
        log.end, log.number = FIRST_AT, 0

    patch.setattr(WriteAheadLog, "begin_anew", changed)


def name_is_not_flushed(patch: Patch) -> None:
    make = WriteAheadLog.__init__

    def changed(log: WriteAheadLog, folder: Path, size_bytes: int) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(write_ahead, "fsync_directory", lambda _: None)
            make(log, folder, size_bytes)

    patch.setattr(WriteAheadLog, "__init__", changed)


@pytest.mark.parametrize(
    "fault",
    [no_flush, no_checksum, any_number, begins_anew_too_early, numbers_begin_anew_too, name_is_not_flushed],
)
def test_a_fault_in_the_log_would_be_found(tmp_path: Path, fault: Callable[[Patch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        for seed in range(60):
            try:
                live_and_lose_power(tmp_path / str(seed), seed)
            except (AssertionError, StorageError, ValueError, TypeError):
                return
    pytest.fail(f"no seed finds it: {fault.__name__}")


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_record_that_is_damaged_before_the_last_refuses_the_start(tmp_path: Path) -> None:
    folder = crashed(tmp_path)
    places = list(records(folder))
    assert len(places) == 7
    for at, end in places[:-1]:
        for place in (at, at + 4, at + 8, at + 16, end - 1):
            damaged = tmp_path / f"damaged{place}"
            shutil.copytree(folder, damaged)
            flip(damaged, place)
            with pytest.raises(CorruptionError, match=r"is damaged: record \d is not whole"):
                LmdbTables(damaged)
            with pytest.raises(CorruptionError, match="is damaged"):
                LmdbView(damaged, lock=False)


def test_a_whole_block_that_is_lost_refuses_the_start(tmp_path: Path) -> None:
    """However many records were in it, and however small they were."""
    folder = crashed(tmp_path, range(310), size=1)
    places = list(records(folder))
    change(folder, places[10][0], bytes(places[300][1] - places[10][0]))
    with pytest.raises(CorruptionError, match="record 11 is not whole, and record 302 behind it is"):
        LmdbTables(folder)


def test_tables_that_are_older_than_the_log_refuse_the_start(tmp_path: Path) -> None:
    folder = crashed(tmp_path / "one")
    with LmdbTables(tmp_path / "running", wal_bytes=64 * KIB) as tables:
        put(tables, 0)
        shutil.copy(tmp_path / "running" / "data.mdb", folder / "data.mdb")
        for number in range(600):
            put(tables, number)
        shutil.copy(tmp_path / "running" / NAME, folder / NAME)
    with pytest.raises(CorruptionError, match=r"record 1 is not whole, and record \d+ behind it is"):
        LmdbTables(folder)


def test_a_start_with_a_long_log_that_is_almost_empty_takes_no_time(tmp_path: Path) -> None:
    """To look for each of some numbers in a file of zeros took two seconds for a mebibyte."""
    with LmdbTables(tmp_path / "running", wal_bytes=16 << 20) as tables:
        for number in range(260, 300):
            put(tables, number)
        shutil.copytree(tmp_path / "running", tmp_path / "crashed")
    began = time.process_time()
    with LmdbView(tmp_path / "crashed", lock=False) as view:
        assert view.count("kv") == 40
    assert time.process_time() - began < 2.0


def test_a_last_record_that_is_not_whole_is_none(tmp_path: Path) -> None:
    folder = crashed(tmp_path)
    at, end = list(records(folder))[-1]
    change(folder, at + 40, bytes(end - at - 40))
    with LmdbTables(folder) as tables:
        assert tables.count("kv") == 7
        assert not (folder / NAME).exists()
        put(tables, 7)
    with LmdbTables(folder) as tables:
        assert tables.count("kv") == 8


def test_a_log_that_is_missing_or_of_another_opening_refuses_the_start(tmp_path: Path) -> None:
    folder, other = crashed(tmp_path / "one"), crashed(tmp_path / "two")
    own = (folder / NAME).read_bytes()
    for data in (None, b"", own[:20], own[:-FIRST_AT], b"\0" * len(own), (other / NAME).read_bytes()):
        (folder / NAME).unlink(missing_ok=True)
        if data is not None:
            (folder / NAME).write_bytes(data)
        with pytest.raises(CorruptionError, match=r"missing or empty|does not belong to the tables beside it"):
            LmdbTables(folder)
    (folder / NAME).write_bytes(own)
    with LmdbTables(folder) as tables:
        assert tables.count("kv") == 8


def test_a_log_that_nobody_needs_is_removed(tmp_path: Path) -> None:
    with LmdbTables(tmp_path) as tables:
        put(tables, 1)
    (tmp_path / NAME).write_bytes(b"left by a crash before it was announced")
    with LmdbTables(tmp_path) as tables:
        assert tables.count("kv") == 1
        assert not (tmp_path / NAME).exists()


# --- when it is there -------------------------------------------------------------------------------------------------


def test_a_long_log_is_made_with_little_memory(tmp_path: Path) -> None:
    size = (48 << 20) + 4096
    tracemalloc.start()
    try:
        log = WriteAheadLog(tmp_path, size)
        log.close()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert (tmp_path / NAME).stat().st_size == size


def test_an_orderly_end_leaves_no_log(tmp_path: Path) -> None:
    with LmdbTables(tmp_path, wal_bytes=64 * KIB) as tables:
        assert not (tmp_path / NAME).exists()
        for number in range(5):
            put(tables, number)
        assert (tmp_path / NAME).stat().st_size == 64 * KIB
        assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
        assert tables.commits == 5
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(NAME)] == []
    with LmdbTables(tmp_path) as tables:
        assert tables.count("kv") == 5


def test_a_stopped_nodes_folder_is_read_with_its_log_and_not_changed(tmp_path: Path) -> None:
    folder = crashed(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with LmdbView(folder, lock=False) as view:
        assert view.count("kv") == 8
        assert view.get("kv", b"key 7") == b"7" * 100
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_who_may_not_write_is_told_why_a_look_needs_it(tmp_path: Path, monkeypatch: Patch) -> None:
    def open_environment(path: Path, map_bytes: int, *, readonly: bool, lock: bool) -> lmdb.Environment:
        if not readonly:
            raise lmdb.ReadonlyError("Read-only file system")
        return lmdb_environment.open_environment(path, map_bytes, readonly=readonly, lock=lock)

    folder = crashed(tmp_path)
    monkeypatch.setattr(lmdb_reading, "open_environment", open_environment)
    with pytest.raises(StorageError, match=r"Read-only file system\. Their node was killed.* on a copy of the folder"):
        LmdbView(folder, lock=False)


def test_a_view_of_a_running_node_shows_what_was_synced(tmp_path: Path) -> None:
    with LmdbTables(tmp_path, wal_bytes=64 * KIB) as tables:
        put(tables, 1)
        put(tables, 2)
        with tables.thread_view() as view:
            assert view.count("kv") == 1
        tables.sync()
        with tables.thread_view() as view:
            assert view.count("kv") == 2
        put(tables, 3)
        with tables.view() as unchanging:
            put(tables, 4)
            assert unchanging.count("kv") == 3
            assert tables.count("kv") == 4


def test_a_batch_that_cannot_be_carried_out_does_not_get_into_the_log(tmp_path: Path) -> None:
    tables = LmdbTables(tmp_path, wal_bytes=64 * KIB)
    put(tables, 1)
    put(tables, 2)
    batch = Batch()
    batch.append("log", [(b"2", b""), (b"1", b"")])
    with pytest.raises(StorageError, match="out of order"):
        tables.commit(batch)
    with pytest.raises(StorageError, match="stopped after an earlier error"):
        tables.sync()
    tables.close()
    with LmdbTables(tmp_path) as tables:
        assert tables.count("kv") == 2
        assert tables.count("log") == 0


def test_a_flush_that_fails_is_the_last_one(tmp_path: Path, monkeypatch: Patch) -> None:
    tables = LmdbTables(tmp_path, wal_bytes=64 * KIB)
    put(tables, 1)

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("forge_consensus.storage.backends.write_ahead.os.fdatasync", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        put(tables, 2)
    monkeypatch.undo()
    calls: list[Callable[[], object]] = [lambda: put(tables, 3), tables.sync, lambda: tables.get("kv", b"key 1")]
    for call in calls:
        with pytest.raises(StorageError, match="stopped after an earlier error"):
            call()
    tables.close()
    with LmdbTables(tmp_path) as tables:
        assert tables.count("kv") in (1, 2)


def test_an_interrupt_while_the_log_begins_anew_is_the_end(tmp_path: Path, monkeypatch: Patch) -> None:
    """The next record would stand where no start looks for it, so what it holds would be lost."""
    tables = LmdbTables(tmp_path / "running", wal_bytes=64 * KIB)
    put(tables, 1)
    put(tables, 2)

    def interrupt(_: WriteAheadLog) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(WriteAheadLog, "begin_anew", interrupt)
        tables.sync()
    with pytest.raises(StorageError, match="was interrupted"):
        put(tables, 3)
    tables.close()
    with LmdbTables(tmp_path / "running") as again:
        assert again.count("kv") == 2


def test_an_interrupt_while_the_tables_close_closes_them(tmp_path: Path, monkeypatch: Patch) -> None:
    tables = LmdbTables(tmp_path, wal_bytes=64 * KIB)
    put(tables, 1)
    put(tables, 2)

    def interrupt(_: LmdbTables) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LmdbTables, "end_log", interrupt)
        tables.close()
    with pytest.raises(StorageError, match="are closed"):
        tables.count("kv")
    with LmdbTables(tmp_path) as again:
        assert again.count("kv") == 2


def full(patch: Patch) -> None:
    real = os.statvfs
    patch.setattr("os.statvfs", lambda path: os.statvfs_result([*real(path)[:4], 3, *real(path)[5:]]))


def quota_reached(patch: Patch) -> None:
    def write_all(descriptor: int, data: bytes, place: int) -> None:
        os.pwrite(descriptor, data[:100], place)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    patch.setattr(write_ahead, "write_all", write_all)


@pytest.mark.parametrize("no_room", [full, quota_reached])
def test_a_node_without_room_for_a_log_starts_without_one(tmp_path: Path, no_room: Callable[[Patch], None]) -> None:
    """It votes in pages that the tables' file has already; what is written is durable at once."""
    with pytest.MonkeyPatch.context() as patch:
        no_room(patch)
        tables = LmdbTables(tmp_path / "running", wal_bytes=64 * KIB)
        for number in range(3):
            put(tables, number)
        names = {path.name for path in (tmp_path / "running").iterdir()}
        assert names == {"data.mdb", "lock.mdb"}, "nothing is left of the attempt"
        shutil.copytree(tmp_path / "running", tmp_path / "crashed")
    with LmdbTables(tmp_path / "crashed") as crashed_tables:
        assert crashed_tables.count("kv") == 3
    put(tables, 3)
    put(tables, 4)
    assert (tmp_path / "running" / NAME).exists() == (no_room is full), "a disk with room again gets its log"
    tables.close()
    with LmdbTables(tmp_path / "running") as tables:
        assert tables.count("kv") == 5


def test_a_disk_that_fails_while_the_log_is_made_ends_the_tables(tmp_path: Path, monkeypatch: Patch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(write_ahead, "write_all", fail)
    with LmdbTables(tmp_path, wal_bytes=64 * KIB) as tables, pytest.raises(StorageError, match="Input/output error"):
        put(tables, 1)


def test_a_log_that_a_crash_left_half_made_is_removed(tmp_path: Path) -> None:
    LmdbTables(tmp_path).close()
    (tmp_path / f"{NAME}.tmp").write_bytes(bytes(64 * KIB))
    LmdbTables(tmp_path).close()
    assert not (tmp_path / f"{NAME}.tmp").exists()


def test_room_is_counted_for_what_is_not_in_the_file_yet(tmp_path: Path) -> None:
    with LmdbTables(tmp_path, wal_bytes=1 << 20) as tables:
        put(tables, 1)
        before = tables.space().disk_free_bytes
        put(tables, 2, size=50_000)
        assert tables.space().disk_free_bytes <= before - 100_000


def test_pages_that_the_open_transaction_freed_are_no_room_until_it_is_durable(tmp_path: Path) -> None:
    """On a full disk a node took entries for them, could not write, and could not start again."""
    seconds = [0.0]
    with LmdbTables(tmp_path, wal_bytes=256 * KIB, clock=lambda: seconds[0]) as tables:
        for number in range(60):
            put(tables, number, size=25_000)
        tables.sync()
        before = tables.space()
        batch = Batch()
        batch.delete_range("kv", b"", None, 1000)
        tables.commit(batch)
        freed = tables.space()
        assert freed.used_bytes < before.used_bytes - (2 << 20)
        assert freed.reusable_bytes <= before.reusable_bytes
        seconds[0] += 2.0
        assert tables.space().reusable_bytes > before.reusable_bytes + (1 << 20), "within a second it is"


def test_every_operation_comes_back_from_its_bytes() -> None:
    batch = Batch()
    batch.put("meta", b"a", b"1")
    batch.append("log", [(b"1", b"x"), (b"2", b"")])
    batch.put_all("kv", [(b"k", b"\xff")])
    batch.delete("kv", b"k")
    batch.delete_range("events", b"", None)
    batch.delete_range("events", b"1", b"2", 7)
    assert decode(encode(batch)).operations == batch.operations


def test_a_log_that_is_too_short_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match="has 65536 bytes at least"):
        StorageSettings(wal_bytes=1000)
    assert StorageSettings(wal_bytes=0).wal_bytes == 0
