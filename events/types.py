"""Every event type: when it is published, and its name in the Go original.

Each event is published by the actor that owns the transition, after the commit of its turn. The term is in the
envelope. Durations are in seconds, sizes in bytes, indexes are log indexes.
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
    """The node has opened its ledger and takes part in the cluster."""

    kind: ClassVar[str] = "consensus.node.started"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStopped(ConsensusEvent):
    """The node stops in an orderly way; this is its last event."""

    kind: ClassVar[str] = "consensus.node.stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFailed(ConsensusEvent):
    """A peer that was alive shows no sign of life any more, or the connection to it broke."""

    kind: ClassVar[str] = "consensus.node.failed"

    peer: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecovered(ConsensusEvent):
    """A peer that had failed shows signs of life again."""

    kind: ClassVar[str] = "consensus.node.recovered"

    peer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeJoined(ConsensusEvent):
    """A node has become a member: the entry that adds it is committed."""

    kind: ClassVar[str] = "consensus.node.joined"

    peer: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLeft(ConsensusEvent):
    """A node is no member any more: the entry that removes it is committed."""

    kind: ClassVar[str] = "consensus.node.left"

    peer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRemoved(ConsensusEvent):
    """The node that publishes it was removed from its cluster: its log says so, or the peer `by` that knows better."""

    kind: ClassVar[str] = "consensus.node.removed"

    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRefused(ConsensusEvent):
    """The greeting of a member was refused: it cannot take part. Published once for each process and reason."""

    kind: ClassVar[str] = "consensus.node.refused"

    peer: str
    reason: str
    """What does not fit: "configuration", "identity", "key", "machine" or "settings". Of a key that is not the node's
    own it is told once for each such key."""
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsDiffer(ConsensusEvent):
    """A member runs with other settings, or another version of the state machine; again when the differences change."""

    kind: ClassVar[str] = "consensus.settings.differ"

    peer: str
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressDiffers(ConsensusEvent):
    """A member says that it is reached at another address than the one at which the members look for it."""

    kind: ClassVar[str] = "consensus.address.differs"

    peer: str
    """The member; it is the node itself on the node concerned."""
    expected: str
    """Its address in the configuration."""
    listens: str
    """The address that it was started with."""


# ---- leaders


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderElected(ConsensusEvent):
    """A term has a leader: the winner publishes its votes, each follower when it first hears from the leader."""

    kind: ClassVar[str] = "consensus.leader.elected"

    leader: str
    votes: int
    """How many voters voted for the leader; only the winner knows, on any other node it is 0."""
    total: int
    """The number of voters."""
    duration: float
    """Seconds: for the winner since the start of its campaign, for a follower since it lost its leader or became a
    candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderStepDown(ConsensusEvent):
    """The node led and leads no more: it resigned, or a higher term began, which is then the term of the event."""

    kind: ClassVar[str] = "consensus.leader.stepdown"

    leader: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderTransfer(ConsensusEvent):
    """The leader hands its leadership over: `target` has the whole log and is told to stand for election at once."""

    kind: ClassVar[str] = "consensus.leader.transfer"

    leader: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderLost(ConsensusEvent):
    """The node followed a leader and does not hear from it any more."""

    kind: ClassVar[str] = "consensus.leader.lost"

    leader: str
    reason: str


# ---- roles


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleChanged(ConsensusEvent):
    """The node's role changed; published right before the event of the new role."""

    kind: ClassVar[str] = "consensus.role.changed"

    old: str
    new: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BecameFollower(ConsensusEvent):
    """The node is a follower, from its start on or again; `leader` names its leader, if it knows one."""

    kind: ClassVar[str] = "consensus.role.follower"

    leader: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BecameCandidate(ConsensusEvent):
    """The node requests votes, in a new term each time."""

    kind: ClassVar[str] = "consensus.role.candidate"


@dataclass(frozen=True, slots=True, kw_only=True)
class BecameLeader(ConsensusEvent):
    """The node itself leads from now on; `LeaderElected` tells it of any node."""

    kind: ClassVar[str] = "consensus.role.leader"


# ---- the cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFormed(ConsensusEvent):
    """The node knows a leader for the first time since its folder was made: these members form a cluster."""

    kind: ClassVar[str] = "consensus.cluster.formed"

    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipChanged(ConsensusEvent):
    """A member was added, removed or updated; the entry that does so is committed.

    `action` is ``added``, ``removed`` or ``updated``: a member got another address, part (voter, learner), priority or
    URL, or the mark never to lead.
    """

    kind: ClassVar[str] = "consensus.cluster.membership.changed"

    action: str
    affected_node_id: str
    old_members: tuple[str, ...]
    new_members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterUpdated(ConsensusEvent):
    """Another configuration of the cluster is committed: these are its voters and learners.

    `outgoing` are the earlier voters of whom a majority is needed too, until the next configuration follows by itself.
    """

    kind: ClassVar[str] = "consensus.cluster.updated"

    voters: tuple[str, ...]
    learners: tuple[str, ...]
    outgoing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumAchieved(ConsensusEvent):
    """Enough voters are alive to decide, as this node sees them; it counts itself."""

    kind: ClassVar[str] = "consensus.cluster.quorum.achieved"

    required: int
    healthy: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumLost(ConsensusEvent):
    """Too few voters are alive to decide, as this node sees them."""

    kind: ClassVar[str] = "consensus.cluster.quorum.lost"

    required: int
    healthy: int
    total: int


# ---- the log: one event a turn, with the range of indexes


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAppended(ConsensusEvent):
    """Entries were written to the node's log, from the first to the last index inclusive."""

    kind: ClassVar[str] = "consensus.log.appended"

    first_index: int
    last_index: int
    correlation_ids: tuple[str, ...] = ()
    """The ids that clients gave to commands among these entries: the first eight, each once. They are searched in
    memory only, in the first MiB of the range and in at most 64 commands that have one; entries that the node reads
    back from disk give none. A single id is also the event's `correlation_id`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCommitted(ConsensusEvent):
    """The commit index moved over these entries, from the first to the last index inclusive."""

    kind: ClassVar[str] = "consensus.log.committed"

    first_index: int
    last_index: int
    correlation_ids: tuple[str, ...] = ()
    """The ids that clients gave to commands among these entries: the first eight, each once. They are searched in
    memory only, in the first MiB of the range and in at most 64 commands that have one; entries that the node reads
    back from disk give none. A single id is also the event's `correlation_id`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCompacted(ConsensusEvent):
    """Entries that a snapshot covers were discarded."""

    kind: ClassVar[str] = "consensus.log.compacted"

    first_index: int
    """The first index that is still in the log."""
    removed: int
    """The number of entries that were discarded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTruncated(ConsensusEvent):
    """Uncommitted entries were removed, because a newer leader's log has others in their place."""

    kind: ClassVar[str] = "consensus.log.truncated"

    from_index: int
    """The first index that was removed."""
    removed: int


# ---- the state machine


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplySlow(ConsensusEvent):
    """Applying one command took the machine longer than a heartbeat interval; at most one such event a second.

    While a command is applied the node does nothing else, so the cluster takes a leader for dead that is held up for an
    election timeout.
    """

    kind: ClassVar[str] = "consensus.apply.slow"

    index: int
    """The entry of the command."""
    command: str
    """The command's type."""
    duration: float
    count: int = 1
    """How many commands the machine took in this one call; `index` and `command` are those of the last."""
    untold: int = 0
    """How many more were slow since the last such event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuerySlow(ConsensusEvent):
    """One call of the machine for a query took longer than a heartbeat interval; at most one such event a second.

    A user's machine is asked on a helper thread, so the node goes on; but nothing is applied meanwhile.
    """

    kind: ClassVar[str] = "consensus.query.slow"

    query: str
    """The query as a short text."""
    duration: float
    untold: int = 0
    """How many more were slow since the last such event."""


# ---- time


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSkewed(ConsensusEvent):
    """The leader finds that a member's wall clock differs from most others by more than `raft.clock_skew_max`.

    It is told when it begins, and again after it was over. The wall time of the log follows the median, so one wrong
    clock does not move it.
    """

    kind: ClassVar[str] = "consensus.time.skewed"

    member: str
    """The node with that clock, perhaps the leader itself."""
    ahead: float
    """Seconds by which its clock is ahead, negative if it is behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeStepped(ConsensusEvent):
    """The leader set the wall time of the log back, because it was more than five minutes ahead of most clocks.

    `entry.time_ms` falls at this point of the log; `entry.elapsed_ms` does not.
    """

    kind: ClassVar[str] = "consensus.time.stepped"

    seconds: float
    """By how much it was set back."""


# ---- snapshots


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotsOnThread(ConsensusEvent):
    """The node has started and finds no Python interpreter, so a thread writes its snapshots, which costs it time."""

    kind: ClassVar[str] = "consensus.snapshot.on_thread"

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotStarted(ConsensusEvent):
    """The node begins to take a snapshot of its own state."""

    kind: ClassVar[str] = "consensus.snapshot.started"

    index: int
    """The applied index at that moment; the snapshot may cover a few entries more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotCompleted(ConsensusEvent):
    """The snapshot that was started is durable."""

    kind: ClassVar[str] = "consensus.snapshot.completed"

    index: int
    """The last entry that the snapshot covers."""
    snapshot_term: int = 0
    """The term of that entry."""
    size: int
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFailed(ConsensusEvent):
    """A snapshot could not be taken, or one that a leader sent could not be used; the previous state remains."""

    kind: ClassVar[str] = "consensus.snapshot.failed"

    index: int
    """The index of its SnapshotStarted, or of the snapshot that was sent."""
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRestored(ConsensusEvent):
    """A leader's snapshot replaced the state of the machine; the log continues after it."""

    kind: ClassVar[str] = "consensus.snapshot.restored"

    index: int
    """The last entry that the snapshot covers."""
    snapshot_term: int = 0
    """The term of that entry."""
    size: int
    duration: float
    """Seconds from the complete file to the state in use."""


# ---- health


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthy(ConsensusEvent):
    """All health checks of the node pass."""

    kind: ClassVar[str] = "consensus.health.healthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Degraded(ConsensusEvent):
    """The node serves, but something is wrong; published again when the details change."""

    kind: ClassVar[str] = "consensus.health.degraded"

    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unhealthy(ConsensusEvent):
    """The node cannot serve, because it sees no quorum; published again when the details change."""

    kind: ClassVar[str] = "consensus.health.unhealthy"

    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovering(ConsensusEvent):
    """The node does not serve yet: it starts, knows no leader, or has much to apply; again when the details change."""

    kind: ClassVar[str] = "consensus.health.recovering"

    details: tuple[str, ...] = ()


# ---- configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigUpdated(ConsensusEvent):
    """Settings of the running node have other values from now on; the n-th of each list belong together."""

    kind: ClassVar[str] = "consensus.config.updated"

    trigger: str
    """Who wanted it: "signal", "api", "client", "file" (its content has changed), or "call" (of the application)."""
    settings: tuple[str, ...]
    """Whole names, such as "raft.check_interval"."""
    old: tuple[str, ...]
    """Texts of the values before; secrets are not told."""
    new: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigReloaded(ConsensusEvent):
    """The node's configuration was read again and is valid; `ConfigUpdated` came before it if values changed."""

    kind: ClassVar[str] = "consensus.config.reloaded"

    trigger: str
    changed: tuple[str, ...] = ()
    """The settings with other values from now on."""
    pending_restart: tuple[str, ...] = ()
    """The settings that were given other values and wait for a restart of the node."""
    founding: tuple[str, ...] = ()
    """The settings that were given other values and are read only when a new cluster is founded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRejected(ConsensusEvent):
    """The node's configuration was read again and has faults: all values stay as they were."""

    kind: ClassVar[str] = "consensus.config.rejected"

    trigger: str
    problems: tuple[str, ...]
    """Each with file, line and column where that is known."""


# ---- the audit


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecorded(ConsensusEvent):
    """Somebody has administered the cluster, or was denied something; alike denials and failures are told together."""

    kind: ClassVar[str] = "consensus.audit.recorded"

    who: str
    """The name of the client, the node or the owner of the token; of somebody unknown what was shown, else empty."""
    identity: str
    """How that is known: "client" or "node" by a key of CURVE, "token", "certificate", "application" of the node's own
    process, "operator" of its host, "anonymous" where nobody is asked, "unknown"."""
    role: str
    """The roles, with commas between them; "rules" for rules alone, empty where there are none."""
    origin: str
    """The address that it came from, "local" for the host of the node, empty if it is not known."""
    via: str
    """The client, with its address, that passed on what `who` asked for, such as a node's admin API; else empty."""
    action: str
    """The message, the command or the route of the admin API."""
    subject: str
    """On what: a member, a key, a setting; of denials what was missing. Of several that are told together it is that of
    the newest one."""
    outcome: str
    """"done", "failed", "denied", or "unknown" if nobody can know it here."""
    code: str = ""
    """The code of the error, empty for what is done."""
    count: int = 1
    """How many are told together."""


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
        NodeStarted, NodeStopped, NodeJoined, NodeLeft, NodeFailed, NodeRecovered, NodeRefused, NodeRemoved,
        SettingsDiffer,
        AddressDiffers,
        LeaderElected, LeaderStepDown, LeaderTransfer, LeaderLost,
        RoleChanged, BecameFollower, BecameCandidate, BecameLeader,
        ClusterFormed, MembershipChanged, ClusterUpdated, QuorumAchieved, QuorumLost,
        LogAppended, LogCommitted, LogCompacted, LogTruncated,
        ApplySlow, QuerySlow, TimeSkewed, TimeStepped,
        SnapshotsOnThread, SnapshotStarted, SnapshotCompleted, SnapshotFailed, SnapshotRestored,
        Healthy, Degraded, Unhealthy, Recovering,
        ConfigUpdated, ConfigReloaded, ConfigRejected,
        AuditRecorded,
    )
}  # fmt: skip
"""Every event type by its kind."""

__all__ = [
    "ENVELOPE_FIELDS",
    "EVENT_TYPES",
    "IDS_MAX",
    "AddressDiffers",
    "ApplySlow",
    "AuditRecorded",
    "BecameCandidate",
    "BecameFollower",
    "BecameLeader",
    "ClusterFormed",
    "ClusterUpdated",
    "ConfigRejected",
    "ConfigReloaded",
    "ConfigUpdated",
    "ConsensusEvent",
    "Degraded",
    "Healthy",
    "LeaderElected",
    "LeaderLost",
    "LeaderStepDown",
    "LeaderTransfer",
    "LogAppended",
    "LogCommitted",
    "LogCompacted",
    "LogRange",
    "LogTruncated",
    "MembershipChanged",
    "NodeFailed",
    "NodeJoined",
    "NodeLeft",
    "NodeRecovered",
    "NodeRefused",
    "NodeRemoved",
    "NodeStarted",
    "NodeStopped",
    "QuerySlow",
    "QuorumAchieved",
    "QuorumLost",
    "Recovering",
    "RoleChanged",
    "SettingsDiffer",
    "SnapshotCompleted",
    "SnapshotFailed",
    "SnapshotRestored",
    "SnapshotStarted",
    "SnapshotsOnThread",
    "TimeSkewed",
    "TimeStepped",
    "Unhealthy",
    "UnknownEvent",
    "joined",
    "payload",
    "stamp",
]
