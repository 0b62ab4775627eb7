"""Metrics that are read at scrape time from what the node says of itself, its status."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from forge_consensus.events.metrics.page import MetricPage, Scalar

ROLES: Final = ("follower", "candidate", "leader")
HEALTH: Final = ("healthy", "degraded", "unhealthy", "recovering")


def add_cluster(page: MetricPage, status: Mapping[str, Any]) -> None:
    """The cluster as this node sees it."""
    nodes = status["nodes"]
    page.gauge("cluster_size", "Members of the cluster, this node among them.", len(nodes))
    healthy = sum(1 for row in nodes if row["status"] == "active")
    page.gauge("cluster_healthy_nodes", "Members that give signs of life to this node, itself among them.", healthy)
    page.gauge("has_quorum", "1 while enough voters are healthy to decide.", status["has_quorum"])
    page.gauge("has_leader", "1 while this node knows who leads.", status["leader_id"] is not None)
    page.gauge("is_leader", "1 while this node leads.", status["role"] == "leader")
    page.gauge("role", "1 for the role that this node has.", one_of(ROLES, status["role"]), "role")
    page.gauge("health", "1 for the state of health of this node.", one_of(HEALTH, status["health"]), "state")
    page.gauge("term", "The Raft term of this node.", status["term"])
    page.gauge(
        "leader_last_contact_seconds",
        "Seconds since the leader was heard; 0 if this node leads.",
        status["last_contact"],
    )


def add_log(page: MetricPage, status: Mapping[str, Any]) -> None:
    """The log and what is on disk."""
    page.gauge("commit_index", "The last log entry that is known to be committed.", status["commit_index"])
    page.gauge("last_applied", "The last log entry that the state machine has seen.", status["last_applied"])
    page.gauge("last_log_index", "The last entry of the log.", status["last_log_index"])
    page.gauge(
        "snapshot_index", "The log entry as of which the newest snapshot is; 0 without one.", status["snapshot_index"]
    )
    page.gauge("log_entries", "Entries in the log that are not compacted away.", status["log_entries"])
    page.gauge("log_size", "Bytes that the log takes in the store.", status.get("log_size_bytes"))
    page.gauge("storage_used_bytes", "Bytes of live data in the store.", status["storage_used_bytes"])
    page.gauge(
        "storage_quota_bytes", "What the used bytes must stay below, with the reserve.", status["storage_quota_bytes"]
    )
    page.gauge("disk_free_bytes", "Bytes that the file system would still give.", status["disk_free_bytes"])


def add_work(page: MetricPage, status: Mapping[str, Any]) -> None:
    """What the node has done since it started, and what it has before it."""
    page.counter("operations", "Commands of clients that this node answered.", status["operations_total"])
    page.unknown(
        "operations_failed",
        "Those that the state machine refused; a counter under the name of the seed.",
        status["operations_failed"],
    )
    page.counter("reads", "Queries of clients that this node answered.", status["reads_total"])
    page.counter("turns", "Turns of the node.", status["turns_total"])
    page.counter("flushes", "Turns that wrote to the disk, and waited for it.", status["flushes_total"])
    page.counter(
        "refused",
        "What the node did not take or could not send, by reason: frames, stale messages, answers.",
        status["refused"],
        "reason",
    )
    page.gauge("uptime_seconds", "Seconds since the node started.", status["uptime"])
    page.gauge("mailbox_depth", "Messages that wait for the next turn.", status.get("mailbox_depth"))


def add_peers(page: MetricPage, status: Mapping[str, Any]) -> None:
    """The other members, one by one."""
    peers = {row["id"]: row for row in status["nodes"] if row["id"] != status["node_id"]}
    last = status["last_log_index"]

    def each(value: Callable[[Mapping[str, Any]], Scalar]) -> dict[str, Scalar]:
        return {name: value(row) for name, row in peers.items()}

    page.gauge("peer_up", "1 while the peer gives signs of life.", each(lambda row: row["status"] == "active"), "peer")
    page.gauge(
        "peer_round_trip_seconds",
        "The last round trip to the peer.",
        each(lambda row: seconds(row["round_trip_ms"])),
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
        "The last entry that the peer is known to have on disk; told by the leader.",
        each(lambda row: row["match_index"]),
        "peer",
    )
    page.gauge(
        "peer_lag_entries",
        "Entries that the peer is not known to have on disk; told by the leader.",
        each(lambda row: lag(last, row["match_index"])),
        "peer",
    )


def per_second(status: Mapping[str, Any]) -> float:
    """Commands a second since the node started, as the seed counts."""
    return float(status["operations_total"] / max(status["uptime"], 1e-9))


def one_of(names: tuple[str, ...], present: str) -> Iterator[tuple[tuple[str], Scalar]]:
    """1 for the present name and 0 for the others."""
    for name in names:
        yield (name,), name == present


def seconds(milliseconds: float | None) -> float | None:
    """Prometheus counts in seconds."""
    return None if milliseconds is None else milliseconds / 1000


def lag(last: int, match: int | None) -> int | None:
    """What is missing; a peer may have answered for more than this reading of the log's end."""
    return None if match is None else max(0, last - match)
