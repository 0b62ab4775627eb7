"""Mixed versions of the program in one cluster: what a level brought is used only when no member can be without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from forge_consensus.actors.raft.handshake import ACCEPTED, LEVEL_LOW, Handshake
from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import UnsupportedVersionError
from forge_consensus.events.types import NodeRefused
from forge_consensus.storage.ledger.levels import LEVEL
from forge_consensus.testing.rules.invariants import Invariants
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.worlds.scenario_world import Caller, base_of, leader_of, others_than, put, submit_all, value_at

NEXT = LEVEL + 1
PATIENCE_S = 20.0


def level_of(cluster: SimulatedCluster, name: str) -> int:
    """The level of the cluster as a node's status has it."""
    return NodeStatus.of(base_of(cluster, name).engine).level


def upgrade(cluster: SimulatedCluster, name: str, level: int) -> None:
    """Start a node again with a program of that level."""
    cluster.crash(name)
    cluster.nodes[name].level = level
    cluster.restart(name)
    assert cluster.run(PATIENCE_S, cluster.settled)


def has_risen(cluster: SimulatedCluster) -> bool:
    """Whether all running nodes know that the next level is committed."""
    return all(level_of(cluster, base.name) == NEXT for base in cluster.running())


@contextmanager
def mixed(levels: tuple[int, ...], seed: int, **settings: Any) -> Iterator[SimulatedCluster]:
    """A cluster with a leader; node number i has the i-th level. Every invariant is checked."""
    with SimulatedCluster(len(levels), seed, watchers=[Invariants()], **settings) as cluster:
        for name, level in zip(cluster.names, levels, strict=True):
            cluster.nodes[name].level = level
        cluster.start()
        assert cluster.run(PATIENCE_S, cluster.settled)
        yield cluster


@pytest.mark.parametrize("seed", range(1, 6))
def test_the_level_rises_with_the_last_member_and_then_an_older_program_is_shut_out(seed: int) -> None:
    with mixed((NEXT, NEXT, LEVEL), seed) as cluster:
        for _ in range(3):  # whoever leads, with the next level or without
            cluster.run(3.0)
            assert {level_of(cluster, name) for name in cluster.names} == {LEVEL}
            upgrade(cluster, leader_of(cluster).name, cluster.nodes[leader_of(cluster).name].level)
        upgrade(cluster, "n3", NEXT)
        assert cluster.run(PATIENCE_S, lambda: has_risen(cluster))
        logs = [base_of(cluster, name).engine.ledger.configurations for name in cluster.names]
        assert all(log.rows == logs[0].rows for log in logs)
        assert [configuration.level for _, configuration in logs[0].rows] == [LEVEL, NEXT]

        cluster.crash("n3")
        cluster.nodes["n3"].level = LEVEL
        with pytest.raises(UnsupportedVersionError, match=f"reached feature level {NEXT}, .* the newer program"):
            cluster.restart("n3")
        cluster.nodes["n3"].level = NEXT
        cluster.restart("n3")
        assert cluster.run(PATIENCE_S, cluster.settled)


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_member_that_missed_the_rise_and_returns_with_an_older_program_is_refused(seed: int) -> None:
    """Its folder does not know that the level rose, so only the others can tell it."""
    with mixed((NEXT, NEXT, LEVEL), seed) as cluster:
        refusals: list[NodeRefused] = []
        for name in ("n1", "n2"):
            cluster.nodes[name].bus.subscribe(NodeRefused, refusals.append, inline=True)
        caller = Caller(cluster)
        session = caller.open_session(leader_of(cluster).name)
        for seq in range(1, 4):  # n3 has part in the cluster; one that never had would end when it is refused
            submit_all(caller, leader_of(cluster).name, session, [put("k", seq)], seq)
        assert cluster.run(PATIENCE_S, cluster.settled)
        miss_the_rise(cluster)
        assert not refusals

        cluster.nodes["n3"].level = LEVEL
        cluster.restart("n3")
        older = base_of(cluster, "n3").engine
        held = older.ledger.log.last
        submit_all(caller, leader_of(cluster).name, session, [put("k", 4)], 4)
        cluster.run(PATIENCE_S)
        assert {(event.peer, event.reason) for event in refusals} == {("n3", LEVEL_LOW)}
        assert f"level {NEXT}, and the program of node n3" in refusals[0].detail
        assert "start node n3 with the newer program" in refusals[0].detail
        assert older.ledger.log.last == held, "it gets nothing"
        assert cluster.leader() is not None
        assert leader_of(cluster).name in others_than(cluster, "n3")

        cluster.crash("n3")
        cluster.nodes["n3"].level = NEXT
        cluster.restart("n3")
        assert cluster.run(PATIENCE_S, lambda: cluster.settled() and has_risen(cluster))
        assert value_at(cluster, "n3", "k") == 4


def miss_the_rise(cluster: SimulatedCluster) -> SimulatedBase:
    """Let n3 tell the next level and end before it has the entry; returns the leader, which has committed it."""
    cluster.crash("n3")
    assert cluster.run(PATIENCE_S, lambda: cluster.leader() is not None)
    cluster.nodes["n3"].level = NEXT
    cluster.restart("n3")
    leader = leader_of(cluster)
    assert cluster.run(PATIENCE_S, lambda: leader.engine.ledger.configuration.level == NEXT)
    cluster.crash("n3")
    assert cluster.run(PATIENCE_S, lambda: has_risen(cluster)), "the other two are a majority"
    return leader


def return_older(cluster: SimulatedCluster) -> SimulatedBase:
    """Let n3 return with a program of the level before; returns its process."""
    cluster.nodes["n3"].level = LEVEL
    cluster.restart("n3")
    older = base_of(cluster, "n3")
    older.meets_later = True
    held = older.engine.ledger.log.last
    cluster.run(PATIENCE_S)
    assert older.engine.ledger.log.disk_last == held
    assert [index for index, _ in older.engine.ledger.configurations.rows] == [1]
    return older


def test_a_member_below_the_level_that_is_let_in_stops_at_the_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wall stands alone: here no greeting is judged by the level."""
    monkeypatch.setattr(Handshake, "too_old", lambda *_: ACCEPTED)
    with mixed((NEXT, NEXT, LEVEL), seed=3) as cluster:
        miss_the_rise(cluster)
        assert not return_older(cluster).alive


def test_a_member_below_the_level_that_is_let_in_takes_no_snapshot_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry is compacted away, and the snapshot names the level."""
    monkeypatch.setattr(Handshake, "too_old", lambda *_: ACCEPTED)
    limits = StorageSettings(snapshot_entries=30, snapshot_seconds_min=0.1, trailing_entries=0)
    with mixed((NEXT, NEXT, LEVEL), seed=3, storage=limits) as cluster:
        leader = miss_the_rise(cluster)
        caller = Caller(cluster)
        session = caller.open_session(leader.name)
        submit_all(caller, leader.name, session, [put(f"k{number}", "x" * 100) for number in range(200)])
        assert cluster.run(PATIENCE_S, lambda: leader.engine.ledger.log.base_index > 100)
        assert return_older(cluster).alive
        assert leader_of(cluster).engine.shared.snapshot_refusals == {"n3": "unsupported"}
