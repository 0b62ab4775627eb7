"""Scenario 65: a snapshot that takes many election timeouts to send disturbs no election, and is completed."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import pytest

from forge_consensus.actors.codec import decode
from forge_consensus.actors.messages import AppendEntries, InstallSnapshot, Submit
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.worlds.scenario_world import (
    FRAME_BYTES_MAX,
    Caller,
    SilentWatcher,
    base_of,
    leader_of,
    led_cluster,
    others_than,
    put,
    submit_all,
)

OPTIONS = RaftSettings(chunk_bytes=200, chunk_window=1)
KEYS = 200
LEVEL_S_MAX = 40.0


class Traffic(SilentWatcher):
    """When appends and chunks left for each peer, and how much of a snapshot one frame carried."""

    def __init__(self) -> None:
        self.appends: defaultdict[str, list[float]] = defaultdict(list)
        self.chunks: list[tuple[float, InstallSnapshot]] = []

    def asks(self, node: SimulatedBase, to: str, data: bytes) -> None:
        """A frame leaves."""
        message = decode(data, FRAME_BYTES_MAX).message
        if isinstance(message, AppendEntries):
            self.appends[to].append(node.timeline.now)
        elif isinstance(message, InstallSnapshot) and message.data:  # without bytes it only asks what is wanted
            self.chunks.append((node.timeline.now, message))


def filled_with_one_down(cluster: SimulatedCluster, caller: Caller) -> tuple[int, str]:
    """Keys and a snapshot of them, taken while one follower is down; returns the client's session and its name."""
    leader = leader_of(cluster)
    session = caller.open_session(leader.name)
    behind = others_than(cluster, leader.name)[0]
    cluster.crash(behind)
    submit_all(caller, leader.name, session, [put(f"k{number}", "x" * 100) for number in range(KEYS)])
    assert cluster.run(5.0, lambda: leader.engine.ledger.log.base_index > KEYS // 2)
    return session, behind


@pytest.mark.parametrize("snapshot_entries", [30, 100])
def test_scenario_65_a_follower_on_a_slow_link_catches_up_under_load(snapshot_entries: int) -> None:
    """The transfer takes a dozen election timeouts. Meanwhile the log grows and is cut by newer snapshots."""
    limits = StorageSettings(snapshot_entries=snapshot_entries, snapshot_seconds_min=0.1, trailing_entries=0)
    with led_cluster(3, storage=limits, raft=OPTIONS) as (cluster, invariants):
        caller, leader = Caller(cluster), leader_of(cluster)
        session, behind = filled_with_one_down(cluster, caller)
        weather = cluster.network.weather
        weather.delay_seconds_min, weather.delay_seconds_max = 0.04, 0.05
        traffic, ledger = Traffic(), leader.engine.ledger
        cluster.watchers.append(traffic)
        snapshots = leader.engine.totals.snapshots
        cluster.restart(behind)
        for seq in range(KEYS + 1, KEYS + 1 + int(LEVEL_S_MAX / 0.1)):
            caller.send(leader.name, Submit(session, seq, ((seq, put(f"k{seq % KEYS}", "y" * 100)),)))
            cluster.run(0.1)
            if base_of(cluster, behind).engine.ledger.applied >= ledger.commit_index - 3:
                break
        else:
            raise AssertionError("it gets snapshot after snapshot and never becomes level")
        took = traffic.chunks[-1][0] - traffic.chunks[0][0]
        assert took > 8 * OPTIONS.election_timeout_max
        assert leader.engine.totals.snapshots > snapshots, "newer snapshots came while this one was sent"
        assert list(invariants.leaders.values()) == [leader.name], "no election"
        for times in traffic.appends.values():
            gaps = [later - earlier for earlier, later in pairwise(times)]
            assert max(gaps) < 2 * OPTIONS.heartbeat_interval
        assert cluster.run(10.0, cluster.settled)


def test_scenario_65_a_leader_loads_and_sends_one_chunk_at_a_time() -> None:
    """So neither the sender nor the connection ever holds the snapshot, however large it is."""
    limits = StorageSettings(snapshot_entries=100, snapshot_seconds_min=0.1, trailing_entries=0)
    with led_cluster(3, storage=limits, raft=OPTIONS) as (cluster, _):
        _, behind = filled_with_one_down(cluster, Caller(cluster))
        cluster.network.weather.delay_seconds_min, cluster.network.weather.delay_seconds_max = 0.04, 0.05
        traffic = Traffic()
        cluster.watchers.append(traffic)
        cluster.restart(behind)
        assert cluster.run(LEVEL_S_MAX, cluster.settled)
        size = traffic.chunks[0][1].size
        assert size > 50 * OPTIONS.chunk_bytes
        assert [chunk.offset for _, chunk in traffic.chunks] == list(range(0, size, OPTIONS.chunk_bytes))
        assert max(len(chunk.data) for _, chunk in traffic.chunks) == OPTIONS.chunk_bytes
        assert min(later - earlier for (earlier, _), (later, _) in pairwise(traffic.chunks)) >= 0.08


def test_scenario_65_an_absent_follower_retains_neither_the_log_nor_a_snapshot_file() -> None:
    limits = StorageSettings(snapshot_entries=30, snapshot_seconds_min=0.1, trailing_entries=0)
    with led_cluster(3, storage=limits, raft=OPTIONS) as (cluster, _):
        caller, leader = Caller(cluster), leader_of(cluster)
        session, behind = filled_with_one_down(cluster, caller)
        cluster.network.weather.delay_seconds_min, cluster.network.weather.delay_seconds_max = 0.04, 0.05
        traffic, snapshots = Traffic(), leader.engine.opened.snapshots
        cluster.watchers.append(traffic)
        cluster.restart(behind)
        seq = KEYS
        for gone in (False, True):
            for _ in range(8):
                submit_all(caller, leader.name, session, [put("k", number) for number in range(20)], first=seq + 1)
                seq += 20
                cluster.run(0.5)
            sent = traffic.chunks[0][1]
            held = leader.engine.ledger.log.base_index == sent.index
            kept = any(path.name.endswith(f"{sent.index:016x}.fcs") for path in snapshots.folder.iterdir())
            assert (held, kept) == (not gone, not gone)
            cluster.crash(behind)
        cluster.restart(behind)
        assert cluster.run(LEVEL_S_MAX, cluster.settled)
