"""The reports of a service on its node, in the types of the Go original: statistics, health."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.client.cluster_info import active, voters_of

WINDOW_SECONDS = 10
"""The rate of operations is counted over so many seconds."""


@dataclass(frozen=True, slots=True)
class ConsensusStats:
    """Statistics of a node (ConsensusStats of the Go original).

    The operations counted are those of this service. `uptime` is in seconds, times are in Unix seconds.
    """

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
    """One thing that was checked; `error` says what is wrong, and is empty if nothing is."""

    name: str
    healthy: bool
    message: str
    error: str
    checked_at: float


@dataclass(frozen=True, slots=True)
class HealthStatus:
    """How a node fares (HealthStatus of the Go original).

    `status` is "healthy", "degraded", "unhealthy" or "recovering"; `healthy` is true for the first only.
    """

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
    """Counts the operations of a service's callers and how they ended; safe on any thread."""

    def __init__(self) -> None:
        self.total = self.failed = 0
        self.seconds = 0.0
        self.window: deque[list[int]] = deque(maxlen=WINDOW_SECONDS + 1)
        """Pairs of a second and the number of operations in it."""
        self.led = 0
        """How often this node became leader."""
        self.snapshot_at: float | None = None

    def count(self, began: float, failed: int, total: int = 1) -> None:
        """Count operations that began at that time and end now: `total` of them, of which `failed` have failed.

        Under many threads counts may be off by a few.
        """
        now = time.monotonic()
        self.total += total
        self.failed += failed
        self.seconds += (now - began) * total
        second = int(now)
        window = self.window
        if window and window[-1][0] == second:
            window[-1][1] += total
        else:
            window.append([second, total])

    def per_second(self) -> float:
        """Return the operations a second, over the last whole seconds and this one."""
        now = time.monotonic()
        recent = [(second, count) for second, count in list(self.window) if second > now - WINDOW_SECONDS]
        if not recent:
            return 0.0
        return sum(count for _, count in recent) / max(now - recent[0][0], 1.0)


def stats_of(status: NodeStatus, meter: Meter) -> ConsensusStats:
    """Return the statistics, from a node's status and what the service counted."""
    total = meter.total
    campaigning = status.role == "candidate"
    return ConsensusStats(
        **{name: getattr(status, name) for name in COPIED},
        cluster_size=len(status.nodes),
        healthy_nodes=active(status),
        elections_failed=max(0, status.elections_total - meter.led - campaigning),
        operations_total=total,
        operations_failed=meter.failed,
        operations_per_sec=meter.per_second(),
        average_latency_ms=1000 * meter.seconds / total if total else 0.0,
        error_rate=meter.failed / total if total else 0.0,
        last_snapshot_time=meter.snapshot_at,
        start_time=time.time() - status.uptime,
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
"""Statistics that a node's status has under the same name."""


def check(name: str, healthy: bool, good: str, bad: str) -> HealthCheck:
    """Return a check with the text for its result."""
    return HealthCheck(name, healthy, good if healthy else "", "" if healthy else bad, time.time())


def health_of(status: NodeStatus) -> HealthStatus:
    """Return how a node fares, with one check for each member."""
    leader, total, live = status.leader_id, len(voters_of(status)), active(status)
    details = [
        check("node", True, "the node runs", ""),
        check("leader", leader is not None, f"{leader} leads term {status.term}", "no leader is known"),
        check("quorum", status.has_quorum, f"{live} of {total} members live", f"only {live} of {total} members live"),
    ]
    for row in status.nodes:
        fine = row.status == "active"
        details.append(check(f"member:{row.id}", fine, "active", f"{row.status} at {row.address}"))
    return HealthStatus(
        healthy=status.health == "healthy",
        status=status.health,
        leader=status.leader_id == status.node_id,
        has_quorum=status.has_quorum,
        total_nodes=total,
        active_nodes=live,
        details=tuple(details),
        last_check=time.time(),
        checks={one.name: one.healthy for one in details},
    )


def health_of_none(reason: str, total: int) -> HealthStatus:
    """Return the health of a node that does not run."""
    one = check("node", False, "", reason)
    return HealthStatus(False, "unhealthy", False, False, total, 0, (one,), time.time(), {"node": False})
