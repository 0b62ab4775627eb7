"""Encrypted files: read back at any place, and noticed when they were cut, reordered or written by another key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forge_consensus.errors import CorruptionError, InvalidConfigError
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends import encrypted_file
from forge_consensus.storage.backends.encrypted_file import (
    HEAD_BYTES,
    DecryptedFile,
    EncryptedWriter,
    OneKey,
    key_id_of,
    stored_size,
)
from forge_consensus.storage.snapshots import file as snapshot_file
from forge_consensus.storage.snapshots.file import read_at, read_chunks, verify, write_snapshot
from forge_consensus.storage.snapshots.receiver import SnapshotReceiver
from tests.worlds.backends import KEY

KEYS = OneKey(KEY)
OTHER = OneKey(EncryptionKey(bytes(range(1, 33))))
BLOCK = 100
STORED = BLOCK + 28


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encrypted_file, "BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(encrypted_file, "STORED_BYTES", STORED)


def written(path: Path, data: bytes, piece: int = 37) -> Path:
    with path.open("wb") as file:
        writer = EncryptedWriter(file, KEYS)
        for start in range(0, len(data), piece):
            writer.write(data[start : start + piece])
        writer.finish()
    return path


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 199, 200, 201, 1000, 1234])
def test_a_file_is_read_back_at_every_place(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    path = written(tmp_path / "file", data)
    assert path.stat().st_size == stored_size(size)
    assert key_id_of(path) == KEY.id
    with DecryptedFile(path, KEYS) as file:
        assert file.size_bytes == size
        assert file.read() == data
        for offset in range(0, size + 2, 13):
            assert file.read_at(offset, 150) == data[offset : offset + 150]
        assert file.seek(-min(5, size), os.SEEK_END) == size - min(5, size)
        assert file.read(3) == data[max(0, size - 5) :][:3]


def test_a_file_that_was_cut_reordered_or_flipped_is_noticed(tmp_path: Path) -> None:
    data = os.urandom(5 * BLOCK)
    path = written(tmp_path / "file", data)
    whole = path.read_bytes()
    blocks = [whole[HEAD_BYTES:][start : start + STORED] for start in range(0, len(whole) - HEAD_BYTES, STORED)]
    assert len(blocks) == 5
    head = whole[:HEAD_BYTES]
    wrong = [head + b"".join(blocks[:count]) for count in range(5)]  # cut between two blocks
    wrong += [whole[:size] for size in (0, 5, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 9, len(whole) - 1)]
    wrong += [head + b"".join([blocks[1], blocks[0], *blocks[2:]]), whole + blocks[0], whole + b"\0" * 40]
    wrong += [bytes(byte ^ (n == at) for n, byte in enumerate(whole)) for at in range(0, len(whole), 23) if at > 16]
    other = written(tmp_path / "other", data).read_bytes()
    wrong += [head + other[HEAD_BYTES:], other[:HEAD_BYTES] + whole[HEAD_BYTES:]]
    for bytes_ in wrong:
        path.write_bytes(bytes_)
        with pytest.raises(CorruptionError), DecryptedFile(path, KEYS) as file:
            file.read()


def test_another_key_is_refused_by_its_id(tmp_path: Path) -> None:
    path = written(tmp_path / "file", b"data")
    with pytest.raises(InvalidConfigError, match=f"with the key {KEY.id}, and the key given is {OTHER.key.id}"):
        DecryptedFile(path, OTHER)


def snapshot(folder: Path) -> snapshot_file.SnapshotInfo:
    folder.mkdir(exist_ok=True)
    chunks = [b"planted" * 40, b"", os.urandom(1000)]
    return write_snapshot(folder, {"index": 7, "term": 2, "sessions": []}, chunks, KEYS)


def test_a_snapshot_under_a_key_is_the_same_snapshot(tmp_path: Path) -> None:
    info = snapshot(tmp_path / "from")
    stored = info.path.read_bytes()
    assert b"planted" not in stored
    assert info.stored_bytes == len(stored)
    assert verify(info.path, KEYS) == info
    assert len(list(read_chunks(info.path, KEYS))) == 3
    for keys in (None, OTHER):
        with pytest.raises(InvalidConfigError, match=KEY.id):
            verify(info.path, keys)
    plain = write_snapshot(tmp_path, {"index": 8, "term": 2}, [b"theirs"])
    with pytest.raises(CorruptionError, match="was put there"):
        verify(plain.path, KEYS)


@pytest.mark.parametrize("flushed", [1, 250, 333])
def test_a_transfer_that_broke_off_goes_on_in_an_encrypted_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flushed: int
) -> None:
    monkeypatch.setattr(snapshot_file, "FLUSH_BYTES", flushed)
    for name in ("BLOCK_BYTES", "STORED_BYTES"):
        monkeypatch.setattr(f"forge_consensus.storage.snapshots.receiver.{name}", getattr(encrypted_file, name))
    info = snapshot(tmp_path / "from")
    folder, size = tmp_path / "to", info.size_bytes
    folder.mkdir()
    sent = read_at(info.path, 0, size, KEYS)
    digest, resumed = sent[-32:], set()
    receiver = SnapshotReceiver(folder, 7, 2, size, digest, KEYS)
    for stop in range(200, size, 190):
        receiver.write(receiver.next_offset, sent[receiver.next_offset : stop])
        receiver.close()
        assert b"planted" not in next(folder.iterdir()).read_bytes()
        receiver = SnapshotReceiver(folder, 7, 2, size, digest, KEYS)
        assert receiver.next_offset % BLOCK == 0
        assert receiver.next_offset <= max(0, stop - flushed)
        resumed.add(receiver.next_offset)
    assert len(resumed) > 2
    receiver.write(receiver.next_offset, sent[receiver.next_offset :])
    found = receiver.finish()
    assert read_at(found.path, 0, size, KEYS) == sent
    assert verify(found.path, KEYS).keys is KEYS
