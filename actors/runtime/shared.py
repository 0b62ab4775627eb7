"""The shared state: facts that one actor writes and that other actors, or the gate, read."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from forge_consensus.actors.messages import Hello
from forge_consensus.actors.runtime.freshness import Freshness
from forge_consensus.actors.runtime.handover import Handover
from forge_consensus.actors.runtime.stickiness import Stickiness
from forge_consensus.storage.ledger.log_time import ClockSample


class Role(StrEnum):
    """A node's role in its term; the words of the Go original's NodeRole."""

    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


class PeerStatus(StrEnum):
    """A peer's state as this node sees it; the words of the Go original's NodeStatus."""

    ACTIVE = "active"
    """It answers."""
    SUSPECTED = "suspected"
    """It missed some health checks."""
    FAILED = "failed"
    """It missed more of them, or its connection broke."""
    INACTIVE = "inactive"
    """It never answered."""


class HealthState(StrEnum):
    """The node's health, by its own judgement."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    RECOVERING = "recovering"


@dataclass(slots=True)
class PeerView:
    """One peer as the health actor sees it."""

    status: PeerStatus = PeerStatus.INACTIVE
    round_trip_ms: float | None = None
    """Of the last health check that the peer answered."""
    commit_seconds: float = 0.0
    """Its slowest commit of the last seconds, as it told at the last health check that it answered."""
    wall_clock: ClockSample | None = None
    """What its wall clock read at the last health check that it answered."""
    heard_at: float | None = None
    """When its last reply or greeting arrived, in seconds of real time."""


MISPLACED = "it was started with the address {} and the members look for it at {}"


@dataclass(frozen=True, slots=True)
class Greeted:
    """What another member said of itself in its last greeting that this node accepted."""

    token: str
    """The boot token of the greeting."""
    program: str
    """The version of its program."""
    level: int
    """The feature level of its program, see `forge_consensus.storage.ledger.levels`."""
    differs: tuple[str, ...] = ()
    """What differs between it and this node and should be looked into, as sentences."""
    misplaced: str = ""
    """The address with which it was started, if the members looked for it at another one then."""
    http_url: str | None = None
    """Where its application answers HTTP, as it says itself; "" if it does not, None before it has said."""
    hello: Hello | None = None
    """The greeting itself; None while it has only answered one of this node's."""

    def sentences(self, expected: str) -> list[str]:
        """What is to be looked into, for people; `expected` is where the members look for it now."""
        if self.misplaced in ("", expected):
            return list(self.differs)
        return [*self.differs, MISPLACED.format(self.misplaced, expected)]


@dataclass(frozen=True, slots=True)
class RefusedGreeting:
    """The last greeting of another member, which this node refused."""

    token: str
    """The boot token of the greeting."""
    why: str
    """For people."""
    at: float
    """When, in seconds of real time. A member that runs greets again and again, one that is gone does not."""


@dataclass(slots=True)
class SharedState:
    """Facts that have one home because several actors need them. Each has one writer, named in its docstring.

    The safety of the protocol does not depend on them: the ledger decides about votes, appends and commits.
    """

    role: Role = Role.FOLLOWER
    """Written by election."""
    leader: str | None = None
    """The node that leads, None while no leader is known. Written by election."""
    leader_term: int = 0
    """The term of the leader that was known last. Written by election."""
    leader_heard_at: float | None = None
    """When a leader's request last arrived, in seconds of CLOCK_BOOTTIME, which counts suspension. Written by
    election."""
    leader_commit: int = 0
    """The highest commit index of which a leader told. Written by replication."""
    stickiness: Stickiness = field(default_factory=Stickiness)
    """Whether a vote request must not move the term, because there is a leader (dissertation 4.2.3). Written by
    election, read by the gate too; it outlives a rebuild of the actors."""
    freshness: Freshness = field(default_factory=Freshness)
    """As of when the applied state is up to date. Written by replication; it outlives a rebuild of the actors."""
    read_rounds: int = 0
    """How many questions for a read index this process has asked. Written by replication; it outlives a rebuild of the
    actors, because a late answer to the actors before must not count."""
    match: dict[str, int] = field(default_factory=dict)
    """Of each member, the index up to which its disk agrees with the leader's log; empty on other nodes. Written by
    replication."""
    refusals: dict[str, str] = field(default_factory=dict)
    """The followers that take no entries from this leader, and why (`REFUSALS`). Written by replication."""
    refused_appends: dict[str, int] = field(default_factory=dict)
    """How many appends each follower has refused in this leadership. Written by replication."""
    snapshot_refusals: dict[str, str] = field(default_factory=dict)
    """The followers that did not take this leader's last snapshot, and why (`REFUSALS`). Written by snapshot."""
    meeting: dict[str, str] = field(default_factory=dict)
    """The nodes that are to be added as members, with their addresses: they are connected to before. Written by
    membership, which puts another map in its place."""
    handover: Handover | None = None
    """The handover of this node's leadership that is under way. Written by election, and by replication when the target
    was told."""
    blocked: str = ""
    """Why this leader takes no proposals although it could append them; empty if it does. Written by replication."""
    late_learners: tuple[str, ...] = ()
    """The learners that are to vote and do not catch up with this leader. Written by replication."""
    snapshot_trouble: str = ""
    """Why this node's last snapshot failed, or why it does not take its leader's; empty if all is well. Written by
    snapshot."""
    snapshot_doing: str = ""
    """What this node does with snapshots at present, for people; empty if nothing. Written by snapshot."""
    snapshots_on_thread: str = ""
    """Why snapshots are written on a thread of the node's process, where a process of their own was meant; empty if all
    is as meant. Written by snapshot."""
    peers: dict[str, PeerView] = field(default_factory=dict)
    """Written by health."""
    refused: dict[str, RefusedGreeting] = field(default_factory=dict)
    """The members whose last greeting was refused. Written by membership."""
    greeted: dict[str, Greeted] = field(default_factory=dict)
    """The members whose greeting was accepted since this process began, and this node. Written by membership."""
