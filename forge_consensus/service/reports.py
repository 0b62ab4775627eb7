"""Accounts: what a service says of its node, in the seed's types: statistics, cluster, health."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from forge_consensus.config.address import IPC

WINDOW_S = 10
"""Operations a second are counted over so many seconds."""


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A member as one node sees it. `last_heartbeat` is Unix seconds, None where nothing was ever heard.

    A member at an ``ipc://`` address has all of it in `address`, and port 0.
    """

    id: str
    address: str
    port: int
    role: str
    status: str
    term: int
    last_heartbeat: float | None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """The cluster as one node sees it (the seed's ClusterInfo)."""

    id: str
    leader: str | None
    term: int
    nodes: tuple[NodeInfo, ...]
    total_nodes: int
    active_nodes: int
    has_quorum: bool
    commit_index: int
    last_applied: int


@dataclass(frozen=True, slots=True)
class ConsensusStats:
    """The seed's ConsensusStats; operations are those of this service. `uptime` is seconds, times are Unix seconds."""

    node_id: str
    cluster_id: str
    role: str
    status: str
    term: int
    leader_id: str | None
    commit_index: int
    last_applied: int
    last_log_index: int
    last_log_term: int
    cluster_size: int
    healthy_nodes: int
    has_quorum: bool
    elections_total: int
    elections_failed: int
    operations_total: int
    operations_failed: int
    operations_per_sec: float
    average_latency_ms: float
    error_rate: float
    log_entries: int
    snapshots_total: int
    last_snapshot_time: float | None
    uptime: float
    start_time: float


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """One thing that was looked at; `error` says what is wrong, if anything is."""

    name: str
    healthy: bool
    message: str
    error: str
    checked_at: float


@dataclass(frozen=True, slots=True)
class HealthStatus:
    """How a node fares: `status` is healthy, degraded, unhealthy or recovering; only the first is `healthy`."""

    healthy: bool
    status: str
    leader: bool
    has_quorum: bool
    total_nodes: int
    active_nodes: int
    details: tuple[HealthCheck, ...]
    last_check: float
    checks: dict[str, bool]


class Meter:
    """What a service's callers asked for and how it ended; from any thread."""

    def __init__(self) -> None:
        self.total = self.failed = 0
        self.seconds = 0.0
        self.window: deque[list[int]] = deque(maxlen=WINDOW_S + 1)
        """[second, operations in it]."""
        self.led = 0
        """How often this node became leader."""
        self.snapshot_at: float | None = None

    def count(self, began: float, failed: bool) -> None:
        """An operation that began then has ended. Counts may be off by a few under many threads."""
        now = time.monotonic()
        self.total += 1
        self.failed += failed
        self.seconds += now - began
        second = int(now)
        window = self.window
        if window and window[-1][0] == second:
            window[-1][1] += 1
        else:
            window.append([second, 1])

    def per_second(self) -> float:
        """Operations a second, over the last whole seconds and this one."""
        now = time.monotonic()
        recent = [(second, count) for second, count in list(self.window) if second > now - WINDOW_S]
        if not recent:
            return 0.0
        return sum(count for _, count in recent) / max(now - recent[0][0], 1.0)


def stats_of(facts: Mapping[str, Any], meter: Meter) -> ConsensusStats:
    """The statistics, of a node's status and what the service counted."""
    total = meter.total
    standing = facts["role"] == "candidate"
    return ConsensusStats(
        **{name: facts[name] for name in COPIED},
        cluster_size=len(facts["nodes"]),
        healthy_nodes=active(facts),
        elections_failed=max(0, facts["elections_total"] - meter.led - standing),
        operations_total=total,
        operations_failed=meter.failed,
        operations_per_sec=meter.per_second(),
        average_latency_ms=1000 * meter.seconds / total if total else 0.0,
        error_rate=meter.failed / total if total else 0.0,
        last_snapshot_time=meter.snapshot_at,
        start_time=time.time() - facts["uptime"],
    )


COPIED = (
    "node_id",
    "cluster_id",
    "role",
    "status",
    "term",
    "leader_id",
    "commit_index",
    "last_applied",
    "last_log_index",
    "last_log_term",
    "has_quorum",
    "elections_total",
    "log_entries",
    "snapshots_total",
    "uptime",
)
"""Statistics that a node's status holds under the same name."""


def active(facts: Mapping[str, Any]) -> int:
    """How many members are known to live."""
    return sum(row["status"] == "active" for row in facts["nodes"])


def node_of(row: Mapping[str, Any], term: int) -> NodeInfo:
    """One member."""
    whole = str(row["address"])
    host, _, port = (whole, "", "") if whole.startswith(IPC) else whole.rpartition(":")
    heard = row["last_contact"]
    return NodeInfo(
        id=row["id"],
        address=host,
        port=int(port or 0),
        role=row["role"],
        status=row["status"],
        term=term,
        last_heartbeat=None if heard is None else time.time() - heard,
        metadata={"round_trip_ms": row["round_trip_ms"], "match_index": row["match_index"]},
    )


def cluster_of(facts: Mapping[str, Any]) -> ClusterInfo:
    """The cluster."""
    return ClusterInfo(
        id=facts["cluster_id"],
        leader=facts["leader_id"],
        term=facts["term"],
        nodes=tuple(node_of(row, facts["term"]) for row in facts["nodes"]),
        total_nodes=len(facts["nodes"]),
        active_nodes=active(facts),
        has_quorum=facts["has_quorum"],
        commit_index=facts["commit_index"],
        last_applied=facts["last_applied"],
    )


def check(name: str, healthy: bool, good: str, bad: str) -> HealthCheck:
    """One check, that went this way or that."""
    return HealthCheck(name, healthy, good if healthy else "", "" if healthy else bad, time.time())


def health_of(facts: Mapping[str, Any]) -> HealthStatus:
    """How the node fares."""
    leader, total, live = facts["leader_id"], len(facts["nodes"]), active(facts)
    details = [
        check("node", True, "the node runs", ""),
        check("leader", leader is not None, f"{leader} leads term {facts['term']}", "no leader is known"),
        check("quorum", facts["has_quorum"], f"{live} of {total} members live", f"only {live} of {total} members live"),
    ]
    for row in facts["nodes"]:
        fine = row["status"] == "active"
        details.append(check(f"member:{row['id']}", fine, "active", f"{row['status']} at {row['address']}"))
    return HealthStatus(
        healthy=facts["health"] == "healthy",
        status=facts["health"],
        leader=facts["leader_id"] == facts["node_id"],
        has_quorum=facts["has_quorum"],
        total_nodes=total,
        active_nodes=live,
        details=tuple(details),
        last_check=time.time(),
        checks={one.name: one.healthy for one in details},
    )


def health_of_none(reason: str, total: int) -> HealthStatus:
    """The health of a node that does not run."""
    one = check("node", False, "", reason)
    return HealthStatus(False, "unhealthy", False, False, total, 0, (one,), time.time(), {"node": False})
