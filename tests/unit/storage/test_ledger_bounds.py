"""The ledger's bounds: it refuses proposals before its store is full, and flushes at most once a turn."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import (
    BusyError,
    CorruptionError,
    StorageError,
    StorageFullError,
)
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.ledger.ledger import Proposal
from forge_consensus.storage.ledger.log import TABLE
from forge_consensus.storage.ledger.record import Kind, key_of
from forge_consensus.storage.machines.machine import Command
from tests.worlds.backends import BACKENDS
from tests.worlds.ledger_world import LIMITS, World, entry, put

MIB = 1 << 20
NOOP = [Proposal(Kind.NOOP, 0, 0, 0, b"")]


@pytest.fixture(params=BACKENDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = World(request.param, tmp_path)
    with made.turn():  # the first turn of a boot raises the mark of event numbers
        pass
    yield made
    made.close()


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_proposals_above_the_uncommitted_limit_are_busy_and_a_no_op_always_passes(tmp_path: Path) -> None:
    world = World("memory", tmp_path, limits=replace(LIMITS, uncommitted_entries_max=10))
    world.lead()
    world.propose(*[put("k", 1)] * 9)
    with pytest.raises(BusyError, match="10 entries wait for a majority"):
        world.propose(put("k", 1))
    assert world.lead() == 2
    world.settle()
    world.propose(*[put("k", 1)] * 10)


def test_uncommitted_bytes_are_counted_exactly_under_lasting_load(tmp_path: Path) -> None:
    world = World("memory", tmp_path, limits=replace(LIMITS, uncommitted_bytes_max=4_000, tail_bytes_max=500))
    term = world.lead()
    for _ in range(2_000):  # something is always under way, so the count never has a moment to start anew
        last = world.ledger.log.last
        world.propose(put("k", 1), put("k", 2))
        with world.turn():
            world.ledger.commit_leading(term, last)
    with pytest.raises(BusyError):
        world.propose(put("k", b"x" * 4_000))
    world.settle()
    assert world.ledger.uncommitted.size_bytes == 0


def test_a_full_store_refuses_proposals_and_still_votes_and_compacts(tmp_path: Path) -> None:
    tables = MemoryTables(quota_bytes=200_000)
    world = World("memory", tmp_path, tables=tables, limits=replace(LIMITS, reserve_bytes=50_000))
    world.lead()
    with pytest.raises(StorageFullError, match="nothing was lost"):
        while True:
            world.do(put("k", b"x" * 1000))
    used = tables.space().used_bytes
    assert 100_000 < used < 150_000
    assert world.lead() == 2
    world.settle()
    world.snapshot()
    world.compact()
    while True:
        with world.turn():
            if not world.snapshots.sweep():
                break
    world.do(put("k", b"x" * 1000))
    tables.disk_free_bytes = 40_000
    with pytest.raises(StorageFullError, match=r"the disk is full: 39.1 KiB are free.*make room on the disk"):
        world.propose(put("k", 1))
    assert world.lead() == 3


def test_proposals_of_one_turn_are_counted_together(tmp_path: Path) -> None:
    tables = MemoryTables(quota_bytes=1 * MIB)
    world = World("memory", tmp_path, tables=tables, limits=replace(LIMITS, reserve_bytes=100_000))
    term = world.lead()
    with pytest.raises(StorageFullError), world.turn():
        for _ in range(100):
            world.ledger.propose(term, [Proposal(Kind.COMMAND, 0, 0, 0, b"x" * 100_000)])
    assert world.ledger.log.fresh_bytes < 1 * MIB
    world.ledger.commit()


def test_a_follower_without_free_space_takes_nothing(tmp_path: Path) -> None:
    tables = MemoryTables(quota_bytes=100_000)
    world = World("memory", tmp_path, tables=tables, limits=replace(LIMITS, reserve_bytes=90_000))
    world.follow(2)
    with pytest.raises(StorageFullError):
        world.accept(1, 0, entry(2, 2, b"x" * 10_000))
    assert world.ledger.log.last == 1


def test_a_full_map_ends_everything(tmp_path: Path) -> None:
    tables = LmdbTables(tmp_path / "tables", map_bytes=MIB)
    limits = StorageSettings()
    object.__setattr__(limits, "reserve_bytes", -(1 << 40))  # as if the bound did not exist
    world = World("lmdb", tmp_path, tables=tables, limits=limits)
    world.lead()
    with pytest.raises(StorageError, match="MDB_MAP_FULL"):
        while True:
            world.do(put("k", b"x" * 20_000))
    with pytest.raises(StorageError, match="stopped after an earlier error"), world.turn():
        world.ledger.advance(99)
    acknowledged = world.ledger.log.durable
    world.tables.close()
    world.tables = LmdbTables(tmp_path / "tables")
    world.open()
    assert world.ledger.log.last == acknowledged
    world.close()


# --- flushes ---------------------------------------------------------------------------------------------------------


def test_a_turn_flushes_once_and_applying_alone_never(world: World) -> None:
    world.lead()
    commits = world.tables.commits
    for turn in range(1, 6):
        world.propose(*[put("k", turn)] * 10)
        assert world.tables.commits == commits + turn
    for _ in range(10):
        world.settle(count_max=7)
    assert world.ledger.applied > 40
    assert world.tables.commits == commits + 5
    with world.turn():
        assert not world.ledger.commit()
    world.follow(8)
    assert world.tables.commits == commits + 6


def test_commit_says_whether_entries_were_written(world: World) -> None:
    ledger = world.ledger
    ledger.begin(0)
    term = ledger.stand(ledger.term)
    assert ledger.commit() is False
    ledger.begin(0)
    ledger.lead(term, 1000)
    ledger.propose(term, NOOP)
    assert ledger.commit() is True
    ledger.begin(0)
    assert ledger.commit() is False


def test_a_checkpoint_is_due_after_a_number_of_entries_bytes_or_seconds(tmp_path: Path) -> None:
    limits = replace(LIMITS, checkpoint_entries=20, checkpoint_bytes=10_000, checkpoint_seconds=30.0)
    world = World("memory", tmp_path, limits=limits)
    world.lead()
    applier = world.ledger.applier
    world.do(*[put("k", 1)] * 10)
    assert applier.on_disk == 0
    world.do(*[put("k", 1)] * 10)
    assert applier.on_disk == applier.index == 22
    world.do(put("k", b"x" * 10_000))
    assert applier.on_disk == applier.index == 23
    world.do(put("k", 1))
    world.now += 31
    assert applier.on_disk == 23
    with world.turn():
        pass
    assert applier.on_disk == applier.index == 24
    commits = world.tables.commits
    world.now += 1000
    with world.turn():
        pass
    assert world.tables.commits == commits


def test_a_checkpoint_is_due_after_a_number_of_changed_keys_however_few_entries_changed_them(tmp_path: Path) -> None:
    world = World("memory", tmp_path, limits=replace(LIMITS, checkpoint_entries=1000, checkpoint_bytes=1 << 30))
    world.lead()
    applier = world.ledger.applier
    for batch in range(12):
        ops = [{"type": "set", "key": f"{batch}/{n}", "value": n} for n in range(100)]
        world.do(Command("batch", {"ops": ops}).encode())
        assert applier.dirty_keys < 1000
    assert applier.on_disk == applier.index - 2  # the tenth batch reached the bound


def test_a_failed_commit_is_never_repeated(tmp_path: Path) -> None:
    tables = MemoryTables()
    world = World("memory", tmp_path, tables=tables)
    world.lead()
    tables.fail_next_commit(OSError("no space"), written=True)
    with pytest.raises(StorageError):
        world.propose(put("k", 1))
    with pytest.raises(StorageError):
        world.ledger.commit()
    with pytest.raises(StorageError):
        world.ledger.rollback()


def test_reading_notices_a_missing_entry_that_a_commit_does_not(world: World) -> None:
    world.lead()
    world.do(*[put("k", n) for n in range(50)])
    world.ledger.log.forget_oldest(len(world.ledger.log.tail))
    world.write(lambda batch: batch.delete(TABLE, key_of(30)))
    with pytest.raises(CorruptionError, match="log entry 30 is missing"):
        world.ledger.log.read(20, 40, MIB)
