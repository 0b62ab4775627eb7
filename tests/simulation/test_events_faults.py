"""Events under failures: a rolled back turn publishes nothing, and changes by the rollback are published later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger

from forge_consensus.actors.notices import Resign, TakeSnapshot
from forge_consensus.config.storage import StorageSettings
from forge_consensus.events.types import (
    BecameFollower,
    ConsensusEvent,
    LeaderElected,
    LeaderLost,
    LeaderStepDown,
    LogAppended,
    LogCommitted,
    LogTruncated,
    NodeFailed,
    NodeRecovered,
    QuorumLost,
    RoleChanged,
    SnapshotFailed,
    SnapshotRestored,
    SnapshotStarted,
    payload,
)
from forge_consensus.testing.histories.history import Operation
from forge_consensus.testing.simulator.client import SimulatedClient
from forge_consensus.testing.simulator.habits import Habits
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.worlds.event_recording import Recording
from tests.worlds.one_node import OneNode

PATIENCE_SECONDS = 20.0
LIMITS = StorageSettings(snapshot_entries=1_000_000, trailing_entries=0)


class NoJudge:
    """What clients see is not what is tested."""

    def invoked(self, operation: Operation) -> None: ...
    def answered(self, operation: Operation) -> None: ...
    def failed(self, operation: Operation, code: str, reason: Any, label: tuple[int, int] = (0, 0)) -> None: ...
    def refused(self, operation: Operation, moment: float) -> None: ...
    def told_age(self, operation: Operation, applied: int, stale_ms: int) -> None: ...


@pytest.fixture
def recording() -> Iterator[Recording]:
    """A cluster of three that is well, and everything that it tells."""
    logger.disable("forge_consensus")
    with SimulatedCluster(3, 5, storage=LIMITS) as cluster:
        made = Recording(cluster)
        cluster.start()
        assert cluster.run(PATIENCE_SECONDS, lambda: all_healthy(cluster))
        yield made
    logger.enable("forge_consensus")


def all_healthy(cluster: SimulatedCluster) -> bool:
    """Whether all nodes run, agree and are well."""
    return cluster.settled() and all(base.engine.reported.health == "healthy" for base in cluster.running())


def leader_of(cluster: SimulatedCluster) -> SimulatedBase:
    """The node that leads."""
    leader = cluster.leader()
    assert leader is not None, "somebody leads"
    return leader


def since(recording: Recording, base: SimulatedBase, place: int) -> list[ConsensusEvent]:
    """What a node has told from a place on."""
    return recording.events[base.name][place:]


def session(cluster: SimulatedCluster) -> SimulatedClient:
    """A client with a session that rests."""
    client = SimulatedClient(cluster, "client", NoJudge(), Habits(read_share=0.0, patience_s=3600.0))
    client.start()
    assert cluster.run(PATIENCE_SECONDS, lambda: client.session != 0)
    client.stop()
    assert cluster.run(PATIENCE_SECONDS, lambda: client.idle and cluster.settled())
    return client


def test_a_leader_publishes_its_step_down_when_its_actor_fails(recording: Recording) -> None:
    leader = leader_of(recording.cluster)
    place = len(recording.events[leader.name])
    leader.fail_actor("health", at_end=True)
    recording.cluster.run(0.05)
    told = since(recording, leader, place)
    assert [type(event) for event in told[:3]] == [RoleChanged, BecameFollower, LeaderStepDown]
    assert isinstance(told[0], RoleChanged)
    assert (told[0].old, told[0].new, told[0].reason) == ("leader", "follower", "an actor of this node failed")


def test_a_follower_publishes_the_loss_and_return_of_its_leader_when_its_actor_fails(recording: Recording) -> None:
    cluster = recording.cluster
    leader = leader_of(cluster)
    follower = next(base for base in cluster.running() if base is not leader)
    place = len(recording.events[follower.name])
    follower.fail_actor("gateway", at_end=False)
    assert cluster.run(PATIENCE_SECONDS, lambda: follower.engine.shared.leader is None)
    cluster.run(1.0)
    told = since(recording, follower, place)
    (lost,) = [event for event in told if isinstance(event, LeaderLost)]
    (heard,) = [event for event in told if isinstance(event, LeaderElected)]
    assert (lost.leader, heard.leader) == (leader.name, leader.name)
    assert lost.sequence < heard.sequence
    # What it had told of its peers still holds, so there is nothing to tell.
    assert not {NodeFailed, NodeRecovered, QuorumLost, RoleChanged} & {type(event) for event in told}


def test_an_actor_failure_during_a_snapshot_publishes_the_snapshots_failure(recording: Recording) -> None:
    leader = leader_of(recording.cluster)
    place = len(recording.events[leader.name])
    leader.tell(leader.engine.actor("snapshot"), TakeSnapshot())
    assert recording.cluster.run(1.0, lambda: leader.engine.reported.saving > 0)
    leader.fail_actor("snapshot", at_end=False)
    recording.cluster.run(1.0)
    told = since(recording, leader, place)
    snapshots = [event for event in told if isinstance(event, SnapshotStarted | SnapshotFailed)]
    assert [type(event) for event in snapshots] == [SnapshotStarted, SnapshotFailed]
    assert snapshots[0].index == snapshots[1].index
    assert leader.engine.reported.saving == 0


def test_an_installed_snapshot_publishes_the_truncation_of_the_entries_it_replaces(recording: Recording) -> None:
    cluster = recording.cluster
    old = leader_of(cluster)
    unheard = session(cluster)
    others = [base.name for base in cluster.running() if base is not old]
    cluster.network.part([old.name], others)
    for _ in range(30):
        unheard.submit_new()
    unheard.driver_now().kill()  # it hears no refusal, so it sends nothing elsewhere
    assert cluster.run(PATIENCE_SECONDS, lambda: (new := cluster.leader()) is not None and new.name in others)
    new = leader_of(cluster)
    cluster.run(1.0)
    last = old.engine.ledger.log.last
    new.tell(new.engine.actor("snapshot"), TakeSnapshot())
    cluster.run(1.0)
    assert new.engine.ledger.log.base_index < last
    assert new.engine.ledger.log.base_term == new.engine.ledger.term
    place = len(recording.events[old.name])
    cluster.network.cut.clear()
    assert cluster.run(PATIENCE_SECONDS, lambda: all_healthy(cluster))
    told = since(recording, old, place)
    (truncated,) = [event for event in told if isinstance(event, LogTruncated)]
    (restored,) = [event for event in told if isinstance(event, SnapshotRestored)]
    assert truncated.sequence == restored.sequence - 1
    assert truncated.from_index == restored.index + 1
    assert truncated.removed == last - restored.index
    after = [event for event in told if isinstance(event, LogAppended)]
    assert not after or after[0].first_index == restored.index + 1


def test_a_rolled_back_turn_publishes_only_its_end(recording: Recording) -> None:
    leader = leader_of(recording.cluster)
    place = len(recording.events[leader.name])
    leader.tell(leader.engine.actor("election"), Resign(leader.engine.ledger.term, "in the turn that fails"))
    leader.fail_actor("health", at_end=True)
    recording.cluster.run(0.05)
    told = since(recording, leader, place)
    assert [type(event) for event in told[:3]] == [RoleChanged, BecameFollower, LeaderStepDown]
    assert isinstance(told[2], LeaderStepDown)
    assert told[2].reason == "an actor of this node failed"


def test_entries_applied_in_a_rolled_back_turn_are_published_as_committed_later() -> None:
    logger.disable("forge_consensus")
    with SimulatedCluster(1, 5) as cluster:
        recording = Recording(cluster)
        cluster.start()
        assert cluster.run(PATIENCE_SECONDS, lambda: all_healthy(cluster))
        base = leader_of(cluster)
        ledger, place = base.engine.ledger, len(recording.events["n1"])
        client = SimulatedClient(cluster, "client", NoJudge(), Habits(read_share=0.0))
        client.start()
        assert cluster.run(PATIENCE_SECONDS, lambda: ledger.log.durable > ledger.commit_index)
        index = ledger.log.durable
        base.fail_actor("health", at_end=True)  # in the turn that commits and applies them
        assert cluster.run(PATIENCE_SECONDS, lambda: ledger.commit_index > index)
        told = since(recording, base, place)
        committed = [event for event in told if isinstance(event, LogCommitted)]
        assert index in range(committed[0].first_index, committed[0].last_index + 1)
        assert any(isinstance(event, LeaderStepDown) for event in told[: told.index(committed[0])])
    logger.enable("forge_consensus")


def test_a_turn_publishes_appended_entries_before_their_commit() -> None:
    node = OneNode()
    node.events.clear()
    for event in (
        LogCommitted(first_index=2, last_index=3),
        LogAppended(first_index=4, last_index=4, correlation_ids=("a",), correlation_id="a"),
        LogCommitted(first_index=4, last_index=4),
        LogAppended(first_index=5, last_index=5, correlation_ids=("b",), correlation_id="b"),
        NodeFailed(peer="n2", reason="a transition between them"),
        LogAppended(first_index=6, last_index=6),
    ):
        node.engine.publish(event)
    node.turn()
    assert [(type(event), *payload(event).values()) for event in node.events] == [
        (LogAppended, 4, 5, ("a", "b")),
        (LogCommitted, 2, 4, ()),
        (NodeFailed, "n2", "a transition between them"),
        (LogAppended, 6, 6, ()),
    ]
    assert node.events[0].correlation_id is None, "there are two"
