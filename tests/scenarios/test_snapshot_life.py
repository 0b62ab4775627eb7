"""Scenarios 58 and 60: a crash while a snapshot is taken leaves the previous one; a snapshot carries the membership."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    InstallSnapshot,
    PreVoteReply,
    RequestPreVote,
    RequestVote,
)
from forge_consensus.storage.backends.folder import Folder
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.ledger import Proposal
from forge_consensus.storage.ledger.record import Kind, encode
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Command
from forge_consensus.storage.snapshots import file as snapshot_file
from tests.unit.actors.test_replication import noop
from tests.worlds.ledger_world import TallyMachine, World, increment
from tests.worlds.one_node import OneNode

PHOTOGRAPH = tuple[MemoryTables, dict[str, bytes]]
ADD = Command("add").encode()
FIVE = Configuration.of({f"n{number}": f"127.0.0.1:{number}" for number in range(1, 6)})
JOINT = replace(FIVE, outgoing=("n1", "n2", "n3"))
FOUR = Configuration.of({f"n{number}": f"127.0.0.1:{number}" for number in range(1, 5)})


# --- 58 ---------------------------------------------------------------------------------------------------------------


@contextmanager
def photographed(world: World) -> Iterator[list[PHOTOGRAPH]]:
    """What tables and folder hold at every line of `snapshot_file` and after every commit, each state once.

    That is what a process finds that was killed there; what it had not yet handed to the system is not in it.
    """
    taken: list[PHOTOGRAPH] = []
    tables = world.tables
    assert isinstance(tables, MemoryTables)

    def photograph() -> None:
        files = {path.name: path.read_bytes() for path in world.folder.iterdir()}
        if not taken or files != taken[-1][1] or tables.commits != taken[-1][0].commits:
            clone = tables.clone_durable()
            clone.commits = tables.commits
            taken.append((clone, files))

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != snapshot_file.__file__:
            return None
        photograph()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield taken
    finally:
        sys.settrace(before)
        photograph()


def developed(picture: PHOTOGRAPH, path: Path, machine: Callable[[], Any]) -> World:
    """A node started on a photograph, as `Node` starts it: it locks its folder first, which tidies up."""
    tables, files = picture
    with Folder(path) as folder:
        for name, data in files.items():
            (folder.snapshots_path / name).write_bytes(data)
    Folder(path).release()
    return World("memory", path, machine=machine, tables=tables.clone_durable())


def state_of(world: World) -> Any:
    """What the machine holds once all that is known to be committed is applied again."""
    with world.turn():
        world.ledger.apply(1000)
    machine = world.ledger.applier.machine
    return list(machine.indexes) if isinstance(machine, TallyMachine) else world.state


@pytest.mark.parametrize("machine", [TallyMachine, KeyValueMachine])
def test_scenario_58_a_crash_at_any_step_of_a_snapshot_leaves_the_previous_one(
    tmp_path: Path, machine: Callable[[], Any]
) -> None:
    """A machine of the user's own lives in these files alone; the steps go on to the compaction of the log."""
    command = ADD if machine is TallyMachine else increment("n")
    world = World("memory", tmp_path / "n1", machine=machine)
    world.lead()
    for _ in range(2):  # so that pruning has something to do
        world.do(*[command] * 10)
        first = world.snapshot()
    world.compact()
    world.do(*[command] * 10)
    expected = state_of(world)
    world.propose(command)  # this commit takes the commit index along; the command itself is not committed
    with photographed(world) as pictures:
        second = world.snapshot()
        world.compact()
        with world.turn():
            world.snapshots.sweep()
    assert len(pictures) >= 5
    newest = []
    for number, picture in enumerate(pictures):
        again = developed(picture, tmp_path / str(number), machine)
        assert state_of(again) == expected, f"photograph {number} of {len(pictures)}"
        assert not list(again.folder.glob("*.tmp"))
        assert again.snapshots.newest is not None
        newest.append(again.snapshots.newest.index)
    assert newest == sorted(newest)
    assert {first.index, second.index} == set(newest)
    assert any(name.endswith(".tmp") for _, files in pictures for name in files), "no photograph shows a file half done"


@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_scenario_58_a_torn_newest_file_is_skipped(tmp_path: Path, left: float) -> None:
    """Not what a crash leaves, but what a disk may: the log still reaches back to the previous snapshot."""
    world = World("memory", tmp_path / "n1", machine=TallyMachine)
    world.lead()
    world.do(*[ADD] * 10)
    first = world.snapshot()
    world.do(*[ADD] * 10)
    torn = world.snapshot().path
    torn.write_bytes(torn.read_bytes()[: int(torn.stat().st_size * left)])
    expected = state_of(world)
    world.propose(ADD)
    world.crash()
    assert world.snapshots.newest == first
    assert str(world.snapshots.damaged[0]).startswith(f"snapshot {torn} is damaged")
    assert state_of(world) == expected


# --- 60 ---------------------------------------------------------------------------------------------------------------


def grown(path: Path, machine: Callable[[], Any], *configurations: Configuration) -> World:
    """A leader whose cluster took these configurations before its snapshot, or has grown from three to five members."""
    world = World("memory", path, machine=machine, node="n2")
    term = world.lead()
    command = ADD if machine is TallyMachine else increment("n")
    world.do(*[command] * 10)
    for configuration in configurations or (JOINT, FIVE):
        with world.turn():
            world.ledger.propose(term, [Proposal(Kind.CONFIGURATION, 0, 0, 0, configuration.encode())])
        world.settle()
    world.do(*[command] * 10)
    world.snapshot()
    world.compact()
    return world


def asked_by(node: OneNode) -> set[str]:
    """Whom a node asks for pre-votes when its leader falls silent; it reaches whom it greeted."""
    for peer in ("n2", "n3", "n4", "n5"):
        node.peers[peer] = FIVE.addresses[peer]
        node.engine.introduce(peer, 1)
    node.sent.clear()
    node.wait(3.0)
    return {to for to, _ in node.messages(RequestPreVote)}


@pytest.mark.parametrize("machine", [TallyMachine, KeyValueMachine])
def test_scenario_60_a_snapshot_carries_the_membership(tmp_path: Path, machine: Callable[[], Any]) -> None:
    source = grown(tmp_path, machine)
    info = source.snapshots.newest
    assert info is not None
    source.crash()
    assert source.ledger.configuration == FIVE, "the one who took it knows it after a restart, its entry compacted"
    node = OneNode(machine=machine)
    data = info.path.read_bytes()
    node.request("n2", "snapshot", InstallSnapshot(1, info.index, info.term, 0, len(data), data))
    assert node.ledger.configuration == node.configuration, "a file that is not installed changes nothing"
    node.run_jobs()
    assert node.ledger.configuration == FIVE
    assert asked_by(node) == {"n2", "n3", "n4", "n5"}
    again = OneNode(machine=machine, tables=node.tables.clone_durable(), folder=node.folder)
    assert again.ledger.configuration == FIVE
    assert again.engine.opened.initial == again.configuration, "what the node was born with is another thing"
    assert asked_by(again) == {"n2", "n3", "n4", "n5"}


@pytest.mark.parametrize("machine", [TallyMachine, KeyValueMachine])
def test_scenario_60_a_snapshot_within_a_change_of_members_carries_both_sets_of_voters(
    tmp_path: Path, machine: Callable[[], Any]
) -> None:
    """Whoever gets it needs both majorities, also after a restart: one alone could elect a second leader."""
    source = grown(tmp_path, machine, JOINT)
    info = source.snapshots.newest
    assert info is not None
    source.crash()
    assert source.ledger.configuration == JOINT
    node, data = OneNode(machine=machine), info.path.read_bytes()
    node.request("n2", "snapshot", InstallSnapshot(1, info.index, info.term, 0, len(data), data))
    node.run_jobs()
    again = OneNode(machine=machine, tables=node.tables.clone_durable(), folder=node.folder)
    for each in (node, again):
        assert each.ledger.configuration == JOINT
        assert each.ledger.configuration.is_joint
        assert asked_by(each) == {"n2", "n3", "n4", "n5"}
        for peer in ("n4", "n5"):
            each.greet(peer)
            each.answer(peer, "election", PreVoteReply(1, each.last(RequestPreVote).round, True))
        assert not each.messages(RequestVote), "three of the five voters to come, one of the three before"
        each.answer("n2", "election", PreVoteReply(1, each.last(RequestPreVote).round, True))
        assert each.messages(RequestVote)


def test_scenario_60_a_configuration_behind_the_snapshot_is_rolled_back_to_the_one_in_it(tmp_path: Path) -> None:
    source = grown(tmp_path, KeyValueMachine)
    info = source.snapshots.newest
    assert info is not None
    node, data, index = OneNode(), info.path.read_bytes(), info.index
    node.request("n2", "snapshot", InstallSnapshot(1, index, 1, 0, len(data), data))
    node.run_jobs()
    four = encode(index + 1, 1, Kind.CONFIGURATION, 0, data=FOUR.encode())
    node.request("n2", "replication", AppendEntries(1, index, 1, index, 0, (four,)))
    assert node.last(AppendReply) == AppendReply(1, True, index + 1, 0, 0)
    assert node.ledger.configuration == OneNode(tables=node.tables.clone_durable()).ledger.configuration == FOUR
    node.request("n3", "replication", AppendEntries(2, index, 1, index, 0, (noop(index + 1, 2),)))
    assert node.ledger.configuration == OneNode(tables=node.tables.clone_durable()).ledger.configuration == FIVE
