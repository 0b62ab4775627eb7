"""The metrics that a scrape reads from the status that the node reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from forge_consensus.events.metrics.page import MetricPage, Scalar

ROLES: Final = ("follower", "candidate", "leader")
HEALTH: Final = ("healthy", "degraded", "unhealthy", "recovering")


def add_cluster(page: MetricPage, status: Mapping[str, Any]) -> None:
    """Add the metrics of the cluster, as this node sees it."""
    nodes = status["nodes"]
    page.gauge("cluster_size", "Members of the cluster, this node included.", len(nodes))
    healthy = sum(1 for row in nodes if row["status"] == "active")
    page.gauge("cluster_healthy_nodes", "Members that show signs of life to this node, itself included.", healthy)
    page.gauge("has_quorum", "1 while enough voters are healthy to decide.", status["has_quorum"])
    page.gauge("has_leader", "1 while this node knows the leader.", status["leader_id"] is not None)
    page.gauge("is_leader", "1 while this node leads.", status["role"] == "leader")
    page.gauge("role", "1 for the role that this node has.", one_of(ROLES, status["role"]), "role")
    page.gauge("health", "1 for the health state of this node.", one_of(HEALTH, status["health"]), "state")
    page.gauge("term", "The Raft term of this node.", status["term"])
    page.gauge(
        "config_pending_restart",
        "Settings that were given other values and wait for a restart of this node.",
        len(status.get("pending_restart") or ()),
    )
    page.gauge(
        "leader_last_contact_seconds",
        "Seconds since this node last heard from the leader; 0 if it leads.",
        status["last_contact"],
    )


def add_log(page: MetricPage, status: Mapping[str, Any]) -> None:
    """Add the metrics of the log and of the store."""
    page.gauge("commit_index", "The last log entry that this node knows to be committed.", status["commit_index"])
    page.gauge("last_applied", "The last log entry that was applied to the state machine.", status["last_applied"])
    page.gauge("last_log_index", "The last entry of the log.", status["last_log_index"])
    page.gauge(
        "snapshot_index",
        "The last log entry that the newest snapshot covers; 0 without a snapshot.",
        status["snapshot_index"],
    )
    page.gauge("log_entries", "Entries in the log, without those that were compacted.", status["log_entries"])
    page.gauge("log_size", "Bytes that the log occupies in the store.", status.get("log_size_bytes"))
    page.gauge("storage_used_bytes", "Bytes of live data in the store.", status["storage_used_bytes"])
    page.gauge(
        "storage_quota_bytes", "The limit of the used bytes, the reserve included.", status["storage_quota_bytes"]
    )
    page.gauge("storage_full", "1 while this node takes no entries because room is short.", bool(status["full"]))
    page.gauge("commit_seconds", "The slowest commit of the last ten seconds.", status["commit_seconds"])
    page.gauge("disk_free_bytes", "Bytes that are free on the file system.", status["disk_free_bytes"])


def add_work(page: MetricPage, status: Mapping[str, Any]) -> None:
    """Add the metrics of what the node has done since it started, and of what waits."""
    page.counter("operations", "Commands of clients that this node answered.", status["operations_total"])
    page.unknown(
        "operations_failed",
        "Commands that the state machine refused; a counter, named as in the Go original.",
        status["operations_failed"],
    )
    page.counter("reads", "Queries of clients that this node answered.", status["reads_total"])
    page.counter(
        "busy",
        "Commands and queries that were answered with busy, because too much waited.",
        status.get("busy_total", 0),
    )
    page.gauge("backlog_entries", "Log entries that the state machine has not seen yet.", status.get("backlog_entries"))
    page.gauge("backlog_seconds", "How long these are expected to take.", status.get("backlog_seconds"))
    page.counter(
        "slow_applies",
        "Commands whose application took longer than a heartbeat interval.",
        status.get("slow_applies_total", 0),
    )
    page.counter(
        "slow_queries",
        "Calls of the state machine for a query that took longer than a heartbeat interval.",
        status.get("slow_queries_total", 0),
    )
    page.counter("turns", "Turns of the node.", status["turns_total"])
    page.counter("flushes", "Turns that wrote to the disk and waited for the flush.", status["flushes_total"])
    page.counter(
        "refused",
        "Frames, stale messages and answers that the node refused or could not send, by reason.",
        status["refused"],
        "reason",
    )
    page.counter(
        "audit_records",
        "Acts of administrators and denials, by outcome; those that are told together count apart.",
        {"done": 0, "failed": 0, "denied": 0, "unknown": 0, **(status.get("audited") or {})},
        "outcome",
    )
    page.counter(
        "audit_file_missing_records",
        "Records that the audit file lacks, because it could not be written.",
        status.get("audit_missing", 0),
    )
    page.gauge("uptime_seconds", "Seconds since the node started.", status["uptime"])
    page.gauge("mailbox_depth", "Messages that wait for the next turn.", status.get("mailbox_depth"))


def add_peers(page: MetricPage, status: Mapping[str, Any]) -> None:
    """Add the metrics of the other members, one sample per peer."""
    peers = {row["id"]: row for row in status["nodes"] if row["id"] != status["node_id"]}
    last = status["last_log_index"]

    def each(value: Callable[[Mapping[str, Any]], Scalar]) -> dict[str, Scalar]:
        return {name: value(row) for name, row in peers.items()}

    page.gauge("peer_up", "1 while the peer shows signs of life.", each(lambda row: row["status"] == "active"), "peer")
    page.gauge(
        "peer_round_trip_seconds",
        "The duration of the last round trip to the peer.",
        each(lambda row: seconds(row["round_trip_ms"])),
        "peer",
    )
    page.gauge(
        "peer_clock_ahead_seconds",
        "How far the wall clock of the peer is ahead of this node's; negative if it is behind.",
        each(lambda row: seconds(row.get("clock_ahead_ms"))),
        "peer",
    )
    page.gauge(
        "peer_last_contact_seconds",
        "Seconds since the last sign of life of the peer.",
        each(lambda row: row["last_contact"]),
        "peer",
    )
    page.gauge(
        "peer_match_index",
        "The last entry that the peer is known to have on disk; only the leader reports it.",
        each(lambda row: row["match_index"]),
        "peer",
    )
    page.gauge(
        "peer_lag_entries",
        "Entries that the peer is not known to have on disk; only the leader reports it.",
        each(lambda row: lag(last, row["match_index"])),
        "peer",
    )

    refusing = each(lambda row: bool(row["refusal"]))
    page.gauge(
        "peer_refuses",
        "1 while the peer takes no entries from this node; only the leader reports it.",
        refusing,
        "peer",
    )


def per_second(status: Mapping[str, Any]) -> float:
    """Return commands per second since the node started, as the Go original computes them."""
    return float(status["operations_total"] / max(status["uptime"], 1e-9))


def one_of(names: tuple[str, ...], present: str) -> Iterator[tuple[tuple[str], Scalar]]:
    """Return 1 for the present name and 0 for the others."""
    for name in names:
        yield (name,), name == present


def seconds(milliseconds: float | None) -> float | None:
    """Convert milliseconds to seconds, the unit of Prometheus."""
    return None if milliseconds is None else milliseconds / 1000


def lag(last: int, match: int | None) -> int | None:
    """Return how many entries are missing; never negative, since a peer may have answered after `last` was read."""
    return None if match is None else max(0, last - match)
