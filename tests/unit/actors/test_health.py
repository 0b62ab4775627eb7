"""Health, on one node alone: the states of the peers, the quorum, the health of the node itself."""

from __future__ import annotations

import pytest

from forge_consensus.actors.messages import AppendEntries, CheckPeer, CheckPeerReply
from forge_consensus.actors.raft.catch_up import ROUNDS_MAX, CatchUp
from forge_consensus.actors.runtime.shared import PeerStatus
from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.errors import StorageFullError
from forge_consensus.events.types import (
    Degraded,
    Healthy,
    NodeFailed,
    NodeRecovered,
    QuorumAchieved,
    QuorumLost,
    Recovering,
    Unhealthy,
)
from tests.unit.actors.test_election import lead
from tests.worlds.one_node import OneNode


def live(node: OneNode, seconds: float, *peers: str) -> None:
    """Time passes; these peers answer, and n2 leads if it is among them."""
    for _ in range(round(seconds / 0.1)):
        node.wait(0.1)
        if "n2" in peers:
            node.request("n2", "replication", AppendEntries(1, 1, 0, 1, 0, ()))
        for peer in peers:
            node.answer(peer, "health", CheckPeerReply(1))


def test_peers_that_answer_are_healthy() -> None:
    node = OneNode()
    live(node, 1.0, "n2", "n3")
    assert node.engine.reported.health == "healthy"
    assert node.told(QuorumAchieved)[-1].healthy == 2
    assert node.told(Healthy)


def test_a_silent_peer_is_suspected_and_then_failed() -> None:
    node = OneNode()
    live(node, 1.0, "n2", "n3")
    seen = []
    for _ in range(40):
        live(node, 0.1, "n2")
        seen.append(node.engine.shared.peers["n3"].status)
    assert list(dict.fromkeys(seen)) == [PeerStatus.ACTIVE, PeerStatus.SUSPECTED, PeerStatus.FAILED]
    assert node.told(NodeFailed)[0].peer == "n3"
    assert node.engine.reported.health == "degraded"
    assert "n3" in node.told(Degraded)[-1].details[0]
    live(node, 0.2, "n2", "n3")
    assert node.told(NodeRecovered)[0].peer == "n3"
    assert node.engine.reported.health == "healthy"


def test_a_broken_connection_is_a_failure_at_once_and_the_quorum_is_lost_with_the_majority() -> None:
    node = OneNode()
    live(node, 1.0, "n2", "n3")
    for peer in ("n2", "n3"):
        node.turn(notices=[node.engine.peers.link(peer, False)])
    assert node.told(QuorumLost)[0].required == 2
    live(node, 3.0)
    assert node.engine.reported.health == "unhealthy"
    assert node.told(Unhealthy)


def test_an_unheard_peer_is_inactive_and_not_failed() -> None:
    node = OneNode(greet=False)
    node.wait(5.0)
    assert {view.status for view in node.engine.shared.peers.values()} == {PeerStatus.INACTIVE}
    assert not node.told(NodeFailed)


def test_peers_are_asked_in_a_steady_rhythm() -> None:
    node = OneNode()
    node.wait(2.05)
    assert len([to for to, _ in node.messages(CheckPeer) if to == "n2"]) == 4


def test_a_node_without_room_is_degraded_and_says_so_once() -> None:
    node = OneNode()
    live(node, 1.0, "n2", "n3")
    node.tables.disk_free_bytes = 0
    live(node, 3.0, "n2", "n3")
    (event,) = node.told(Degraded)
    assert event.details[0].startswith("no entries are taken: the disk is full: 0 bytes are free")
    node.tables.disk_free_bytes = 1 << 40
    live(node, 1.0, "n2", "n3")
    assert node.engine.reported.health == "healthy"


def test_room_that_is_short_for_a_moment_is_no_trouble() -> None:
    node = OneNode()
    live(node, 1.0, "n2", "n3")
    with pytest.raises(StorageFullError):
        node.ledger.check_space(1 << 50)
    node.ledger.room.wanted_bytes = 0
    live(node, 1.0, "n2", "n3")
    assert not node.told(Degraded)


def test_a_slow_disk_is_told_and_forgotten() -> None:
    node = OneNode()
    live(node, 1.0, "n2", "n3")
    node.engine.commit_times.note(0.6, node.clock.now())
    assert NodeStatus.of(node.engine).commit_seconds == 0.6
    live(node, 9.0, "n2", "n3")
    assert [event.details for event in node.told(Degraded)] == [("the disk is slow: commits take longer than 0.4 s",)]
    live(node, 12.0, "n2", "n3")
    assert node.engine.reported.health == "healthy"
    assert NodeStatus.of(node.engine).commit_seconds == 0.0


def test_a_learner_that_does_not_catch_up_is_told_and_forgotten() -> None:
    node = OneNode()
    live(node, 1.0, "n2", "n3")
    node.engine.shared.late_learners = ("n4",)
    live(node, 1.0, "n2", "n3")
    (told,) = [event.details for event in node.told(Degraded)]
    assert told == ("learner n4 gets entries more slowly than they come: until it has caught up it does not vote",)
    node.engine.shared.late_learners = ()
    live(node, 1.0, "n2", "n3")
    assert node.engine.reported.health == "healthy"


def test_a_leader_tells_of_its_late_learners_until_it_stops_leading() -> None:
    node = OneNode()
    lead(node)
    node.engine.cells.actor("replication").leadership.catch_ups["n3"] = CatchUp(1 << 40, 0.0, ROUNDS_MAX)
    node.wait(0.2)
    assert node.engine.shared.late_learners == ("n3",)
    node.request("n2", "replication", AppendEntries(node.ledger.term + 1, 1, 0, 1, 0, ()))
    assert not node.engine.shared.late_learners


def test_a_node_that_waits_to_be_added_is_not_unhealthy_however_long_it_waits() -> None:
    node = OneNode(joins=True)
    node.wait(60.0)
    assert not node.ledger.configuration.nodes
    assert not node.told(Unhealthy)
    assert [event.details for event in node.told(Recovering)] == [("this node waits to be added to the cluster",)]
    assert node.engine.reported.health == "recovering"
