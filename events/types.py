"""Every event type by name: what it tells, and the seed's string for it.

Each is published by the actor that owns the transition, after the commit of its turn. The term is
in the envelope. Durations are seconds, sizes bytes, indexes those of the log.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Final

from forge_consensus.events.envelope import (
    ENVELOPE_FIELDS,
    ConsensusEvent,
    UnknownEvent,
    payload,
    stamp,
)

# ---- nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStarted(ConsensusEvent):
    """The node has opened its ledger and takes part."""

    kind: ClassVar[str] = "consensus.node.started"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStopped(ConsensusEvent):
    """The node leaves in order; its last event."""

    kind: ClassVar[str] = "consensus.node.stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFailed(ConsensusEvent):
    """A peer that was alive gives no sign of life, or its connection broke."""

    kind: ClassVar[str] = "consensus.node.failed"

    peer: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecovered(ConsensusEvent):
    """A peer that had failed gives signs of life again."""

    kind: ClassVar[str] = "consensus.node.recovered"

    peer: str


# ---- leaders


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderElected(ConsensusEvent):
    """A term has a leader: told by the winner with its votes, and by each follower when it first hears of it."""

    kind: ClassVar[str] = "consensus.leader.elected"

    leader: str
    votes: int
    """How many voted for it; only the winner knows, on any other node it is 0."""
    total: int
    """The number of voters."""
    duration: float
    """Seconds: the winner's from the start of its campaign, a follower's since it knew no leader or stood itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderStepDown(ConsensusEvent):
    """The node led and leads no more: it resigned, or a higher term began, which is then the event's term."""

    kind: ClassVar[str] = "consensus.leader.stepdown"

    leader: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderLost(ConsensusEvent):
    """The node followed a leader and hears of it no more."""

    kind: ClassVar[str] = "consensus.leader.lost"

    leader: str
    reason: str


# ---- roles


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleChanged(ConsensusEvent):
    """The node's role changed; told right before the event of the new role."""

    kind: ClassVar[str] = "consensus.role.changed"

    old: str
    new: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BecameFollower(ConsensusEvent):
    """The node follows, from its start on or again; whom, if it knows."""

    kind: ClassVar[str] = "consensus.role.follower"

    leader: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BecameCandidate(ConsensusEvent):
    """The node asks for votes, in a new term each time."""

    kind: ClassVar[str] = "consensus.role.candidate"


@dataclass(frozen=True, slots=True, kw_only=True)
class BecameLeader(ConsensusEvent):
    """The node leads."""

    kind: ClassVar[str] = "consensus.role.leader"


# ---- the cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFormed(ConsensusEvent):
    """The node knows of a leader for the first time in its life: these members are one cluster."""

    kind: ClassVar[str] = "consensus.cluster.formed"

    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumAchieved(ConsensusEvent):
    """Enough voters are alive to decide, as the node sees them; itself is one of them."""

    kind: ClassVar[str] = "consensus.cluster.quorum.achieved"

    required: int
    healthy: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumLost(ConsensusEvent):
    """Too few voters are alive to decide, as the node sees them."""

    kind: ClassVar[str] = "consensus.cluster.quorum.lost"

    required: int
    healthy: int
    total: int


# ---- the log: one event a turn, with the range of indexes


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAppended(ConsensusEvent):
    """Entries were written to the node's log, first and last index included."""

    kind: ClassVar[str] = "consensus.log.appended"

    first_index: int
    last_index: int
    correlation_ids: tuple[str, ...] = ()
    """The ids that clients gave to commands among these entries: the first eight, each once. Looked for in the first
    MiB of the range, in 64 commands that have one, and only in memory, so entries that the node reads back from its
    disk tell none. A single one is the event's `correlation_id` too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCommitted(ConsensusEvent):
    """The commit index moved over these entries, first and last index included."""

    kind: ClassVar[str] = "consensus.log.committed"

    first_index: int
    last_index: int
    correlation_ids: tuple[str, ...] = ()
    """The ids that clients gave to commands among these entries: the first eight, each once. Looked for in the first
    MiB of the range, in 64 commands that have one, and only in memory, so entries that the node reads back from its
    disk tell none. A single one is the event's `correlation_id` too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCompacted(ConsensusEvent):
    """Entries behind a snapshot were discarded."""

    kind: ClassVar[str] = "consensus.log.compacted"

    first_index: int
    """The first index that is still kept."""
    removed: int
    """The number of entries discarded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTruncated(ConsensusEvent):
    """Uncommitted entries gave way to those of a newer leader."""

    kind: ClassVar[str] = "consensus.log.truncated"

    from_index: int
    """The first index that was removed."""
    removed: int


# ---- snapshots


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotStarted(ConsensusEvent):
    """A snapshot of the node's own state is being taken."""

    kind: ClassVar[str] = "consensus.snapshot.started"

    index: int
    """What was applied then; the snapshot may be of a little more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotCompleted(ConsensusEvent):
    """The snapshot that was begun is durable."""

    kind: ClassVar[str] = "consensus.snapshot.completed"

    index: int
    """The last entry that it covers."""
    snapshot_term: int = 0
    """The term of that entry."""
    size: int
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFailed(ConsensusEvent):
    """A snapshot could not be taken, or one that a leader sent could not be used; what was there before stays."""

    kind: ClassVar[str] = "consensus.snapshot.failed"

    index: int
    """That of its SnapshotStarted, or of the snapshot that was sent."""
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRestored(ConsensusEvent):
    """The machine's state was replaced by that of a leader's snapshot; the log goes on behind it."""

    kind: ClassVar[str] = "consensus.snapshot.restored"

    index: int
    """The last entry that it covers."""
    snapshot_term: int = 0
    """The term of that entry."""
    size: int
    duration: float
    """Seconds from the received file to the state in use."""


# ---- health


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthy(ConsensusEvent):
    """All checks of the node pass."""

    kind: ClassVar[str] = "consensus.health.healthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Degraded(ConsensusEvent):
    """The node serves, with something amiss; told again when the details change."""

    kind: ClassVar[str] = "consensus.health.degraded"

    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unhealthy(ConsensusEvent):
    """The node cannot serve: it sees no quorum; told again when the details change."""

    kind: ClassVar[str] = "consensus.health.unhealthy"

    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovering(ConsensusEvent):
    """The node is on its way to serve: it starts, knows no leader, or has much to apply; again with new details."""

    kind: ClassVar[str] = "consensus.health.recovering"

    details: tuple[str, ...] = ()


LogRange = LogAppended | LogCommitted
"""An event that covers a range of the log."""

IDS_MAX: Final = 8
"""How many correlation ids one log event carries at most."""


def joined(earlier: LogRange, later: LogRange) -> LogRange:
    """Return one event for two adjacent ranges: both of one type, `later` begins where `earlier` ends.

    The engine joins the log events of a turn, so that subscribers get one event a turn.
    """
    if not (earlier.correlation_ids or later.correlation_ids):
        return replace(earlier, last_index=later.last_index)
    ids = tuple(dict.fromkeys((*earlier.correlation_ids, *later.correlation_ids)))[:IDS_MAX]
    correlation_id = ids[0] if len(ids) == 1 else None
    return replace(earlier, last_index=later.last_index, correlation_ids=ids, correlation_id=correlation_id)


EVENT_TYPES: Final[dict[str, type[ConsensusEvent]]] = {
    event_type.kind: event_type
    for event_type in (
        NodeStarted, NodeStopped, NodeFailed, NodeRecovered,
        LeaderElected, LeaderStepDown, LeaderLost,
        RoleChanged, BecameFollower, BecameCandidate, BecameLeader,
        ClusterFormed, QuorumAchieved, QuorumLost,
        LogAppended, LogCommitted, LogCompacted, LogTruncated,
        SnapshotStarted, SnapshotCompleted, SnapshotFailed, SnapshotRestored,
        Healthy, Degraded, Unhealthy, Recovering,
    )
}  # fmt: skip
"""Every event type by its kind."""

__all__ = [
    "ENVELOPE_FIELDS",
    "EVENT_TYPES",
    "IDS_MAX",
    "BecameCandidate",
    "BecameFollower",
    "BecameLeader",
    "ClusterFormed",
    "ConsensusEvent",
    "Degraded",
    "Healthy",
    "LeaderElected",
    "LeaderLost",
    "LeaderStepDown",
    "LogAppended",
    "LogCommitted",
    "LogCompacted",
    "LogRange",
    "LogTruncated",
    "NodeFailed",
    "NodeRecovered",
    "NodeStarted",
    "NodeStopped",
    "QuorumAchieved",
    "QuorumLost",
    "Recovering",
    "RoleChanged",
    "SnapshotCompleted",
    "SnapshotFailed",
    "SnapshotRestored",
    "SnapshotStarted",
    "Unhealthy",
    "UnknownEvent",
    "joined",
    "payload",
    "stamp",
]
