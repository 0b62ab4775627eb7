"""The room: what is refused, for how long a node is full, and what it says."""

from __future__ import annotations

import re

import pytest

from forge_consensus.errors import StorageFullError
from forge_consensus.storage.backends.memory import DISK_FREE_BYTES, MemoryTables
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.ledger.room import WANTED_SECONDS, Room, size_text

MIB = 1 << 20
RESERVE = 16 * MIB


class Store:
    """A room over tables in memory, whose disk the test fills."""

    def __init__(self, free_bytes: int, pending_bytes: int = 0) -> None:
        self.tables = MemoryTables(disk_free_bytes=free_bytes)
        self.pending_bytes = pending_bytes
        self.room = Room(self.tables, RESERVE, lambda: self.pending_bytes)

    def refuses(self, size_bytes: int) -> str:
        """Whether entries of that size are refused: the text, or ""."""
        try:
            self.room.check_entries(size_bytes)
        except StorageFullError as error:
            return str(error)
        return ""


def test_what_does_not_fit_twice_beside_the_reserve_is_refused() -> None:
    store = Store(RESERVE + 2 * MIB)
    assert not store.refuses(MIB)
    assert store.refuses(MIB + 1)
    store.pending_bytes = 1
    assert store.refuses(MIB), "what waits in memory needs room too"


def test_a_node_is_full_from_a_refusal_until_that_would_fit() -> None:
    store = Store(RESERVE + 4 * MIB)
    assert not store.room.look()
    assert store.refuses(3 * MIB)
    assert store.room.full == store.room.look()
    store.tables.disk_free_bytes = RESERVE + 6 * MIB - 1
    assert store.room.look()
    store.tables.disk_free_bytes += 1
    assert not store.room.look()
    assert not store.room.full


def test_a_node_is_full_before_it_refuses_anything_and_has_some_room_before_it_is_not() -> None:
    store = Store(RESERVE + MIB - 1)
    assert store.room.look()
    store.tables.disk_free_bytes = RESERVE + 2 * MIB - 1
    assert store.room.look(), "a disk at the border does not make it change its mind each second"
    store.tables.disk_free_bytes += 1
    assert not store.room.look()


def test_a_single_large_refusal_is_forgotten_after_a_while() -> None:
    store = Store(RESERVE + 4 * MIB)
    assert store.refuses(3 * MIB)
    store.room.now = WANTED_SECONDS
    assert store.room.look()
    store.room.now += 1
    assert not store.room.look()


def test_the_text_and_the_time_stay_while_the_node_is_full() -> None:
    store = Store(RESERVE)
    store.room.now = 5.0
    text = store.room.look()
    store.tables.disk_free_bytes, store.room.now = 0, 6.0
    assert (store.room.look(), store.room.full_since) == (text, 5.0)
    store.tables.disk_free_bytes = DISK_FREE_BYTES
    store.room.look()
    store.tables.disk_free_bytes, store.room.now = 0, 7.0
    store.room.look()
    assert store.room.full_since == 7.0


@pytest.mark.parametrize(
    ("free_bytes", "quota_bytes", "words"),
    [
        (10 * MIB, 1 << 40, "disk is full: 10.0 MiB are free, 16.0 MiB are kept in reserve.*2.0 MiB wait.*make room"),
        (1 << 40, 20 * MIB, r"it uses 6.0 MiB of the 20.0 MiB of storage.quota_bytes.*raise storage.quota_bytes"),
    ],
)
def test_the_text_says_what_is_free_what_is_kept_and_what_to_do(free_bytes: int, quota_bytes: int, words: str) -> None:
    store = Store(free_bytes, 2 * MIB)
    batch = Batch()
    batch.put("kv", b"k", bytes(6 * MIB))
    store.tables.commit(batch)
    store.tables.quota_bytes = quota_bytes
    assert re.search(words, store.refuses(MIB))
    assert store.room.full.endswith("nothing was lost")


def test_a_file_needs_room_on_the_disk_and_its_state_in_the_store() -> None:
    store = Store(RESERVE + 10 * MIB)
    store.room.check_file(10 * MIB)
    store.room.check_file(3 * MIB, beside_bytes=3 * MIB)
    with pytest.raises(StorageFullError, match=r"28.0 MiB are needed"):
        store.room.check_file(4 * MIB, beside_bytes=4 * MIB)
    store.tables.quota_bytes = RESERVE + 6 * MIB
    store.room.check_file(10 * MIB)
    with pytest.raises(StorageFullError, match="quota_bytes"):
        store.room.check_file(1, beside_bytes=4 * MIB)
    assert not store.room.full, "a file that has no room keeps no entries out"


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes_are_told_in_units(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text
