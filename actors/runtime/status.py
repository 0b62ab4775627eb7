"""The node status: what a node reports of itself, typed; the status command, the service and the metrics read it."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Protocol, Self

from forge_consensus.actors.messages import FULL
from forge_consensus.actors.runtime.audit import Audit
from forge_consensus.actors.runtime.clock import Clock
from forge_consensus.actors.runtime.peers import Peers
from forge_consensus.actors.runtime.refusals import Refusals
from forge_consensus.actors.runtime.reported import Reported
from forge_consensus.actors.runtime.shared import PeerView, SharedState
from forge_consensus.actors.runtime.slowest import Slowest
from forge_consensus.errors import ProtocolError
from forge_consensus.storage.ledger.configuration import VOTER, quorum_of
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.storage.ledger.levels import FIRST_LEVEL
from forge_consensus.storage.ledger.quorum import Quorum
from forge_consensus.storage.snapshots.store import Snapshots
from forge_consensus.version import __version__


@dataclass(slots=True)
class Totals:
    """The totals since the node's start, for its status only. Each field has one writer, named behind it."""

    turns: int = 0  # the engine
    elections: int = 0  # election; how often this node was a candidate
    snapshots: int = 0  # snapshot; how many this node took
    commands: int = 0  # gateway; how many were answered
    commands_failed: int = 0  # gateway; of these, how many with an error
    reads: int = 0  # gateway; how many queries were answered
    busy: int = 0  # gateway; how many commands and queries it refused, because too much waited
    slow_queries: int = 0  # gateway; how many calls of the machine for a query took longer than a heartbeat interval
    slow_applies: int = 0  # replication; how many commands took the machine longer than a heartbeat interval


class Source(Protocol):
    """The source of a status: a node's engine, which is also the context of its actors."""

    ledger: Ledger
    clock: Clock
    shared: SharedState
    reported: Reported
    refusals: Refusals
    audit: Audit
    totals: Totals
    commit_times: Slowest
    peers: Peers
    started_at: float
    events_address: str
    http_url: str
    pending_restart: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStatus:
    """One member of the cluster as the node sees it (NodeInfo of the Go original).

    A field with a default has it where the node's program is older than the field.
    """

    id: str
    address: str
    """HOST:PORT or ipc://PATH."""
    role: str
    """"leader", "candidate" or "follower"; of another member only whether it leads is known."""
    status: str
    """"active", "suspected", "failed" or "inactive", see `PeerStatus`."""
    round_trip_ms: float | None = None
    """Of the last health check that was answered; None for the node itself and before the first answer."""
    last_contact: float | None = None
    """Seconds since the member last answered; None for the node itself and for a member that never did."""
    clock_ahead_ms: float | None = None
    """How far the member's wall clock is ahead of this node's, negative if it is behind, give or take half the round
    trip; None for the node itself and before the first answer."""
    match_index: int | None = None
    """The index up to which the member's disk agrees with the leader's log; None on a node that does not lead."""
    program: str | None = None
    """The version of its program, None for a member that this node has not met since its start."""
    refusal: str = ""
    """Why the member takes no entries from this leader, or did not take its last snapshot: "full", "unsupported",
    "damaged", "failed", or empty if it does."""
    refused_appends: int = 0
    """How many appends of this leader the member has refused; 0 on a node that does not lead."""
    greeting_refused: str | None = None
    """Why this node refused the member's last greeting, for people; None if it did not."""
    greeting_refused_ago: float | None = None
    """Seconds since then. It stays below a few seconds while the member runs, because it greets again and again."""
    differs: list[str] = field(default_factory=list)
    """What differs between the member and this node, or is wrong with its address, as sentences."""
    problem: str = ""
    """Why the node has no connection to the member, such as a name that does not resolve; "" while it has one."""
    part: str = VOTER
    """"voter", "learner", or "leaving" for one that votes only until the present change of members is complete."""
    joining: bool = False
    """Whether it is a learner that is to vote once it has caught up."""
    priority: int = 0
    """How much it is preferred as the leader; 0 is usual."""
    may_lead: bool = True
    """Whether it is not marked never to lead."""
    http_url: str = ""
    """Where its application answers HTTP, as it said in its last greeting, or before one as the configuration has it;
    "" if it is not known."""
    outgoing: bool = False
    """Whether it is one of the outgoing voters of a joint configuration, of whom a majority is needed too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageStatus:
    """The contents and the room of the node's storage; reading them may access the disk.

    A field has its default where the node's program is older than the field.
    """

    snapshot_index: int = 0
    """The index of the newest snapshot, 0 without one."""
    log_size_bytes: int = 0
    storage_used_bytes: int = 0
    storage_quota_bytes: int = 0
    disk_free_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """ConsensusStats, ClusterInfo and HealthStatus of the Go original for one node; all fields are present.

    Indexes are log indexes; totals count from the start of the process. `storage` is None if only memory was read.
    A field with a default has it where the node's program is older than the field; the fields without one are in the
    status of every version. Defaults are 0, None or empty, which then means that it is not known; `level` alone is the
    level of a program that tells none.
    """

    node_id: str
    cluster_id: str
    role: str
    """"follower", "candidate" or "leader"."""
    status: str
    """"active", because the node answers."""
    term: int
    leader_id: str | None
    """None while no leader is known."""
    leader_address: str | None
    has_quorum: bool
    """Whether a majority of the voters, this node among them, is alive."""
    health: str
    """"healthy", "degraded", "unhealthy" or "recovering"."""
    details: list[str]
    """Why the node is not healthy, for people."""
    commit_index: int
    last_applied: int
    applied_on_disk: int = 0
    """The index up to which the applied state is durable; a restart replays the entries after it."""
    last_log_index: int
    last_log_term: int = 0
    first_log_index: int = 0
    log_entries: int = 0
    snapshots_total: int = 0
    snapshots_by: str = ""
    """What writes a snapshot: "process", or "thread" for a machine of the user's own and where no other way is."""
    snapshots_why: str = ""
    """Why it is a thread of the node's process, which costs the node time, where a process was meant; else empty."""
    snapshot_doing: str = ""
    """What the node does with snapshots at present, for people: takes, sends, receives, checks, installs or restores
    one; empty if nothing. It is up to half a `check_interval` old."""
    last_contact: float | None
    """Seconds since a leader's request arrived: 0 on the leader itself, None if none ever did."""
    elections_total: int = 0
    operations_total: int = 0
    operations_failed: int = 0
    reads_total: int = 0
    busy_total: int = 0
    """How many commands and queries were answered with busy, because too much waited."""
    backlog_entries: int = 0
    """How many entries of the log the state machine has not seen yet."""
    backlog_seconds: float = 0.0
    """How long these are expected to take at the machine's present pace."""
    slow_applies_total: int = 0
    """How many commands took the machine longer than a heartbeat interval; `consensus.apply.slow` names them."""
    slow_queries_total: int = 0
    """How often a call of the machine for a query took longer than that; `consensus.query.slow` names them."""
    turns_total: int = 0
    flushes_total: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """How often something was refused, by reason."""
    uptime: float
    """Seconds since the node started."""
    boot: int = 0
    """How often the node was started on its data folder."""
    address: str | None
    """The node's address in the configuration."""
    events_address: str = ""
    """Where the node publishes its events, empty if it does not."""
    nodes: list[MemberStatus]
    commit_seconds: float = 0.0
    """How long the slowest commit of the last ten seconds took."""
    full: str = ""
    """Why the node takes no entries, for people; empty if it does."""
    level: int = FIRST_LEVEL
    """The feature level of the cluster, as the last committed configuration that the node knows has it."""
    leader_commit: int = 0
    """The highest index that is committed as far as a leader told this node, so that its state lacks the difference to
    `last_applied`; its own on the leader, 0 if no leader has told any since the process began."""
    pending_restart: list[str] = field(default_factory=list)
    """The settings that were given other values and wait for a restart of the node."""
    audited: dict[str, int] = field(default_factory=dict)
    """How many acts of administrators and denials there were, by outcome: done, failed, denied, unknown."""
    audit_missing: int = 0
    """How many records the audit file lacks, because it could not be written."""
    storage: StorageStatus | None = None

    @property
    def quorum(self) -> Quorum:
        """The quorum of the members, as the node knows them."""
        return quorum_of((row.id, row.part, row.outgoing) for row in self.nodes)

    @classmethod
    def of(cls, source: Source) -> NodeStatus:
        """Return the part of the status that is in memory. Other threads may call this, and see a turn half done."""
        ledger, shared, reported, totals = source.ledger, source.shared, source.reported, source.totals
        identity, log, addresses = ledger.identity, ledger.log, ledger.configuration.addresses
        return cls(
            node_id=identity.node_id,
            cluster_id=identity.cluster_id,
            role=str(shared.role),
            status="active",
            term=ledger.term,
            leader_id=shared.leader,
            leader_address=addresses.get(shared.leader or ""),
            has_quorum=reported.has_quorum,
            health=str(reported.health),
            details=list(reported.details),
            commit_index=ledger.commit_index,
            last_applied=ledger.applied,
            applied_on_disk=ledger.applier.on_disk,
            last_log_index=log.last,
            last_log_term=log.last_term,
            first_log_index=log.base_index + 1,
            log_entries=log.last - log.base_index,
            snapshots_total=totals.snapshots,
            snapshots_by="thread" if shared.snapshots_on_thread or not ledger.applier.ledger_machine else "process",
            snapshots_why=shared.snapshots_on_thread,
            snapshot_doing=shared.snapshot_doing,
            last_contact=0.0 if ledger.leading_term is not None else leader_silence(source),
            elections_total=totals.elections,
            operations_total=totals.commands,
            operations_failed=totals.commands_failed,
            reads_total=totals.reads,
            busy_total=totals.busy,
            backlog_entries=log.last - ledger.applied,
            backlog_seconds=round(ledger.applier.pace.seconds(log.last - ledger.applied), 6),
            slow_applies_total=totals.slow_applies,
            slow_queries_total=totals.slow_queries,
            turns_total=totals.turns,
            flushes_total=ledger.commits,
            refused=dict(source.refusals.counts),
            audited=dict(source.audit.counts),
            audit_missing=source.audit.missing,
            uptime=source.clock.now() - source.started_at,
            boot=identity.boot,
            address=addresses.get(identity.node_id),
            events_address=source.events_address,
            nodes=members_of(source),
            commit_seconds=source.commit_times.slowest(source.clock.now()),
            full=ledger.room.full or shared.blocked,
            level=ledger.configurations.at(ledger.commit_index).level,
            leader_commit=leader_commit(source),
            pending_restart=list(source.pending_restart),
        )

    @classmethod
    def whole(cls, source: Source, snapshots: Snapshots) -> NodeStatus:
        """Return the whole status; only the node's own thread may call this."""
        memory = cls.of(source)
        return cls(**{name: getattr(memory, name) for name in NAMES}, storage=storage_of(source.ledger, snapshots))

    def to_dict(self) -> dict[str, Any]:
        """Return the status as it goes over the wire and as JSON: the fields of `storage` stand beside the others."""
        found = {name: getattr(self, name) for name in NAMES}
        found["nodes"] = [values_of(member) for member in self.nodes]
        return found if self.storage is None else {**found, **values_of(self.storage)}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Self:
        """Read the result of `to_dict`, perhaps from a node of another version.

        Fields unknown here are ignored, missing ones have their defaults. Raises `ProtocolError` if one is missing that
        has none.
        """
        told = chosen(cls, found)
        told["nodes"] = [MemberStatus(**chosen(MemberStatus, row)) for row in told["nodes"]]
        storage = StorageStatus(**chosen(StorageStatus, found)) if "snapshot_index" in found else None
        return cls(**{**told, "storage": storage})


NAMES = tuple(slot.name for slot in fields(NodeStatus) if slot.name != "storage")
"""The fields of `NodeStatus` that `to_dict` takes over, in order."""


def values_of(status: MemberStatus | StorageStatus) -> dict[str, Any]:
    """Return the fields of a flat status."""
    return {slot.name: getattr(status, slot.name) for slot in fields(status)}


def chosen(kind: type[NodeStatus | MemberStatus | StorageStatus], found: dict[str, Any]) -> dict[str, Any]:
    """Return what `found` has of a class's fields. Raises `ProtocolError` if it lacks one without a default."""
    for slot in fields(kind):
        if slot.default is MISSING and slot.default_factory is MISSING and slot.name not in found:
            raise ProtocolError(f"the status lacks {slot.name!r}, which every version tells: see what answers there")
    return {slot.name: found[slot.name] for slot in fields(kind) if slot.name in found}


def leader_silence(source: Source) -> float | None:
    """Seconds, suspension included, since a leader's request arrived; None if none ever did."""
    heard_at = source.shared.leader_heard_at
    return None if heard_at is None else source.clock.boottime_ns() / 1e9 - heard_at


def leader_commit(source: Source) -> int:
    """The highest index that is known to be committed; 0 on a node that was told of none."""
    ledger, told = source.ledger, source.shared.leader_commit
    return max(ledger.commit_index, told) if told or ledger.leading_term is not None else 0


def clock_ahead_ms(source: Source, view: PeerView) -> float | None:
    """How far a peer's wall clock is ahead of this node's; None if it was never read."""
    sample, clock = view.wall_clock, source.clock
    if sample is None:
        return None
    low, high = sample.read_at(clock.reading())
    return (low + high) / 2 - clock.wall_ms()


def http_url_of(source: Source, node: str) -> str:
    """Where the application of a member answers HTTP: as it told this process, or else as the configuration has it."""
    if node == source.ledger.identity.node_id:
        return source.http_url
    greeted = source.shared.greeted.get(node)
    told = greeted.http_url if greeted else None
    return source.ledger.configuration.url_of(node) if told is None else told


def members_of(source: Source) -> list[MemberStatus]:
    """Return the members as the node sees them."""
    shared, ledger, now = source.shared, source.ledger, source.clock.now()
    found = []
    for node, address in ledger.configuration.members:
        view, greeted, refused = shared.peers.get(node), shared.greeted.get(node), shared.refused.get(node)
        own = node == ledger.identity.node_id
        member = MemberStatus(
            id=node,
            address=address,
            role=str(shared.role) if own else ("leader" if node == shared.leader else "follower"),
            status="active" if own else str(view.status) if view else "inactive",
            round_trip_ms=view.round_trip_ms if view else None,
            last_contact=now - view.heard_at if view and view.heard_at is not None else None,
            clock_ahead_ms=clock_ahead_ms(source, view) if view else None,
            match_index=shared.match.get(node),
            program=__version__ if own else greeted.program if greeted else None,
            refusal=(ledger.room.full and FULL)
            if own
            else shared.refusals.get(node) or shared.snapshot_refusals.get(node, ""),
            refused_appends=shared.refused_appends.get(node, 0),
            greeting_refused=refused.why if refused else None,
            greeting_refused_ago=now - refused.at if refused else None,
            differs=greeted.sentences(address) if greeted else [],
            problem=source.peers.problems.get(node, ""),
            part=ledger.configuration.part_of(node),
            joining=node in ledger.configuration.joining,
            priority=ledger.configuration.priority_of(node),
            may_lead=ledger.configuration.may_lead(node),
            http_url=http_url_of(source, node),
            outgoing=node in ledger.configuration.outgoing,
        )
        found.append(member)
    return found


def storage_of(ledger: Ledger, snapshots: Snapshots) -> StorageStatus:
    """Return the contents and the room of the storage. Raises `StorageError`."""
    newest, space = snapshots.newest, ledger.tables.space()
    return StorageStatus(
        snapshot_index=newest.index if newest else 0,
        log_size_bytes=ledger.tables.size_bytes("log"),
        storage_used_bytes=space.used_bytes,
        storage_quota_bytes=space.quota_bytes,
        disk_free_bytes=space.disk_free_bytes,
    )
