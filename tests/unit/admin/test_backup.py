"""The answer that is a backup: whole or broken off, and whatever becomes of its client, nothing stays behind."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import MutableMapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.actors.messages import SnapshotMade
from forge_consensus.admin import backup
from forge_consensus.admin.backup import Download, OpenFile, headers_of
from forge_consensus.admin.problems import ProblemError
from forge_consensus.admin.slots import Slots
from forge_consensus.errors import CorruptionError
from forge_consensus.storage.restoring import READ_BYTES
from forge_consensus.storage.snapshots.file import write_snapshot


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A snapshot file."""
    return write_snapshot(tmp_path, {"index": 7, "term": 2}, [os.urandom(300_000), b"", b"x" * 9]).path


class Taker:
    """A client that takes a file."""

    def __init__(self, *, seconds: float = 0.0, leaves_behind: int | None = None) -> None:
        self.seconds = seconds
        self.leaves_behind = leaves_behind
        self.gone = asyncio.Event()
        self.sent: list[MutableMapping[str, Any]] = []

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Take a part."""
        self.sent.append(message)
        if len(self.sent) == self.leaves_behind:
            self.gone.set()
        await asyncio.sleep(self.seconds)

    async def receive(self) -> MutableMapping[str, Any]:
        """Leave at last."""
        await self.gone.wait()
        return {"type": "http.disconnect"}

    @property
    def body(self) -> bytes:
        """What was taken."""
        return b"".join(message.get("body", b"") for message in self.sent)


def taken(path: Path, taker: Taker, method: str = "GET") -> Slots:
    """Send a file; returns the slots, of which one was held meanwhile."""
    slots = Slots(1, "are sent", "BUSY", 1)

    async def run() -> None:
        opened, slot = OpenFile(path), slots.take()
        with pytest.raises(ProblemError, match="1 are sent at present"):
            slots.take()
        answer = Download(opened, slot, {"X-Raft-Index": "7"})
        try:
            await answer({"type": "http", "method": method}, taker.receive, taker.send)
        finally:
            assert not opened.close.alive

    asyncio.run(run())
    return slots


def test_the_whole_file_is_sent_in_parts(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "PART_BYTES", 100_000)
    taker = Taker()
    assert not taken(file, taker).held
    assert taker.body == file.read_bytes()
    assert max(len(message.get("body", b"")) for message in taker.sent) == 100_000
    assert (b"content-length", str(file.stat().st_size).encode()) in taker.sent[0]["headers"]
    head = Taker()
    taken(file, head, "HEAD")
    assert (head.body, head.sent[0]["headers"]) == (b"", taker.sent[0]["headers"])


def test_a_client_that_leaves_ends_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "PART_BYTES", 1_000)
    taker = Taker(seconds=0.01, leaves_behind=5)
    assert not taken(file, taker).held
    assert len(taker.sent) < 10


@pytest.mark.parametrize("limit", ["PART_SECONDS", "DOWNLOAD_SECONDS"])
def test_a_client_that_takes_it_slowly_does_not_hold_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(backup, limit, 0.05)
    monkeypatch.setattr(backup, "PART_BYTES", 1_000)
    taker = Taker(seconds=0.2 if limit == "PART_SECONDS" else 0.02)
    with pytest.raises(TimeoutError):
        taken(file, taker)
    assert len(taker.body) < file.stat().st_size


def test_a_file_that_ends_early_is_broken_off(file: Path) -> None:
    opened = OpenFile(file)
    os.truncate(file, 1000)
    taker = Taker()

    async def run() -> None:
        await Download(opened, Slots(1, "are sent", "BUSY", 1).take(), {})(
            {"type": "http", "method": "GET"}, taker.receive, taker.send
        )

    with pytest.raises(Exception, match="ended after 1000 of"):
        asyncio.run(run())
    assert not any(message.get("more_body") is False for message in taker.sent), "nobody takes it for whole"


def test_every_byte_is_checked_before_the_first_is_sent(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = file.read_bytes()
    for size in (1, 4096, READ_BYTES):
        monkeypatch.setattr(backup, "CHECKED_BYTES", max(size, 4096))
        assert asyncio.run(OpenFile(file).checked()) == sha256(data).hexdigest()
    for place in (0, 20, 150_000, len(data) - 40, len(data) - 1):
        spoiled = bytearray(data)
        spoiled[place] ^= 1
        file.write_bytes(spoiled)
        with pytest.raises(CorruptionError):
            asyncio.run(OpenFile(file).checked())
    for cut in (b"", data[:10], data[:-1], data[:-40]):
        file.write_bytes(cut)
        with pytest.raises(CorruptionError):
            asyncio.run(OpenFile(file).checked())


def test_it_stays_readable_when_the_node_removes_it(file: Path) -> None:
    data, opened = file.read_bytes(), OpenFile(file)
    file.unlink()
    assert asyncio.run(opened.read(0, 1 << 20)) == data


def test_a_slot_that_nobody_gave_back_is_free_again() -> None:
    slots = Slots(2, "are sent", "BUSY", 1)
    kept = slots.take()
    slots.take()
    gc.collect()
    assert len(slots.held) == 1
    kept.free()
    kept.free()
    assert not slots.held


def test_no_name_of_a_cluster_becomes_a_header_of_its_own() -> None:
    told = headers_of(SnapshotMade("n1", 'a"\r\nX: y/../é', 5, 1, 9), "00" * 32)
    assert told["Content-Disposition"] == 'attachment; filename="a___X__y_..__-5.snap"'
