"""The replication actor: sends the log to followers, commits, confirms reads and applies entries (paper 5.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from forge_consensus.actors.messages import (
    DAMAGED,
    FULL,
    AppendEntries,
    AppendReply,
    ReadIndexReply,
    RequestReadIndex,
    TimeoutNow,
)
from forge_consensus.actors.notices import (
    Appended,
    AppliedEntries,
    ApplyCommitted,
    AskLeader,
    ExpiryDue,
    ForwardedReadsDue,
    HeartbeatDue,
    LeaderChanged,
    LeadershipBegan,
    LeadershipEnded,
    MembersChanged,
    MembersCommitted,
    PeerDown,
    PeerForgotten,
    PeerNeedsSnapshot,
    PeerUp,
    PeerWentBack,
    Persisted,
    ReadIndex,
    ReadReady,
    ReadRefused,
    Resign,
    SendEntries,
    SettingsChanged,
    SnapshotInstalled,
    SnapshotSent,
    Start,
    TransferBegan,
    TransferDue,
    TransferRequested,
)
from forge_consensus.actors.raft.expiry import EXPIRE_BYTES, Expiry
from forge_consensus.actors.raft.forwarded_reads import ForwardedReads
from forge_consensus.actors.raft.leadership import Contradicts, Effect, Leadership, MatchMoved, SendTo
from forge_consensus.actors.raft.next_configuration import next_configuration
from forge_consensus.actors.raft.preference import Disk, Fellow, Preference
from forge_consensus.actors.raft.reads import ReadConfirmed
from forge_consensus.actors.raft.slow_work import SlowWork
from forge_consensus.actors.runtime.actor import ConsensusActor, Context
from forge_consensus.actors.runtime.shared import PeerStatus
from forge_consensus.errors import BusyError, ProtocolError, StorageFullError
from forge_consensus.events.types import ApplySlow, LeaderTransfer, LogAppended, LogCommitted, LogTruncated
from forge_consensus.process.log import LogLines
from forge_consensus.storage.ledger.applying import SlowStep
from forge_consensus.storage.ledger.correlation import ids_between
from forge_consensus.storage.ledger.ledger import Mismatch, Proposal
from forge_consensus.storage.ledger.record import Kind
from forge_consensus.storage.ledger.time_slice import NS, TimeSlice
from forge_consensus.storage.ledger.tips import UNMET

LINES = LogLines(__name__)

LENT_SECONDS: Final = 0.01
"""How soon applying is tried again while a helper thread uses the machine; its end is told, unless an actor failed."""


class ReplicationActor(ConsensusActor):
    """Owns the `Leadership` while this node leads, and carries out its effects.

    As a follower it keeps only the reads that it asks its leader about, because everything else is in the ledger.
    """

    def __init__(self) -> None:
        super().__init__()
        self.leadership: Leadership | None = None
        self.forwarded = ForwardedReads()
        self.ask_due = self.look_due = False
        self.apply_due = False
        self.send_due = False
        self.resting = False
        self.slow_work = SlowWork()
        self.commit_seen = 0
        """The commit index at the last heartbeat: whoever is in step holds it by the next one."""

    def bind(self, context: Context) -> None:
        """Take the context. No follower's match is known yet."""
        super().bind(context)
        settings = context.settings
        self.preference = Preference(self.node_id, settings.election_timeout_max, settings.election_timeout_min / 4)
        self.expiry = Expiry(self.ledger)
        self.note_matches(self.ledger.led, 0)
        self.note_leadership()

    def receiveMsg_Start(self, message: Start, sender: Any) -> None:
        """Apply again, in slices, the entries that were known to be committed before the start."""
        ledger, told = self.ledger, self.reported.committed
        if not message.again:
            self.reported.committed = ledger.commit_index
        elif ledger.commit_index > told:  # a turn that was rolled back had applied them, and its events were dropped
            self.committed(told)
        self.apply_soon()

    def receiveMsg_SettingsChanged(self, message: SettingsChanged, sender: Any) -> None:
        """Send and apply by the new bounds; what a wider window allows leaves at once."""
        super().receiveMsg_SettingsChanged(message, sender)
        if self.leadership is not None:
            self.leadership.take_settings(self.settings)
            self.send_soon()

    # --- leading -----------------------------------------------------------------------------------------------------

    def receiveMsg_LeadershipBegan(self, message: LeadershipBegan, sender: Any) -> None:
        """Start sending to the followers, beginning with the no-op, which is already in the log.

        Raises `StaleTermError` if the leadership has ended meanwhile.
        """
        self.appended(message.noop, message.noop)
        self.ledger.require_leading(message.term)
        self.leadership = Leadership(
            message.term,
            message.noop,
            node_id=self.node_id,
            ledger=self.ledger,
            settings=self.settings,
            now=self.clock.now(),
        )
        self.note_leadership()
        self.after(self.settings.heartbeat_interval, HeartbeatDue(message.term))

    def receiveMsg_LeadershipEnded(self, message: LeadershipEnded, sender: Any) -> None:
        """Drop the leadership and the matches, because only a leader has them."""
        if self.leadership is not None:
            self.note_matches(self.leadership.term, 0)
            for read in self.leadership.reads.questions.values():
                self.answer_question(read.asker, read.ticket, 0)
        self.leadership = None
        self.note_leadership()

    def receiveMsg_MembersChanged(self, message: MembersChanged, sender: Any) -> None:
        """Send to members that were added, and part from those that were removed."""
        leadership = self.current()
        if leadership is not None:
            leadership.follow_members(self.clock.now())
            self.send_soon()

    def receiveMsg_PeerForgotten(self, message: PeerForgotten, sender: Any) -> None:
        """Part at once from a removed node whose folder is gone."""
        leadership = self.current()
        if leadership is not None and message.node in leadership.parting:
            leadership.drop(message.node)

    def note_leadership(self) -> None:
        """Share what only a leader knows of its followers, for the status and for health."""
        leadership, shared = self.leadership, self.shared
        shared.match = {} if leadership is None else leadership.match
        shared.refusals = {} if leadership is None else leadership.refusals
        shared.refused_appends = {} if leadership is None else leadership.refused_appends
        shared.blocked, shared.late_learners = "", ()

    def current(self) -> Leadership | None:
        """The leadership, if the ledger still leads its term; otherwise it has ended and must not be used."""
        leadership = self.leadership
        if leadership is not None and self.ledger.leading_term != leadership.term:
            return None
        return leadership

    def carry_out(self, leadership: Leadership, effects: Iterable[Effect]) -> None:
        """Carry out the effects of a leadership, in order."""
        for effect in effects:
            kind = type(effect)
            if kind is SendTo:
                self.tell_peer(effect.node, "replication", effect.message)  # type: ignore[union-attr]
            elif kind is MatchMoved:
                self.try_commit(leadership)
                self.hand_over(leadership)
            elif kind is ReadReady:
                self.tell("gateway", effect)
            elif kind is ReadConfirmed:
                self.answer_question(*effect)  # type: ignore[misc]
            elif kind is SendEntries:
                self.send_soon()
            elif kind is PeerNeedsSnapshot:
                self.tell("snapshot", effect)
            elif kind is Resign or kind is TransferRequested:
                self.tell("election", effect)
            elif kind is Contradicts:
                self.contradicted(leadership, effect)  # type: ignore[arg-type]

    def receiveMsg_TransferBegan(self, message: TransferBegan, sender: Any) -> None:
        """Tell the target at once if it has the whole log."""
        leadership = self.current()
        if leadership is not None:
            self.hand_over(leadership)

    def hand_over(self, leadership: Leadership) -> None:
        """Tell the target of a handover to stand, once it has the whole log; the message leaves after the commit."""
        handover = self.shared.handover
        if handover is None or handover.told or handover.term != leadership.term:
            return
        if leadership.match.get(handover.target, 0) == self.ledger.log.last:
            handover.told = leadership.handed_over = True
            self.tell_peer(handover.target, "election", TimeoutNow(leadership.term))
            due = TransferDue(handover, told=True)
            self.context.after(self.settings.election_timeout_min, self.context.actor("election"), due)
            self.publish(LeaderTransfer(leader=self.node_id, target=handover.target))

    def contradicted(self, leadership: Leadership, effect: Contradicts) -> None:
        """Doubt a follower that lacks what it had acknowledged, and report it when that is proven."""
        node, match, held, proven = effect
        progress = leadership.progress[node]
        if proven:
            detail = f"it had acknowledged the log up to entry {match}, and now it has none behind entry {held}"
            self.tell("membership", PeerWentBack(node, self.ledger.identity.boots.get(node, UNMET), detail))
            progress.doubted = 0
        elif match > progress.doubted:
            progress.doubted, progress.doubted_ns = match, self.clock.boottime_ns()

    def note_matches(self, term: int, commit: int) -> None:
        """Keep what the followers acknowledged in `term`, because a later boot of each must still have it.

        Entries up to `commit` are theirs in every later term too, if this node committed them in `term`. At the end of
        a leadership it is 0: the successor may already have overwritten entries here and raised the commit index.
        """
        for node in sorted(self.shared.match.keys() & set(self.others)):
            match = self.shared.match[node]
            self.ledger.identity.tips.note_match(node, term, match, commit)

    def receiveMsg_Appended(self, message: Appended, sender: Any) -> None:
        """Publish and send the clients' commands that the gateway has appended."""
        self.appended(message.first, message.last)

    def appended(self, first: int, last: int) -> None:
        """Publish new entries of the leader's log, and send them once all frames of this turn are read."""
        self.publish(LogAppended(first_index=first, last_index=last, **self.cause_of(first, last)))
        self.send_soon()

    def cause_of(self, first: int, last: int) -> dict[str, Any]:
        """The correlation ids behind these entries, as fields of an event."""
        ids = ids_between(self.ledger.log, first, last)
        return {"correlation_ids": ids, "correlation_id": ids[0] if len(ids) == 1 else None}

    def send_soon(self) -> None:
        """Send at the end of the mailbox, so that everything that arrived in this turn leaves in one batch."""
        if not self.send_due:
            self.send_due = True
            self.send(self.myAddress, SendEntries())

    def receiveMsg_SendEntries(self, message: SendEntries, sender: Any) -> None:
        """Send followers the entries that they lack, and the round that waiting reads need."""
        self.send_due = False
        leadership = self.current()
        if leadership is not None:
            self.carry_out(leadership, leadership.send_entries(self.clock.now()))

    def receiveMsg_HeartbeatDue(self, message: HeartbeatDue, sender: Any) -> None:
        """Send heartbeats, probe silent followers, and resign without a quorum."""
        leadership = self.current()
        if leadership is not None and leadership.term == message.term:
            self.after(self.settings.heartbeat_interval, message)
            now, full = self.clock.now(), self.ledger.look_for_room()
            leadership.take_own_pace(self.context.commit_times.slowest(now), self.context.acting_times.slowest(now))
            effects = [*leadership.heartbeat(now, self.clock.acted()), *leadership.cannot_append(now, full)]
            self.carry_out(leadership, effects)
            self.note_matches(message.term, self.ledger.commit_index)
            self.change_by_itself(leadership)
            self.shared.late_learners = leadership.late_learners()
            self.look_for_better(leadership)
            if leadership.confirmed_ns:
                self.shared.freshness.note(leadership.covered, leadership.confirmed_ns / NS)
            self.shared.blocked = leadership.blocked if leadership.refusals else ""
            self.look_for_expiry(leadership)

    def look_for_expiry(self, leadership: Leadership) -> None:
        """Let an entry into the log if the machine waits for its time, see `Expiry`; at every heartbeat, or in time.

        While the leadership is handed over, or entries have no room, it is left to a later heartbeat, or to the
        successor's.
        """
        wait = self.expiry.wait_seconds(leadership.term)
        if wait is None or wait > self.settings.heartbeat_interval:
            return
        if wait > 0:
            self.after(wait, ExpiryDue(leadership.term))
        elif self.shared.handover is None and not self.shared.blocked:
            try:
                entry = self.ledger.propose(leadership.term, [Proposal(Kind.COMMAND, 0, 0, 0, EXPIRE_BYTES)])
            except (BusyError, StorageFullError):
                return
            self.expiry.note(leadership.term, entry[1])
            self.appended(*entry)

    def receiveMsg_ExpiryDue(self, message: ExpiryDue, sender: Any) -> None:
        """Propose what the machine waits for, if this is still the leadership that waits with it."""
        leadership = self.current()
        if leadership is not None and leadership.term == message.term:
            self.look_for_expiry(leadership)

    def look_for_better(self, leadership: Leadership) -> None:
        """Hand over to a voter that should lead instead, while nothing else is under way."""
        ledger, shared, now = self.ledger, self.shared, self.clock.now()
        commit, self.commit_seen = self.commit_seen, ledger.commit_index
        configuration = ledger.configuration
        settled = max(leadership.noop, ledger.configurations.last) <= ledger.commit_index and not configuration.is_joint
        if shared.handover is not None or not settled:
            return
        heard, refusals = leadership.heard(now), shared.refusals
        fellows = {
            node: Fellow(leadership.match[node], view.commit_seconds)
            for node, view in shared.peers.items()
            if view.status is PeerStatus.ACTIVE
            and node in heard
            and node in configuration.incoming_voters
            and node not in refusals
        }
        times = self.context.commit_times
        own = Disk(times.fastest(now), times.slowest(now))
        found = self.preference.look(configuration, commit, fellows, own, now)
        if found is not None:
            target, why = found
            LINES.info("{}: this leader hands over", why)
            self.tell("election", TransferRequested(target, None))

    def change_by_itself(self, leadership: Leadership) -> None:
        """Propose the configuration that follows by itself from the one in force, if there is one."""
        if self.shared.handover is not None:
            return
        found = next_configuration(self.ledger, leadership, self.shared.greeted, self.clock.now())
        if found is not None:
            configuration, why = found
            LINES.info("{}: this leader proposes {}", why, configuration.text)
            if configuration.urls != self.ledger.configuration.urls:
                leadership.urls_at = self.clock.now()
            proposal = Proposal(Kind.CONFIGURATION, 0, 0, 0, configuration.encode())
            self.appended(*self.ledger.propose(leadership.term, [proposal]))

    def receiveMsg_Persisted(self, message: Persisted, sender: Any) -> None:
        """Raise the leader's own match to the index that is on disk, and apply the committed entries."""
        leadership = self.current()
        if leadership is not None and leadership.term == message.term:
            leadership.persisted(message.index)
            self.try_commit(leadership)
        self.apply_soon()

    def receiveMsg_AppendReply(self, message: AppendReply, sender: Any) -> None:
        """Note a follower's reply. It counts only if it answers the present leadership."""
        leadership = self.current()
        if leadership is None or message.term != leadership.term:
            return
        if message.refusal == DAMAGED:
            self.ledger.log.forget_tail()
        effects = leadership.answered(sender.node, message, sender.sent, self.clock.before())
        if effects:
            self.carry_out(leadership, effects)
        if leadership.reads.queue:
            self.carry_out(leadership, leadership.answer_reads())

    def try_commit(self, leadership: Leadership) -> None:
        """Move the commit index to what a majority has on disk, entries of the leader's own term only (I6).

        It is called whenever a match index moved: by a reply or by this node's own disk. A snapshot raises a match
        too, but only to entries that are committed already.
        """
        ledger = self.ledger
        before = ledger.commit_index
        if ledger.commit_leading(leadership.term, leadership.on_majority()):
            self.committed(before)
            if before < ledger.configurations.last <= ledger.commit_index:
                self.change_by_itself(leadership)
            if leadership.reads.queue:
                self.carry_out(leadership, leadership.answer_reads())

    def committed(self, before: int) -> None:
        """Publish that the commit index moved on from `before`, and apply."""
        self.reported.committed = self.ledger.commit_index
        first, last = before + 1, self.ledger.commit_index
        self.publish(LogCommitted(first_index=first, last_index=last, **self.cause_of(first, last)))
        if self.ledger.configurations.at(last) is not self.reported.configuration:
            self.tell("membership", MembersCommitted())
        self.apply_soon()

    # --- reads -------------------------------------------------------------------------------------------------------

    def receiveMsg_ReadIndex(self, message: ReadIndex, sender: Any) -> None:
        """Find the index from which on a read may be answered (dissertation 6.4); a follower asks its leader."""
        leadership = self.current()
        if leadership is not None:
            self.carry_out(leadership, leadership.read(message, self.clock.boottime_ns()))
        elif self.shared.leader in {None, self.node_id}:
            self.send(sender, ReadRefused(message.ticket))
        else:
            self.forwarded.add(message, self.clock.now())
            self.ask_soon()
            self.look_after_forwarded()

    def receiveMsg_RequestReadIndex(self, message: RequestReadIndex, sender: Any) -> None:
        """Take the question of a follower like a read of this leader's own; whoever does not lead refuses it."""
        leadership = self.current()
        if leadership is None or message.term != leadership.term or sender.node not in self.ledger.configuration.nodes:
            self.answer_question(sender, message.number, 0)
        else:
            asked = ReadIndex(message.number, message.lease)
            self.carry_out(leadership, leadership.read(asked, self.clock.boottime_ns(), sender))

    def answer_question(self, asker: Any, number: int, index: int) -> None:
        """Answer another node's question for a read index; 0 says that this node cannot confirm it."""
        self.send(asker, ReadIndexReply(self.ledger.term, number, index))

    def ask_soon(self) -> None:
        """Ask the leader at the end of the mailbox, so that all reads of this turn share one question."""
        if not self.ask_due:
            self.ask_due = True
            self.send(self.myAddress, AskLeader())

    def receiveMsg_AskLeader(self, message: AskLeader, sender: Any) -> None:
        """Ask the leader of this term for the reads that wait, unless a question is under way; ask no other node."""
        self.ask_due = False
        leadership, shared, term = self.current(), self.shared, self.ledger.term
        if leadership is not None:
            for asked in self.forwarded.take_all():
                self.carry_out(leadership, leadership.read(asked, self.clock.boottime_ns()))
        elif shared.leader is not None and shared.leader != self.node_id and shared.leader_term == term:
            number = (self.ledger.identity.boot << 32) + shared.read_rounds + 1
            request = self.forwarded.begin(number, term, shared.leader)
            if request is not None:
                shared.read_rounds += 1
                self.tell_peer(shared.leader, "replication", request)

    def receiveMsg_ReadIndexReply(self, message: ReadIndexReply, sender: Any) -> None:
        """Take the leader's answer, and ask for the reads that came meanwhile."""
        ready = self.forwarded.answered(sender.node, message)
        for read in ready:
            self.tell("gateway", read)
        if ready and self.forwarded:
            self.ask_soon()

    def receiveMsg_LeaderChanged(self, message: LeaderChanged, sender: Any) -> None:
        """Ask the new leader what the former one has not answered; nothing is asked while none is known."""
        if self.forwarded:
            self.forwarded.interrupt()
            self.ask_soon()

    def look_after_forwarded(self) -> None:
        """Look after the reads that wait for the leader's answer, every heartbeat interval."""
        if not self.look_due and self.forwarded:
            self.look_due = True
            self.after(self.settings.heartbeat_interval, ForwardedReadsDue())

    def receiveMsg_ForwardedReadsDue(self, message: ForwardedReadsDue, sender: Any) -> None:
        """Ask again, because a frame may be lost; give up what waited too long, and everything without a leader."""
        self.look_due = False
        forwarded, leader = self.forwarded, self.shared.leader
        for asked in forwarded.take_late(self.clock.now() - self.settings.election_timeout_max):
            reason = f"{leader or 'no leader'} did not confirm the read within an election timeout"
            self.tell("gateway", ReadRefused(asked.ticket, reason))
        for asked in forwarded.take_all() if leader is None else ():
            self.tell("gateway", ReadRefused(asked.ticket))
        under_way = forwarded.round
        if under_way is not None and (under_way.leader, under_way.term) == (leader, self.ledger.term):
            self.tell_peer(under_way.leader, "replication", under_way.request)
        elif forwarded:
            forwarded.interrupt()
            self.ask_soon()
        self.look_after_forwarded()

    def receiveMsg_SnapshotSent(self, message: SnapshotSent, sender: Any) -> None:
        """Continue with the entries after the snapshot that the follower has installed."""
        self.probe_again(message.node, message.index)

    def receiveMsg_PeerUp(self, message: PeerUp, sender: Any) -> None:
        """Probe a follower that can be reached (again), to find where its log agrees."""
        self.probe_again(message.node, 0)

    def probe_again(self, node: str, durable: int) -> None:
        """Send entries to a follower again; it holds a durable snapshot up to `durable`, 0 if none is known."""
        leadership = self.current()
        if leadership is not None:
            self.carry_out(leadership, leadership.probe_again(node, durable))

    def receiveMsg_PeerDown(self, message: PeerDown, sender: Any) -> None:
        """Go back to probing the peer, because frames in flight on the broken connection are lost."""
        leadership = self.current()
        if leadership is not None:
            leadership.lost_connection(message.node)

    # --- following ---------------------------------------------------------------------------------------------------

    def receiveMsg_AppendEntries(self, message: AppendEntries, sender: Any) -> None:
        """Append a leader's entries. The reply leaves when they are on disk (I11).

        The election actor has already followed this leader: the gate delivers `LeaderContact` before the request.
        """
        ledger = self.ledger
        if message.confirmed_ns:
            confirmed, sent = message.confirmed_ns / NS, sender.sent / NS
            self.shared.freshness.heard(sender.node, message.covered, confirmed, sent, ledger.now)
        self.shared.leader_commit = max(self.shared.leader_commit, message.commit)
        try:
            result = ledger.accept(message.term, message.prev_index, message.prev_term, message.records)
        except (ProtocolError, StorageFullError) as error:
            self.context.refuse(error.code, str(error))
            why = FULL if isinstance(error, StorageFullError) else DAMAGED
            self.send(sender, AppendReply(message.term, False, 0, 0, message.round, refusal=why))
            return
        if isinstance(result, Mismatch):
            refusal = AppendReply(
                term=message.term, success=False, index=result.index, entry_term=result.term, round=message.round
            )
            self.send(sender, refusal)
            return
        if result.truncated_from:
            self.publish(LogTruncated(from_index=result.truncated_from, removed=result.removed))
        if result.first_appended:
            first, last = result.first_appended, result.match
            self.publish(LogAppended(first_index=first, last_index=last, **self.cause_of(first, last)))
        before = ledger.commit_index
        if ledger.commit_following(message.term, min(message.commit, result.match)):
            self.committed(before)
        if message.elapsed_ms:
            ledger.log_time.heard(message.elapsed_ms, ledger.now)
        full = FULL if (ledger.room.full or not message.records) and ledger.look_for_room() else ""
        self.send(sender, AppendReply(message.term, True, result.match, 0, message.round, full))

    # --- applying ----------------------------------------------------------------------------------------------------

    def apply_soon(self) -> None:
        """Apply at the end of the mailbox, once a turn."""
        if not self.apply_due:
            self.apply_due = True
            self.send(self.myAddress, ApplyCommitted())

    def receiveMsg_ApplyCommitted(self, message: ApplyCommitted, sender: Any) -> None:
        """Apply one slice of committed entries; the next slice is left to a later turn.

        Nothing is applied while a snapshot is being restored into a user's machine; `SnapshotInstalled` resumes it.
        """
        self.apply_due = False
        ledger = self.ledger
        if ledger.applier.replacing:
            return
        if self.resting:  # what has arrived during a whole slice is answered before the next one
            self.resting, self.apply_due = False, True
            self.next_turn(ApplyCommitted())
            return
        if ledger.applier.lent:
            self.apply_due = True
            self.after(LENT_SECONDS, ApplyCommitted())
            return
        settings = self.settings
        time_slice = TimeSlice(self.clock.boottime_ns, settings.slice_seconds, settings.heartbeat_interval)
        done = ledger.apply(settings.apply_entries_max, time_slice)
        if ledger.applier.slow is not None:
            self.applied_slowly(ledger.applier.slow)
        if done:
            self.tell("gateway", AppliedEntries(done))
        if ledger.more_to_apply:
            self.apply_due = True
            self.resting = time_slice.is_over
            self.next_turn(ApplyCommitted())

    def applied_slowly(self, step: SlowStep) -> None:
        """Count a command that took the machine too long, and publish it, at most once a second."""
        self.totals.slow_applies += step.entries
        index, count, command, seconds = step
        untold = self.slow_work.tell(self.clock.now(), count)
        if untold is not None:
            self.publish(ApplySlow(index=index, command=command, duration=seconds, count=count, untold=untold))

    def receiveMsg_SnapshotInstalled(self, message: SnapshotInstalled, sender: Any) -> None:
        """Report the new state to the gateway, because reads that waited for the snapshot's index can be answered."""
        self.tell("gateway", AppliedEntries([]))
        self.tell("membership", MembersCommitted())
        self.apply_soon()
