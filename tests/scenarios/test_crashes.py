"""Scenarios 63 and 64: a process ends at each step in turn; what was acknowledged is there, nothing happens twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from forge_consensus.config.storage import StorageSettings
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.testing.rules.agreement import CountingMachine
from forge_consensus.testing.rules.invariants import Invariants
from forge_consensus.testing.world.base import CrashAt
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.worlds.crash_steps import LIMIT_S, Persistent, Step, StepWatcher, bring_back
from tests.worlds.effort import THOROUGH
from tests.worlds.scenario_world import base_of, increment, leader_of, others_than, value_at

SMALL = StorageSettings(
    checkpoint_entries=4,
    checkpoint_seconds=30.0,
    snapshot_entries=10,
    snapshot_seconds_min=0.05,
    trailing_entries=2,
    sweep_entries=3,
    tail_bytes_max=300,
)
COUNT = 18
KEYS = ("a", "b")


# --- 63 ---------------------------------------------------------------------------------------------------------------


def written(nodes: int, role: str, step: Step | None = None, *, everybody: bool = False) -> StepWatcher:
    """A client opens a session and writes, while a node's process ends at a step; returns what was counted.

    The client repeats what nobody answered, and nothing else: an acknowledged command that is lost stays lost.
    """
    watcher = StepWatcher(step)
    with SimulatedCluster(nodes, 63, watchers=[Invariants(), watcher]) as cluster:
        cluster.start()
        assert cluster.run(10.0, cluster.settled)
        leader = leader_of(cluster)
        victim = leader if role == "leader" else base_of(cluster, others_than(cluster, leader.name)[0])
        bring_back(cluster, watcher, everybody=everybody)
        client = Persistent(cluster)
        watcher.arm(victim)
        client.begin()
        told = client.do(increment("a"), increment("b")) + client.do(increment("a"))
        assert [msgpack.unpackb(result) for result in told] == [1, 1, 2]
        assert watcher.ended_at is not None or step is None, "the step was not reached"
        watcher.rest()
        assert cluster.run(LIMIT_S, cluster.settled)
        for name in cluster.names:
            assert (value_at(cluster, name, "a"), value_at(cluster, name, "b")) == (2, 1)
    return watcher


@pytest.mark.parametrize("everybody", [False, True])
@pytest.mark.parametrize(("nodes", "role"), [(1, "leader"), (3, "leader"), (3, "follower"), (5, "leader")])
def test_scenario_63_acknowledged_writes_survive_a_crash_at_every_step(nodes: int, role: str, everybody: bool) -> None:
    """`everybody`: all others lose their power with it, so that only disks can remember."""
    steps = list(written(nodes, role).steps())
    kinds = {step.at for step in steps}
    assert kinds == set(CrashAt)
    assert len(steps) >= 8
    for step in steps:
        try:
            written(nodes, role, step, everybody=everybody)
        except BaseException as error:
            error.add_note(f"{nodes} nodes, the {role} ends {step}, with everybody: {everybody}")
            raise


# --- 64 ---------------------------------------------------------------------------------------------------------------


def counted(machine: Callable[[], Any], nodes: int, role: str, step: Step | None = None) -> StepWatcher:
    """A client counts in a session, each command after the answer to the one before; returns what was counted.

    Checkpoints, snapshots and compaction come every few entries. A follower applies again what the others have
    applied; a leader's commands go again to its successor, in the same session.
    """
    watcher = StepWatcher(step)
    with SimulatedCluster(
        nodes, 64, storage=SMALL, machine=lambda name: machine(), watchers=[Invariants(), watcher]
    ) as cluster:
        cluster.start()
        assert cluster.run(10.0, cluster.settled)
        leader = leader_of(cluster)
        victim = leader if role == "leader" else base_of(cluster, others_than(cluster, leader.name)[0])
        bring_back(cluster, watcher, everybody=False)
        client = Persistent(cluster)
        watcher.arm(victim)
        client.begin()
        for number in range(COUNT):
            (result,) = client.do(increment(KEYS[number % 2]))
            assert msgpack.unpackb(result) == number // 2 + 1, "a command was applied twice, or lost"
            cluster.run(0.02)
        assert watcher.ended_at is not None or step is None, "the step was not reached"
        watcher.rest()
        assert cluster.run(LIMIT_S, cluster.settled)
        for name in cluster.names:
            assert [value_at(cluster, name, key) for key in KEYS] == [COUNT // 2] * 2
        sessions = [base.engine.ledger.applier.sessions for base in cluster.running()]
        assert all(set(each.live[client.session].outcomes) == {COUNT} for each in sessions)
    return watcher


@pytest.mark.parametrize(("nodes", "role"), [(1, "leader"), (3, "leader"), (3, "follower")])
@pytest.mark.parametrize(("machine", "first"), [(KeyValueMachine, 0), (CountingMachine, 1)])
def test_scenario_64_a_crash_at_every_commit_applies_nothing_twice(
    machine: Callable[[], Any], first: int, nodes: int, role: str
) -> None:
    """The commits are those of entries, checkpoints, snapshots, compaction, sweeping and the journal.

    A sample takes every second crash, with each machine the other half.
    """
    steps = [step for step in counted(machine, nodes, role).steps() if step.at is not CrashAt.AMID_SENDING]
    assert len(steps) > 2 * COUNT
    for step in steps if THOROUGH else steps[first::2]:
        try:
            counted(machine, nodes, role, step)
        except BaseException as error:
            error.add_note(f"{nodes} nodes, {machine.__name__}, the {role} ends {step}")
            raise
