"""Full disks that stay full for long, on any node: who leads, what is refused, what health says, and that it ends."""

from __future__ import annotations

from typing import Any

import pytest

from forge_consensus.actors.codec import decode
from forge_consensus.actors.messages import InstallSnapshot, Refused, Results, Submit
from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.events.types import Degraded, LeaderStepDown, LeaderTransfer
from forge_consensus.storage.backends.memory import DISK_FREE_BYTES
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.worlds.crash_steps import Persistent
from tests.worlds.scenario_world import (
    Caller,
    SilentWatcher,
    base_of,
    increment,
    leader_of,
    led_cluster,
    others_than,
    put,
    value_at,
)

RAFT = RaftSettings()
TWO_TIMEOUTS = 2 * RAFT.election_timeout_max
FULL = StorageSettings().reserve_bytes // 2
"""So many bytes are free on a disk that is full: less than the reserve."""


def fill(cluster: SimulatedCluster, *names: str) -> None:
    """Fill the disks of these nodes."""
    for name in names:
        base_of(cluster, name).disk.disk_free_bytes = FULL


def make_room(cluster: SimulatedCluster, *names: str) -> None:
    """Make room on the disks of these nodes."""
    for name in names:
        base_of(cluster, name).disk.disk_free_bytes = DISK_FREE_BYTES


def health_of(cluster: SimulatedCluster, name: str) -> tuple[str, str]:
    """A node's health, and its details as one text."""
    reported = base_of(cluster, name).engine.reported
    return str(reported.health), " ".join(reported.details)


def told(cluster: SimulatedCluster, kind: type) -> list[Any]:
    """The events of a kind on all nodes, from now on."""
    events: list[Any] = []
    for node in cluster.nodes.values():
        node.bus.subscribe(kind, events.append, inline=True)
    return events


@pytest.mark.parametrize(("nodes", "lease_reads"), [(3, False), (3, True), (5, False)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_leader_on_a_full_disk_gives_way_within_two_election_timeouts(
    nodes: int, lease_reads: bool, seed: int
) -> None:
    """Also when nobody writes: the next write would be refused."""
    with led_cluster(nodes, seed, lease_reads=lease_reads) as (cluster, _):
        old = leader_of(cluster)
        client = Persistent(cluster)
        client.begin()
        term, handed, downs = old.engine.ledger.term, told(cluster, LeaderTransfer), told(cluster, LeaderStepDown)
        fill(cluster, old.name)
        assert cluster.run(TWO_TIMEOUTS, lambda: old.engine.ledger.leading_term is None)
        assert [(event.node_id, event.term, event.leader) for event in handed] == [(old.name, term, old.name)]
        assert (downs[0].node_id, downs[0].reason) == (old.name, f"term {term + 1} began"), "not for lack of a majority"
        assert cluster.run(RAFT.election_timeout_min, lambda: cluster.leader() is not None)
        assert leader_of(cluster).name == handed[0].target
        for _ in range(20):
            client.do(increment("n"))
            cluster.run(1.0)
        new = leader_of(cluster)
        assert new is not old
        cluster.run(2 * RAFT.check_interval)
        assert health_of(cluster, old.name)[0] == "degraded"
        assert "no entries are taken: the disk is full" in health_of(cluster, old.name)[1]
        assert health_of(cluster, new.name) == ("degraded", f"{old.name} takes no entries: it has no room")
        make_room(cluster, old.name)
        assert cluster.run(5.0, cluster.settled), "what it refused comes when there is room, without a restart"
        assert value_at(cluster, old.name, "n") == 20
        cluster.run(2.0)
        assert {health_of(cluster, name) for name in cluster.names} == {("healthy", "")}


def test_a_full_follower_is_told_of_and_is_not_sent_the_same_entries_for_ever() -> None:
    with led_cluster(3) as (cluster, _):
        leader = leader_of(cluster)
        full = others_than(cluster, leader.name)[0]
        client = Persistent(cluster)
        client.begin()
        assert cluster.run(5.0, cluster.settled)
        fill(cluster, full)
        client.do(increment("n"))
        cluster.run(60.0)
        assert leader_of(cluster) is leader, "a majority has room"
        assert base_of(cluster, full).engine.refusals.counts["CONSENSUS_STORAGE_FULL"] < 40
        assert leader.engine.shared.refusals == {full: "full"}
        assert leader.engine.shared.refused_appends[full] > 0
        assert health_of(cluster, leader.name) == ("degraded", f"{full} takes no entries: it has no room")
        make_room(cluster, full)
        assert cluster.run(1.0, cluster.settled)
        assert leader.engine.shared.refusals == {}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_full_node_lets_the_others_stand(seed: int) -> None:
    with led_cluster(3, seed) as (cluster, _):
        leader = leader_of(cluster)
        full, roomy = others_than(cluster, leader.name)
        fill(cluster, full)
        cluster.run(2.0)
        cluster.crash(leader.name)
        assert cluster.run(10.0, lambda: cluster.leader() is not None)
        assert leader_of(cluster).name == roomy


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_cluster_of_full_disks_keeps_or_elects_a_leader_answers_reads_and_refuses_writes(seed: int) -> None:
    with led_cluster(3, seed) as (cluster, _):
        caller = Caller(cluster)
        session = caller.open_session(leader_of(cluster).name)
        caller.ask(leader_of(cluster).name, Submit(session, 1, ((1, put("k", "v")),)))
        assert cluster.run(5.0, cluster.settled)
        leader, term = leader_of(cluster), leader_of(cluster).engine.ledger.term
        fill(cluster, *cluster.names)
        for number in range(2, 12):
            answer = caller.ask(leader.name, Submit(session, 2, ((number, put("k", number)),)))
            assert isinstance(answer, Refused)
            assert answer.code == "CONSENSUS_STORAGE_FULL"
            cluster.run(1.0)
        assert leader.engine.ledger.leading_term == term, "nobody else could append either"
        assert leader.engine.refusals.counts["CONSENSUS_STORAGE_FULL"] == 10
        cluster.crash(leader.name)
        assert cluster.run(30.0, lambda: cluster.leader() is not None), "a full node stands if nobody else does"
        cluster.restart(leader.name)
        fill(cluster, leader.name)
        assert cluster.run(10.0, cluster.settled)
        assert value_at(cluster, leader_of(cluster).name, "k") == "v"
        make_room(cluster, *cluster.names)
        cluster.run(2.0)
        answer = caller.ask(leader_of(cluster).name, Submit(session, 2, ((20, put("k", "w")),)))
        assert isinstance(answer, Results)


def test_a_leader_whose_majority_is_full_refuses_instead_of_leaving_its_clients_waiting() -> None:
    with led_cluster(3) as (cluster, _):
        leader = leader_of(cluster)
        caller = Caller(cluster)
        session = caller.open_session(leader.name)
        assert cluster.run(5.0, cluster.settled)
        fill(cluster, *others_than(cluster, leader.name))
        caller.send(leader.name, Submit(session, 1, ((1, increment("n")),)))
        cluster.run(1.0)
        answer = caller.ask(leader.name, Submit(session, 1, ((2, increment("n")),)))
        assert isinstance(answer, Refused)
        assert answer.code == "CONSENSUS_STORAGE_FULL"
        assert "have no room and no majority is left" in answer.text
        make_room(cluster, *cluster.names)
        assert cluster.run(2.0, cluster.settled)
        assert isinstance(caller.ask(leader.name, Submit(session, 1, ((3, increment("n")),))), Results)
        assert value_at(cluster, leader.name, "n") == 2


class Chunks(SilentWatcher):
    """Counts the snapshot chunks that are sent, and their bytes."""

    def __init__(self) -> None:
        self.bytes: list[int] = []

    def asks(self, node: SimulatedBase, to: str, data: bytes) -> None:
        """Count a chunk."""
        message = decode(data, 64 << 20).message
        if isinstance(message, InstallSnapshot):
            self.bytes.append(len(message.data))


SMALL_SNAPSHOTS = StorageSettings(snapshot_entries=50, trailing_entries=0, snapshot_seconds_min=0.1)


def behind(cluster: SimulatedCluster) -> str:
    """Leave one follower behind the log; returns it, not yet restarted."""
    lagging = others_than(cluster, leader_of(cluster).name)[0]
    cluster.crash(lagging)
    cluster.run(61.0)
    client = Persistent(cluster)
    client.begin()
    for number in range(120):
        client.do(put(f"k{number}", "x" * 5_000))
    cluster.run(3.0)
    assert leader_of(cluster).engine.ledger.log.base_index > 1
    return lagging


def test_a_follower_without_room_for_a_snapshot_says_so_and_is_asked_ever_more_seldom() -> None:
    with led_cluster(3, storage=SMALL_SNAPSHOTS) as (cluster, _):
        lagging = behind(cluster)
        degraded = told(cluster, Degraded)
        chunks = Chunks()
        cluster.watchers.append(chunks)
        cluster.restart(lagging)
        fill(cluster, lagging)
        cluster.run(120.0)
        assert 3 < len([size for size in chunks.bytes if size]) < 20
        state, details = health_of(cluster, lagging)
        assert state == "degraded"
        assert "the leader's snapshot is not taken: the disk is full" in details
        assert len([event for event in degraded if event.node_id == lagging]) < 10
        leader = leader_of(cluster).name
        assert health_of(cluster, leader) == ("degraded", f"{lagging} did not take the last snapshot: it has no room")
        engine = base_of(cluster, leader).engine
        rows = NodeStatus.whole(engine, engine.opened.snapshots).to_dict()["nodes"]
        assert {row["id"]: row["refusal"] for row in rows if row["refusal"]} == {lagging: "full"}
        make_room(cluster, lagging)
        assert cluster.run(70.0, cluster.settled)
        cluster.run(2.0)
        assert {health_of(cluster, name) for name in (lagging, leader)} == {("healthy", "")}


def test_a_stopped_follower_is_not_sent_its_chunk_over_and_over() -> None:
    """A process that does not read lets its frames pile up in the sender's memory."""
    with led_cluster(3, storage=SMALL_SNAPSHOTS) as (cluster, _):
        lagging = behind(cluster)
        chunks = Chunks()
        cluster.watchers.append(chunks)
        cluster.restart(lagging)
        cluster.run(2.0, lambda: bool(chunks.bytes))
        cluster.network.part([leader_of(cluster).name], [lagging], both_ways=False)
        chunks.bytes.clear()
        cluster.run(120.0)
        assert len(chunks.bytes) > 20, "it is asked"
        assert sum(chunks.bytes) <= 2 * RAFT.chunk_bytes
