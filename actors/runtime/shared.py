"""The board: what the node says of itself and its peers, for status and for hints; no decision rests on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Role(StrEnum):
    """The seed's NodeRole."""

    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


class PeerStatus(StrEnum):
    """The seed's NodeStatus."""

    ACTIVE = "active"
    SUSPECTED = "suspected"
    FAILED = "failed"
    INACTIVE = "inactive"


class HealthState(StrEnum):
    """How the node fares, by its own judgement."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    RECOVERING = "recovering"


@dataclass(slots=True)
class PeerView:
    """One peer as the health actor sees it."""

    status: PeerStatus = PeerStatus.INACTIVE
    round_trip_ms: float | None = None
    heard_at: float | None = None


class Told(NamedTuple):
    """What of the board the world was told by events."""

    role: Role
    leader: str | None
    has_quorum: bool
    health: HealthState
    details: tuple[str, ...]
    saving: int
    committed: int
    peers: dict[str, PeerStatus]


@dataclass(slots=True)
class Board:
    """Each field is written by one actor, named behind it, and read by whoever wants to know."""

    role: Role = Role.FOLLOWER  # election
    leader: str | None = None  # election
    leader_term: int = 0  # election
    leader_heard_at: float | None = None  # election; seconds of CLOCK_BOOTTIME: a pause counts
    elections: int = 0  # election
    peers: dict[str, PeerView] = field(default_factory=dict)  # health
    has_quorum: bool = False  # health
    health: HealthState = HealthState.RECOVERING  # health
    details: tuple[str, ...] = ()  # health
    match: dict[str, int] = field(default_factory=dict)  # replication
    committed: int = 0  # replication, snapshot; what LogCommitted or SnapshotRestored told
    snapshots: int = 0  # snapshot
    saving: int = 0  # snapshot; the index that SnapshotStarted told, 0 when none is being taken
    commands: int = 0  # gateway
    commands_failed: int = 0  # gateway
    reads: int = 0  # gateway
    refused: Counter[str] = field(default_factory=Counter)  # turn loop
    turns: int = 0  # turn loop
    started_at: float = 0.0  # turn loop
    events_address: str = ""  # base

    def told(self) -> Told:
        """What events tell of, to be kept when they were told."""
        peers = {node: view.status for node, view in self.peers.items()}
        health = (self.has_quorum, self.health, self.details)
        return Told(self.role, self.leader, *health, self.saving, self.committed, peers)

    def take_back(self, told: Told) -> None:
        """Be again what the world was told: a turn did not happen, and its events were never told."""
        self.role, self.leader, self.has_quorum, self.health, self.details, self.saving, self.committed, peers = told
        for node, view in self.peers.items():
            view.status = peers.get(node, PeerStatus.INACTIVE)
