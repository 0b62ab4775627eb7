"""Snapshot files: complete or absent, every damage found, and transfer in pieces."""

import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge_consensus.errors import CorruptionError, SnapshotFailedError
from forge_consensus.storage.snapshots import file as snapshot_file
from forge_consensus.storage.snapshots.file import (
    SnapshotInfo,
    check_shape,
    newest,
    newest_valid,
    prune,
    read_at,
    read_chunks,
    read_header,
    verify,
    write_snapshot,
)
from forge_consensus.storage.snapshots.receiver import SnapshotReceiver

CHUNKS = [b"first", b"", b"third" * 1000]


def write(folder: Path, index: int = 12, term: int = 3) -> SnapshotInfo:
    header = {"index": index, "term": term, "configuration": b"\x00\xff", "sessions": [b"a", b"b"]}
    return write_snapshot(folder, header, CHUNKS)


def receive(folder: Path, info: SnapshotInfo, piece: int = 1000) -> SnapshotInfo:
    receiver = SnapshotReceiver(folder, info.index, info.term, info.size_bytes)
    offset = 0
    while offset < info.size_bytes:
        offset = receiver.write(offset, read_at(info.path, offset, piece))
    return receiver.finish()


def test_a_snapshot_file_is_read_back(tmp_path: Path) -> None:
    info = write(tmp_path)
    assert info.path == tmp_path / "snapshot-0000000000000003-000000000000000c.fcs"
    assert (info.index, info.term) == (12, 3)
    assert info.size_bytes == info.path.stat().st_size
    assert stat.S_IMODE(info.path.stat().st_mode) == 0o600
    header = read_header(info.path)
    assert header["configuration"] == b"\x00\xff"
    assert header["sessions"] == [b"a", b"b"]
    assert list(read_chunks(info.path)) == CHUNKS
    assert verify(info.path) == info
    assert list(tmp_path.iterdir()) == [info.path]


def test_a_snapshot_without_chunks_is_a_snapshot(tmp_path: Path) -> None:
    info = write_snapshot(tmp_path, {"index": 0, "term": 0}, [])
    assert list(read_chunks(info.path)) == []
    assert newest(tmp_path) == info


def test_an_exception_while_saving_leaves_no_file_behind(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"first"
        raise RuntimeError("a bug of the user's machine")

    with pytest.raises(RuntimeError, match="user's machine"):
        write_snapshot(tmp_path, {"index": 1, "term": 1}, chunks())
    assert list(tmp_path.iterdir()) == []


def test_a_disk_error_while_saving_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(SnapshotFailedError, match="No space left"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_large_snapshot_is_flushed_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushes: list[int] = []
    monkeypatch.setattr(os, "fsync", flushes.append)
    monkeypatch.setattr(snapshot_file, "FLUSH_BYTES", 1000)
    write_snapshot(tmp_path, {"index": 1, "term": 1}, [b"x" * 1000] * 10)
    assert len(flushes) == 12


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    info = write(tmp_path)
    good = info.path.read_bytes()
    for position in [*range(0, 160), *range(160, len(good), 97), *range(len(good) - 64, len(good))]:
        bad = bytearray(good)
        bad[position] ^= 0x10
        info.path.write_bytes(bad)
        with pytest.raises(CorruptionError, match="snapshot-"):
            verify(info.path)


def test_every_torn_file_is_found_without_reading_its_chunks(tmp_path: Path) -> None:
    info = write(tmp_path)
    good = info.path.read_bytes()
    for length in [*range(0, 160), *range(160, len(good), 97), len(good) - 1]:
        info.path.write_bytes(good[:length])
        with pytest.raises(CorruptionError):
            check_shape(info.path)
        with pytest.raises(CorruptionError):
            list(read_chunks(info.path))


def test_bytes_behind_the_end_are_found(tmp_path: Path) -> None:
    info = write(tmp_path)
    info.path.write_bytes(info.path.read_bytes() + b"\0")
    for check in (verify, check_shape, lambda path: list(read_chunks(path))):
        with pytest.raises(CorruptionError):
            check(info.path)


def test_a_file_under_the_name_of_another_is_found(tmp_path: Path) -> None:
    info = write(tmp_path)
    other = tmp_path / "snapshot-0000000000000003-00000000000000ff.fcs"
    info.path.rename(other)
    with pytest.raises(CorruptionError, match="its name does not"):
        newest(tmp_path)


def test_a_random_file_is_no_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "snapshot-0000000000000001-0000000000000001.fcs"
    path.write_bytes(random.Random(1).randbytes(500))
    with pytest.raises(CorruptionError, match="does not begin like"):
        read_header(path)


def test_the_newest_is_the_one_with_the_highest_index(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    write(tmp_path, index=9, term=1)
    latest = write(tmp_path, index=300, term=2)
    write(tmp_path, index=20, term=2)
    (tmp_path / "snapshot-zz.fcs").write_text("not ours")
    (tmp_path / f"{latest.path.name}.writing.tmp").write_text("half")
    assert newest(tmp_path) == latest


def test_a_damaged_newest_is_reported_and_an_older_one_is_taken_only_on_demand(
    tmp_path: Path,
) -> None:
    older = write(tmp_path, index=9)
    latest = write(tmp_path, index=10)
    latest.path.write_bytes(latest.path.read_bytes()[:-1])
    with pytest.raises(CorruptionError, match=latest.path.name):
        newest(tmp_path)
    choice = newest_valid(tmp_path)
    assert choice.info == older
    assert [latest.path.name in str(error) for error in choice.corrupt] == [True]
    older.path.write_bytes(b"")
    choice = newest_valid(tmp_path)
    assert choice.info is None
    assert len(choice.corrupt) == 2


def test_pruning_keeps_the_newest_snapshot_and_those_in_use(tmp_path: Path) -> None:
    infos = [write(tmp_path, index) for index in range(1, 6)]
    removed = prune(tmp_path, keep=2, spare=[infos[0].path])
    assert sorted(removed) == [infos[1].path, infos[2].path]
    assert sorted(tmp_path.iterdir()) == [infos[n].path for n in (0, 3, 4)]
    assert prune(tmp_path, keep=1) == [infos[3].path, infos[0].path]
    with pytest.raises(ValueError, match="never removed"):
        prune(tmp_path, keep=0)


def test_a_pruned_file_ends_its_reading_with_a_snapshot_error(tmp_path: Path) -> None:
    path = tmp_path / "snapshot-0000000000000001-0000000000000001.fcs"
    for read in (read_header, verify, lambda path: read_at(path, 0, 10)):
        with pytest.raises(SnapshotFailedError, match="cannot read"):
            read(path)


def test_reading_pieces_ends_at_the_end(tmp_path: Path) -> None:
    info = write(tmp_path)
    assert read_at(info.path, 0, 6) == b"FCSNAP"
    assert len(read_at(info.path, info.size_bytes - 5, 100)) == 5
    assert read_at(info.path, info.size_bytes, 100) == b""


@pytest.mark.parametrize("piece", [1, 31, 33, 4096, 1 << 20])
def test_a_received_snapshot_is_the_same_file(tmp_path: Path, piece: int) -> None:
    (tmp_path / "to").mkdir()
    sent = write(tmp_path)
    received = receive(tmp_path / "to", sent, piece)
    assert received.path.read_bytes() == sent.path.read_bytes()
    assert verify(received.path) == received
    assert list((tmp_path / "to").iterdir()) == [received.path]


def test_duplicates_are_harmless_and_holes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    sent = write(tmp_path)
    data = sent.path.read_bytes()
    receiver = SnapshotReceiver(tmp_path / "to", sent.index, sent.term, sent.size_bytes)
    assert receiver.write(0, data[:100]) == 100
    assert receiver.write(0, data[:100]) == 100
    assert receiver.write(150, data[150:200]) == 100
    assert receiver.write(50, data[50:120]) == 120
    assert receiver.write(0, b"") == 120
    assert receiver.write(120, b"") == 120
    assert receiver.write(-5, data[:10]) == 120
    assert receiver.write(120, data[120:]) == len(data)
    assert receiver.write(0, data) == len(data)
    assert receiver.finish().path.read_bytes() == data
    with pytest.raises(SnapshotFailedError, match="has ended"):
        receiver.write(0, data)


def test_a_damaged_transfer_never_gets_a_name(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    sent = write(tmp_path)
    data = sent.path.read_bytes()
    for position in range(0, len(data), 61):
        bad = bytearray(data)
        bad[position] ^= 1
        receiver = SnapshotReceiver(tmp_path / "to", sent.index, sent.term, len(data))
        receiver.write(0, bytes(bad))
        with pytest.raises(SnapshotFailedError):
            receiver.finish()
    assert list((tmp_path / "to").iterdir()) == []


def test_an_incomplete_an_overlong_and_a_mislabelled_transfer_fail(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    sent = write(tmp_path)
    data = sent.path.read_bytes()
    receiver = SnapshotReceiver(tmp_path / "to", sent.index, sent.term, len(data))
    receiver.write(0, data[:-1])
    with pytest.raises(SnapshotFailedError, match="not complete"):
        receiver.finish()
    receiver = SnapshotReceiver(tmp_path / "to", sent.index, sent.term, len(data))
    with pytest.raises(SnapshotFailedError, match="longer"):
        receiver.write(0, data + b"x")
    receiver = SnapshotReceiver(tmp_path / "to", sent.index + 1, sent.term, len(data))
    receiver.write(0, data)
    with pytest.raises(SnapshotFailedError, match="index 12"):
        receiver.finish()
    assert list((tmp_path / "to").iterdir()) == []


def test_an_aborted_transfer_leaves_nothing_and_can_begin_again(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    sent = write(tmp_path)
    receiver = SnapshotReceiver(tmp_path / "to", sent.index, sent.term, sent.size_bytes)
    receiver.write(0, b"x" * 50)
    receiver.abort()
    receiver.abort()
    assert list((tmp_path / "to").iterdir()) == []
    assert receive(tmp_path / "to", sent).size_bytes == sent.size_bytes


def test_a_receiver_without_free_space_fails_with_a_snapshot_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(SnapshotFailedError, match="cannot write"):
        SnapshotReceiver(tmp_path / "missing", 1, 1, 10)
    monkeypatch.setattr(snapshot_file, "FLUSH_BYTES", 1000)
    receiver = SnapshotReceiver(tmp_path, 1, 1, 5000)
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(SnapshotFailedError, match="No space left"):
        receiver.write(0, b"x" * 2000)
    assert list(tmp_path.iterdir()) == []


def test_two_saves_of_one_snapshot_at_once_do_not_write_into_one_file(tmp_path: Path) -> None:
    def slow() -> Iterator[bytes]:
        yield b"a" * 100
        other = write_snapshot(tmp_path, {"index": 7, "term": 1}, [b"b" * 1000])
        assert verify(other.path) == other
        yield b"c" * 100

    info = write_snapshot(tmp_path, {"index": 7, "term": 1}, slow())
    assert verify(info.path) == info
    assert list(read_chunks(info.path)) == [b"a" * 100, b"c" * 100]
    assert list(tmp_path.iterdir()) == [info.path]
