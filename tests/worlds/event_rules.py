"""The allowed events of one node and their order: a grammar that checks them one by one, over all its boots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from forge_consensus.events.types import (
    BecameCandidate,
    BecameFollower,
    BecameLeader,
    ClusterFormed,
    ConsensusEvent,
    Degraded,
    Healthy,
    LeaderElected,
    LeaderLost,
    LeaderStepDown,
    LogAppended,
    LogCommitted,
    LogCompacted,
    LogTruncated,
    NodeFailed,
    NodeRecovered,
    NodeStarted,
    NodeStopped,
    QuorumAchieved,
    QuorumLost,
    Recovering,
    RoleChanged,
    SnapshotCompleted,
    SnapshotFailed,
    SnapshotRestored,
    SnapshotStarted,
    Unhealthy,
    payload,
)
from forge_consensus.storage.machines.machine import RunInterruptError

BECAME: dict[str, type[ConsensusEvent]] = {
    "follower": BecameFollower,
    "candidate": BecameCandidate,
    "leader": BecameLeader,
}
HEALTH = (Healthy, Degraded, Unhealthy, Recovering)


class BrokenRuleError(RunInterruptError):
    """An event that must not be published now. No `Exception`, because the bus swallows the exceptions of handlers."""


@dataclass(slots=True)
class Boot:
    """The events of one process of a node so far."""

    sequence: int = 0
    monotonic: float = 0.0
    role: str = "follower"
    leader: str | None = None
    led: int = 0
    """The term of the leader that was published last, even if it was lost meanwhile."""
    candidate_in: int = 0
    quorum: bool = False
    failed: set[str] = field(default_factory=set)
    health: tuple[type, Any] | None = None
    last: int | None = None
    committed: int | None = None
    saving: int | None = None
    base: int | None = None
    before: ConsensusEvent | None = None


@dataclass(slots=True)
class Rules:
    """The rules for one node. `elected` is shared by the nodes of a cluster: the published leader of each term."""

    node: str
    elected: dict[int, str]
    quorums: set[tuple[int, int, bool]] = field(default_factory=set)
    """For each configuration that was in the node's log so far: how many vote, are required, and whether it is plain.

    An event may be of a configuration that its own turn has replaced.
    """
    boot: Boot = field(default_factory=Boot)
    sequence: int = 0
    term: int = 0
    formed: bool = False
    snapshot: int = 0
    """The newest snapshot that was completed or restored."""
    count: int = 0

    CHECKS: ClassVar[dict[type[ConsensusEvent], Callable[[Rules, Any], None]]] = {}

    def start(self) -> None:
        """Start the rules of a new process of the node."""
        self.boot = Boot()

    @property
    def totals(self) -> set[int]:
        """How many nodes voted by one of the configurations so far."""
        return {total for total, *_ in self.quorums}

    def need(self, holds: bool, event: ConsensusEvent, why: str) -> None:
        """Raise `BrokenRuleError` unless `holds` is true."""
        if not holds:
            what = f"{type(event).__name__} {event.sequence} of {self.node}, term {event.term}, {payload(event)}"
            raise BrokenRuleError(f"{why}: {what}; behind {self.boot.before}")

    def see(self, event: ConsensusEvent) -> None:
        """Check the next event."""
        boot, before = self.boot, self.boot.before
        self.count += 1
        self.need(event.node_id == self.node and event.cluster_id != "", event, "whose is it")
        if boot.sequence:
            self.need(event.sequence == boot.sequence + 1, event, f"a hole behind {boot.sequence}")
        self.need(event.sequence > self.sequence, event, "a number is used again")
        self.need(event.term >= self.term, event, f"back from term {self.term}")
        self.need(event.time > 0 and event.monotonic >= boot.monotonic, event, f"back from {boot.monotonic}")
        self.need((before is None) == isinstance(event, NodeStarted), event, "a boot begins with NodeStarted")
        self.need(not isinstance(before, NodeStopped), event, "behind the end")
        if isinstance(before, RoleChanged):
            self.need(type(event) is BECAME[before.new], event, "RoleChanged comes right before the new role")
        if (check := self.CHECKS.get(type(event))) is not None:
            check(self, event)
        boot.sequence = self.sequence = event.sequence
        boot.monotonic, self.term, boot.before = event.monotonic, event.term, event

    # --- leaders and roles -------------------------------------------------------------------------------------------

    def role_changed(self, event: RoleChanged) -> None:
        self.need(event.old == self.boot.role != event.new, event, f"the role is {self.boot.role}")
        self.need(event.reason != "", event, "why")
        self.boot.role = event.new

    def became(self, event: ConsensusEvent) -> None:
        self.need(BECAME[self.boot.role] is type(event), event, f"the role is {self.boot.role}")
        changed, first = isinstance(self.boot.before, RoleChanged), isinstance(self.boot.before, NodeStarted)
        if isinstance(event, BecameCandidate):
            self.need(event.term > self.boot.candidate_in, event, "a campaign has its own term")
            self.boot.candidate_in = event.term
        else:
            self.need(changed or (first and isinstance(event, BecameFollower)), event, "without RoleChanged")

    def elected_one(self, event: LeaderElected) -> None:
        self.need(self.boot.leader is None, event, f"{self.boot.leader} leads and was not lost")
        self.need(self.elected.setdefault(event.term, event.leader) == event.leader, event, "two leaders in a term")
        self.need(event.total in self.totals and event.duration >= 0, event, "total, duration")
        if event.leader == self.node:
            self.need(isinstance(self.boot.before, BecameLeader), event, "the winner became leader right before")
            self.need(2 * event.votes > event.total >= event.votes, event, "a majority")
        else:
            self.need(self.boot.role == "follower" and event.votes == 0, event, "followers do not know the votes")
        self.boot.leader, self.boot.led = event.leader, event.term

    def lost(self, event: LeaderLost) -> None:
        self.need(event.leader == self.boot.leader != self.node, event, f"{self.boot.leader} leads")
        self.need(event.reason != "", event, "why")
        self.boot.leader = None

    def stepped_down(self, event: LeaderStepDown) -> None:
        self.need(event.leader == self.boot.leader == self.node, event, f"{self.boot.leader} leads")
        self.need(isinstance(self.boot.before, BecameFollower) and event.reason != "", event, "a follower right before")
        self.boot.leader = None

    def cluster_formed(self, event: ClusterFormed) -> None:
        self.need(not self.formed and self.boot.leader is not None, event, "once, with the first leader")
        self.need(len(event.members) in self.totals and self.node in event.members, event, "the members")
        self.formed = True

    # --- health ------------------------------------------------------------------------------------------------------

    def quorum(self, event: QuorumAchieved | QuorumLost) -> None:
        achieved = isinstance(event, QuorumAchieved)
        self.need(achieved != self.boot.quorum, event, "achieved and lost take turns")
        plain = {plain for *counts, plain in self.quorums if counts == [event.total, event.required]}
        self.need(bool(plain), event, "total, required")
        enough = event.healthy >= event.required  # in a joint configuration that need not be enough
        self.need(enough == achieved or (enough and False in plain), event, "healthy")
        self.boot.quorum = achieved

    def failed_peer(self, event: NodeFailed) -> None:
        self.need(event.peer not in self.boot.failed | {self.node} and event.reason != "", event, "failed already")
        self.boot.failed.add(event.peer)

    def recovered_peer(self, event: NodeRecovered) -> None:
        self.need(event.peer in self.boot.failed, event, "had not failed")
        self.boot.failed.discard(event.peer)

    def health(self, event: ConsensusEvent) -> None:
        told = (type(event), getattr(event, "details", ()))
        self.need(told != self.boot.health, event, "nothing changed")
        self.need(isinstance(event, Healthy) == (told[1] == ()), event, "details")
        if isinstance(event, Healthy | Degraded):
            self.need(self.boot.quorum and self.boot.leader is not None, event, "without quorum or leader")
        if isinstance(event, Healthy):
            self.need(not self.boot.failed, event, f"{self.boot.failed} failed")
        if isinstance(event, Unhealthy):
            self.need(not self.boot.quorum, event, "with a quorum")
        self.boot.health = told

    # --- log and snapshots -------------------------------------------------------------------------------------------

    def appended(self, event: LogAppended) -> None:
        if self.boot.last is not None:
            self.need(event.first_index == self.boot.last + 1, event, f"behind {self.boot.last}")
        self.need(event.first_index <= event.last_index, event, "an empty range")
        self.need(self.boot.led == event.term, event, "of a leader that was not told of")
        self.boot.last = event.last_index

    def committed(self, event: LogCommitted) -> None:
        if self.boot.committed is not None:
            self.need(event.first_index == self.boot.committed + 1, event, f"behind {self.boot.committed}")
        self.need(event.first_index <= event.last_index, event, "an empty range")
        if self.boot.last is not None:
            self.need(event.last_index <= self.boot.last, event, f"appended up to {self.boot.last} only")
        self.boot.committed = event.last_index

    def truncated(self, event: LogTruncated) -> None:
        if self.boot.last is not None:
            self.need(event.from_index + event.removed - 1 == self.boot.last, event, f"the last is {self.boot.last}")
        self.need(event.removed > 0 and event.from_index > (self.boot.committed or 0), event, "committed")
        self.boot.last = event.from_index - 1

    def compacted(self, event: LogCompacted) -> None:
        if self.boot.base is not None:
            self.need(event.first_index - event.removed == self.boot.base + 1, event, f"base {self.boot.base}")
        self.need(event.removed > 0 and event.first_index - 1 <= self.snapshot, event, f"snapshot {self.snapshot}")
        self.boot.base = event.first_index - 1

    def saving(self, event: SnapshotStarted) -> None:
        self.need(self.boot.saving is None and event.index > 0, event, "one is being taken")
        self.boot.saving = event.index

    def saved(self, event: SnapshotCompleted) -> None:
        began, self.boot.saving = self.boot.saving, None
        self.need(began is not None and event.index >= began, event, f"began at {began}")
        self.need(0 <= event.snapshot_term <= event.term, event, "term")
        self.need(event.size > 0 and event.duration >= 0, event, "size, duration")
        self.snapshot = max(self.snapshot, event.index)

    def not_saved(self, event: SnapshotFailed) -> None:
        self.need(event.index > 0 and event.error != "", event, "which, and why")
        if event.index == self.boot.saving:
            self.boot.saving = None

    def restored(self, event: SnapshotRestored) -> None:
        self.need(0 < event.snapshot_term <= event.term, event, "term")
        self.need(event.size > 0 and event.duration >= 0, event, "size, duration")
        self.snapshot = max(self.snapshot, event.index)
        self.boot.base = event.index
        if self.boot.last is not None:
            self.boot.last = max(self.boot.last, event.index)
        if self.boot.committed is not None:
            self.boot.committed = max(self.boot.committed, event.index)


Rules.CHECKS.update(
    {
        RoleChanged: Rules.role_changed,
        BecameFollower: Rules.became,
        BecameCandidate: Rules.became,
        BecameLeader: Rules.became,
        LeaderElected: Rules.elected_one,
        LeaderLost: Rules.lost,
        LeaderStepDown: Rules.stepped_down,
        ClusterFormed: Rules.cluster_formed,
        QuorumAchieved: Rules.quorum,
        QuorumLost: Rules.quorum,
        NodeFailed: Rules.failed_peer,
        NodeRecovered: Rules.recovered_peer,
        **dict.fromkeys(HEALTH, Rules.health),
        LogAppended: Rules.appended,
        LogCommitted: Rules.committed,
        LogTruncated: Rules.truncated,
        LogCompacted: Rules.compacted,
        SnapshotStarted: Rules.saving,
        SnapshotCompleted: Rules.saved,
        SnapshotFailed: Rules.not_saved,
        SnapshotRestored: Rules.restored,
    }
)
