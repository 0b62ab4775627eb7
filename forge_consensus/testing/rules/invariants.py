"""The invariants I1 to I14 and I16: an observer of a simulation that checks the changes of every step."""

from __future__ import annotations

from bisect import bisect_right

import msgpack

from forge_consensus.actors.codec import Frame, decode
from forge_consensus.actors.messages import (
    AppendReply,
    PreVoteReply,
    ReadIndexReply,
    ReadResults,
    RequestPreVote,
    RequestVote,
    Results,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
)
from forge_consensus.actors.raft.expiry import EXPIRE_BYTES
from forge_consensus.actors.raft.leadership import Leadership
from forge_consensus.security.access_changes import RESERVED
from forge_consensus.storage.backends.tables import Batch, Delete, DeleteRange, Operation, PutRun
from forge_consensus.storage.ledger.applying import APPLIED
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.ledger import BASE, HARD
from forge_consensus.storage.ledger.record import Kind, data_of, index_of, kind_of, parse, term_of
from forge_consensus.storage.ledger.transaction import unsealed
from forge_consensus.storage.machines.machine import Entry
from forge_consensus.testing.rules.bound_rules import RefusalRules, check_answer, check_backlog
from forge_consensus.testing.rules.disk_model import Disk, Reign, decides, terms_of
from forge_consensus.testing.rules.election_rules import ElectionRules
from forge_consensus.testing.rules.forwarded_rounds import ForwardedRounds
from forge_consensus.testing.rules.leader_rules import LeaderRules
from forge_consensus.testing.rules.member_rules import (
    check_lease_over,
    check_may_lead,
    check_takes_over,
    flaw,
    is_of_member,
)
from forge_consensus.testing.rules.read_rounds import ReadRounds, leading_of
from forge_consensus.testing.rules.session_rules import SessionRules
from forge_consensus.testing.rules.turn_rules import check_turn_end
from forge_consensus.testing.rules.violations import ViolationError, demand
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.network import Connection

COMMITS_COMPARED = 8
"""How many of the last commits are compared: the moments within slow turns of two leaders may lie out of order."""
KINDS = frozenset(Kind)
VOTE_REPLIES = (VoteReply, PreVoteReply)


class Invariants:
    """Checks the changes of a turn, a transaction or a frame. It models every disk, also of nodes that are down.

    Where each invariant is checked: I1 and I4 `check_leader`; I2 `note_entry`, `truncated`; I3 `note_entry`, by
    induction; I5 `Agreement` and the comparison at the end of a run; I6, I7 and I4 `check_committed`; I8
    `check_turn_end`; I9 and I10 `note_meta`, `began`, `asks`, `answers`; I11 `check_acknowledged`; I12
    `note_configuration`, `turned`, and `member_rules`; I13 `ReadRounds`, and by the answers to clients; I14 `applies`,
    and by the answers to clients; I15 `began`, and by the answers to clients; I16 `leaves`.
    """

    def __init__(self) -> None:
        self.disks: dict[str, Disk] = {}
        self.lost: dict[str, list[Disk]] = {}
        """Earlier contents of disks that were wiped or replaced: they were durable when they were acknowledged."""
        self.bases: dict[str, SimulatedBase] = {}
        self.leaders: dict[int, str] = {}
        self.reigns: dict[int, Reign] = {}
        self.entries: dict[tuple[int, int], tuple[bytes, int]] = {}
        self.committed: dict[int, int] = {}
        self.committed_last = 0
        self.committed_moments: list[float] = []
        self.committed_indexes: list[int] = []
        """At each of these moments the cluster's commit index became the index at the same place."""
        self.committed_in: dict[int, int] = {}
        self.executed: dict[tuple[int, int], int] = {}
        self.applied: set[tuple[int, int]] = set()
        """(index, term) of the entries that some machine has applied."""
        self.rounds = ReadRounds()
        self.forwarded = ForwardedRounds()
        self.elections = ElectionRules()
        self.sessions = SessionRules()
        self.leading = LeaderRules()
        self.refusals = RefusalRules()
        self.now = 0.0
        """When the turn of the last transaction began."""
        self.counted: dict[tuple[int, str, str], int] = {}
        """(term, follower, its folder): the index up to which the leader of the term counts the follower."""
        self.checks = 0

    # --- processes ---------------------------------------------------------------------------------------------------

    def began(self, node: SimulatedBase) -> None:
        """Check the state with which a new process starts; opening the ledger may have written."""
        name, ledger = node.name, node.engine.ledger
        if node.disk_is_another and name in self.disks:
            self.lost.setdefault(name, []).append(self.disks.pop(name))
        disk = self.disks.get(name)
        if disk is None:
            disk = self.disks[name] = Disk.of(ledger)
            if disk.base == 0 and ledger.log.last:
                self.note_entry(name, Disk(), 1, ledger.log.get(1))
        else:
            self.check_restart(node, disk)
        disk.boots = ledger.identity.boot
        self.bases[name] = node
        self.rounds.began(node)
        self.forwarded.began(node)
        self.elections.began(node)
        self.turned(node)

    def check_restart(self, node: SimulatedBase, disk: Disk) -> None:
        """Demand that everything is there that the disk held when the last process ended: I9, I7, I15."""
        name, ledger, damaged = node.name, node.engine.ledger, node.disk_is_damaged
        demand(ledger.term >= disk.term, "I9", f"{name} restarts in term {ledger.term}, it was in {disk.term}")
        kept = ledger.term > disk.term or ledger.vote == disk.vote or not disk.vote
        demand(kept, "I9", f"{name} forgot its vote of term {disk.term}")
        disk.term, disk.vote = ledger.term, ledger.vote
        demand(ledger.identity.boot > disk.boots, "I9", f"{name} repeats boot {disk.boots}")
        at, log = ledger.applied, ledger.log
        demand(at >= disk.applied_on_disk or damaged, "I9", f"{name} restarts at {at}, not {disk.applied_on_disk}")
        disk.applied_on_disk = ledger.applier.on_disk
        if log.base_index > disk.base:  # opening the ledger switched to a received snapshot
            if log.last < disk.last:
                self.truncated(name, disk, log.base_index + 1)
            disk.rebase(log.base_index, log.base_term, ledger.configurations.base.encode())
        demand(log.last >= disk.last, "I15", f"{name} lost entries: {log.last} of {disk.last}")
        same = log.last == disk.last and (damaged or terms_of(ledger) == disk.terms)
        demand(same, "I7", f"{name} restarts with entries ({log.base_index}, {log.last}], its disk held others")

    def ended(self, node: SimulatedBase, error: BaseException | None) -> None:
        """Note the end of a process; its disk stays."""
        disk = self.disks[node.name]
        self.end_reign(node, disk)
        disk.commit = disk.applied = disk.leading = 0
        del self.bases[node.name]

    # --- transactions ------------------------------------------------------------------------------------------------

    def durable(self, node: SimulatedBase, batch: Batch) -> None:
        """Follow a transaction entry by entry, after a check of the entries that a leader committed."""
        disk, ledger = self.disks[node.name], node.engine.ledger
        self.now = node.timeline.now
        if ledger.leading_term is not None and ledger.commit_index != disk.commit:
            self.follow_commit(node)
        if ledger.leading_term != (disk.leading or None):  # this turn may overwrite what the leader had
            self.end_reign(node, disk)
        for operation in batch.operations:
            self.note_operation(node, disk, operation)

    def note_operation(self, node: SimulatedBase, disk: Disk, operation: Operation) -> None:
        """Follow one operation of a transaction."""
        if isinstance(operation, PutRun) and operation.table == "log":
            for key, record in operation.items:
                self.note_entry(node.name, disk, index_of(key), record)
        elif isinstance(operation, PutRun) and operation.table == "meta":
            for key, value in operation.items:
                self.note_meta(node, disk, key, value)
        elif isinstance(operation, DeleteRange) and operation.table == "log" and operation.stop is None:
            self.truncated(node.name, disk, index_of(operation.start))
        elif isinstance(operation, DeleteRange) and operation.table == "log":
            stop = index_of(operation.stop or b"")
            demand(stop <= disk.base + 1, "I8", f"{node.name} deletes up to {stop}, its log begins at {disk.base}")
        elif isinstance(operation, Delete):
            demand(operation.table != "log", "I2", "an entry is deleted alone")

    def note_entry(self, name: str, disk: Disk, index: int, record: bytes) -> None:
        """I3 by induction: (index, term) identifies an entry, which always has the same bytes and predecessor."""
        before = disk.term_at(index - 1)
        if before is None:
            demand(index == 1, "I3", f"{name} has {index} without {index - 1}")
            before = 0
        if index != disk.last + 1:
            raise ViolationError(f"I2: {name} writes {index} behind {disk.last}")
        term = term_of(record)
        if term < before:
            raise ViolationError(f"I3: {name} has entry {index} of term {term} behind one of {before}")
        key, entry, kind = (index, term), (record, before), kind_of(record)
        if kind not in KINDS:
            raise ViolationError(f"level: {name} stores entry {index} of kind {kind}, which its version does not know")
        known = self.entries.get(key)
        if known is None:
            self.entries[key] = entry
            self.sessions.written[key], self.sessions.written_by[key] = self.now, name
            if kind == Kind.SESSION:
                self.sessions.opens(key, data_of(record))
        elif known != entry:
            raise ViolationError(f"I3: {name} has another entry {index} of term {term}")
        if kind == Kind.CONFIGURATION and index > 1:
            self.note_configuration(name, disk, index, record)
        disk.append(index, record)

    def note_configuration(self, name: str, disk: Disk, index: int, record: bytes) -> None:
        """I12: one change at a time, which may follow the one before it, and the term has committed before."""
        earlier, term = disk.configurations[-1:], term_of(record)
        for at, _ in earlier:
            demand(at <= self.committed_last, "I12", f"{name} has configurations {at} and {index}, both uncommitted")
        found = flaw(disk.configuration, data_of(record))
        demand(not found, "I12", f"{name} has {found}")
        ripe = self.committed_in.get(term, 0) > 0
        demand(ripe, "I12", f"{name} has configuration {index} of term {term}, of which nothing is committed")

    def note_meta(self, node: SimulatedBase, disk: Disk, key: bytes, value: bytes) -> None:
        """Term and vote never go back (I9, I10); the base moves forward; a stored commit index counts as reported."""
        name = node.name
        if key == HARD:
            term, vote, commit, _ = msgpack.unpackb(unsealed(key, value))
            demand(term >= disk.term, "I9", f"{name} goes back from term {disk.term} to {term}")
            if term == disk.term and disk.vote:
                demand(vote == disk.vote, "I10", f"{name} voted for {disk.vote}, now for {vote} in term {term}")
            disk.term, disk.vote = term, vote
            if commit > disk.commit:
                self.check_committed(node, disk, commit)
                disk.commit = commit
        elif key == BASE:
            index, term, configuration = msgpack.unpackb(unsealed(key, value))
            demand(index >= disk.base, "I8", f"{name} moves its log's start back to {index}")
            known = self.committed.get(index)
            demand(known == term, "I7", f"{name} cuts its log at {index} of term {term}, committed is {known}")
            disk.rebase(index, term, configuration)
        elif key == APPLIED:
            disk.applied_on_disk = msgpack.unpackb(unsealed(key, value))[1]

    def truncated(self, name: str, disk: Disk, first: int) -> None:
        """I2, I7: no entry of a leader's own log and no committed entry is removed."""
        base = self.bases.get(name)
        leading = base is not None and disk.leading and base.engine.ledger.leading_term == disk.leading
        demand(not leading or first > disk.last, "I2", f"the leader {name} rewrites its log from {first}")
        for index in range(first, disk.last + 1):
            was = disk.term_at(index)
            demand(was is None or self.committed.get(index) != was, "I7", f"{name} truncates committed entry {index}")
        disk.truncate(first)

    # --- frames ------------------------------------------------------------------------------------------------------

    def leaves(self, node: SimulatedBase) -> None:
        """Check that no frame leaves after a storage error (I16), and the commit index that the frame may carry."""
        if node.disk_failed:
            raise ViolationError(f"I16: a frame leaves {node.name} after its disk failed")
        if node.engine.ledger.commit_index != self.disks[node.name].commit:
            self.follow_commit(node)

    def asks(self, node: SimulatedBase, to: str, data: bytes) -> None:
        """Check that a candidate's own vote is durable before it requests the votes of others."""
        disk = self.disks[node.name]
        self.leaves(node)
        most = node.engine.settings.message_bytes_max
        demand(len(data) <= most, "size", f"{node.name} sends {to} {len(data)} bytes, and no node takes over {most}")
        if b"election" in data[:16]:
            message = decode(data, len(data)).message
            if isinstance(message, RequestVote | RequestPreVote):
                self.elections.asks(node, message)
            elif isinstance(message, TimeoutNow):
                self.elections.hands_over(message, to)
                check_takes_over(node, to, self.disks.get(to))
            if isinstance(message, RequestVote):
                durable = disk.term > message.term or (disk.term, disk.vote) == (message.term, node.name)
                demand(durable, "I10", f"{node.name} asks for votes in {message.term} before its own is durable")

    def answers(self, node: SimulatedBase, connection: Connection, frame: Frame) -> None:
        """Check that a vote or an acknowledgement leaves only if the disk holds the same (I10, I11)."""
        message, disk = frame.message, self.disks[node.name]
        self.leaves(node)
        if isinstance(message, AppendReply):
            self.rounds.answers(node, message)
            if message.success:
                self.check_acknowledged(node, disk, message)
        elif isinstance(message, Results):
            check_answer(node, message)
            self.sessions.answers(message, self.committed, node.timeline.now + node.clock.ahead, self.entries)
        elif isinstance(message, ReadResults | ReadIndexReply):
            self.check_read(node, connection, message)
        elif isinstance(message, VOTE_REPLIES):
            self.elections.answers(node, connection, message, disk)
            if isinstance(message, VoteReply) and message.granted:
                voted = (disk.term, disk.vote) == (message.term, connection.owner.name)
                demand(voted, "I10", f"{node.name} gives {connection.owner.name} a vote that is not on its disk")
        elif isinstance(message, SnapshotReply):
            if message.done:
                there = disk.holds(message.index, self.committed.get(message.index))
                demand(there, "I11", f"{node.name} lacks the snapshot {message.index} that it acknowledges")
            elif message.refusal:
                self.refusals.answers(node, connection, message)

    def check_read(self, node: SimulatedBase, connection: Connection, message: ReadResults | ReadIndexReply) -> None:
        """Check the size of an answer to queries, or that a question for a read index was answered after a round."""
        if isinstance(message, ReadResults):
            check_answer(node, message)
        else:
            waited = self.rounds.waited(node, connection.owner.name, message.number)
            self.forwarded.answers(node, connection, message, waited)

    def check_acknowledged(self, node: SimulatedBase, disk: Disk, message: AppendReply) -> None:
        """I11: an acknowledged entry is on the disk and equals the leader's entry of that term."""
        index, term = message.index, message.term
        if disk.last < index:
            raise ViolationError(f"I11: {node.name} acknowledges {index} of term {term}, its disk ends at {disk.last}")
        if index <= disk.base:
            return
        leader = self.leaders.get(term)
        if leader is None:
            raise ViolationError(f"I11: {node.name} acknowledges {index} of term {term}, which nobody leads")
        theirs = self.term_in_reign(term, leader, index)
        if theirs is not None and disk.term_at(index) != theirs:
            raise ViolationError(f"I11: {node.name} acknowledges {index} of term {term}, but has another entry there")

    def term_in_reign(self, term: int, leader: str, index: int) -> int | None:
        """Return the term of an entry in the log of the leader of that term, None if it was compacted."""
        reign = self.reigns.get(term)
        if reign is None:
            ledger, disk = self.bases[leader].engine.ledger, self.disks[leader]
            if index <= disk.last:
                return disk.term_at(index)
            if index > ledger.log.last:
                raise ViolationError(f"I11: {index} is acknowledged, {leader} has {ledger.log.last} only")
            return term_of(ledger.log.tail[index - ledger.log.tail_base - 1])
        if index > reign.last:
            raise ViolationError(f"I11: {index} is acknowledged, {leader} had {reign.last} only")
        return reign.terms.get(index) if index > reign.base else None

    # --- turns -------------------------------------------------------------------------------------------------------

    def turned(self, node: SimulatedBase) -> None:
        """Check the changes of roles, commit index and applied index in a turn."""
        self.checks += 1
        ledger, disk, name = node.engine.ledger, self.disks[node.name], node.name
        if ledger.leading_term != (disk.leading or None):
            self.end_reign(node, disk)
            if ledger.leading_term is not None:
                self.check_leader(node, ledger.leading_term)
        applier = ledger.applier
        if applier.ledger_machine is None:
            disk.applied_on_disk = applier.on_disk
        check_turn_end(name, ledger, disk)
        if ledger.commit_index != disk.commit:
            self.follow_commit(node)
        if disk.compared_with is not ledger.configuration:
            disk.compared_with = ledger.configuration
            same = ledger.configuration.encode() == disk.configuration
            demand(same, "I12", f"{name} has {ledger.configuration.text} in force, its log ends with another one")
        leading = leading_of(node)
        self.rounds.turned(node, leading)
        self.forwarded.turned(node, leads=leading is not None)
        if leading is not None:
            self.check_counted(node, leading)
            check_backlog(node)
            if any(term == leading.term for term, _ in self.elections.handed_over):
                check_lease_over(node, leading)
        self.elections.turned(node, disk)
        disk.applied, disk.leading = applier.index, ledger.leading_term or 0
        disk.in_force = ledger.configuration
        self.leading.turned(node, self.disks, self.bases)

    def check_counted(self, node: SimulatedBase, leading: Leadership) -> None:
        """I6: a leader counts only entries on the follower's disk, unless that disk is in a later term already."""
        ledger = node.engine.ledger
        for name, index in leading.match.items():
            key = leading.term, name, ledger.configuration.folder_of(name)
            if self.counted.get(key) == index or index <= ledger.log.base_index or name not in self.disks:
                continue
            self.counted[key] = index
            term = ledger.log.term_at(index)
            there = term is not None and (
                self.disks[name].term > leading.term or self.ever_held(name, index, term, ledger.configuration)
            )
            demand(there, "I6", f"{node.name}, leading {leading.term}, counts {name} for {index}, which it lacks")

    def end_reign(self, node: SimulatedBase, disk: Disk) -> None:
        """Keep the log of a leader that stops leading, to compare late acknowledgements with it."""
        if disk.leading:
            self.reigns.setdefault(disk.leading, Reign.of(disk, node.engine.ledger))

    def check_leader(self, node: SimulatedBase, term: int) -> None:
        """Check that a term has one leader, once (I1), with every entry that was committed before (I4)."""
        demand(term not in self.leaders, "I1", f"{self.leaders.get(term)} and {node.name} lead term {term}")
        self.leaders[term] = node.name
        configuration = node.engine.ledger.configuration
        voted = [name for name in self.disks if self.may_have_voted(name, term, node.name, configuration)]
        elected = decides(configuration, voted)
        demand(elected, "I1", f"{node.name} leads term {term} by the votes of {sorted(voted)} only")
        check_may_lead(node.name, self.disks[node.name])
        before = max((index for t, index in self.committed_in.items() if t < term), default=0)
        if before:
            there = self.disks[node.name].holds(before, self.committed[before])
            demand(there, "I4", f"{node.name} leads term {term} without committed entry {before}")

    def may_have_voted(self, name: str, term: int, candidate: str, configuration: Configuration) -> bool:
        """Return whether the member's disk holds that vote, held it before it was replaced, or is in a later term."""
        disks = self.disks_of(name, configuration)
        return any(disk.term > term or (disk.term, disk.vote) == (term, candidate) for disk in disks)

    def disks_of(self, name: str, configuration: Configuration) -> list[Disk]:
        """Return the contents of the folder with which a node is a member, also those that were replaced since."""
        disks = [disk for disk in (self.disks.get(name), *self.lost.get(name, ())) if disk is not None]
        return [disk for disk in disks if is_of_member(disk, name, configuration)]

    def follow_commit(self, node: SimulatedBase) -> None:
        """Note the commit index of a node; it never goes back while the node runs (I9)."""
        commit, disk = node.engine.ledger.commit_index, self.disks[node.name]
        demand(commit >= disk.commit, "I9", f"{node.name} goes back from commit {disk.commit} to {commit}")
        self.check_committed(node, disk, commit)
        disk.commit = commit

    def check_committed(self, node: SimulatedBase, disk: Disk, commit: int) -> None:
        """Check that all commit the same (I7), first a leader, its own term's entries on a majority's disks (I6)."""
        committed, terms, begins = self.committed, disk.terms, disk.base
        first = max(disk.commit, begins) + (begins <= disk.commit)
        for index in range(max(first, disk.compared + 1), commit + 1):
            term = terms.get(index) if index > begins else disk.base_term
            if term is None:
                raise ViolationError(f"I7: {node.name} commits {index} without having it")
            known = committed.setdefault(index, term)
            if known != term:
                raise ViolationError(f"I7: {node.name} commits {index} of term {term}, it was of {known}")
        disk.compared = max(disk.compared, commit)
        if commit <= self.committed_last or commit == 1:
            self.committed_last = max(self.committed_last, commit)
            return
        self.committed_last = commit
        self.committed_moments.append(node.timeline.now + node.clock.ahead)
        self.committed_indexes.append(commit)
        term, leading = self.committed[commit], node.engine.ledger.leading_term
        if term in (leading, disk.leading):  # it may have resigned or become a follower in the same turn
            proof, reign = commit, term
        else:
            proof, reign = self.proof_of_applied(node, disk, commit), disk.leading
            demand(proof > 0, "I6", f"{node.name}, leading {leading}, is first to commit {commit} of {term}")
        having, majority = self.having(node, proof, reign)
        demand(majority, "I6", f"{proof} is committed but only on {having}")
        self.committed_in[reign] = commit
        for name, base in self.bases.items():
            other = base.engine.ledger.leading_term
            if other is not None and other > reign:
                demand(self.disks[name].holds(commit, term), "I4", f"{name} leads {other} without {commit}")

    def committed_by(self, moment: float) -> int:
        """Return the highest commit index that any node had reached by a moment."""
        place = bisect_right(self.committed_moments, moment)
        return max(self.committed_indexes[max(0, place - COMMITS_COMPARED) : place], default=0)

    def proof_of_applied(self, node: SimulatedBase, disk: Disk, commit: int) -> int:
        """Return the entry of a leader's own term that let it commit an earlier one, 0 if there is none.

        This is needed only for a leader whose turn was rolled back after it had applied a part of the entries that it
        had just committed: its commit index is then that of the applied part, and the counted entry lies behind it.
        """
        if node.engine.ledger.leading_term is not None or not disk.leading:
            return 0
        own = [index for index in range(commit, disk.last + 1) if disk.term_at(index) == disk.leading]
        return max((index for index in own if self.having(node, index, disk.leading)[1]), default=0)

    def having(self, node: SimulatedBase, index: int, term: int) -> tuple[list[str], bool]:
        """Return the nodes whose disks hold or held an entry, and whether they are a majority.

        A leader may commit in a turn and then append another configuration in it.
        """
        before, present = self.disks[node.name].in_force, node.engine.ledger.configuration
        names: list[str] = []
        for configuration in filter(None, (present, before)):
            names = [name for name in self.disks if self.ever_held(name, index, term, configuration)]
            if decides(configuration, names):
                return names, True
        return names, False

    def ever_held(self, name: str, index: int, term: int, configuration: Configuration) -> bool:
        """Return whether a member's disk holds an entry, or held it before the disk was replaced."""
        disk = self.disks[name]
        if disk.holds(index, term) and is_of_member(disk, name, configuration):
            return True
        return name in self.lost and any(other.holds(index, term) for other in self.disks_of(name, configuration))

    # --- machines ----------------------------------------------------------------------------------------------------

    def applies(self, entry: Entry) -> None:
        """I14: machines execute a client's command at one index only, on every node and after every restart.

        Only the command that a leader proposes by itself is of no session; twice it does no more than once.

        An (index, term) identifies the same bytes everywhere (I3), so each entry is examined once.
        """
        if (entry.index, entry.term) in self.applied:
            return
        demand(entry.command.type != RESERVED, "I5", f"a machine is handed a change of the list of access: {entry}")
        known = self.entries.get((entry.index, entry.term))
        if known is None:
            raise ViolationError(f"I5: entry {entry.index} of term {entry.term} is applied, and on no disk")
        record = parse(entry.index, known[0])
        if record.session:
            key = record.session, record.seq
            self.sessions.applies(record)
            first = self.executed.setdefault(key, entry.index)
            if first != entry.index:
                raise ViolationError(f"I14: command {key} is applied at {first} and at {entry.index}")
        else:
            demand(record.data == EXPIRE_BYTES, "I14", f"entry {entry.index}, {entry.command}, is of no session")
        self.applied.add((entry.index, entry.term))
