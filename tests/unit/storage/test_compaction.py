"""Compaction by bytes: a log of few large entries is cut before it fills the disk, with a file or without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import StorageFullError
from forge_consensus.storage.backends.memory import DISK_FREE_BYTES, MemoryTables
from forge_consensus.storage.ledger.changes import Action, Change, changed
from forge_consensus.storage.ledger.ledger import Proposal
from forge_consensus.storage.ledger.record import Kind
from tests.worlds.ledger_world import CONFIGURATION, LIMITS, TallyMachine, World, put

KIB, MIB = 1 << 10, 1 << 20
SETTINGS = replace(
    LIMITS, snapshot_entries=1_000_000, trailing_entries=10, reserve_bytes=MIB, checkpoint_bytes=200 * KIB
)


def leader(path: Path, tables: MemoryTables, settings: StorageSettings = SETTINGS) -> World:
    world = World("memory", path, tables=tables, limits=settings)
    world.lead()
    return world


def write(world: World, count: int, size: int = 10 * KIB) -> None:
    for number in range(count):
        world.do(put(f"k{number % 10}", b"x" * size))
    with world.turn():
        world.ledger.request_checkpoint()


def sweep(world: World) -> None:
    more = True
    while more:
        with world.turn():
            more = world.snapshots.sweep()


def test_a_snapshot_is_due_by_bytes_although_the_entries_are_few(tmp_path: Path) -> None:
    world = leader(tmp_path, MemoryTables(), replace(SETTINGS, snapshot_log_bytes=500 * KIB))
    write(world, 40)
    assert not world.snapshots.is_due
    write(world, 20)
    assert world.snapshots.is_due
    world.snapshot()
    assert not world.snapshots.is_due


def test_a_snapshot_is_due_by_bytes_only_when_the_log_is_as_large_as_the_state(tmp_path: Path) -> None:
    world = leader(tmp_path, MemoryTables(), replace(SETTINGS, snapshot_log_bytes=100 * KIB, trailing_entries=0))
    world.do(put("large", b"x" * 700 * KIB))
    world.snapshot()
    world.compact()
    sweep(world)
    write(world, 30)
    assert not world.snapshots.is_due, "writing a large state for each small piece of log would cost more"
    write(world, 90)
    assert world.snapshots.is_due


def test_a_snapshot_is_due_while_there_is_room_for_it(tmp_path: Path) -> None:
    tables = MemoryTables(disk_free_bytes=4 * MIB)
    world = leader(tmp_path, tables)
    write(world, 50)
    assert not world.snapshots.is_due
    tables.disk_free_bytes = 3 * MIB // 2
    assert world.snapshots.is_due
    assert world.snapshots.make_room_for_file()


def test_few_large_entries_trail_a_snapshot(tmp_path: Path) -> None:
    tables = MemoryTables()
    settings = replace(SETTINGS, trailing_entries=1_000, trailing_bytes_max=100 * KIB)
    world = leader(tmp_path, tables, settings)
    write(world, 60)
    world.snapshot()
    world.compact()
    left = world.ledger.log.last - world.ledger.log.base_index
    assert 5 <= left <= 12
    tables.disk_free_bytes = MIB
    write_nothing = world.snapshots.compaction.trailing_entries()
    assert write_nothing == 0, "nothing trails when there is no room"


def test_a_log_without_room_for_a_file_is_cut_behind_the_state_in_the_tables(tmp_path: Path) -> None:
    """And the node takes entries again, restarts on that state, and sends it when there is room for a file."""
    tables = MemoryTables(quota_bytes=3 * MIB)
    world = leader(tmp_path, tables)
    with pytest.raises(StorageFullError):
        write(world, 1_000)
    assert world.ledger.look_for_room()
    tables.disk_free_bytes = MIB
    assert not world.snapshots.make_room_for_file()
    tables.disk_free_bytes = DISK_FREE_BYTES
    with world.turn():
        world.ledger.request_checkpoint()
    with world.turn():
        before, base = world.snapshots.compact_without_file()
    assert before < base == world.ledger.applier.on_disk
    sweep(world)
    write(world, 20)
    again = leader(tmp_path, tables.clone_durable())
    assert again.ledger.applier.machine.query("k3") == b"x" * 10 * KIB
    assert again.ledger.log.base_index == base


def test_the_log_of_a_machine_that_needs_its_file_is_not_cut_without_one(tmp_path: Path) -> None:
    world = World("memory", tmp_path, machine=TallyMachine, limits=SETTINGS)
    world.lead()
    with world.turn():
        assert world.snapshots.compact_without_file() == (0, 0)


def test_a_turn_that_is_asked_twice_does_not_take_the_start_of_the_log_back(tmp_path: Path) -> None:
    """A configuration in between would be forgotten otherwise, and the one before it be in force again."""
    world = leader(tmp_path, MemoryTables(), replace(SETTINGS, trailing_entries=0))
    write(world, 3, 1)
    early = world.ledger.log.last
    changed_to = changed(CONFIGURATION, [Change(Action.DEMOTE, "n3")])
    with world.turn():
        world.ledger.propose(world.ledger.term, [Proposal(Kind.CONFIGURATION, 0, 0, 0, changed_to.encode())])
    world.settle()
    write(world, 3, 1)
    world.snapshot()
    with world.turn():
        before, base = world.snapshots.compact()
        again = world.snapshots.compact(needed=early)  # meanwhile a follower is known to lack entries
    assert before < early < base == world.ledger.log.base_index
    assert again == (base, base)
    assert world.ledger.configuration == world.crash().ledger.configuration == changed_to


def test_a_file_that_the_log_no_longer_continues_is_removed(tmp_path: Path) -> None:
    world = leader(tmp_path, MemoryTables())
    write(world, 5)
    world.snapshot()
    newest = world.snapshots.newest
    assert newest is not None
    write(world, 50)
    with world.turn():
        world.snapshots.compact_without_file()
    world.snapshots.in_use = [newest.path]
    world.snapshots.drop_useless()
    assert newest.path.exists(), "it is being sent"
    world.snapshots.in_use = []
    world.snapshots.drop_useless()
    assert not newest.path.exists()
    assert world.snapshots.newest is None


def test_no_snapshot_is_begun_without_room_for_its_file(tmp_path: Path) -> None:
    tables = MemoryTables()
    world = leader(tmp_path, tables)
    write(world, 50)
    tables.disk_free_bytes = MIB + 50 * KIB
    with pytest.raises(StorageFullError, match="are needed"):
        world.snapshots.capture()


def test_on_a_full_disk_a_slow_writer_is_ended_and_unused_files_are_removed(tmp_path: Path) -> None:
    tables = MemoryTables()
    world = leader(tmp_path, tables)
    ended: list[str] = []
    world.snapshots.end_export = ended.append
    for _ in range(2):
        write(world, 5)
        world.snapshot()
    assert len(list(world.folder.glob("*.fcs"))) == 2
    newest = world.snapshots.newest
    assert newest is not None
    for saving in (True, False):
        world.snapshots.free_room(saving=saving)
    assert not ended
    assert len(list(world.folder.glob("*.fcs"))) == 2, "the disk has room"
    tables.disk_free_bytes = MIB
    assert world.ledger.look_for_room()
    world.snapshots.free_room(saving=True)
    assert ended == ["the disk was full before it was done"]
    world.snapshots.in_use = [newest.path]
    world.snapshots.free_room(saving=False)
    assert newest.path.exists(), "it is being sent"
    world.snapshots.in_use = []
    world.snapshots.free_room(saving=False)
    assert not list(world.folder.glob("*.fcs"))
    assert world.snapshots.newest is None


def test_a_full_disk_takes_no_file_from_a_machine_that_needs_it(tmp_path: Path) -> None:
    tables = MemoryTables()
    world = World("memory", tmp_path, tables=tables, machine=TallyMachine, limits=SETTINGS)
    world.lead()
    world.do(put("k", 1))
    world.snapshot()
    tables.disk_free_bytes = 0
    assert world.ledger.look_for_room()
    world.snapshots.free_room(saving=False)
    assert world.snapshots.newest is not None
    assert world.snapshots.newest.path.exists()
