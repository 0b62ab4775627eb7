"""Snapshots: taken, compacted behind and installed so that every crash finds the old state or the new one."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.errors import (
    LogInconsistentError,
    StorageFullError,
)
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Command
from forge_consensus.storage.snapshots import store as snapshots
from forge_consensus.storage.snapshots.file import SnapshotInfo, list_snapshots
from tests.worlds.backends import BACKENDS
from tests.worlds.ledger_world import LIMITS, TallyMachine, World, entries, increment, leader, put, received

ADD = Command("add").encode()
BOTH = pytest.mark.parametrize("machine", [KeyValueMachine, TallyMachine])


@pytest.fixture(params=BACKENDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = World(request.param, tmp_path / "n1")
    yield made
    made.close()


def install(world: World, info: SnapshotInfo) -> int:
    """Install in steps, a turn each; returns how many."""
    with world.turn():
        installation = world.snapshots.begin_install(info)
    steps = 0
    while True:
        with world.turn():
            if not world.snapshots.install_step(installation):
                assert world.snapshots.finish_install(installation)
                return steps
        steps += 1


def swept(world: World) -> int:
    slices = 0
    while True:
        with world.turn():
            if not world.snapshots.sweep():
                return slices
        slices += 1


# --- taking and compacting -------------------------------------------------------------------------------------------


def test_a_snapshot_lets_the_log_be_cut_and_swept_in_slices(world: World) -> None:
    world.limits = replace(LIMITS, sweep_entries=30, trailing_entries=20)
    world.crash()
    world.lead()
    world.do(*[put(f"k{n % 7}", n) for n in range(150)])
    state, last = world.state, world.ledger.log.last
    info = world.snapshot()
    assert info.index == world.ledger.applier.on_disk == last
    with world.turn():
        assert world.snapshots.compact() == (0, last - 20)
        assert world.ledger.log.base_index == 0
    assert world.ledger.log.base_index == last - 20
    before = world.tables.count("log")
    with world.turn():
        assert world.snapshots.sweep()
    assert world.tables.count("log") == before - 30
    world.crash()
    assert world.ledger.log.base_index == last - 20
    assert swept(world) == 4
    assert world.tables.count("log") == 20
    world.crash()
    assert world.state == state
    assert world.snapshots.lag == 0
    world.lead()
    world.do(put("more", 1))
    assert world.snapshots.lag == 2


@BOTH
def test_the_log_is_never_cut_beyond_the_state_on_disk(tmp_path: Path, machine: Callable[[], Any]) -> None:
    """A received file may be newer than all that is here, and never be installed."""
    source = leader(tmp_path / "n2", machine, commands=300)
    world = World("memory", tmp_path / "n1", machine=machine)
    world.follow(1)
    with world.turn():
        world.accept(1, 0, *source.log_bytes[:0], *entries(2, 50, 1))
        world.ledger.commit_following(1, 40)
    with world.turn():
        world.ledger.apply(1000)
    received(source, world)
    own = world.snapshot()
    assert own.index == 40
    with world.turn():
        world.ledger.commit_following(1, 50)
    with world.turn():
        world.ledger.apply(1000)
    world.snapshots.newest = source.snapshots.newest
    world.compact()
    assert world.ledger.log.base_index <= world.ledger.applier.on_disk == 40
    for path in list_snapshots(world.folder):
        if path != own.path:
            path.unlink()
    world.crash()
    assert world.ledger.applied == 40


def test_entries_missing_at_a_follower_are_kept_while_there_is_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever takes a snapshot by a slow link would need the next one as soon as it has this one."""
    world = World("memory", tmp_path)
    world.lead()
    world.do(*[put(f"k{n}", "x" * 1_000) for n in range(100)])
    world.snapshot()
    tables = world.tables
    assert isinstance(tables, MemoryTables)

    def base_after(needed: int) -> int:
        with world.turn():
            world.snapshots.compact(needed)
        return world.ledger.log.base_index

    assert base_after(30) == 30
    assert base_after(20) == 30
    monkeypatch.setattr(snapshots, "HELD_LOG_BYTES_MIN", 100)
    assert base_after(30) == 30, "the log is shorter than two snapshots"
    monkeypatch.undo()
    tables.quota_bytes, quota_bytes = 2 * tables.space().used_bytes - 1, tables.quota_bytes
    assert base_after(40) == 102, "the store is more than half full"
    tables.quota_bytes = quota_bytes
    world.do(*[put("k", "x" * 1_000)] * 100)
    world.snapshot()
    monkeypatch.setattr(snapshots, "HELD_LOG_BYTES_MIN", 100)
    assert base_after(110) == world.ledger.log.last, "the log is longer than two snapshots"


def test_a_users_machine_is_captured_between_two_applies(tmp_path: Path) -> None:
    world = World("memory", tmp_path, machine=TallyMachine)
    world.lead()
    world.do(*[ADD] * 10)
    with world.turn():
        job = world.snapshots.capture()
    world.do(*[ADD] * 5)
    info = job()
    assert info.index == 12
    with world.turn():
        world.snapshots.taken(info)
    world.compact()
    world.crash()
    assert (world.ledger.applied, world.ledger.log.base_index) == (12, 12)
    assert world.ledger.applier.machine.query("") == 10
    with world.turn():
        world.ledger.apply(100)
    # The commit index on disk is a hint that goes with transactions that happen anyway.
    assert world.ledger.applier.machine.query("") == world.ledger.commit_index - 2


def test_the_newest_two_snapshot_files_are_kept(tmp_path: Path) -> None:
    world = World("memory", tmp_path)
    world.lead()
    infos = []
    for _ in range(4):
        world.do(increment("n"))
        infos.append(world.snapshot())
    assert list_snapshots(world.folder) == [infos[3].path, infos[2].path]


def test_older_files_are_removed_by_the_job_and_not_in_a_turn(tmp_path: Path) -> None:
    world = World("memory", tmp_path)
    world.lead()
    infos = []
    for _ in range(2):
        world.do(increment("n"))
        infos.append(world.snapshot())
    world.snapshots.newest = infos[0]  # the file of the second was received and never installed
    world.do(increment("n"))
    with world.turn():
        world.snapshots.prepare()
    with world.turn():
        job = world.snapshots.capture()
    third = job()
    assert list_snapshots(world.folder) == [third.path, infos[1].path, infos[0].path], "the usable one is spared"
    world.snapshots.newest = third
    world.do(increment("n"))
    with world.turn():
        world.snapshots.prepare()
    with world.turn():
        job = world.snapshots.capture()
    fourth = job()
    assert list_snapshots(world.folder) == [fourth.path, third.path], "before the turn in which the node hears of it"
    with world.turn():
        world.snapshots.taken(fourth)
    assert list_snapshots(world.folder) == [fourth.path, third.path]


# --- installing ------------------------------------------------------------------------------------------------------


def test_a_follower_far_behind_takes_over_the_leaders_state(tmp_path: Path, world: World) -> None:
    source = leader(tmp_path / "n2")
    info = received(source, world)
    world.follow(1)
    assert install(world, info) > 1
    assert world.state == source.state
    assert (world.ledger.applied, world.ledger.commit_index, world.ledger.log.last) == (info.index,) * 3
    assert swept(world) > 0
    world.crash()
    assert world.state == source.state
    assert world.ledger.configuration == source.ledger.configuration
    with world.turn():
        world.ledger.advance(2)
        world.accept(info.index, 1, *entries(info.index + 1, info.index + 3, 2))
    world.crash()
    assert world.ledger.log.last == info.index + 3


def test_a_crash_at_any_moment_of_an_installation_finds_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    class Recording(MemoryTables):
        clones: list[MemoryTables]

        def commit(self, batch: Any) -> None:
            super().commit(batch)
            self.clones.append(self.clone_durable())

    source = leader(tmp_path / "n2")
    tables = Recording()
    tables.clones = []
    world = World("memory", tmp_path / "n1", tables=tables)
    world.follow(1)
    with world.turn():
        world.accept(1, 0, *entries(2, 30, 1))
        world.ledger.commit_following(1, 20)
    with world.turn():
        world.ledger.apply(1000)
    world.checkpoint()
    old = world.state
    info = received(source, world)
    tables.clones.clear()
    steps = install(world, info)
    swept(world)
    assert len(tables.clones) > steps > 1
    seen = []
    for clone in tables.clones:
        again = World("memory", tmp_path / "n1", tables=clone)
        new = again.ledger.log.base_index == info.index
        assert again.state == (source.state if new else old)
        assert again.ledger.applied == (info.index if new else 20)
        assert again.ledger.log.last == (info.index if new else 30)
        swept(again)
        generation = again.ledger.applier.generation.to_bytes(4)
        for table in ("kv", "sessions"):
            assert all(key.startswith(generation) for key, _ in clone.scan(table))
        assert again.state == (source.state if new else old)
        again.crash()
        assert again.state == (source.state if new else old)
        seen.append(new)
    assert seen == sorted(seen)
    assert {True, False} == set(seen)
    # A second attempt after a half-written one succeeds.
    again = World("memory", tmp_path / "n1", tables=tables.clones[1])
    install(again, info)
    assert again.state == source.state


@pytest.mark.parametrize(("last", "term", "kept"), [(150, 1, 0), (202, 1, 0), (260, 1, 58), (260, 2, 0), (202, 2, 0)])
def test_the_log_behind_the_snapshot_stays_only_if_it_continues_it(
    tmp_path: Path, world: World, last: int, term: int, kept: int
) -> None:
    source = leader(tmp_path / "n2")
    info = received(source, world)
    assert info.index == 202
    world.follow(term)
    with world.turn():
        world.accept(1, 0, *entries(2, last, term))
    install(world, info)
    for _ in range(2):
        assert world.log_bytes == entries(203, 202 + kept, term)
        assert world.ledger.log.last == 202 + kept
        world.crash()
    assert swept(world) > 0
    assert world.tables.count("log") == kept


def test_a_snapshot_that_contradicts_committed_entries_stops_the_node(tmp_path: Path, world: World) -> None:
    source = leader(tmp_path / "n2")
    info = received(source, world)
    world.follow(2)
    with world.turn():
        world.accept(1, 0, *entries(2, 260, 2))
        world.ledger.commit_following(2, 210)
    with pytest.raises(LogInconsistentError):
        install(world, info)


def test_the_turn_of_the_switch_applies_compacts_and_checkpoints_nothing(tmp_path: Path) -> None:
    """Each of them would write an older generation, applied index or base over the new one."""
    source = leader(tmp_path / "n2")
    world = World("memory", tmp_path / "n1")
    world.follow(1)
    with world.turn():
        world.accept(1, 0, *entries(2, 260, 1))
        world.ledger.commit_following(1, 260)
    with world.turn():
        world.ledger.apply(100)
    world.snapshot()
    with world.turn():
        world.ledger.apply(50)
    info = received(source, world)
    with world.turn():
        installation = world.snapshots.begin_install(info)
    more = True
    while more:
        with world.turn():
            more = world.snapshots.install_step(installation)
    world.ledger.begin(world.now)
    world.ledger.checkpoint_wanted = True
    assert world.snapshots.finish_install(installation)
    assert world.ledger.apply(1000) == []
    before, base = world.snapshots.compact()
    assert base == before
    world.snapshots.sweep()
    world.ledger.commit()
    for _ in range(2):
        assert (world.ledger.applied, world.ledger.log.base_index) == (info.index, info.index)
        assert world.state == source.state
        world.crash()
    done: list[Any] = []
    while len(done) < 3:  # what is applied again is marked first, which takes a turn
        with world.turn():
            done += world.ledger.apply(3 - len(done))
    assert [each.index for each in done] == [203, 204, 205]


def test_an_overtaken_installation_changes_nothing_and_its_rows_are_swept(tmp_path: Path) -> None:
    source = leader(tmp_path / "n2")
    world = World("memory", tmp_path / "n1")
    world.follow(1)
    with world.turn():
        world.accept(1, 0, *entries(2, 260, 1))
    info = received(source, world)
    with world.turn():
        installation = world.snapshots.begin_install(info)
    with world.turn():
        world.snapshots.install_step(installation)
        world.ledger.commit_following(1, 260)
    assert swept(world) == 0
    assert world.tables.count("kv") > 0
    with world.turn():
        world.ledger.apply(1000)
    with world.turn():
        assert not world.snapshots.finish_install(installation)
    assert world.ledger.log.base_index == 0
    assert swept(world) > 0
    assert world.tables.count("kv") == 0


def test_a_rolled_back_switch_did_not_happen(tmp_path: Path, world: World) -> None:
    source = leader(tmp_path / "n2")
    info = received(source, world)
    world.follow(1)
    with world.turn():
        installation = world.snapshots.begin_install(info)
        while world.snapshots.install_step(installation):
            pass
    world.ledger.begin(world.now)
    assert world.snapshots.finish_install(installation)
    world.ledger.rollback()
    assert (world.ledger.log.base_index, world.ledger.applied) == (0, 0)
    with world.turn():
        world.ledger.commit_following(1, 1)
    with world.turn():
        assert [done.index for done in world.ledger.apply(10)] == [1]


def test_a_snapshot_without_enough_free_space_is_not_begun(tmp_path: Path) -> None:
    source = leader(tmp_path / "n2")
    world = World("memory", tmp_path / "n1", tables=MemoryTables(quota_bytes=LIMITS.reserve_bytes + 100_000))
    info = received(source, world)
    with pytest.raises(StorageFullError), world.turn():
        world.snapshots.begin_install(info)
    assert world.snapshots.installing is None
    assert world.tables.count("kv") == 0
