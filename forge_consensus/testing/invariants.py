"""The invariants I1 to I11 as a watcher of a simulation: each step is checked on what it changed."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgpack

from forge_consensus.actors.codec import Frame, decode
from forge_consensus.actors.messages import AppendReply, RequestVote, SnapshotReply, VoteReply
from forge_consensus.actors.simulated import SimulatedBase
from forge_consensus.actors.simulated_network import Connection
from forge_consensus.storage.ledger import BASE, HARD
from forge_consensus.storage.machine import Entry
from forge_consensus.storage.record import index_of, term_of
from forge_consensus.storage.tables import Batch, Delete, DeleteRange, PutRun
from forge_consensus.storage.transaction import unsealed
from forge_consensus.testing.violations import demand


@dataclass(slots=True)
class Disk:
    """What a node's disk holds of term, vote and log, kept up from its transactions alone."""

    term: int = 0
    vote: str = ""
    base: int = 0
    base_term: int = 0
    last: int = 0
    terms: dict[int, int] = field(default_factory=dict)
    boots: int = 0
    # of the present process:
    commit: int = 0
    applied: int = 0
    leading: int = 0

    def term_at(self, index: int) -> int | None:
        """The term of an entry, None where it is unknown."""
        if index == self.base:
            return self.base_term
        return self.terms.get(index) if index > self.base else None

    def holds(self, index: int, term: int) -> bool:
        """Whether that entry is there, be it within a snapshot."""
        return index < self.base or self.term_at(index) == term


class Invariants:
    """Checks what a turn, a transaction or an answer changed. It knows the disks, also of nodes that are down."""

    def __init__(self) -> None:
        self.disks: dict[str, Disk] = {}
        self.bases: dict[str, SimulatedBase] = {}
        self.leaders: dict[int, str] = {}
        self.entries: dict[tuple[int, int], tuple[bytes, int]] = {}
        self.committed: dict[int, int] = {}
        self.committed_last = 0
        self.committed_in: dict[int, int] = {}
        self.applied: dict[int, bytes] = {}
        self.checks = 0

    def disk(self, node: SimulatedBase) -> Disk:
        """What is known of the node's disk."""
        return self.disks[node.name]

    # --- processes ---------------------------------------------------------------------------------------------------

    def began(self, node: SimulatedBase) -> None:
        """A process begins with what the disk holds; opening it may have written."""
        name, ledger = node.name, node.engine.ledger
        disk = self.disks.setdefault(name, Disk())
        log = ledger.log
        demand(ledger.term >= disk.term, "I9", f"{name} restarts in term {ledger.term}, it was in {disk.term}")
        demand(
            ledger.term > disk.term or ledger.vote == disk.vote or not disk.vote,
            "I9",
            f"{name} forgot its vote of term {disk.term}",
        )
        if disk.boots == 0:
            disk.terms[1], disk.last = 0, 1
            self.note_entry(name, disk, 1, log.get(1))
        if log.base_index > disk.base:  # the switch to a received snapshot was made while opening
            self.rebased(disk, log.base_index, log.base_term)
        demand(log.last >= disk.last or log.last >= disk.base, "I15", f"{name} lost entries: {log.last} of {disk.last}")
        demand(log.last == disk.last, "I7", f"{name} restarts with {log.last} entries, its disk held {disk.last}")
        demand(identity_boot(node) > disk.boots, "I9", f"{name} repeats boot {disk.boots}")
        disk.boots = identity_boot(node)
        disk.term, disk.vote = ledger.term, ledger.vote
        disk.commit, disk.applied, disk.leading = 0, 0, 0
        self.bases[name] = node
        self.turned(node)

    def ended(self, node: SimulatedBase, error: BaseException | None) -> None:
        """Its disk stays."""
        del self.bases[node.name]

    # --- transactions ------------------------------------------------------------------------------------------------

    def durable(self, node: SimulatedBase, batch: Batch) -> None:
        """Follow the disk, entry by entry."""
        disk = self.disk(node)
        for operation in batch.operations:
            if isinstance(operation, PutRun) and operation.table == "log":
                for key, record in operation.items:
                    self.note_entry(node.name, disk, index_of(key), record)
            elif isinstance(operation, PutRun) and operation.table == "meta":
                for key, value in operation.items:
                    self.note_meta(node, disk, key, value)
            elif isinstance(operation, DeleteRange) and operation.table == "log" and operation.stop is None:
                self.truncated(node.name, disk, index_of(operation.start))
            elif isinstance(operation, Delete):
                demand(operation.table != "log", "I2", "an entry is deleted alone")

    def note_entry(self, name: str, disk: Disk, index: int, record: bytes) -> None:
        """I3 by induction: an entry is known by (index, term), and always has the same bytes and predecessor."""
        before = disk.term_at(index - 1)
        demand(index == 1 or before is not None, "I3", f"{name} has {index} without {index - 1}")
        term = term_of(record)
        known = self.entries.setdefault((index, term), (record, before or 0))
        demand(known == (record, before or 0), "I3", f"{name} has another entry {index} of term {term}")
        demand(
            index > disk.commit or self.committed.get(index) == term, "I7", f"{name} overwrites committed entry {index}"
        )
        disk.terms[index] = term
        disk.last = index

    def note_meta(self, node: SimulatedBase, disk: Disk, key: bytes, value: bytes) -> None:
        """Term and vote never go back (I9, I10); the base moves on; a stored commit index counts as reported."""
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
            index, term, _ = msgpack.unpackb(unsealed(key, value))
            demand(index >= disk.base, "I8", f"{name} moves its log's start back to {index}")
            self.rebased(disk, index, term)

    def rebased(self, disk: Disk, index: int, term: int) -> None:
        """The log begins later now."""
        if disk.term_at(index) is not None and index <= disk.commit:
            demand(disk.term_at(index) == term, "I7", f"the log is cut at {index} with another term")
        for old in range(disk.base, index + 1):
            disk.terms.pop(old, None)
        disk.base, disk.base_term = index, term
        disk.last = max(disk.last, index)

    def truncated(self, name: str, disk: Disk, first: int) -> None:
        """I2, I7: neither a leader's nor committed entries go."""
        demand(first > disk.commit, "I7", f"{name} truncates from {first}, it has committed {disk.commit}")
        base = self.bases.get(name)
        leading = base is not None and disk.leading and base.engine.ledger.leading == disk.leading
        demand(not leading or first > disk.last, "I2", f"the leader {name} rewrites its log from {first}")
        for index in range(first, disk.last + 1):
            disk.terms.pop(index, None)
        disk.last = min(disk.last, first - 1)

    # --- frames ------------------------------------------------------------------------------------------------------

    def asks(self, node: SimulatedBase, to: str, data: bytes) -> None:
        """A candidate's own vote is durable before it asks for others'."""
        if b"election" in data[:16]:
            message = decode(data, len(data)).message
            if isinstance(message, RequestVote):
                disk = self.disk(node)
                demand(
                    disk.term > message.term or (disk.term, disk.vote) == (message.term, node.name),
                    "I10",
                    f"{node.name} asks for votes in {message.term} before its own is durable",
                )

    def answers(self, node: SimulatedBase, connection: Connection, frame: Frame) -> None:
        """A vote and an acknowledgement leave only when the disk says the same (I10, I11)."""
        message, disk = frame.message, self.disk(node)
        if isinstance(message, VoteReply) and message.granted:
            demand(
                (disk.term, disk.vote) == (message.term, connection.owner.name),
                "I10",
                f"{node.name} gives {connection.owner.name} a vote that is not on its disk",
            )
        elif isinstance(message, AppendReply) and message.success:
            self.check_acknowledged(node, disk, message)
        elif isinstance(message, SnapshotReply) and message.done:
            demand(disk.last >= message.index, "I11", f"{node.name} lacks the snapshot {message.index}")

    def check_acknowledged(self, node: SimulatedBase, disk: Disk, message: AppendReply) -> None:
        """What is acknowledged is on the disk, as the leader of that term has it."""
        index = message.index
        demand(disk.last >= index, "I11", f"{node.name} acknowledges {index}, its disk ends at {disk.last}")
        leader = self.bases.get(self.leaders.get(message.term, ""))
        if leader is not None and leader.engine.ledger.leading == message.term and index > disk.base:
            theirs = leader.engine.ledger.log.term_at(index)
            if theirs is not None:
                demand(
                    disk.term_at(index) == theirs,
                    "I11",
                    f"{node.name} acknowledges {index} of {leader.name}, but has another entry there",
                )

    # --- turns -------------------------------------------------------------------------------------------------------

    def turned(self, node: SimulatedBase) -> None:
        """What the turn changed of roles, commit and applied index."""
        self.checks += 1
        ledger, disk = node.engine.ledger, self.disk(node)
        if ledger.leading is not None and ledger.leading != disk.leading:
            self.check_leader(node, ledger.leading)
        commit, applied, log = ledger.commit_index, ledger.applied, ledger.log
        demand((ledger.term, ledger.vote) == (disk.term, disk.vote), "I10", f"{node.name} knows more than its disk")
        demand(log.last == log.durable == disk.last, "I8", f"{node.name} has {log.last} entries, {disk.last} on disk")
        demand(log.base_index == disk.base, "I8", f"{node.name}'s log begins at {log.base_index}, not {disk.base}")
        demand(commit >= disk.commit, "I9", f"{node.name} goes back from commit {disk.commit} to {commit}")
        demand(applied >= disk.applied, "I9", f"{node.name} goes back from applied {disk.applied} to {applied}")
        demand(log.base_index <= applied, "I8", f"{node.name} cut its log at {log.base_index}, applied {applied}")
        demand(applied <= commit <= log.last, "I8", f"{node.name}: {applied} <= {commit} <= {log.last}")
        applier = ledger.applier
        if applier.kept is not None:
            demand(
                log.base_index <= applier.on_disk <= applied,
                "I8",
                f"{node.name}: base {log.base_index} <= applied on disk {applier.on_disk} <= applied {applied}",
            )
        if commit > disk.commit:
            self.check_committed(node, disk, commit)
        disk.commit, disk.applied, disk.leading = commit, applied, ledger.leading or 0

    def check_leader(self, node: SimulatedBase, term: int) -> None:
        """One leader a term (I1), and it has everything that was committed before (I4)."""
        known = self.leaders.setdefault(term, node.name)
        demand(known == node.name, "I1", f"{known} and {node.name} lead term {term}")
        demand(self.disk(node).leading != term, "I1", f"{node.name} begins term {term} twice")
        before = max((index for t, index in self.committed_in.items() if t < term), default=0)
        if before:
            demand(
                self.disk(node).holds(before, self.committed[before]),
                "I4",
                f"{node.name} leads term {term} without committed entry {before}",
            )

    def check_committed(self, node: SimulatedBase, disk: Disk, commit: int) -> None:
        """Everybody commits the same (I7), first the leader, entries of its own term on a majority's disks (I6)."""
        for index in range(max(disk.commit, disk.base) + (disk.base <= disk.commit), commit + 1):
            term = disk.term_at(index)
            demand(term is not None, "I7", f"{node.name} commits {index} without having it")
            known = self.committed.setdefault(index, term or 0)
            demand(known == term, "I7", f"{node.name} commits {index} of term {term}, it was of {known}")
        if commit <= self.committed_last or commit == 1:
            self.committed_last = max(self.committed_last, commit)
            return
        self.committed_last = commit
        term = self.committed[commit]
        leading = node.engine.ledger.leading
        # It may have resigned in the same turn, or applied before its turn was taken back.
        led = term in (leading, disk.leading) or (leading is None and node.ordered_faults > 0)
        if not led:
            # A follower hears of it first when the leader died while it told of it.
            now = node.engine.ledger.term
            leader = self.bases.get(self.leaders.get(now, ""))
            dead = leading is None and (leader is None or leader.engine.ledger.leading != now)
            demand(dead, "I6", f"{node.name}, leading {leading}, is first to commit {commit} of {term}")
            term_committed = now
        else:
            term_committed = term
        having = [name for name, other in self.disks.items() if other.holds(commit, term)]
        voters = node.engine.ledger.configuration.voters
        demand(2 * len(voters.intersection(having)) > len(voters), "I6", f"{commit} is committed but only on {having}")
        self.committed_in[term_committed] = max(self.committed_in.get(term_committed, 0), commit)
        for name, base in self.bases.items():
            other = base.engine.ledger.leading
            if other is not None and other > term:
                demand(self.disks[name].holds(commit, term), "I4", f"{name} leads {other} without {commit}")

    # --- machines ----------------------------------------------------------------------------------------------------

    def applies(self, entry: Entry, state: bytes) -> None:
        """A machine applies an entry, which leads it to a state: the same on all nodes (I5)."""
        known = self.applied.setdefault(entry.index, state)
        demand(known == state, "I5", f"entry {entry.index} leads to different states")


def identity_boot(node: SimulatedBase) -> int:
    """The boot of a process."""
    return node.engine.ledger.identity.boot
