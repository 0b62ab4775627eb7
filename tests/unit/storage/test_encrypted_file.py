"""Encrypted files: read back at any place, and noticed when they were cut, reordered or written by another key."""

from __future__ import annotations

import os
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from forge_consensus.errors import CorruptionError, InvalidConfigError
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends import encrypted_file
from forge_consensus.storage.backends.encrypted import EncryptedTables
from forge_consensus.storage.backends.encrypted_file import (
    HEAD_BYTES,
    MAGIC,
    DecryptedFile,
    EncryptedWriter,
    OneKey,
    key_id_of,
    stored_size,
)
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.snapshots import file as snapshot_file
from forge_consensus.storage.snapshots.export import exporter
from forge_consensus.storage.snapshots.file import WholeCheck, read_at, read_chunks, verify, write_snapshot
from forge_consensus.storage.snapshots.receiver import SnapshotReceiver
from tests.worlds.backends import KEY
from tests.worlds.ledger_world import World, put

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


def test_a_backup_that_is_encrypted_is_sent_as_it_is_with_its_checksum(tmp_path: Path) -> None:
    stored = snapshot(tmp_path / "from").path.read_bytes()
    for size in (len(MAGIC), 100, len(stored)):
        check = WholeCheck(len(stored))
        for start in range(0, len(stored), size):
            check.take(stored[start : start + size])
        assert check.sha256() == sha256(stored).hexdigest()
    check = WholeCheck(len(stored))
    check.take(stored[:-1])
    with pytest.raises(CorruptionError):
        check.sha256()


@pytest.mark.parametrize("python", [None, sys.executable], ids=["thread", "process"])
def test_a_helper_writes_the_encrypted_snapshot_of_encrypted_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str | None
) -> None:
    for module in (encrypted_file, "forge_consensus.storage.snapshots.receiver"):
        for name, value in (("BLOCK_BYTES", 64 << 10), ("STORED_BYTES", (64 << 10) + 28)):
            monkeypatch.setattr(f"{module if isinstance(module, str) else module.__name__}.{name}", value)
    monkeypatch.setattr("forge_consensus.storage.snapshots.export.find_python", lambda: python)
    world = World("encrypted", tmp_path)
    world.lead()
    world.do(*[put(f"k{n}", "planted") for n in range(50)])
    world.checkpoint()
    job = exporter(world.tables, world.folder, KeyValueMachine, 30.0)
    for _ in range(2):
        world.tables.sync()
        info = job()
        assert b"planted" not in info.path.read_bytes()
        assert verify(info.path, world.tables.files).index == world.ledger.applier.on_disk
        assert isinstance(world.tables, EncryptedTables)
        world.tables.take_key(OTHER.key)  # the next helper is given that one
    assert key_id_of(info.path) == OTHER.key.id
    world.close()


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
