"""The leadership: what exists only while this node leads one term, as pure logic without an actor.

A `Leadership` reads the ledger, never writes to it, and sends nothing itself. Its methods return effects, small values
that describe actions; the replication actor carries them out in that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol

from forge_consensus.actors.messages import FULL, AppendEntries, AppendReply
from forge_consensus.actors.notices import (
    PeerNeedsSnapshot,
    ReadIndex,
    ReadReady,
    Resign,
    SendEntries,
    TransferRequested,
)
from forge_consensus.actors.raft.catch_up import CatchUp
from forge_consensus.actors.raft.progress import Phase, Progress
from forge_consensus.actors.raft.reads import ReadConfirmed, WaitingRead, WaitingReads
from forge_consensus.actors.runtime.address import SenderAddress
from forge_consensus.config.raft import RaftSettings
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.history import ConfigurationHistory
from forge_consensus.storage.ledger.log import Log
from forge_consensus.storage.ledger.quorum import Quorum


class LedgerView(Protocol):
    """The part of the ledger that a leadership reads."""

    @property
    def log(self) -> Log:
        """The log of this node, which its followers are sent."""

    @property
    def commit_index(self) -> int:
        """The index of the last entry that is known to be committed."""

    @property
    def configuration(self) -> Configuration:
        """The configuration in force: the newest one in the log, whether it is committed or not (dissertation 4.1)."""

    @property
    def configurations(self) -> ConfigurationHistory:
        """The configurations in the log."""

    @property
    def elapsed_ms(self) -> int:
        """For how long the cluster has been running, in milliseconds."""


class SendTo(NamedTuple):
    """An effect: send this request to the replication actor of the peer `node`."""

    node: str
    message: AppendEntries


class MatchMoved(NamedTuple):
    """An effect: a follower has more entries on disk than before, so the commit index may move."""


class Contradicts(NamedTuple):
    """An effect: a follower says that it lacks entries which it had acknowledged to this leadership before.

    The answer may be an old one that arrives late. It is proof if `proven`: its request had left after another such
    answer arrived, so after the acknowledgement of what both contradict.
    """

    node: str
    match: int
    held: int
    """The last entry that it names."""
    proven: bool


Effect = (
    SendTo
    | ReadReady
    | ReadConfirmed
    | PeerNeedsSnapshot
    | Resign
    | SendEntries
    | MatchMoved
    | Contradicts
    | TransferRequested
)
"""`SendEntries` asks to send once the turn's mailbox is empty; the others are named by their classes."""

SEND_SOON = SendEntries()
HAND_OVER = TransferRequested("", None)
MATCH_MOVED = MatchMoved()


@dataclass(slots=True)
class Parting:
    """A node that was removed from the members `since` then (seconds of real time), and may not know it yet."""

    since: float
    told_ns: int = 0
    """When all that it has to know could be sent to it, in nanoseconds of real time; 0 before."""


class Leadership:
    """One leadership. It is dropped whole when it ends, so nothing of an earlier term can be counted in a later one.

    `match` holds, for each member, the index up to which its log is known to be on its disk and to agree with ours;
    only `persisted` moves this node's own entry. `noop` is the index of the term's first entry: no read is answered
    before it is committed (I13).

    Arguments named `now` are seconds of real time, as of the turn's begin; `boottime_ns` is CLOCK_BOOTTIME at this
    moment, in nanoseconds.
    """

    def __init__(
        self,
        term: int,
        noop: int,
        *,
        node_id: str,
        ledger: LedgerView,
        settings: RaftSettings,
        now: float,
    ) -> None:
        self.term = term
        self.noop = noop
        self.node_id = node_id
        self.ledger = ledger
        self.settings = settings
        self.progress: dict[str, Progress] = {}
        self.match = {node_id: ledger.log.durable}
        self.refusals: dict[str, str] = {}
        """The followers that take no entries, and why."""
        self.refused_appends: dict[str, int] = {}
        """How many appends each follower refused."""
        self.parting: dict[str, Parting] = {}
        """Those that were removed and may not know it yet."""
        self.catch_ups: dict[str, CatchUp] = {}
        """The rounds of the learners that are to vote once they have caught up."""
        self.members = Configuration(())
        self.follow_members(now)
        self.full_since: float | None = None
        """Since when this node has had no room for entries, by the running clock."""
        self.answer_seconds = settings.heartbeat_interval
        """How long a follower that is asked has to answer, at the least, before it counts as silent."""
        self.handed_over = False
        """Whether another node was told to take the leadership, so that no lease holds in this term any more."""
        self.urls_at = -inf
        """When this leader noted last where members answer HTTP, see `next_configuration`."""
        self.reads = WaitingReads()
        self.covered = self.confirmed_ns = 0
        """The mark of the last heartbeat, see `Freshness`."""

    @property
    def quorum(self) -> Quorum:
        """The quorum of the configuration in force: whose answers count, and how many of them decide."""
        return self.ledger.configuration.quorum

    def take_settings(self, settings: RaftSettings) -> None:
        """Go by these settings; what was sent already counts against the new windows."""
        self.settings = settings
        for progress in self.progress.values():
            progress.settings = settings

    # --- members -----------------------------------------------------------------------------------------------------

    def follow_members(self, now: float) -> None:
        """Begin with members that the configuration in force has in addition, and part from those that it lacks."""
        before, self.members = self.members, self.ledger.configuration
        following = self.ledger.log.last if before.nodes else self.noop
        for node in sorted(self.members.nodes - {self.node_id}):
            if node not in before.nodes or before.folder_of(node) != self.members.folder_of(node):
                self.progress[node] = Progress(self.settings, following, now)
                self.match[node] = self.refused_appends[node] = 0
                self.parting.pop(node, None)
                self.refusals.pop(node, None)
        for node in sorted(before.nodes - self.members.nodes - {self.node_id}):
            self.parting[node] = Parting(now)
        last = self.ledger.log.last
        self.catch_ups = {node: self.catch_ups.get(node) or CatchUp(last, now) for node in self.members.joining}

    def near(self, now: float) -> list[str]:
        """The learners that are to vote and are near enough to the end of the log, sorted."""
        last, most = self.ledger.log.last, self.settings.election_timeout_min
        for node, catch_up in self.catch_ups.items():
            catch_up.note(self.match[node], last, now)
        heard = self.heard(now)
        return [node for node, catch_up in self.catch_ups.items() if node in heard and catch_up.is_near(now, most)]

    def late_learners(self) -> tuple[str, ...]:
        """The learners that are to vote and do not come near to the end of the log, sorted."""
        return tuple(sorted(node for node, catch_up in self.catch_ups.items() if catch_up.is_late))

    def part(self, now: float) -> None:
        """Forget those that were removed, once they know it or an election timeout has passed.

        A removed voter that does not know it would ask for pre-votes for ever. So it is sent the entry that removes it,
        and then that this entry is committed.
        """
        configurations = self.ledger.configurations
        committed = configurations.last <= self.ledger.commit_index
        for node, parting in list(self.parting.items()):
            progress = self.progress[node]
            if committed and progress.match >= configurations.last and not parting.told_ns:
                parting.told_ns = int(now * 1e9)
            told = parting.told_ns and progress.acked_sent > parting.told_ns
            if told or (committed and now - max(parting.since, progress.heard) > self.settings.election_timeout_max):
                self.drop(node)

    def drop(self, node: str) -> None:
        """Forget a node that was removed."""
        del self.parting[node], self.progress[node], self.match[node], self.refused_appends[node]
        self.refusals.pop(node, None)

    # --- sending -----------------------------------------------------------------------------------------------------

    def send_entries(self, now: float) -> list[Effect]:
        """Send each follower the entries that it lacks, as far as its window allows, and begin a round for reads."""
        effects: list[Effect] = []
        log = self.ledger.log
        batches: dict[int, AppendEntries] = {}
        new_round = self.reads.round_wanted and self.reads.begin_round()
        for node, progress in self.progress.items():
            sent = False
            while progress.may_send and progress.next <= log.last:
                if not self.send_batch(effects, node, progress, now, batches):
                    break
                sent = True
            if new_round and not sent:
                self.send_empty(effects, node, progress)
        if new_round and self.quorum.has((self.node_id,)):  # no reply is needed; otherwise the replies confirm it
            effects += self.answer_reads()
        return effects

    def send_batch(
        self, effects: list[Effect], node: str, progress: Progress, now: float, batches: dict[int, AppendEntries]
    ) -> bool:
        """Send one batch of entries; returns False if the log no longer holds them and a snapshot is needed.

        `batches` holds the requests made so far, by the index before their entries, because followers in step get the
        same one.
        """
        log = self.ledger.log
        previous = progress.next - 1
        prev_term = log.term_at(previous)
        if prev_term is None or previous < log.base_index:
            self.need_snapshot(effects, node, progress)
            return False
        batch = batches.get(previous)
        if batch is None:
            records = tuple(log.read(progress.next, log.last, self.settings.append_bytes_max))
            batch = batches[previous] = self.append_entries(previous, prev_term, records)
        effects.append(SendTo(node, batch))
        progress.sent(previous + len(batch.records), sum(map(len, batch.records)), now)
        return True

    def send_empty(self, effects: list[Effect], node: str, progress: Progress) -> None:
        """Send a heartbeat. Its previous entry is checked like any other, so a heartbeat also finds lost frames."""
        log = self.ledger.log
        previous = progress.next - 1
        prev_term = log.term_at(previous)
        if prev_term is None:
            previous, prev_term = log.base_index, log.base_term
            self.need_snapshot(effects, node, progress)
        effects.append(SendTo(node, self.append_entries(previous, prev_term, ())))

    def append_entries(self, previous: int, prev_term: int, records: tuple[bytes, ...]) -> AppendEntries:
        """The request with these records behind entry `previous` of term `prev_term`."""
        ledger = self.ledger
        return AppendEntries(
            self.term,
            previous,
            prev_term,
            ledger.commit_index,
            self.reads.round,
            records,
            ledger.elapsed_ms,
            self.covered,
            self.confirmed_ns,
        )

    def need_snapshot(self, effects: list[Effect], node: str, progress: Progress) -> None:
        """Ask for a snapshot for the follower, because the log no longer holds the entries that it needs next."""
        if progress.phase is not Phase.SNAPSHOT:
            progress.become(Phase.SNAPSHOT)
            effects.append(PeerNeedsSnapshot(node))

    def heartbeat(self, now: float, acted: float) -> list[Effect]:
        """Send every follower a request, and resign if a majority has been silent for an election timeout.

        This goes by real time. Nobody is blamed for a turn of this node that was slow, because the turn that judges has
        read all answers before, see also `Progress.is_silent`; `acted` is the second at which the last turn's frames
        had left.

        A follower that does not answer gets its entries once and then only empty probes, because the frames that a
        stopped process does not read pile up in this node's memory.
        """
        effects: list[Effect] = []
        settings = self.settings
        self.mark(int(now * 1e9))
        self.part(now)
        patience = settings.append_timeout_heartbeats * settings.heartbeat_interval
        for node, progress in self.progress.items():
            progress.resume(now)
            if progress.silent_since(now) > patience:
                progress.become(Phase.PROBE)
            progress.ask(acted)
            if not (progress.may_send and progress.next <= self.ledger.log.last):
                self.send_empty(effects, node, progress)
        effects += self.send_entries(now)
        if not self.quorum.has([self.node_id, *self.heard(now)]):
            effects.append(Resign(self.term, f"no answer from a majority within {settings.election_timeout_min} s"))
        elif self.node_id not in self.quorum.voters and self.ledger.configurations.last <= self.ledger.commit_index:
            effects.append(HAND_OVER)
        return effects

    def take_own_pace(self, slowest_commit: float, slowest_turn: float = 0.0) -> None:
        """Give the followers as long to answer as this node needed at its slowest in the last seconds, within bounds.

        An answer waits for the follower's disk. Where a commit takes this node longer than an election timeout, all
        disks may be as slow, and then a leader that resigned would gain nobody anything: its successor's first commit
        is as slow. It also waits for the turn that the follower is in, and their state machines do the same work. At
        most it is the longest election timeout, so that a leader that is cut off stops in bounded time.
        """
        settings = self.settings
        slow = slowest_commit if slowest_commit > settings.election_timeout_min else settings.heartbeat_interval
        self.answer_seconds = min(max(slow, slowest_turn), settings.election_timeout_max)

    def mark(self, now_ns: int) -> None:
        """Note up to which index and as of when this leader knows what is committed anywhere.

        Before a majority answered a request of this term, nobody can have been elected after it was sent. Of its
        predecessors' entries it knows only once its no-op is committed.
        """
        commit_index = self.ledger.commit_index
        if commit_index >= self.noop:
            sent = {node: progress.acked_sent for node, progress in self.progress.items()}
            self.covered, self.confirmed_ns = commit_index, self.quorum.reached({**sent, self.node_id: now_ns})

    def heard(self, now: float) -> list[str]:
        """The followers that answered within an election timeout."""
        return [node for node, progress in self.progress.items() if not progress.is_silent(now, self.answer_seconds)]

    def cannot_append(self, now: float, reason: str) -> list[Effect]:
        """Hand over if this node has been full for half an election timeout and a majority without it takes entries.

        Resign if it still leads after two election timeouts, because an election may choose whom a handover cannot.
        `reason` says why this node is full, and is empty if it is not. The majority must include a follower that holds
        all that is committed, because it has to win the election. Without such a majority another leader could commit
        nothing either, and this one still answers reads.
        """
        if not reason:
            self.full_since = None
            return []
        if self.full_since is None:
            self.full_since = now
        able = [node for node in self.heard(now) if not self.progress[node].refusal]
        voters = self.quorum.voters.intersection(able)
        in_step = any(self.progress[node].match >= self.ledger.commit_index for node in voters)
        if now - self.full_since < self.settings.election_timeout_min / 2 or not in_step or not self.quorum.has(able):
            return []
        if now - self.full_since >= 2 * self.settings.election_timeout_min:
            return [Resign(self.term, reason)]
        return [HAND_OVER]

    @property
    def blocked(self) -> str:
        """Why no entry can be committed although a majority answers, for people; empty unless that is so.

        Entries would wait without an end for a majority that takes none.
        """
        full = [node for node, refusal in self.refusals.items() if refusal == FULL]
        others = [node for node in self.progress if node not in full]
        if not full or self.quorum.has([self.node_id, *others]):
            return ""
        return f"{' and '.join(sorted(full))} have no room and no majority is left: make room on their disks"

    # --- answers -----------------------------------------------------------------------------------------------------

    def answered(self, node: str, reply: AppendReply, sent_ns: int, after: float) -> Sequence[Effect]:
        """Note a follower's reply to a request that left at `sent_ns` (CLOCK_BOOTTIME of this node, echoed).

        `after` is a second of real time after which the reply arrived.
        """
        progress = self.progress.get(node)
        if progress is None:
            return ()
        progress.answered(sent_ns, min(reply.round, self.reads.round), after)
        self.note_refusal(node, progress, reply, after)
        if not reply.success:
            return () if reply.refusal else self.refused(node, progress, reply, sent_ns)
        log = self.ledger.log
        moved = progress.acknowledged(min(reply.index, log.last))
        self.match[node] = progress.match
        if progress.next <= log.last:
            return (SEND_SOON, MATCH_MOVED) if moved else (SEND_SOON,)
        return (MATCH_MOVED,) if moved else ()

    def note_refusal(self, node: str, progress: Progress, reply: AppendReply, now: float) -> None:
        """Note whether the follower takes entries. One that refused some gets no more until it has room or time passed.

        A full follower says so to heartbeats too. As long as it takes entries all the same, because they are small,
        they are sent.
        """
        if reply.refusal:
            self.refusals[node] = progress.refusal = reply.refusal
            if not reply.success:
                self.refused_appends[node] += 1
                progress.took_nothing(now)
        elif progress.refusal and reply.success and (progress.refusal == FULL or reply.index > progress.match):
            progress.takes_entries()
            self.refusals.pop(node, None)

    def refused(self, node: str, progress: Progress, reply: AppendReply, sent_ns: int) -> Sequence[Effect]:
        """Probe further back, or send a snapshot, because the follower lacks the previous entry.

        It needs a snapshot if our log no longer holds any entry that both logs may share: the newest candidate then
        lies before the start of our log, or its term is older than every term that our log still holds.
        """
        log, effects = self.ledger.log, list[Effect]()
        if reply.index < progress.match:  # whoever has the log up to `match` names no entry before it
            proven = reply.index < progress.doubted and progress.doubted_ns < sent_ns
            effects.append(Contradicts(node, progress.match, reply.index, proven))
        older = reply.index < log.base_index or reply.entry_term < log.base_term
        if older and progress.match < log.base_index:
            self.need_snapshot(effects, node, progress)
        elif progress.refused(log.last_at_most(min(reply.index, log.last), reply.entry_term)):
            effects.append(SEND_SOON)
        return effects

    def persisted(self, index: int) -> None:
        """Raise this node's own match: its log is on disk up to `index`."""
        self.match[self.node_id] = max(self.match[self.node_id], index)

    def probe_again(self, node: str, durable: int) -> list[Effect]:
        """Send entries to a follower again, beginning with one probe; it holds a durable snapshot up to `durable`.

        Raise its match now: otherwise compaction could cut the entries that it needs next. 0 means only that the
        follower can be reached again.
        """
        progress = self.progress.get(node)
        if progress is None:
            return []
        progress.match = self.match[node] = max(progress.match, durable)
        progress.become(Phase.PROBE)
        return [SEND_SOON]

    def lost_connection(self, node: str) -> None:
        """Go back to probing the follower, because frames in flight to it are lost."""
        if (progress := self.progress.get(node)) is not None:
            progress.become(Phase.PROBE)

    def on_majority(self) -> int:
        """The newest index that is on the disks of a majority of the voters (paper 5.3)."""
        return self.quorum.reached(self.match)

    # --- reads -------------------------------------------------------------------------------------------------------

    def read(self, asked: ReadIndex, boottime_ns: int, asker: SenderAddress | None = None) -> Sequence[Effect]:
        """Accept a read: under a lease it is ready at once, otherwise it waits for a round that begins after it.

        It may be answered from the present commit index on, and not before the no-op is applied (I13). `boottime_ns`
        must have been read after the frame with the read was received. With an `asker` it is the question of another
        node for reads of its own, which holds for them in the same way.
        """
        index = max(self.ledger.commit_index, self.noop)
        if asked.lease and self.ledger.commit_index >= self.noop and self.lease_holds(boottime_ns):
            effects: list[Effect] = [WaitingRead(asked.ticket, 0, index, asker).ready]
            if asker is not None and asker.node in self.progress:  # without a round it does not hear that it commits
                self.send_empty(effects, asker.node, self.progress[asker.node])
            return effects
        self.reads.add(asked.ticket, index, asker)
        return (SEND_SOON,)

    def lease_holds(self, boottime_ns: int) -> bool:
        """Whether no other leader can exist yet, judged by the send times of the requests that a majority answered.

        True only if the configuration allows leases, because only then every voter withholds its vote for as long
        (dissertation 6.4.1). Their length is the configuration's too, because settings may differ between members.
        """
        configuration = self.ledger.configuration
        if not configuration.lease_reads or self.handed_over:
            return False
        sent = {node: progress.acked_sent for node, progress in self.progress.items()}
        began = self.quorum.reached({**sent, self.node_id: boottime_ns})
        return boottime_ns < began + configuration.lease_ns

    def answer_reads(self) -> list[ReadReady | ReadConfirmed]:
        """Remove and return the reads whose round a majority has confirmed, once the no-op is committed."""
        reads = self.reads
        if not reads.queue or self.ledger.commit_index < self.noop:
            return []
        rounds = {node: progress.acked_round for node, progress in self.progress.items()}
        return reads.confirm(self.quorum.reached({**rounds, self.node_id: reads.round}))
