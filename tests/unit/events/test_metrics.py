"""The metrics of a node: Prometheus reads them from events, turns and the status."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client import generate_latest

from forge_consensus.events.bus import EventBus
from forge_consensus.events.metrics.metrics import GoOriginalMetrics, NodeMetrics
from forge_consensus.events.metrics.turn_report import TurnReport
from forge_consensus.events.types import (
    BecameCandidate,
    BecameFollower,
    ConfigRejected,
    ConfigReloaded,
    ConsensusEvent,
    LeaderElected,
    LeaderLost,
    LogAppended,
    LogCommitted,
    LogTruncated,
    NodeFailed,
    QuorumLost,
    SnapshotCompleted,
    SnapshotFailed,
    SnapshotRestored,
)

SEED = (
    "cluster_size", "cluster_healthy_nodes", "is_leader", "has_quorum", "term", "operations_total", "operations_failed",
    "operation_duration_seconds_count", "leader_elections_total", "leader_election_duration_seconds_count",
    "commit_index", "last_applied", "log_size", "log_entries", "snapshots_total", "snapshot_duration_seconds_count",
)  # fmt: skip


def status(**changed: Any) -> dict[str, Any]:
    """What a leader of three says of itself."""
    nodes = [
        {
            "id": name,
            "status": state,
            "round_trip_ms": trip,
            "last_contact": contact,
            "match_index": match,
            "refusal": "",
        }
        for name, state, trip, contact, match in (
            ("n1", "active", None, None, 90),
            ("n2", "active", 0.5, 0.1, 80),
            ("n3", "failed", None, None, None),
        )
    ]
    facts = {
        "node_id": "n1", "role": "leader", "health": "degraded", "leader_id": "n1", "has_quorum": True, "term": 7,
        "last_contact": 0.0, "commit_index": 80, "last_applied": 79, "last_log_index": 90, "snapshot_index": 10,
        "log_entries": 80, "log_size_bytes": 4096, "storage_used_bytes": 8192, "storage_quota_bytes": 1 << 30,
        "disk_free_bytes": 1 << 33, "operations_total": 500, "operations_failed": 3, "reads_total": 4,
        "turns_total": 60, "flushes_total": 50, "refused": {"stranger": 2}, "uptime": 250.0, "mailbox_depth": 1,
        "nodes": nodes, "commit_seconds": 0.25, "full": "",
    }  # fmt: skip
    return {**facts, **changed}


def metrics_of(bus: EventBus, sample: Any = status, node: str = "n1") -> NodeMetrics:
    return NodeMetrics(bus, sample, node=node, cluster="demo", version="1.2.3")


def read(metrics: NodeMetrics, name: str, **labels: str) -> float | None:
    """One value, by its name behind the prefix."""
    labels = {"node": metrics.node, "cluster": metrics.cluster, **labels}
    return metrics.registry.get_sample_value(f"forge_consensus_{name}", labels)


def test_every_metric_of_the_go_original_is_there_with_node_and_cluster() -> None:
    metrics = metrics_of(EventBus())
    text = generate_latest(metrics.registry).decode()
    labels = '{cluster="demo",node="n1"'
    assert [name for name in SEED if f"forge_consensus_{name}{labels}" not in text] == []
    seed = generate_latest(GoOriginalMetrics(metrics).registry).decode()
    assert "forge_consensus_operations_per_sec" + labels + "} 2.0" in seed


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package: prometheus)")
def test_promtool_finds_nothing() -> None:
    bus = EventBus()
    metrics = metrics_of(bus)
    bus.publish(NodeFailed(peer="n2", reason="gone"))
    bus.publish(SnapshotCompleted(index=1, size=2, duration=0.1))
    page = generate_latest(metrics.registry)
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_gauges_are_read_from_the_status_at_each_scrape() -> None:
    present = status()
    metrics = metrics_of(EventBus(), lambda: present)
    assert read(metrics, "cluster_size") == 3
    assert read(metrics, "cluster_healthy_nodes") == 2
    assert read(metrics, "role", role="leader") == 1
    assert read(metrics, "role", role="follower") == 0
    assert read(metrics, "health", state="degraded") == 1
    assert read(metrics, "refused_total", reason="stranger") == 2
    assert read(metrics, "mailbox_depth") == 1
    present = status(term=8, role="follower")
    assert read(metrics, "term") == 8
    assert read(metrics, "is_leader") == 0


def test_peers_are_reported_one_by_one_without_unknown_values() -> None:
    metrics = metrics_of(EventBus())
    assert read(metrics, "peer_lag_entries", peer="n2") == 10
    assert read(metrics, "peer_round_trip_seconds", peer="n2") == 0.0005
    assert read(metrics, "peer_up", peer="n3") == 0
    assert read(metrics, "peer_lag_entries", peer="n3") is None
    assert read(metrics, "peer_up", peer="n1") is None


def test_metrics_mark_a_silent_node_and_keep_its_counters() -> None:
    def silent() -> Mapping[str, Any]:
        raise TimeoutError

    bus = EventBus()
    metrics = metrics_of(bus, silent)
    bus.publish(QuorumLost(required=2, healthy=1, total=3))
    assert read(metrics, "responding") == 0
    assert read(metrics, "term") is None
    assert read(metrics, "quorum_losses_total") == 1


def test_elections_count_as_won_or_lost() -> None:
    bus = EventBus()
    metrics = metrics_of(bus)
    events: list[ConsensusEvent] = [
        BecameFollower(leader=None),
        BecameCandidate(),
        BecameCandidate(),  # nobody won
        BecameFollower(leader="n2"),
        LeaderElected(leader="n2", votes=0, total=3, duration=0.0),
        LeaderLost(leader="n2", reason="silent"),
        BecameCandidate(),
        LeaderElected(leader="n1", votes=2, total=3, duration=0.02),
        BecameFollower(leader=None),
    ]
    for event in events:
        bus.publish(event)
    assert read(metrics, "leader_elections_total", result="won") == 1
    assert read(metrics, "leader_elections_total", result="lost") == 2
    assert read(metrics, "leader_changes_total") == 2
    assert read(metrics, "leader_losses_total") == 1
    assert read(metrics, "leader_election_duration_seconds_sum") == 0.02
    assert read(metrics, "leader_election_duration_seconds_bucket", le="0.025") == 1


def test_snapshots_failures_and_truncations_are_counted() -> None:
    bus = EventBus()
    metrics = metrics_of(bus)
    bus.publish(SnapshotCompleted(index=5, size=1000, duration=0.2))
    bus.publish(SnapshotRestored(index=9, size=2000, duration=0.4))
    bus.publish(SnapshotFailed(index=9, error="full"))
    bus.publish(NodeFailed(peer="n2", reason="gone"))
    bus.publish(LogTruncated(from_index=3, removed=4))
    counted = {
        result: read(metrics, "snapshots_total", result=result) for result in ("completed", "restored", "failed")
    }
    assert counted == {"completed": 1, "restored": 1, "failed": 1}
    assert read(metrics, "snapshot_duration_seconds_count") == 2
    assert read(metrics, "snapshot_size_bytes") == 2000
    assert read(metrics, "peer_failures_total", peer="n2") == 1
    assert read(metrics, "log_truncated_entries_total") == 4


def test_readings_of_the_configuration_are_counted_and_the_last_one_is_known() -> None:
    bus = EventBus()
    metrics = metrics_of(bus)
    assert read(metrics, "config_reload_success") is None
    bus.publish(ConfigRejected(trigger="file", problems=("a fault",)))
    assert read(metrics, "config_reload_success") == 0
    bus.publish(ConfigReloaded(trigger="file"))
    bus.publish(ConfigReloaded(trigger="api"))
    assert read(metrics, "config_reload_success") == 1
    assert [read(metrics, "config_reloads_total", result=what) for what in ("reloaded", "rejected")] == [2, 1]
    assert read(metrics, "config_pending_restart") == 0
    metrics = metrics_of(bus, lambda: status(pending_restart=["bind", "metrics"]))
    assert read(metrics, "config_pending_restart") == 2


def test_metrics_describe_turns_by_duration_flush_batch_and_answered_commands() -> None:
    metrics = metrics_of(EventBus())
    metrics.observe_turn(TurnReport(10.0, 3, 0.5, 0.125, 7, 100, [(9.75, 40), (10.0, 2)]))
    metrics.observe_turn(TurnReport(11.0, 0, 0.25))
    assert read(metrics, "turn_duration_seconds_sum") == 0.75
    assert read(metrics, "flush_duration_seconds_count") == 1
    assert read(metrics, "turn_frames_bucket", le="0.0") == 1
    assert read(metrics, "turn_messages_sum") == 7
    assert read(metrics, "turn_applied_entries_sum") == 100
    assert read(metrics, "operation_duration_seconds_count") == 42
    assert read(metrics, "operation_duration_seconds_sum") == 40 * 0.75 + 2 * 0.5


def test_metrics_do_not_subscribe_to_events_of_the_log() -> None:
    bus = EventBus()
    metrics_of(bus)
    assert not bus.has_listeners(LogAppended)
    assert not bus.has_listeners(LogCommitted)


def test_two_nodes_in_one_process_do_not_see_each_other() -> None:
    first_bus, second_bus = EventBus(), EventBus()
    first, second = metrics_of(first_bus), metrics_of(second_bus, node="n2")
    first_bus.publish(LogTruncated(from_index=1, removed=1))
    assert read(first, "log_truncated_entries_total") == 1
    assert read(second, "log_truncated_entries_total") == 0


def test_missed_events_are_counted_by_listener_even_after_it_is_gone() -> None:
    bus = EventBus()
    metrics = metrics_of(bus)
    stream = bus.stream(LogTruncated, queue_max=1)
    for _ in range(4):
        bus.publish(LogTruncated(from_index=1, removed=1))

    def broken(event: ConsensusEvent) -> None:
        raise RuntimeError("no")

    with bus.subscribe(QuorumLost, broken, inline=True) as subscription:
        bus.publish(QuorumLost(required=2, healthy=1, total=3))
        name = subscription.name
        assert read(metrics, "events_dropped_total", subscription="stream") == 3
        assert read(metrics, "event_handler_failures_total", subscription=name) == 1
    stream.close()
    with bus.stream(LogTruncated):
        assert read(metrics, "events_dropped_total", subscription="stream") == 3
    assert read(metrics, "event_handler_failures_total", subscription=name) == 1
    bus.close()


def test_closed_metrics_count_no_more() -> None:
    bus = EventBus()
    metrics = metrics_of(bus)
    metrics.close()
    bus.publish(LogTruncated(from_index=1, removed=1))
    assert read(metrics, "log_truncated_entries_total") == 0
    assert bus.listeners == ()


def test_metrics_show_the_version() -> None:
    text = generate_latest(metrics_of(EventBus()).registry).decode()
    assert 'forge_consensus_build_info{cluster="demo",node="n1",python_version="3.' in text
    assert 'version="1.2.3"} 1.0' in text
