"""Leadership: what exists only while this node leads one term: followers' progress, read rounds, the lease."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forge_consensus.actors.messages import AppendEntries, AppendReply
from forge_consensus.actors.notices import PeerNeedsSnapshot, ReadIndex, ReadReady, Resign
from forge_consensus.actors.raft.progress import Phase, Progress
from forge_consensus.storage.ledger.quorum import Quorum

if TYPE_CHECKING:
    from forge_consensus.actors.replication import ReplicationActor


@dataclass(slots=True)
class WaitingRead:
    """A read that waits for a majority to confirm the leader, in `round` or a later one."""

    ticket: int
    round: int
    index: int
    asker: Any


class Leadership:
    """One leadership. It is dropped whole when it ends, so nothing of an earlier term can be counted in a later one.

    `match` holds, for each voter, the index up to which its disk agrees; the leader's own is moved by `Persisted`
    only. `noop` is the index of the term's first entry: nothing is read before it is committed (I13).
    """

    def __init__(self, actor: ReplicationActor, term: int, noop: int) -> None:
        self.actor = actor
        self.term = term
        self.noop = noop
        now = actor.clock.now()
        self.progress = {node: Progress(actor.options, noop, now) for node in actor.others}
        self.match = {actor.node_id: actor.ledger.log.durable, **dict.fromkeys(self.progress, 0)}
        self.round = 0
        self.round_wanted = False
        self.reads: deque[WaitingRead] = deque()
        actor.shared.match = self.match

    @property
    def quorum(self) -> Quorum:
        """The quorum of the configuration in force: whose answers count, and how many of them decide."""
        return self.actor.ledger.configuration.quorum

    # --- sending -----------------------------------------------------------------------------------------------------

    def send_entries(self) -> None:
        """Send each follower what it lacks, as far as its window allows."""
        now = self.actor.clock.now()
        asked = self.round_wanted
        if asked:
            self.round_wanted = False
            self.round += 1
        for node, progress in self.progress.items():
            sent = False
            while progress.may_send and progress.next <= self.actor.ledger.log.last:
                if not self.send_run(node, progress, now):
                    break
                sent = True
            if asked and not sent:
                self.send_empty(node, progress)
        if asked:
            self.answer_reads()

    def send_run(self, node: str, progress: Progress, now: float) -> bool:
        """Send one run of entries; returns whether it could be."""
        log = self.actor.ledger.log
        previous = progress.next - 1
        prev_term = log.term_at(previous)
        if prev_term is None or previous < log.base_index:
            self.need_snapshot(node, progress)
            return False
        records = log.read(progress.next, log.last, self.actor.options.run_bytes_max)
        self.send(node, previous, prev_term, tuple(records))
        progress.sent(previous + len(records), sum(map(len, records)), now)
        return True

    def send_empty(self, node: str, progress: Progress) -> None:
        """Send a heartbeat: its previous entry is checked like any other, so it also finds lost frames."""
        log = self.actor.ledger.log
        previous = progress.next - 1
        prev_term = log.term_at(previous)
        if prev_term is None:
            previous, prev_term = log.base_index, log.base_term
            self.need_snapshot(node, progress)
        self.send(node, previous, prev_term, ())

    def send(self, node: str, previous: int, prev_term: int, records: tuple[bytes, ...]) -> None:
        """Send one AppendEntries."""
        commit = self.actor.ledger.commit_index
        message = AppendEntries(self.term, previous, prev_term, commit, self.round, records)
        self.actor.tell_peer(node, "replication", message)

    def need_snapshot(self, node: str, progress: Progress) -> None:
        """What the follower needs is compacted away."""
        if progress.phase is not Phase.SNAPSHOT:
            progress.become(Phase.SNAPSHOT)
            self.actor.tell("snapshot", PeerNeedsSnapshot(node))

    def heartbeat(self) -> None:
        """Look after the followers, send what is to be sent, and resign when a majority is silent.

        A follower that does not answer gets its entries once and then empty probes only: what a stopped process
        does not take lies in our memory.
        """
        actor, options = self.actor, self.actor.options
        now = actor.clock.now()
        patience = options.append_timeout_heartbeats * options.heartbeat_interval
        for node, progress in self.progress.items():
            if progress.silent_since(now) > patience:
                progress.become(Phase.PROBE)
            if not (progress.may_send and progress.next <= actor.ledger.log.last):
                self.send_empty(node, progress)
        self.send_entries()
        heard = [n for n, p in self.progress.items() if now - p.heard < options.election_timeout_min]
        if not self.quorum.has([actor.node_id, *heard]):
            reason = f"no answer from a majority within {options.election_timeout_min} s"
            actor.tell("election", Resign(self.term, reason))

    # --- answers -----------------------------------------------------------------------------------------------------

    def answered(self, sender: Any, reply: AppendReply) -> bool:
        """Note a follower's answer; returns whether its match index moved."""
        progress = self.progress.get(sender.node)
        if progress is None:
            return False
        progress.heard = self.actor.clock.now()
        progress.acked_sent = max(progress.acked_sent, sender.sent)
        progress.acked_round = max(progress.acked_round, reply.round)
        log = self.actor.ledger.log
        if not reply.success:
            # What it may agree with is compacted away: by its index, or as its terms are older than ours there.
            older = reply.index < log.base_index or reply.entry_term < log.base_term
            if older and progress.match < log.base_index:
                self.need_snapshot(sender.node, progress)
                return False
            agreed = log.last_at_most(min(reply.index, log.last), reply.entry_term)
            if progress.refused(agreed):
                self.actor.send_soon()
            return False
        moved = progress.acknowledged(min(reply.index, log.last))
        self.match[sender.node] = progress.match
        if progress.next <= log.last:
            self.actor.send_soon()
        return moved

    def installed(self, node: str, index: int) -> None:
        """A follower has a snapshot on its disk, or had more already: it is fed with what comes behind.

        It counts as what the follower has from now on, not from its next answer: else the log could be cut meanwhile
        where it needs it next. With 0 nothing is known of it but that it is there.
        """
        progress = self.progress[node]
        progress.match = self.match[node] = max(progress.match, index)
        progress.become(Phase.PROBE)
        self.actor.send_soon()

    def on_majority(self) -> int:
        """The newest index that is on the disks of a majority."""
        return self.quorum.reached(self.match)

    # --- reads -------------------------------------------------------------------------------------------------------

    def read(self, asked: ReadIndex, asker: Any) -> None:
        """Let a read wait for a round that begins after it, or answer it at once under a lease.

        It may be answered from the commit index of now on, and from the no-op on (I13).
        """
        index = max(self.actor.ledger.commit_index, self.noop)
        if asked.lease and self.actor.ledger.commit_index >= self.noop and self.lease_holds():
            self.actor.send(asker, ReadReady(asked.ticket, index))
            return
        self.reads.append(WaitingRead(asked.ticket, self.round + 1, index, asker))
        self.round_wanted = True
        self.actor.send_soon()

    def lease_holds(self) -> bool:
        """Whether no other leader can exist yet, by the send times of what a majority answered.

        Only if leases are part of the configuration, so that every voter keeps its vote back as long
        (dissertation 6.4.1). The clock is read after the frame with the read was taken.
        """
        if not self.actor.ledger.configuration.lease_reads:
            return False
        now = self.actor.clock.boottime_ns()
        sent = {node: progress.acked_sent for node, progress in self.progress.items()}
        began = self.quorum.reached({**sent, self.actor.node_id: now})
        options = self.actor.options
        length = options.election_timeout_min * (1 - options.clock_drift)
        return now < began + int(length * 1e9)

    def answer_reads(self) -> None:
        """Answer the reads whose round a majority confirmed."""
        if not self.reads or self.actor.ledger.commit_index < self.noop:
            return
        rounds = {node: progress.acked_round for node, progress in self.progress.items()}
        confirmed = self.quorum.reached({**rounds, self.actor.node_id: self.round})
        while self.reads and self.reads[0].round <= confirmed:
            read = self.reads.popleft()
            self.actor.send(read.asker, ReadReady(read.ticket, read.index))
