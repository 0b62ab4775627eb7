"""The replication actor: the log from leader to followers, the commit rule, read rounds and applying (paper 5.3)."""

from __future__ import annotations

from typing import Any

from forge_consensus.actors.messages import AppendEntries, AppendReply
from forge_consensus.actors.notices import (
    AppliedEntries,
    ApplyCommitted,
    FirstEntries,
    HeartbeatDue,
    HoldApplying,
    LeaderContact,
    LeadershipBegan,
    LeadershipEnded,
    PeerDown,
    PeerUp,
    Persisted,
    Propose,
    Proposed,
    ProposeRefused,
    ReadIndex,
    SendEntries,
    SnapshotInstalled,
    SnapshotSent,
    Start,
)
from forge_consensus.actors.raft.leadership import Leadership
from forge_consensus.actors.raft.progress import Phase
from forge_consensus.actors.runtime.actor import ConsensusActor, Context
from forge_consensus.errors import BusyError, ProtocolError, StaleTermError, StorageFullError
from forge_consensus.events.types import LogAppended, LogCommitted, LogTruncated
from forge_consensus.storage.ledger.correlation import ids_between
from forge_consensus.storage.ledger.ledger import Mismatch, Proposal
from forge_consensus.storage.ledger.record import Kind


class ReplicationActor(ConsensusActor):
    """Owns what a leader knows of its followers (in `Leadership`); a follower's side has no state but the ledger's."""

    def __init__(self) -> None:
        super().__init__()
        self.leading: Leadership | None = None
        self.apply_due = False
        self.send_due = False
        self.held = False

    def bind(self, context: Context) -> None:
        """Take the context."""
        super().bind(context)
        context.shared.match = {}

    def receiveMsg_Start(self, message: Start, sender: Any) -> None:
        """Apply again what was known to be committed, in slices."""
        ledger, told = self.ledger, self.reported.committed
        if not message.again:
            self.reported.committed = ledger.commit_index
        elif ledger.commit_index > told:  # a turn that was taken back had applied it, and told nothing
            self.committed(told)
        self.apply_soon()

    # --- leading -----------------------------------------------------------------------------------------------------

    def receiveMsg_LeadershipBegan(self, message: LeadershipBegan, sender: Any) -> None:
        """Begin with a no-op: only an entry of the own term lets earlier ones commit (paper 5.4.2, 8)."""
        term = message.term
        noop = Proposal(Kind.NOOP, 0, 0, 0, b"")
        first, last = self.ledger.propose(term, self.clock.wall_ms(), [noop])
        self.leading = Leadership(self, term, first)
        self.appended(first, last)
        self.after(self.options.heartbeat_interval, HeartbeatDue(term))

    def receiveMsg_LeadershipEnded(self, message: LeadershipEnded, sender: Any) -> None:
        """Forget what only a leader knows."""
        self.leading = None
        self.shared.match = {}

    def current(self) -> Leadership | None:
        """The leadership, if it is still that of the ledger's term."""
        leading = self.leading
        if leading is not None and self.ledger.leading != leading.term:
            return None
        return leading

    def receiveMsg_Propose(self, message: Propose, sender: Any) -> None:
        """Put commands into the log, or say why not."""
        try:
            first, last = self.ledger.propose(message.term, self.clock.wall_ms(), message.proposals)
        except (StaleTermError, BusyError, StorageFullError) as error:
            self.send(sender, ProposeRefused(message.ticket, error.code, str(error)))
            return
        self.appended(first, last)
        self.send(sender, Proposed(message.ticket, message.term, first, last))

    def appended(self, first: int, last: int) -> None:
        """Entries are in the leader's log: followers get them once this turn's frames are all read."""
        self.publish(LogAppended(first_index=first, last_index=last, **self.cause_of(first, last)))
        self.send_soon()

    def cause_of(self, first: int, last: int) -> dict[str, Any]:
        """The correlation ids behind these entries, as fields of an event."""
        ids = ids_between(self.ledger.log, first, last)
        return {"correlation_ids": ids, "correlation_id": ids[0] if len(ids) == 1 else None}

    def send_soon(self) -> None:
        """Send at the end of the mailbox, so that all that came in this turn leaves in one run."""
        if not self.send_due:
            self.send_due = True
            self.send(self.myAddress, SendEntries())

    def receiveMsg_SendEntries(self, message: SendEntries, sender: Any) -> None:
        """Send followers what they lack, and the round that waiting reads need."""
        self.send_due = False
        leading = self.current()
        if leading is not None:
            leading.send_entries()
            self.try_commit(leading)

    def receiveMsg_HeartbeatDue(self, message: HeartbeatDue, sender: Any) -> None:
        """Be heard, look after silent followers, and resign without a quorum."""
        leading = self.current()
        if leading is not None and leading.term == message.term:
            self.after(self.options.heartbeat_interval, message)
            leading.heartbeat()

    def receiveMsg_Persisted(self, message: Persisted, sender: Any) -> None:
        """The log is on disk up to there: the leader's own match, and what may be applied."""
        leading = self.current()
        if leading is not None and leading.term == message.term:
            leading.match[self.node_id] = max(leading.match[self.node_id], message.index)
            self.try_commit(leading)
        self.apply_soon()

    def receiveMsg_AppendReply(self, message: AppendReply, sender: Any) -> None:
        """A follower answered; it counts only if it is for the present leadership."""
        leading = self.current()
        if leading is None or message.term != leading.term:
            return
        if leading.answered(sender, message):
            self.try_commit(leading)
        leading.answer_reads()

    def try_commit(self, leading: Leadership) -> None:
        """Move the commit index to what a majority has on disk, entries of our own term only (I6)."""
        ledger = self.ledger
        before = ledger.commit_index
        if ledger.commit_leading(leading.term, leading.on_majority()):
            self.committed(before)
            leading.answer_reads()

    def committed(self, before: int) -> None:
        """The commit index moved."""
        self.reported.committed = self.ledger.commit_index
        first, last = before + 1, self.ledger.commit_index
        self.publish(LogCommitted(first_index=first, last_index=last, **self.cause_of(first, last)))
        self.apply_soon()

    def receiveMsg_ReadIndex(self, message: ReadIndex, sender: Any) -> None:
        """Find out from which index on a read may be answered (dissertation 6.4)."""
        leading = self.current()
        if leading is None:
            code = StaleTermError.code
            self.send(sender, ProposeRefused(message.ticket, code, "this node does not lead"))
            return
        leading.read(message, sender)

    def receiveMsg_SnapshotSent(self, message: SnapshotSent, sender: Any) -> None:
        """A follower has the snapshot: go on with entries behind it."""
        leading = self.current()
        if leading is not None and message.node in leading.progress:
            leading.installed(message.node, message.index)

    def receiveMsg_PeerUp(self, message: PeerUp, sender: Any) -> None:
        """A follower can be reached (again): find out where it stands."""
        self.receiveMsg_SnapshotSent(SnapshotSent(message.node, 0), sender)

    def receiveMsg_PeerDown(self, message: PeerDown, sender: Any) -> None:
        """What was under way to it is lost."""
        leading = self.current()
        if leading is not None and message.node in leading.progress:
            leading.progress[message.node].become(Phase.PROBE)

    # --- following ---------------------------------------------------------------------------------------------------

    def receiveMsg_AppendEntries(self, message: AppendEntries, sender: Any) -> None:
        """Let the election hear of the leader; if it is a new one, before anything that it sent."""
        self.tell("election", LeaderContact(sender.node, message.term))
        if (self.shared.leader, self.shared.leader_term) == (sender.node, message.term):
            self.take_entries(message, sender)
        else:
            self.send(self.myAddress, FirstEntries(message, sender))

    def receiveMsg_FirstEntries(self, message: FirstEntries, sender: Any) -> None:
        """The election has heard of the leader that sent these."""
        self.take_entries(message.entries, message.sender)

    def take_entries(self, message: AppendEntries, sender: Any) -> None:
        """Take a leader's entries. The answer leaves when they are on disk (I11)."""
        ledger = self.ledger
        try:
            result = ledger.accept(message.term, message.prev_index, message.prev_term, message.records)
        except (ProtocolError, StorageFullError) as error:
            self.context.refuse(error.code, str(error))
            return
        if isinstance(result, Mismatch):
            reply = AppendReply(message.term, False, result.index, result.term, message.round)
            self.send(sender, reply)
            return
        if result.truncated_from:
            removed = result.removed
            self.publish(LogTruncated(from_index=result.truncated_from, removed=removed))
        if result.first_appended:
            first, last = result.first_appended, result.match
            self.publish(LogAppended(first_index=first, last_index=last, **self.cause_of(first, last)))
        before = ledger.commit_index
        if ledger.commit_following(message.term, min(message.commit, result.match)):
            self.committed(before)
        self.send(sender, AppendReply(message.term, True, result.match, 0, message.round))

    # --- applying ----------------------------------------------------------------------------------------------------

    def apply_soon(self) -> None:
        """Apply at the end of the mailbox, once a turn."""
        if not self.apply_due:
            self.apply_due = True
            self.send(self.myAddress, ApplyCommitted())

    def receiveMsg_ApplyCommitted(self, message: ApplyCommitted, sender: Any) -> None:
        """Apply one slice; what is left goes into the next turn."""
        self.apply_due = False
        if self.held:
            return
        done = self.ledger.apply(self.options.apply_entries_max)
        if done:
            self.tell("gateway", AppliedEntries(done))
        if self.ledger.more_to_apply:
            self.apply_due = True
            self.next_turn(ApplyCommitted())

    def receiveMsg_HoldApplying(self, message: HoldApplying, sender: Any) -> None:
        """Rest while a snapshot is being handed to the machine, and go on after."""
        self.held = message.hold
        self.apply_soon()

    def receiveMsg_SnapshotInstalled(self, message: SnapshotInstalled, sender: Any) -> None:
        """The state jumped: reads that waited for it can be answered."""
        self.tell("gateway", AppliedEntries([]))
        self.apply_soon()
