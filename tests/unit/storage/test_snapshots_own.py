"""Damaged snapshot files, and the files of a user's own machine, which hold its only durable state."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from forge_consensus.errors import (
    CorruptionError,
    SnapshotFailedError,
)
from forge_consensus.storage.machines.machine import ApplyFaultError, Command
from forge_consensus.storage.snapshots.file import SnapshotInfo
from forge_consensus.storage.snapshots.store import Installation
from tests.worlds.backends import BACKENDS
from tests.worlds.ledger_world import TallyMachine, World, entries, leader, put, received

ADD = Command("add").encode()


@pytest.fixture(params=BACKENDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = World(request.param, tmp_path / "n1")
    yield made
    made.close()


@pytest.fixture
def source(tmp_path: Path) -> World:
    return leader(tmp_path / "n2", TallyMachine)


# --- a machine of the user's own -------------------------------------------------------------------------------------


def begun(world: World, info: SnapshotInfo) -> Installation:
    with world.turn():
        installation = world.snapshots.begin_install(info)
        assert not world.snapshots.install_step(installation)
        assert world.snapshots.hand_over(installation)
    world.snapshots.install_whole(installation)
    return installation


def test_a_users_machine_rests_from_the_first_chunk_to_the_durable_switch(tmp_path: Path, source: World) -> None:
    world = World("memory", tmp_path / "n1", machine=TallyMachine)
    world.follow(1)
    with world.turn():
        world.accept(1, 0, *entries(2, 260, 1))
        world.ledger.commit_following(1, 260)
    info = received(source, world)
    installation = begun(world, info)
    with world.turn():
        assert world.ledger.more_to_apply
        assert world.ledger.apply(1000) == []
        with pytest.raises(SnapshotFailedError, match="while another one is installed"):
            world.snapshots.capture()
    with world.turn():
        assert world.snapshots.finish_install(installation)
        assert world.ledger.apply(1000) == []
    assert world.ledger.applied == world.ledger.applier.on_disk == info.index
    assert world.ledger.applier.query("") == 200
    with world.turn():
        assert world.ledger.apply(1000)[0].index == info.index + 1


@pytest.mark.parametrize("last", [1, 150, 260])
def test_the_next_start_repairs_a_crash_between_file_and_switch(tmp_path: Path, source: World, last: int) -> None:
    world = World("memory", tmp_path / "n1", machine=TallyMachine)
    world.follow(2)
    with world.turn():
        world.accept(1, 0, *entries(2, last, 2))
    info = received(source, world)
    begun(world, info)
    for _ in range(2):
        world.crash()
        assert (world.ledger.applied, world.ledger.log.base_index, world.ledger.log.last) == (info.index,) * 3
        assert world.ledger.applier.query("") == 200
    assert world.ledger.configuration == source.ledger.configuration


def test_a_turn_that_fails_while_the_machine_is_replaced_ends_the_node(tmp_path: Path, source: World) -> None:
    world = World("memory", tmp_path / "n1", machine=TallyMachine)
    world.follow(1)
    begun(world, received(source, world))
    world.ledger.begin(world.now)
    with pytest.raises(ApplyFaultError, match="while a snapshot was handed to the machine") as caught:
        world.ledger.rollback()
    assert caught.value.fatal


# --- damaged files ---------------------------------------------------------------------------------------------------


def damage(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(bytes(data))


PLACES = pytest.mark.parametrize("place", [0, -1, -80], ids=["begin", "end", "chunk"])


@PLACES
def test_a_ledger_machine_needs_no_file_to_start(tmp_path: Path, world: World, place: int) -> None:
    world.lead()
    world.do(*[put(f"k{n}", n) for n in range(50)])
    info = world.snapshot()
    world.compact()
    state = world.state
    damage(info.path, place)
    world.crash()
    assert world.state == state
    if place == 0:
        assert world.snapshots.newest is None
        assert "is damaged" in str(world.snapshots.damaged[0])
    world.lead()
    world.do(put("more", 1))
    newer = world.snapshot()
    assert world.snapshots.newest == newer


@PLACES
def test_a_users_machine_goes_on_from_an_older_file_if_the_log_reaches(tmp_path: Path, place: int) -> None:
    world = World("memory", tmp_path, machine=TallyMachine)
    world.lead()
    world.do(*[ADD] * 10)
    older = world.snapshot()
    world.compact()
    world.do(*[ADD] * 10)
    newer = world.snapshot()
    world.propose(ADD)
    damage(newer.path, place)
    world.crash()
    assert world.ledger.applied == older.index
    assert world.snapshots.newest is not None
    assert world.snapshots.newest.index == older.index
    with world.turn():
        world.ledger.apply(100)
    assert world.ledger.applier.query("") == 20
    damage(older.path, place)
    with pytest.raises(CorruptionError, match=r"begins behind entry 12, .* is of 0.*majority.* is damaged"):
        world.crash()


@PLACES
def test_a_users_machine_does_not_start_if_the_log_no_longer_reaches_back(tmp_path: Path, place: int) -> None:
    world = World("memory", tmp_path, machine=TallyMachine)
    world.lead()
    world.do(*[ADD] * 10)
    world.snapshot()
    world.do(*[ADD] * 10)
    newer = world.snapshot()
    world.compact()
    damage(newer.path, place)
    with pytest.raises(CorruptionError, match=f"begins behind entry 22.*usable state is of 12.*{newer.path.name}"):
        world.crash()


def test_with_the_whole_log_a_users_machine_replays_it_without_any_file(tmp_path: Path) -> None:
    world = World("memory", tmp_path, machine=TallyMachine)
    world.lead()
    world.do(*[ADD] * 10)
    damage(world.snapshot().path, -80)
    world.propose(ADD)
    world.crash()
    with world.turn():
        assert world.ledger.apply(100)[0].index == 1
    assert world.ledger.applier.query("") == 10
