"""The faults of a simulation: each kind has its effect, leaving out a strike changes no other, disks stay legal."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from loguru import logger

from forge_consensus.config.storage import StorageSettings
from forge_consensus.storage.backends.folder import STEP_WATCHERS, remove_temporary_files
from forge_consensus.storage.snapshots.file import SnapshotWriter, list_snapshots, newest_valid, prune, write_snapshot
from forge_consensus.testing.faults.disks import founds_alone, wipe_folder
from forge_consensus.testing.faults.drawn import KINDS, Faults
from forge_consensus.testing.faults.processes import rate_error_max
from forge_consensus.testing.faults.strike import NOBODY, Ordered, Strike
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation
from forge_consensus.testing.world.base import SimulatedBase, SimulatedCrashError
from forge_consensus.testing.world.files import SimulatedFiles
from forge_consensus.testing.world.timeline import SimulatedClock, Timeline
from tests.worlds import bystander
from tests.worlds.effort import effort

LIMITS = StorageSettings(snapshot_entries=20, snapshot_seconds_min=0.1, trailing_entries=0, checkpoint_entries=5)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nodes that fail on purpose need not say so."""
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


def led(seed: int = 1, *, nodes: int = 3, own_machine: bool = False) -> Simulation:
    """A cluster of which one leads, without faults, whose snapshots come soon."""
    world = Simulation(Plan(seed, nodes=nodes, own_machine=own_machine, faults=False, storage=LIMITS))
    world.start()
    world.wait_for_leader()
    return world


def open_sessions(world: Simulation, count: int) -> None:
    """Give the leader so many entries for its log."""
    bystander.open_sessions(world, world.name_of("leader"), count)
    world.advance(0.3)


def follower(world: Simulation) -> SimulatedBase:
    """A running node that does not lead."""
    return next(base for base in world.cluster.running() if base is not world.cluster.leader())


class Always:
    """A source of chance that knows what it wants."""

    def __init__(self, value: float, *, last: bool = False) -> None:
        self.value = value
        self.last = last

    def random(self) -> float:
        """The value."""
        return self.value

    def choice(self, things: Sequence[object]) -> object:
        """The last thing, or the first."""
        return things[-1 if self.last else 0]

    def randint(self, least: int, most: int) -> int:
        """The greater one."""
        return most


# --- strikes ---------------------------------------------------------------------------------------------------------


def ordered(seed: int, skip: frozenset[int] = frozenset(), seconds: float = 6.0) -> list[Ordered]:
    """What strikes in a run of so many seconds."""
    plan = replace(Plan.of(seed), nodes=3, pace=1.0, skip=skip)
    with Simulation(plan) as world:
        world.start()
        world.faults.start()
        world.advance(seconds)
        return world.faults.ordered


def test_an_ordered_fault_is_listed_with_its_moment_kind_and_number() -> None:
    strikes = ordered(2, seconds=15.0)
    assert len(strikes) > 5
    assert [strike.number for strike in strikes] == list(range(1, len(strikes) + 1))
    assert [strike.at for strike in strikes] == sorted(strike.at for strike in strikes)
    assert all(strike.kind in KINDS and strike.text for strike in strikes)


def test_leaving_out_a_strike_neither_moves_nor_changes_another() -> None:
    strikes = ordered(2)
    for skip in ({1}, {2, 3}, set(range(1, len(strikes)))):
        left = ordered(2, frozenset(skip))
        kept = [strike for strike in strikes if strike.number not in skip]
        assert [(s.number, s.at, s.kind) for s in left] == [(s.number, s.at, s.kind) for s in kept]
    assert ordered(2, frozenset(range(1, 1000))) == []


def test_an_unknown_kind_of_fault_is_refused() -> None:
    with led() as world, pytest.raises(KeyError):
        Faults(world.cluster, ("earthquake",))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_fault_strikes_alone_and_the_cluster_recovers(kind: str) -> None:
    with Simulation(Plan(5, nodes=3, storage=LIMITS, kinds=(kind, "mend"), seconds=effort(4, 8))) as world:
        world.run()
        struck = [strike for strike in world.faults.ordered if strike.kind == kind and strike.text != NOBODY]
        assert struck


def test_the_first_node_of_a_cluster_of_one_is_not_started_on_an_empty_folder_as_it_was_at_first() -> None:
    """It would lead a cluster of its own under the name of the one that has grown; its command names nobody to ask."""
    with led(nodes=1) as world:
        strike = cast("Strike", SimpleNamespace(cluster=world.cluster, shuffled=lambda: ["n1"]))
        assert founds_alone(strike, "n1")
        assert wipe_folder(strike) == NOBODY
        world.cluster.nodes["n1"].joins = True
        assert not founds_alone(strike, "n1"), "to join, it waits for those that it is told to ask"
    with led(nodes=3) as world:
        assert not founds_alone(cast("Strike", SimpleNamespace(cluster=world.cluster)), "n1")


def test_the_seed_repeats_runs_with_ruined_disks_too() -> None:
    plan = Plan(3, nodes=5, storage=LIMITS, kinds=("flip_record", "wipe_folder", "crash_in_file_step", "power_loss"))

    def digest() -> str:
        with Simulation(replace(plan, seconds=4.0)) as world:
            return world.run()

    assert digest() == digest()


def test_clock_rates_are_wrong_by_no_more_than_a_lease_allows() -> None:
    for drift in (0.01, 0.1, 0.3):
        error = rate_error_max(drift)
        assert (1 - drift) / (1 - error) == pytest.approx(1 / (1 + error))


def test_a_clock_that_drifts_does_not_jump() -> None:
    timeline = Timeline(1)
    clock = SimulatedClock(timeline, random.Random(1), 0.0)
    timeline.now = 50.0
    before = clock.reading()
    clock.drift(1.05)
    assert clock.reading() == pytest.approx(before)
    timeline.now = 60.0
    assert clock.reading() == pytest.approx(before + 10.5)


# --- ruined disks ----------------------------------------------------------------------------------------------------


def test_only_a_minority_of_disks_may_be_ruined() -> None:
    for nodes, most in ((1, 0), (2, 0), (3, 1), (4, 1), (5, 2)):
        with Simulation(Plan(1, nodes=nodes, faults=False)) as world:
            cluster = world.cluster
            for name in cluster.names:
                if cluster.spare:
                    cluster.suspect[name] = "ruined"
            assert len(cluster.suspect) == most


def ruined(world: Simulation, name: str, error: str) -> None:
    """The node stays down with that error, and the others serve."""
    assert world.advance(20.0, lambda: name in world.cluster.gone)
    assert error in world.cluster.gone[name]
    world.restart(name)
    assert world.cluster.nodes[name].running is None
    world.wait_for_leader()
    open_sessions(world, 5)
    assert world.advance(20.0, world.cluster.settled)


def test_a_node_with_a_wiped_folder_does_not_rejoin_as_the_former_member() -> None:
    with led() as world:
        name = follower(world).name
        world.crash(name)
        world.cluster.wipe(name)
        world.restart(name)
        ruined(world, name, "IdentityError")


def test_a_node_with_an_older_copy_of_its_folder_does_not_rejoin_as_the_former_member() -> None:
    with led() as world:
        name = follower(world).name
        world.crash(name)
        copy = world.cluster.copy_of(name)
        world.restart(name)
        world.advance(2.0)
        world.crash(name)
        world.cluster.put_back(name, copy, "an older copy")
        world.restart(name)
        ruined(world, name, "IdentityError")


@pytest.mark.parametrize("own_machine", [False, True])
def test_a_copy_of_a_running_folder_does_not_rejoin_when_it_is_put_back(own_machine: bool) -> None:
    """No later boot than the copied one was ever met: only the tip of the disk gives the copy away."""
    with led(own_machine=own_machine) as world:
        name = follower(world).name
        copy = world.cluster.copy_of(name)
        open_sessions(world, 10)
        world.advance(2.0)
        world.crash(name)
        world.cluster.put_back(name, copy, "a copy of a running folder")
        world.restart(name)
        ruined(world, name, "IdentityError")


def test_a_copy_is_refused_also_by_peers_that_were_restarted_and_the_true_folder_is_admitted_again() -> None:
    """The peers are killed before the copy comes and before the true folder comes: what they know is on their disks."""
    with led() as world:
        name = follower(world).name
        others = [base.name for base in world.cluster.running() if base.name != name]
        copy = world.cluster.copy_of(name)
        for _ in range(3):
            open_sessions(world, 10)
            world.advance(1.5)
        world.crash(name)
        whole = world.cluster.copy_of(name)
        world.cluster.put_back(name, copy, "a copy of a running folder")
        for _ in range(3):
            for other in others:
                world.crash(other)
                world.restart(other)
            world.cluster.gone.pop(name, None)
            world.restart(name)
            ruined(world, name, "is an older copy of its own")
        for other in others:
            world.crash(other)
            world.restart(other)
        world.cluster.restore(name, whole)
        world.restart(name)
        assert world.advance(20.0, world.cluster.settled)
        assert name not in world.cluster.gone
        world.partition([others[0]])
        open_sessions(world, 5)
        assert world.advance(20.0, lambda: world.cluster.leader() is not None), "the node votes and acknowledges again"


@pytest.mark.parametrize("table", ["log", "meta"])
def test_a_flipped_bit_is_noticed_at_the_next_start(table: str) -> None:
    with led() as world:
        open_sessions(world, 10)
        name = follower(world).name
        key = world.cluster.nodes[name].disk[table].keys[-1] if table == "log" else b"hard"
        world.crash(name)
        world.cluster.flip_record(name, table, key, 9, 3)
        world.restart(name)
        ruined(world, name, "CorruptionError")


def test_a_flipped_bit_is_noticed_although_the_node_starts_many_times() -> None:
    with led() as world:
        name = follower(world).name
        world.crash(name)
        world.cluster.flip_record(name, "meta", b"identity", 3, 3)
        world.cluster.count_boots(name, 10)
        world.restart(name)
        ruined(world, name, "CorruptionError")


def test_a_pause_within_a_slow_turn_adds_no_time() -> None:
    with led() as world:
        node = follower(world)
        node.slow_commits = (2.0, 2.0)
        open_sessions(world, 1)
        assert node.free_at > world.cluster.timeline.now + 1.0, "in the midst of a slow turn"
        node.slow_commits = (0.0001, 0.002)
        before, slow_for = node.clock.running(), node.free_at - world.cluster.timeline.now
        world.pause(node.name, 0.1)
        world.advance(3.0)
        assert node.clock.running() - before == pytest.approx(3.0 - slow_for, abs=0.15)


def test_a_flipped_bit_stops_a_running_node_that_reads_it() -> None:
    with led() as world:
        open_sessions(world, 10)
        leader = world.name_of("leader")
        base = world.cluster.nodes[leader].base
        assert base is not None
        late = follower(world).name
        world.partition([late])
        open_sessions(world, 10)
        log = base.engine.ledger.log
        log.forget_oldest(len(log.tail))  # so that it must be read from the disk
        world.cluster.flip_record(leader, "log", world.cluster.nodes[leader].disk["log"].keys[-1], 12, 1)
        world.cluster.network.cut.clear()
        ruined(world, leader, "CorruptionError")


def test_a_flipped_bit_in_a_users_only_snapshot_is_noticed_at_the_next_start() -> None:
    with led(own_machine=True) as world:
        open_sessions(world, 60)
        name = follower(world).name
        files = world.cluster.nodes[name].files
        for file in files.durable:
            world.cluster.flip_file(name, file, len(files.bytes_of(file)) // 2, 0)
        world.crash(name)
        world.restart(name)
        ruined(world, name, "CorruptionError")


def test_a_full_disk_refuses_and_loses_nothing() -> None:
    with led() as world:
        assert world.advance(5.0, world.cluster.settled)
        for base in world.cluster.running():
            base.disk.disk_free_bytes = 0
        before = world.cluster.running()[0].engine.ledger.log.last
        open_sessions(world, 5)
        assert all(base.engine.ledger.log.last == before for base in world.cluster.running())
        world.heal()
        world.advance(4.0)  # the leader asks followers without room at growing intervals, 32 heartbeats at most
        open_sessions(world, 5)
        assert world.advance(5.0, world.cluster.settled)
        assert world.cluster.running()[0].engine.ledger.log.last == before + 5


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody watches any more afterwards."""
    yield tmp_path
    STEP_WATCHERS.pop(tmp_path, None)


def disk(folder: Path, seed: int = 1) -> SimulatedFiles:
    """A simulated disk under a folder."""
    files = SimulatedFiles(folder, random.Random(seed))
    STEP_WATCHERS[folder] = files.took
    return files


def write(folder: Path, index: int) -> Path:
    """A snapshot, written as nodes do."""
    return write_snapshot(folder, {"index": index, "term": 1}, [b"x" * 500]).path


def test_a_written_snapshot_survives_every_power_failure(folder: Path) -> None:
    for seed in range(20):
        files = disk(folder, seed)
        files.put_back({})
        path = write(folder, 7)
        files.ended(power_fails=True)
        assert newest_valid(folder).info is not None
        assert list_snapshots(folder) == [path]


@pytest.mark.parametrize("steps", range(9))
def test_a_power_failure_in_any_step_leaves_the_new_snapshot_or_the_one_before(folder: Path, steps: int) -> None:
    found = set()
    for seed in range(20):
        files = disk(folder, seed)
        files.put_back({})
        write(folder, 7)
        files.stop_in, files.stop = steps, crash
        with suppress(SimulatedCrashError):
            write(folder, 9)
        files.ended(power_fails=True)
        remove_temporary_files(folder)
        choice = newest_valid(folder)
        assert choice.info is not None
        assert not choice.corrupt
        found.add(choice.info.index)
    assert found <= {7, 9}


def crash() -> None:
    """The process ends."""
    raise SimulatedCrashError


def test_some_power_failure_tears_a_snapshot_that_was_not_flushed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SnapshotWriter, "flush", lambda self: self.file.flush())
    assert torn_after_power_failures(folder)


def test_some_power_failure_removes_a_snapshot_if_its_folder_was_not_flushed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forge_consensus.storage.snapshots.file.fsync_directory", lambda path: None)
    assert torn_after_power_failures(folder)


def torn_after_power_failures(folder: Path) -> bool:
    """Whether one of twenty power failures takes or damages a snapshot that was said to be written."""
    lost = False
    for seed in range(20):
        files = disk(folder, seed)
        files.put_back({})
        write(folder, 7)
        files.ended(power_fails=True)
        choice = newest_valid(folder)
        lost = lost or choice.info is None or bool(choice.corrupt)
    return lost


def test_a_removal_may_be_undone_by_a_power_failure(folder: Path) -> None:
    found = set()
    for seed in range(20):
        files = disk(folder, seed)
        files.put_back({})
        for index in (1, 2, 3):
            write(folder, index)
        prune(folder)
        files.ended(power_fails=True)
        assert newest_valid(folder).info is not None
        found.add(len(list_snapshots(folder)))
    assert found == {2, 3}


def test_writes_survive_the_end_of_a_process_without_a_power_failure(folder: Path) -> None:
    files = disk(folder)
    files.stop_in, files.stop = 3, crash
    with suppress(SimulatedCrashError):
        write(folder, 7)
    files.ended(power_fails=False)
    assert [path.suffix for path in folder.iterdir()] == [".tmp"]  # what its clean-up code did never happened


def test_the_next_start_makes_an_installed_snapshot_durable() -> None:
    with led(own_machine=True) as world:
        cluster = world.cluster
        late = follower(world)
        node = cluster.nodes[late.name]
        world.partition([late.name])
        open_sessions(world, 40)
        took = node.files.took

        def end_behind_the_rename(step: str, name: str, earlier: str) -> None:
            took(step, name, earlier)
            if step == "rename" and name.endswith(".fcs"):  # not the one that seals the received part
                node.files.frozen = node.files.contents()
                raise SimulatedCrashError

        STEP_WATCHERS[node.folder] = end_behind_the_rename
        node.files.chance = cast("random.Random", Always(0.9))  # the host goes on
        cluster.network.cut.clear()
        assert world.advance(10.0, lambda: node.running is None)
        STEP_WATCHERS[node.folder] = took
        world.restart(late.name)
        assert node.running is not None
        assert node.running.engine.ledger.log.base_index >= 20
        node.running.power_fails = True
        node.files.chance = cast("random.Random", Always(0.9, last=True))
        world.crash(late.name)
        world.restart(late.name)
        assert world.advance(10.0, cluster.settled)
